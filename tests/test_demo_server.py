"""What the recordings do not show of the demo: permissions, ranges, the trash, its library.

Requests go through the demo's own site over a connection in memory, on a clock moved by hand.
"""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_client import NOW, Client, ann, demo, log_in, make_demo
from twisted.internet.task import Clock

from immich_conch import demo as package
from immich_conch.demo import DemoImmich
from immich_conch.demo.library import EMAIL, PASSWORD, PICTURES, seed
from immich_conch.demo.web_download import Unsatisfiable, wanted_range

__all__ = ["ann", "demo"]


@pytest.fixture(params=["2.5.6", "3.1.0"])
def made(request: pytest.FixtureRequest) -> Iterator[tuple[DemoImmich, Clock]]:
    demo, clock = make_demo(request.param)
    demo.add_user("ann@example.com", "pw", "Ann")
    demo.add_user("ben@example.com", "pw", "Ben")
    yield demo, clock
    demo.close()


def key(demo: DemoImmich, *permissions: str) -> Client:
    return Client(demo, {"x-api-key": demo.add_key(demo.user("ann@example.com"), permissions)})


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("GET", "/albums", "album.read"),
        ("POST", "/albums", "album.create"),
        ("DELETE", "/assets", "asset.delete"),
        ("POST", "/assets", "asset.upload"),
        ("PUT", "/assets/copy", "asset.copy"),
        ("GET", "/server/storage", "server.storage"),
        ("POST", "/trash/restore/assets", "asset.delete"),
        ("GET", "/assets/00000000-0000-4000-8000-000000000000/original", "asset.download"),
        ("PUT", "/assets/00000000-0000-4000-8000-000000000000/metadata", "asset.update"),
    ],
)
def test_a_key_without_the_permission_is_told_its_name(
    demo: DemoImmich, method: str, path: str, permission: str
) -> None:
    reply = key(demo, "user.read")(method, path)
    assert reply.status == 403
    assert reply.json["message"] == f"Missing required permission: {permission}"
    assert key(demo, permission)(method, path).status != 403


def test_a_key_is_no_bearer_token(demo: DemoImmich) -> None:
    secret = demo.add_key(demo.user("ann@example.com"))
    reply = Client(demo, {"Authorization": f"Bearer {secret}"})("GET", "/users/me")
    assert reply.status == 401


def test_a_revoked_token_or_key_is_no_longer_accepted(demo: DemoImmich, ann: Client) -> None:
    demo.revoke(ann.headers["Authorization"].removeprefix("Bearer "))
    assert ann("GET", "/albums").status == 401
    secret = demo.add_key(demo.user("ann@example.com"))
    demo.revoke(secret)
    assert Client(demo, {"x-api-key": secret})("GET", "/albums").status == 401
    with pytest.raises(KeyError):
        demo.revoke(secret)


def test_requests_and_open_sessions_are_counted(demo: DemoImmich, ann: Client) -> None:
    ann("GET", "/albums")
    ann("GET", "/albums/00000000-0000-4000-8000-000000000000")
    ann("GET", "/nowhere/at/all")
    assert demo.open_sessions == 1
    ann("POST", "/auth/logout")
    assert demo.open_sessions == 0
    assert demo.requests == {
        "POST /auth/login": 1,
        "GET /albums": 1,
        "GET /albums/{id}": 1,
        "GET /nowhere/at/all": 1,
        "POST /auth/logout": 1,
    }


@pytest.mark.parametrize(
    ("method", "path", "data"),
    [
        ("POST", "/search/metadata", {"page": 0}),
        ("POST", "/search/metadata", {"size": "many"}),
        ("POST", "/search/metadata", {"albumIds": [5]}),
        ("POST", "/search/metadata", {"visibility": "nowhere"}),
        ("POST", "/search/metadata", {"takenAfter": "yesterday"}),
        ("POST", "/assets/bulk-upload-check", {"assets": [1]}),
        ("DELETE", "/assets/metadata", {"items": [1]}),
        ("PUT", "/assets/metadata", {"items": [{"key": "k", "value": 1}]}),
        ("POST", "/sync/stream", {"types": ["Everything"]}),
        ("POST", "/sync/ack", {"acks": ["AssetV1"]}),
        ("POST", "/albums", {"albumName": True}),
        ("POST", "/albums", {"albumName": "x", "assetIds": "all"}),
    ],
)
def test_a_request_that_makes_no_sense_is_400(
    ann: Client, method: str, path: str, data: object
) -> None:
    assert ann(method, path, data).status == 400


