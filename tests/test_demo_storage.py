"""The demo keeps what it was given: on disk over a restart, and never a whole upload in memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from demo_client import NOW, Client, log_in, make_demo
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from immich_conch.demo import DemoImmich

MIB = 1024 * 1024


def _everything(client: Client) -> list[object]:
    albums = client("GET", "/albums").json
    return [
        albums,
        [client("GET", f"/albums/{album['id']}").json for album in albums],
        client("POST", "/search/metadata", {"withDeleted": True, "withExif": True}).json,
        client("GET", "/users/me").json,
        client("GET", "/tags").json,
        client("GET", "/sync/ack").json,
    ]


@pytest.mark.parametrize("version", ["2.5.6", "3.1.0"])
def test_the_state_survives_a_restart(tmp_path: Path, version: str) -> None:
    demo, clock = make_demo(version, directory=tmp_path)
    demo.add_user("ann@example.com", "pw", "Ann", quota=10_000)
    demo.add_user("ben@example.com", "pw", "Ben")
    ann = log_in(demo, "ann@example.com", "pw")
    secret = demo.add_key(demo.user("ann@example.com"), ["album.read"])
    ids = [ann.upload(f"{n}.jpg", b"bytes %d" % n).json["id"] for n in range(4)]
    album = ann("POST", "/albums", {"albumName": "A", "assetIds": ids[:3]}).json["id"]
    ben = demo.user("ben@example.com").id
    ann("PUT", f"/albums/{album}/users", {"albumUsers": [{"userId": ben, "role": "editor"}]})
    ann("PUT", f"/assets/{ids[0]}/metadata", {"items": [{"key": "k", "value": {"a": [1]}}]})
    ann("DELETE", f"/albums/{album}/assets", {"ids": [ids[1]]})
    tag = ann("PUT", "/tags", {"tags": ["a/b"]}).json[0]["id"]
    ann("PUT", f"/tags/{tag}/assets", {"ids": [ids[0]]})
    clock.advance(1)
    ann("DELETE", "/assets", {"ids": [ids[2]]})
    ann("DELETE", "/assets", {"ids": [ids[3]], "force": True})
    clock.advance(1)
    lines = ann("POST", "/sync/stream", {"types": ["AlbumUsersV1", "AssetMetadataV1"]}).body
    ann("POST", "/sync/ack", {"acks": [json.loads(lines.splitlines()[0])["ack"]]})
    before = _everything(ann)
    demo.close()

    demo = DemoImmich(version, clock, tmp_path)
    again = Client(demo, ann.headers)
    assert _everything(again) == before
    assert again("GET", f"/assets/{ids[0]}/metadata").json[0]["value"] == {"a": [1]}
    assert again("GET", f"/assets/{ids[0]}/original").body == b"bytes 0"
    assert Client(demo, {"x-api-key": secret})("GET", "/albums").status == 200
    types = {"types": ["AssetsV1", "AlbumToAssetsV1"]}
    kinds = again("POST", "/sync/stream", types).body.decode()
    assert f'"AssetDeleteV1","data":{{"assetId":"{ids[3]}"' in kinds
    assert f'"AlbumToAssetDeleteV1","data":{{"assetId":"{ids[1]}"' in kinds
    new = again.upload("new.jpg", b"new").json["id"]
    assert new not in ids
    demo.close()


def test_a_process_that_died_leaves_what_it_had_answered(tmp_path: Path) -> None:
    demo, clock = make_demo(directory=tmp_path)
    demo.add_user("ann@example.com", "pw", "Ann")
    ann = log_in(demo, "ann@example.com", "pw")
    kept = ann.upload("a.jpg", b"kept").json["id"]
    doomed = ann.upload("b.jpg", b"doomed").json["id"]
    ann("DELETE", "/assets", {"ids": [doomed], "force": True})
    (tmp_path / "incoming" / "half").write_bytes(b"half an upload")

    # No close: what was answered must be there all the same.
    survivor = DemoImmich("3.1.0", clock, tmp_path)
    ann = Client(survivor, ann.headers)
    assert ann("GET", f"/assets/{kept}/original").body == b"kept"
    assert ann("GET", f"/assets/{kept}").json["exifInfo"]["dateTimeOriginal"] is not None
    assert ann("GET", f"/assets/{doomed}").status == 400
    assert not list(tmp_path.glob("incoming/*"))
    survivor.close()


def test_without_a_directory_nothing_is_left_behind() -> None:
    demo, _clock = make_demo()
    user = demo.add_user("ann@example.com", "pw", "Ann")
    demo.add_asset(user, "a.jpg", b"bytes", NOW)
    root = demo.state.storage.root
    assert list(root.rglob("*"))
    demo.close()
    assert not root.exists()


def test_a_closed_demo_does_nothing_any_more() -> None:
    demo, clock = make_demo()
    demo.add_user("ann@example.com", "pw", "Ann")
    ann = log_in(demo, "ann@example.com", "pw")
    first = ann.upload("a.jpg", b"bytes").json["id"]
    ann("DELETE", "/assets", {"ids": [first], "force": True})
    root = demo.state.storage.root
    demo.close()
    clock.advance(10)
    assert demo.state.assets[first].status == "deleted"
    assert not demo.state.assets[first].extracted
    assert not root.exists()


def test_an_asset_can_come_from_a_file_that_stays(tmp_path: Path) -> None:
    demo, _clock = make_demo()
    source = tmp_path / "source.jpg"
    source.write_bytes(b"from a file")
    asset = demo.add_asset(demo.add_user("a@example.com", "pw", "A"), "a.jpg", source, NOW)
    assert demo.content(asset) == source.read_bytes() == b"from a file"
    with pytest.raises(ValueError, match="already"):
        demo.add_asset(demo.user("a@example.com"), "b.jpg", b"from a file", NOW)
    demo.close()


def test_an_upload_is_never_in_memory_as_a_whole() -> None:
    demo, _clock = make_demo()
    demo.add_user("ann@example.com", "pw", "Ann")
    ann = log_in(demo, "ann@example.com", "pw")
    kind, form = ann.form("big.mov", b"BODY")
    head, tail = form.split(b"BODY")
    piece, count = bytes(64 * 1024), 64 * 16
    length = len(head) + len(piece) * count + len(tail)
    transport = StringTransport()
    protocol = demo.site().buildProtocol(None)
    protocol.makeConnection(transport)
    lines = [
        "POST /api/assets HTTP/1.1",
        "Host: demo",
        f"Authorization: {ann.headers['Authorization']}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "",
        "",
    ]
    protocol.dataReceived("\r\n".join(lines).encode() + head)
    tracemalloc.start()
    for _ in range(count):
        protocol.dataReceived(piece)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    protocol.dataReceived(tail)
    assert b" 201 Created" in transport.value()
    assert demo.state.storage.size(next(iter(demo.state.assets.values()))) == 64 * MIB
    assert peak < 2 * MIB
    demo.close()


def uploading(demo: DemoImmich, count: int) -> tuple[Any, StringTransport, bytes]:
    """The connection of an upload of which so many bytes have come, and the rest of it."""
    demo.add_user("ann@example.com", "pw", "Ann")
    ann = log_in(demo, "ann@example.com", "pw")
    kind, form = ann.form("a.jpg", b"x" * 1000)
    transport = StringTransport()
    protocol = demo.site().buildProtocol(None)
    protocol.makeConnection(transport)
    head = (
        f"POST /api/assets HTTP/1.1\r\nHost: demo\r\nContent-Type: {kind}\r\n"
        f"Authorization: {ann.headers['Authorization']}\r\nContent-Length: {len(form)}\r\n\r\n"
    )
    protocol.dataReceived(head.encode() + form[:count])
    return protocol, transport, form[count:]


def test_an_upload_cut_in_the_middle_leaves_nothing() -> None:
    demo, _clock = make_demo()
    protocol, _transport, _rest = uploading(demo, 700)
    assert list(demo.state.storage.root.glob("incoming/*"))
    protocol.connectionLost(Failure(OSError()))
    assert not list(demo.state.storage.root.glob("incoming/*"))
    assert not demo.state.assets
    demo.close()


class _Slow(StringTransport):
    """A socket that is full after 64 KiB until somebody drains it."""

    pending = 0
    most = 0
    total = 0

    def write(self, data: bytes) -> None:
        self.total += len(data)
        self.pending += len(data)
        self.most = max(self.most, self.pending)
        if self.pending > 64 * 1024 and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def drain(self) -> None:
        self.pending = 0
        self.producer.resumeProducing()


def test_a_large_download_waits_for_the_client() -> None:
    demo, _clock = make_demo()
    user = demo.add_user("ann@example.com", "pw", "Ann")
    size = 40 * MIB
    asset = demo.add_asset(user, "big.mov", None, NOW, size=size)
    ann = log_in(demo, "ann@example.com", "pw")
    transport = _Slow()
    protocol = demo.site().buildProtocol(None)
    protocol.makeConnection(transport)
    head = (
        f"GET /api/assets/{asset.id}/original HTTP/1.1\r\nHost: demo\r\n"
        f"Authorization: {ann.headers['Authorization']}\r\n\r\n"
    )
    protocol.dataReceived(head.encode())
    assert transport.total < 256 * 1024
    while transport.total < size:
        before = transport.total
        transport.drain()
        assert transport.total > before
    assert transport.most < 256 * 1024
    demo.close()


def test_an_idle_connection_is_closed_and_a_stalled_upload_is_not() -> None:
    demo, clock = make_demo()
    protocol, transport, rest = uploading(demo, 500)
    clock.advance(320)
    assert not transport.disconnecting
    protocol.dataReceived(rest)
    assert b" 201 Created" in transport.value()
    clock.advance(4.9)
    assert not transport.disconnecting
    clock.advance(0.2)
    assert transport.disconnecting
    demo.close()
