"""A session of the Immich client on a scripted server: what is asked, and what answers mean.

The wire's own troubles are in test_immich_http; whole behaviour is in the contract suite.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from immich_fakes import Rig, Script, album, album2, asset, started, until, version
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from immich_conch.errors import (
    BadAnswer,
    BadCredentials,
    Denied,
    MissingPermission,
    NotFound,
    QuotaExceeded,
    Refused,
    SessionRevoked,
    TooOld,
    Unreachable,
)
from immich_conch.immich.interfaces import IImmich, IImmichServer
from immich_conch.immich.session import Session

NOT_FOUND = (400, {"message": "Not found or no album.delete access"})


@pytest_twisted.async_yield_fixture
async def rig() -> AsyncIterator[tuple[Rig, Script]]:
    script = Script()
    script.answers.update(version(3))
    made = Rig.scripted(script)
    yield made, script
    await made.stop()


async def logged_in(rig: Rig) -> Session:
    return await rig.server.log_in("ann@example.com", "pass-secret-123")


@pytest_twisted.ensureDeferred
async def test_a_password_opens_a_session_that_sends_its_token(rig: Any) -> None:
    made, script = rig
    script.answers["GET /albums"] = (200, [])
    session = await logged_in(made)
    await session.albums()
    assert session.user.email == "ann@example.com"
    assert script.seen[-1].headers["authorization"] == "Bearer tok-secret-123"
    assert session.allowed("album.delete")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("code", [401, 400])
async def test_a_wrong_password_is_bad_credentials_and_not_tried_again(rig: Any, code: int) -> None:
    made, script = rig
    script.answers["POST /auth/login"] = (code, {"message": "Incorrect email or password"})
    with pytest.raises(BadCredentials):
        await logged_in(made)
    assert script.paths().count("POST /auth/login") == 1


@pytest_twisted.ensureDeferred
async def test_a_log_in_whose_user_cannot_be_read_leaves_no_session_behind(rig: Any) -> None:
    made, script = rig
    script.answers["GET /users/me"] = (400, {"message": "no"})
    script.answers["POST /auth/logout"] = (200, {"successful": True})
    with pytest.raises(Refused):
        await logged_in(made)
    assert script.paths()[-1] == "POST /auth/logout"


@pytest_twisted.ensureDeferred
async def test_a_key_is_sent_as_a_key_and_its_permissions_are_known(rig: Any) -> None:
    made, script = rig
    script.answers["GET /api-keys/me"] = (200, {"permissions": ["album.read"]})
    session = await made.server.use_key("key-secret-123")
    assert script.seen[-1].headers["x-api-key"] == "key-secret-123"
    assert "authorization" not in script.seen[-1].headers
    assert session.allowed("album.read")
    assert not session.allowed("asset.delete")
    await session.log_out()
    assert "POST /auth/logout" not in script.paths()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "answer",
    [
        (403, {"message": "Missing required permission: apiKey.read"}),
        (200, {"permissions": ["all"]}),
    ],
)
async def test_a_key_whose_list_says_nothing_is_taken_to_be_allowed_all(
    rig: Any, answer: Any
) -> None:
    made, script = rig
    script.answers["GET /api-keys/me"] = answer
    assert (await made.server.use_key("key-secret-123")).allowed("asset.delete")


@pytest_twisted.ensureDeferred
async def test_an_unknown_key_is_bad_credentials(rig: Any) -> None:
    made, script = rig
    script.answers["GET /users/me"] = (401, {"message": "Invalid API key"})
    with pytest.raises(BadCredentials):
        await made.server.use_key("key-secret-123")


@pytest_twisted.ensureDeferred
async def test_a_key_without_user_read_names_the_permission(rig: Any) -> None:
    made, script = rig
    script.answers["GET /users/me"] = (403, {"message": "Missing required permission: user.read"})
    with pytest.raises(MissingPermission) as caught:
        await made.server.use_key("key-secret-123")
    assert caught.value.permission == "user.read"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("key", ["", "a b", "clé", "a\r\nx: y", "k" * 600])
async def test_what_can_be_no_key_is_never_sent(rig: Any, key: str) -> None:
    made, script = rig
    with pytest.raises(BadCredentials):
        await made.server.use_key(key)
    assert script.seen == []


@pytest_twisted.ensureDeferred
async def test_a_cookie_of_one_log_in_is_not_sent_with_another_users_requests(rig: Any) -> None:
    made, script = rig
    cookie = {"set-cookie": "immich_access_token=tok-secret-123; Path=/"}
    script.answers["POST /auth/login"] = (201, {"accessToken": "tok-secret-123"}, cookie)
    await logged_in(made)
    script.answers["GET /api-keys/me"] = (200, {"permissions": ["all"]})
    await made.server.use_key("other")
    assert all("cookie" not in one.headers for one in script.seen)


@pytest_twisted.ensureDeferred
async def test_an_old_server_is_refused(rig: Any) -> None:
    made, script = rig
    script.answers["GET /server/version"] = (200, {"major": 1, "minor": 144, "patch": 0})
    with pytest.raises(TooOld):
        await logged_in(made)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {"message": "Invalid user token"}), SessionRevoked),
        ((403, {"message": "Missing required permission: album.read"}), MissingPermission),
        ((400, {"message": "Not found or no album.read access"}), NotFound),
        ((400, {"message": "Album not found"}), NotFound),
        ((400, {"message": "Quota has been exceeded!"}), QuotaExceeded),
        ((400, {"message": ["one", "two"]}), Refused),
        ((404, b"<html>proxy</html>"), BadAnswer),
        ((301, b"", {"location": "http://elsewhere.example/"}), BadAnswer),
        ((500, {"message": "Internal server error"}), Unreachable),
        ((429, b"", {"retry-after": "7"}), Unreachable),
        ((200, b"<html>"), BadAnswer),
        ((200, {"albumName": "x"}), BadAnswer),
    ],
)
async def test_each_answer_becomes_the_error_it_means(rig: Any, answer: Any, error: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = answer
    with pytest.raises(error) as caught:
        await session.album("a-1")
    assert type(caught.value) is error
    if answer[0] == 429:
        assert caught.value.retry_after == 7
    if isinstance(caught.value, Refused) and not isinstance(caught.value, QuotaExceeded):
        assert "one; two" in caught.value.text


@pytest_twisted.ensureDeferred
async def test_immichs_words_are_bounded_and_printable(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = (400, {"message": "x\x1b[31m\n" + "y" * 5000})
    with pytest.raises(Refused) as caught:
        await session.album("a-1")
    assert len(caught.value.text) < 300
    assert caught.value.text.isprintable()


@pytest_twisted.ensureDeferred
async def test_on_3_one_call_lists_own_and_shared_albums(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    shared = album(
        "a-2",
        albumUsers=[
            {"user": {"id": "u-2"}, "role": "owner"},
            {"user": {"id": "u-1"}, "role": "editor"},
        ],
    )
    script.answers["GET /albums"] = (200, [album(), shared])
    assert [(one.id, one.role) for one in await session.albums()] == [
        ("a-1", "owner"),
        ("a-2", "editor"),
    ]
    assert script.paths().count("GET /albums") == 1


@pytest_twisted.ensureDeferred
async def test_on_2_two_calls_list_the_albums_and_each_album_comes_once(rig: Any) -> None:
    made, script = rig
    script.answers.update(version(2, 3))
    session = await logged_in(made)
    script.answers["GET /albums"] = lambda seen: (
        200,
        [album2("a-1"), album2("a-2")] if seen.query else [album2("a-1")],
    )
    assert [one.id for one in await session.albums()] == ["a-1", "a-2"]


@pytest_twisted.ensureDeferred
async def test_on_2_a_second_call_that_fails_is_no_shorter_listing(rig: Any) -> None:
    made, script = rig
    script.answers.update(version(2, 5))
    session = await logged_in(made)
    script.answers["GET /albums"] = lambda seen: (
        (400, {"message": "no"}) if seen.query else (200, [album2("a-1")])
    )
    with pytest.raises(Refused):
        await session.albums()


@pytest_twisted.ensureDeferred
async def test_an_upgrade_under_us_is_noticed_by_an_answer_that_does_not_fit(rig: Any) -> None:
    made, script = rig
    script.answers.update(version(2, 5))
    session = await logged_in(made)
    script.answers.update(version(3))
    script.answers["GET /albums"] = (200, [album()])
    assert [one.id for one in await session.albums()] == ["a-1"]
    made_before = script.paths().count("GET /server/version")
    await session.albums()
    assert script.paths().count("GET /server/version") == made_before


@pytest_twisted.ensureDeferred
async def test_the_version_is_asked_for_again_after_five_minutes(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums"] = (200, [album()])
    await session.albums()
    assert script.paths().count("GET /server/version") == 1
    made.clock.advance(301)
    await session.albums()
    assert script.paths().count("GET /server/version") == 2


@pytest_twisted.ensureDeferred
async def test_a_newer_3_that_names_owner_ids_again_is_still_read(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums"] = (200, [album(ownerId="u-1")])
    assert [one.role for one in await session.albums()] == ["owner"]


def page(items: list[Any], following: Any = None) -> tuple[int, Any]:
    return 200, {"assets": {"items": items, "nextPage": following}}


def paged(total: int) -> Any:
    def answer(seen: Any) -> tuple[int, Any]:
        number = seen.json["page"]
        first = (number - 1) * 1000
        more = str(number + 1) if first + 1000 < total else None
        return page([asset(f"s-{n}") for n in range(first, min(total, first + 1000))], more)

    return answer


@pytest_twisted.ensureDeferred
async def test_on_3_pages_are_joined_and_more_than_promised_is_followed(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = (200, album(count=1500))
    script.answers["POST /search/metadata"] = paged(2300)
    found = await session.assets(await session.album("a-1"))
    assert len({one.id for one in found}) == len(found) == 2300
    asked = [one.json for one in script.seen if one.path == "/search/metadata"]
    assert sorted(one["page"] for one in asked) == [1, 2, 3]
    assert all(one["albumIds"] == ["a-1"] and one["size"] == 1000 for one in asked)


@pytest_twisted.ensureDeferred
async def test_a_page_that_fails_fails_the_listing(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = (200, album(count=2500))
    whole = paged(2500)
    script.answers["POST /search/metadata"] = lambda seen: (
        (400, {"message": "no"}) if seen.json["page"] == 2 else whole(seen)
    )
    with pytest.raises(Refused):
        await session.assets(await session.album("a-1"))


@pytest_twisted.ensureDeferred
async def test_an_album_that_changes_while_listed_is_listed_again(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    before = album(count=2)
    after = album(count=2, updatedAt="2026-01-02T00:00:00.000Z")
    script.answers["GET /albums/a-1"] = [(200, before), (200, after)]
    script.answers["POST /search/metadata"] = [
        page([asset("s-1")]),
        page([asset("s-1"), asset("s-2")]),
    ]
    found = await session.assets(await session.album("a-1"))
    assert [one.id for one in found] == ["s-1", "s-2"]


@pytest_twisted.ensureDeferred
async def test_an_album_that_never_holds_still_loses_no_asset(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = [
        (200, album(count=9, updatedAt=f"2026-01-0{n}T00:00:00.000Z")) for n in range(1, 9)
    ]
    script.answers["POST /search/metadata"] = [page([asset(f"s-{n}")]) for n in range(4)]
    found = await session.assets(await session.album("a-1"))
    assert [one.id for one in found] == ["s-0", "s-1", "s-2", "s-3"]


@pytest_twisted.ensureDeferred
async def test_assets_without_metadata_are_not_missing_from_the_listing(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = (200, album(count=2))
    bare = {key: value for key, value in asset("s-2").items() if key != "exifInfo"}
    script.answers["POST /search/metadata"] = lambda seen: page(
        [asset("s-1")] if seen.json["withExif"] else [asset("s-1", exifInfo=None), bare]
    )
    found = await session.assets(await session.album("a-1"))
    assert {one.id: one.size for one in found} == {"s-1": 5, "s-2": None}


@pytest_twisted.ensureDeferred
async def test_a_still_album_that_lists_too_few_is_an_error(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = (200, album(count=2))
    script.answers["POST /search/metadata"] = page([])
    with pytest.raises(BadAnswer):
        await session.assets(await session.album("a-1"))


@pytest_twisted.ensureDeferred
async def test_on_2_the_album_itself_carries_its_assets(rig: Any) -> None:
    made, script = rig
    script.answers.update(version(2, 5))
    session = await logged_in(made)
    script.answers["GET /albums/a-1"] = lambda seen: (
        200,
        album2(count=1, assets=[] if "withoutAssets" in seen.query else [asset("s-1")]),
    )
    one = await session.album("a-1")
    assert [found.id for found in await session.assets(one)] == ["s-1"]


@pytest_twisted.ensureDeferred
async def test_an_album_that_can_be_read_but_not_deleted_is_denied(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["DELETE /albums/a-1"] = NOT_FOUND
    script.answers["PATCH /albums/a-1"] = NOT_FOUND
    script.answers["GET /albums/a-1"] = (200, album())
    with pytest.raises(Denied):
        await session.delete_album("a-1")
    with pytest.raises(Denied):
        await session.rename_album("a-1", "x")


@pytest_twisted.ensureDeferred
async def test_an_album_that_is_gone_is_not_found(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["DELETE /albums/a-1"] = script.answers["GET /albums/a-1"] = NOT_FOUND
    with pytest.raises(NotFound):
        await session.delete_album("a-1")


@pytest_twisted.ensureDeferred
async def test_a_delete_whose_answer_was_lost_and_finds_nothing_left_is_done(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["DELETE /albums/a-1"] = [(502, b""), NOT_FOUND]
    script.answers["GET /albums/a-1"] = NOT_FOUND
    running = session.delete_album("a-1")
    await advancing(made, running)


async def advancing(made: Rig, coroutine: Any) -> Any:
    """Run to the end, with the clock moved past every retry pause."""
    _, result = started(coroutine)

    def over() -> bool:
        made.clock.advance(0.1)
        return bool(result)

    await until(over)
    if hasattr(result[0], "raiseException"):
        result[0].raiseException()
    return result[0]


@pytest_twisted.ensureDeferred
async def test_every_asset_added_is_answered_for(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    words = {"s-0": {"success": True}, "s-1": {"success": False, "error": "duplicate"}}
    other = {"success": False, "error": "no_permission"}
    script.answers["PUT /albums/a-1/assets"] = lambda seen: (
        200,
        [{"id": one, **words.get(one, other)} for one in seen.json["ids"]],
    )
    ids = [f"s-{n}" for n in range(1001)]
    told = await session.add_to_album("a-1", ids)
    assert told["s-0"] is None
    assert told["s-1"] is None
    assert told["s-1000"] == "no_permission"
    assert script.paths().count("PUT /albums/a-1/assets") == 3
    script.answers["PUT /albums/a-1/assets"] = (200, [])
    with pytest.raises(BadAnswer):
        await session.add_to_album("a-1", ["s-0"])


@pytest_twisted.ensureDeferred
async def test_an_asset_that_was_out_already_counts_as_removed(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["DELETE /albums/a-1/assets"] = (
        200,
        [
            {"id": "s-1", "success": False, "error": "not_found"},
            {"id": "s-2", "success": False, "error": "no_permission"},
        ],
    )
    told = await session.remove_from_album("a-1", ["s-1", "s-2"])
    assert told == {"s-1": None, "s-2": "no_permission"}


@pytest_twisted.ensureDeferred
async def test_check_keeps_the_order_and_tells_trashed_assets(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["POST /assets/bulk-upload-check"] = (
        200,
        {
            "results": [
                {"id": "1", "action": "reject", "assetId": "s-1", "isTrashed": True},
                {"id": "0", "action": "accept"},
            ]
        },
    )
    first, second = await session.check([b"a" * 20, b"b" * 20])
    assert first is None
    assert second is not None
    assert (second.asset_id, second.trashed) == ("s-1", True)


@pytest_twisted.ensureDeferred
async def test_trashing_someone_elses_asset_is_denied_and_a_gone_one_not_found(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["DELETE /assets"] = NOT_FOUND
    script.answers["GET /assets/s-1"] = (200, asset("s-1"))
    script.answers["GET /assets/s-2"] = NOT_FOUND
    with pytest.raises(Denied):
        await session.trash(["s-1"])
    with pytest.raises(NotFound):
        await session.trash(["s-1", "s-2"])


@pytest_twisted.ensureDeferred
async def test_carrying_relations_over_leaves_albums_and_sidecar_alone(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["PUT /assets/copy"] = (204, b"")
    await session.copy_relations("s-1", "s-2")
    sent = script.seen[-1].json
    assert sent["albums"] is False
    assert sent["sidecar"] is False
    assert sent["favorite"] is True


@pytest_twisted.ensureDeferred
async def test_metadata_is_read_by_key_and_a_missing_key_is_removed_already(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["GET /assets/s-1/metadata"] = (200, [{"key": "k", "value": {"a": 1}}])
    script.answers["DELETE /assets/s-1/metadata/other"] = (400, {"message": "no"})
    script.answers["PUT /assets/s-1/metadata"] = (200, [])
    assert await session.get_metadata("s-1") == {"k": {"a": 1}}
    await session.set_metadata("s-1", "k", {"a": 2})
    assert script.seen[-1].json == {"items": [{"key": "k", "value": {"a": 2}}]}
    await session.delete_metadata("s-1", "other")


@pytest_twisted.ensureDeferred
async def test_log_out_never_raises(rig: Any) -> None:
    made, script = rig
    session = await logged_in(made)
    script.answers["POST /auth/logout"] = (401, {"message": "Invalid user token"})
    await session.log_out()
    assert script.paths()[-1] == "POST /auth/logout"


@pytest_twisted.ensureDeferred
async def test_no_secret_is_in_any_log_event_or_repr(rig: Any) -> None:
    made, script = rig
    made.server.http.trace = True
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        session = await logged_in(made)
        script.answers["GET /api-keys/me"] = (200, {"permissions": ["album.read"]})
        by_key = await made.server.use_key("key-secret-123")
        script.answers["GET /albums/a-1"] = (400, {"message": "no"})
        with pytest.raises(Refused):
            await by_key.album("a-1")
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert any("/auth/login" in str(event.get("path")) for event in events)
    everything = repr(events) + repr(session) + repr(by_key) + repr(made.server)
    everything += repr(session.credential) + repr(made.server.http)
    assert "secret" not in everything


@pytest_twisted.ensureDeferred
async def test_requests_are_logged_only_for_who_asks(rig: Any) -> None:
    made, _ = rig
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        await logged_in(made)
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert not any("/auth/login" in str(event.get("path")) for event in events)


@pytest_twisted.ensureDeferred
async def test_large_answers_are_parsed_where_the_caller_says(rig: Any) -> None:
    script = Script()
    script.answers.update(version(3))
    away: list[int] = []

    async def threads(work: Any) -> Any:
        away.append(1)
        return work()

    made = Rig.scripted(script, threads=threads)
    try:
        session = await logged_in(made)
        script.answers["GET /albums"] = (200, [album(f"a-{n}") for n in range(2000)])
        assert len(json.dumps(script.answers["GET /albums"])) > 256 * 1024
        assert len(await session.albums()) == 2000
        assert away == [1]
    finally:
        await made.stop()


@pytest_twisted.ensureDeferred
async def test_media_types_and_trash_switch_are_asked_for_once_in_a_while(rig: Any) -> None:
    made, script = rig
    script.answers["GET /server/media-types"] = (
        200,
        {"image": [".JPG"], "video": [".mov"], "sidecar": [".xmp"]},
    )
    script.answers["GET /server/features"] = (200, {"trash": True})
    for _ in range(2):
        assert (await made.server.media_types()).takes(".jpg")
        assert await made.server.trash_enabled()
    assert len(script.seen) == 2
    made.clock.advance(61)
    await made.server.trash_enabled()
    assert len(script.seen) == 3


@pytest_twisted.ensureDeferred
async def test_server_and_session_keep_what_their_interfaces_promise(rig: Any) -> None:
    made, _ = rig
    assert verifyObject(IImmichServer, made.server)
    assert verifyObject(IImmich, await logged_in(made))