def test_an_unknown_route_is_404(ann: Client) -> None:
    assert ann("GET", "/nothing").status == 404
    assert ann("PUT", "/albums/00000000-0000-4000-8000-000000000000").status == 404


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=90-", (90, 10)),
        ("bytes=-10", (90, 10)),
        ("bytes=-1000", (0, 100)),
        ("bytes=5-1000", (5, 95)),
        ("bytes=100-", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=9-5", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("lines=1-2", None),
    ],
)
def test_a_range_is_read_as_rfc_9110_says(header: str | None, expected: object) -> None:
    assert wanted_range(header, 100) == expected


def test_a_download_goes_on_only_while_the_etag_holds(demo: DemoImmich, ann: Client) -> None:
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"0123456789", NOW)
    path = f"/assets/{asset.id}/original"
    etag = ann("HEAD", path).headers["etag"]
    rest = ann("GET", path, headers={"Range": "bytes=4-", "If-Range": etag})
    assert (rest.status, rest.body) == (206, b"456789")
    whole = ann("GET", path, headers={"Range": "bytes=4-", "If-Range": 'W/"other"'})
    assert (whole.status, whole.body) == (200, b"0123456789")


def test_made_up_content_is_the_same_from_every_offset(demo: DemoImmich, ann: Client) -> None:
    user = demo.user("ann@example.com")
    asset = demo.add_asset(user, "big.mov", None, NOW, size=300_001)
    path = f"/assets/{asset.id}/original"
    whole = ann("GET", path).body
    assert len(whole) == 300_001
    digest = hashlib.sha1(whole).digest()
    checked = ann(
        "POST", "/assets/bulk-upload-check", {"assets": [{"id": "x", "checksum": digest.hex()}]}
    )
    assert checked.json["results"][0]["assetId"] == asset.id
    for start in (0, 1, 4095, 4096, 65_537, 299_999):
        part = ann("GET", path, headers={"Range": f"bytes={start}-{start + 9999}"})
        assert part.body == whole[start : start + 10_000]
    assert len({whole[at : at + 4096] for at in range(0, 290_000, 4096)}) == 71


def test_an_offline_asset_is_listed_and_cannot_be_read(demo: DemoImmich, ann: Client) -> None:
    user = demo.user("ann@example.com")
    library = "11111111-1111-4111-8111-111111111111"
    asset = demo.add_asset(user, "x.jpg", None, NOW, library_id=library, offline=True)
    answer = ann("GET", f"/assets/{asset.id}").json
    assert answer["libraryId"] == library
    assert answer["exifInfo"]["fileSizeInByte"] is None
    assert ann("GET", f"/assets/{asset.id}/original").status in (404, 500)


def test_the_exif_date_comes_later_and_never_moves_the_modification_time(
    made: tuple[DemoImmich, Clock], ann: Client
) -> None:
    _demo, clock = made
    picture = Path(package.__file__ or "").parent / "pictures" / PICTURES[0].file
    asset_id = ann.upload("a.jpg", picture.read_bytes()).json["id"]
    before = ann("GET", f"/assets/{asset_id}").json
    clock.advance(0.5)
    after = ann("GET", f"/assets/{asset_id}").json
    assert before["fileCreatedAt"] == "2020-02-03T04:05:06.000Z"
    assert after["fileCreatedAt"] == "2023-05-18T05:42:20.000Z"
    assert after["fileModifiedAt"] == before["fileModifiedAt"] == "2020-02-03T04:05:06.000Z"


def test_a_final_deletion_takes_a_moment(made: tuple[DemoImmich, Clock], ann: Client) -> None:
    demo, clock = made
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"bytes", NOW)
    ann("DELETE", "/assets", {"ids": [asset.id], "force": True})
    assert ann("GET", f"/assets/{asset.id}").json["isTrashed"]
    clock.advance(0.2)
    assert ann("GET", f"/assets/{asset.id}").status == 400
    assert ann("GET", "/users/me").json["quotaUsageInBytes"] == 0
    assert not demo.state.storage.has(asset)


def test_without_a_trash_a_plain_delete_is_final(
    made: tuple[DemoImmich, Clock], ann: Client
) -> None:
    demo, clock = made
    demo.trash_enabled = False
    assert ann("GET", "/server/features").json["trash"] is False
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"bytes", NOW)
    ann("DELETE", "/assets", {"ids": [asset.id]})
    clock.advance(0.2)
    assert ann("POST", "/trash/restore/assets", {"ids": [asset.id]}).status == 400


def test_a_trashed_asset_keeps_its_album_and_others_do_not_see_it(
    demo: DemoImmich, ann: Client
) -> None:
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"bytes", NOW)
    album = demo.add_album(
        demo.user("ann@example.com"), "A", [asset], shared={"ben@example.com": "viewer"}
    )
    ben = log_in(demo, "ben@example.com", "pw")
    assert ben("GET", f"/assets/{asset.id}").status == 200
    ann("DELETE", "/assets", {"ids": [asset.id]})
    assert ben("GET", f"/assets/{asset.id}").status == 400
    assert ann("GET", f"/albums/{album.id}").json["assetCount"] == 0
    ann("POST", "/trash/restore/assets", {"ids": [asset.id]})
    assert ann("GET", f"/albums/{album.id}").json["assetCount"] == 1
    assert demo.assets_of(album) == [asset]


def test_a_reset_stream_starts_over(demo: DemoImmich, ann: Client) -> None:
    demo.reset_sync(demo.user("ann@example.com"))
    types = {"types": ["UsersV1"]}
    first = json.loads(ann("POST", "/sync/stream", types).body)
    assert first["type"] == "SyncResetV1"
    ann("POST", "/sync/ack", {"acks": [first["ack"]]})
    again = ann("POST", "/sync/stream", types).body.splitlines()
    assert [json.loads(line)["type"] for line in again] == ["UserV1", "UserV1", "SyncCompleteV1"]


def test_a_live_photo_can_be_unlinked(demo: DemoImmich, ann: Client) -> None:
    video = ann.upload("a.mov", b"video").json["id"]
    still = ann.upload("a.jpg", b"still", livePhotoVideoId=video).json["id"]
    assert ann("GET", f"/assets/{video}").json["visibility"] == "hidden"
    answer = ann("PUT", f"/assets/{still}", {"livePhotoVideoId": None})
    assert answer.json["livePhotoVideoId"] is None


def test_an_administrator_makes_users(demo: DemoImmich, ann: Client) -> None:
    new = {"email": "cat@example.com", "password": "pw", "name": "Cat", "quotaSizeInBytes": 5}
    assert ann("POST", "/admin/users", new).status == 403
    demo.add_user("root@example.com", "pw", "Root", admin=True)
    root = log_in(demo, "root@example.com", "pw")
    assert root("POST", "/admin/users", new).status == 201
    cat = log_in(demo, "cat@example.com", "pw")
    assert cat("GET", "/users/me").json["quotaSizeInBytes"] == 5
    assert cat.upload("a.jpg", b"123456").json["message"] == "Quota has been exceeded!"


def test_the_demo_library_is_the_same_every_time(demo: DemoImmich) -> None:
    other, _clock = make_demo()
    seed(other)
    twin, _clock = make_demo()
    seed(twin)
    ids = [(a.id, a.name, a.checksum, a.modified) for a in other.state.assets.values()]
    assert ids == [(a.id, a.name, a.checksum, a.modified) for a in twin.state.assets.values()]
    seed(demo)
    assert demo.state.user_by_email(EMAIL) is None, "a demo that has users is left alone"
    other.close()
    twin.close()


def test_the_demo_library_has_its_dates_from_the_pictures() -> None:
    demo, _clock = make_demo()
    seed(demo)
    me = log_in(demo, EMAIL, PASSWORD)
    albums = {album["albumName"]: album["assetCount"] for album in me("GET", "/albums").json}
    assert albums == {
        "Lake District": 3,
        "Summer by the Sea": 4,
        "Winter Walks": 3,
        "Balloon Festival": 3,
    }
    for asset in demo.state.assets.values():
        assert asset.width and asset.height
        assert asset.taken == asset.modified
    assert len({asset.checksum for asset in demo.state.assets.values()}) == len(PICTURES)
    demo.close()


def test_a_large_library_is_answered_in_seconds(
    made: tuple[DemoImmich, Clock], ann: Client
) -> None:
    demo, _clock = made
    user = demo.user("ann@example.com")
    assets = demo.add_assets(user, [f"IMG_{n:05}.jpg" for n in range(15_000)], NOW)
    album = demo.add_album(user, "Big", assets[:10_000])
    began = time.process_time()
    page, names = 1, set()
    while page:
        data = {"albumIds": [album.id], "withExif": True, "size": 1000, "page": page}
        answer = ann("POST", "/search/metadata", data).json["assets"]
        names |= {item["originalFileName"] for item in answer["items"]}
        page = int(answer["nextPage"] or 0)
    assert len(names) == 10_000
    kind = "V2" if demo.core.modern else "V1"
    types = [f"Assets{kind}", "AssetExifsV1", f"Albums{kind}", "AlbumToAssetsV1"]
    lines = ann("POST", "/sync/stream", {"types": types}).body.count(b"\n")
    assert lines == 15_000 * 2 + 1 + 10_000 + 1
    # Anything quadratic takes minutes; the real server takes about this long.
    assert time.process_time() - began < 15


def test_the_demo_imports_nothing_else_of_ours() -> None:
    for path in Path(package.__file__ or "").parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                ours = name.partition(".")[0] == "immich_conch"
                assert not ours or name.startswith("immich_conch.demo"), f"{path.name}: {name}"
