"""Uploads through the Immich client, over the loopback: what is sent, and how it stops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, timedelta, timezone
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_twisted
from attrs import define
from immich_fakes import Peers, Rig, Script, started, turns, until, version
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from immich_conch.errors import BadAnswer, QuotaExceeded, Refused, Unreachable
from immich_conch.immich.limits import SILENCE_TIMEOUT, UPLOAD_ANSWER_TIMEOUT
from immich_conch.immich.model import NewAsset, User, Version
from immich_conch.immich.requests import Credential
from immich_conch.immich.session import Session
from immich_conch.immich.upload import iso_time, placeholder

NEW = NewAsset(
    name="Ünï «1».jpg",
    modified=1_600_000_000.25,
    created=1_500_000_000.0,
    size=9,
    checksum=bytes(range(20)),
    metadata=({"key": "immich-conch", "value": {"v": 1}},),
)
CREATED = (201, {"id": "s-1", "status": "created"})
REFUSAL = b'{"message":"Quota has been exceeded!"}'


@define(eq=False)
class Pieces:
    """A body from a list: bytes, Deferreds of bytes, or an error to raise; endless on request."""

    pieces: list[Any]
    size: int | None = None
    endless: bool = False
    reads: int = 0

    def read(self, size: int) -> bytes | Awaitable[bytes]:
        self.reads += 1
        if self.endless:
            return b"x" * size
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece  # type: ignore[no-any-return]


def session_on(made: Rig, **more: Any) -> Session:
    user = User("u-1", "ann@example.com", "Ann")
    return Session(made.server, user, Credential("tok", is_key=False), **more)


@pytest_twisted.async_yield_fixture
async def scripted() -> AsyncIterator[tuple[Rig, Script]]:
    script = Script()
    script.answers.update(version(3))
    script.answers["POST /assets"] = CREATED
    made = Rig.scripted(script)
    yield made, script
    await made.stop()


@pytest_twisted.async_yield_fixture
async def stubborn() -> AsyncIterator[tuple[Rig, Peers]]:
    """A peer that reads nothing of what it is sent."""
    peers = Peers(greedy=False)
    made = Rig.on(peers)
    made.server._keep("version", 1e9, Version(3, 1, 0))
    yield made, peers
    await made.stop()


def parts(seen: Any) -> list[tuple[str, str | None, bytes]]:
    """Name, file name and content of each part, read by the standard library's own parser."""
    head = f"Content-Type: {seen.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + seen.body)
    return [
        (
            str(part["content-disposition"].params["name"]),
            part["content-disposition"].params.get("filename"),
            part.get_payload(decode=True),  # type: ignore[misc]
        )
        for part in message.iter_parts()  # type: ignore[attr-defined]
    ]


@pytest_twisted.ensureDeferred
async def test_known_fields_come_before_the_bytes_with_a_length_and_a_checksum(
    scripted: Any,
) -> None:
    made, script = scripted
    uploaded = await session_on(made).upload(Pieces([b"fine ", b"data"], size=9), NEW)
    assert (uploaded.asset_id, uploaded.duplicate) == ("s-1", False)
    seen = script.seen[-1]
    assert seen.headers["authorization"] == "Bearer tok"
    assert seen.headers["x-immich-checksum"] == NEW.checksum.hex()
    assert int(seen.headers["content-length"]) == len(seen.body)
    fields = parts(seen)
    assert [name for name, _, _ in fields] == [
        "filename",
        "fileCreatedAt",
        "fileModifiedAt",
        "metadata",
        "assetData",
    ]
    values = {name: content for name, _, content in fields}
    assert values["filename"].decode() == NEW.name
    assert values["fileModifiedAt"] == b"2020-09-13T12:26:40.250Z"
    assert json.loads(values["metadata"]) == [{"key": "immich-conch", "value": {"v": 1}}]
    assert fields[-1][1:] == ("upload.jpg", b"fine data")


@pytest_twisted.ensureDeferred
async def test_on_2_the_device_is_named(scripted: Any) -> None:
    made, script = scripted
    script.answers.update(version(2, 5))
    await session_on(made).upload(Pieces([b"fine data"], size=9), NEW)
    values = {name: content for name, _, content in parts(script.seen[-1])}
    assert values["deviceId"] == b"immich-conch"
    assert values["deviceAssetId"] == NEW.checksum.hex().encode()


@pytest_twisted.ensureDeferred
async def test_fields_not_known_yet_follow_the_bytes(scripted: Any) -> None:
    made, script = scripted
    later: Deferred[bytes] = Deferred()
    asked: list[int] = []

    async def new() -> NewAsset:
        asked.append(1)
        return NEW

    _, result = started(
        session_on(made).upload(Pieces([b"fine ", later, b"!"], size=None), new, ".jpg")
    )
    await turns()
    assert asked == []
    later.callback(b"data")
    await until(lambda: result)
    seen = script.seen[-1]
    assert seen.headers["transfer-encoding"] == "chunked"
    assert "x-immich-checksum" not in seen.headers
    fields = parts(seen)
    assert fields[0] == ("assetData", "upload.jpg", b"fine data!")
    assert {name for name, _, _ in fields[1:]} == {
        "filename",
        "fileCreatedAt",
        "fileModifiedAt",
        "metadata",
    }


@pytest_twisted.ensureDeferred
async def test_a_slow_writer_is_no_silent_immich(scripted: Any) -> None:
    made, _script = scripted
    later: Deferred[bytes] = Deferred()
    _, result = started(session_on(made).upload(Pieces([b"fine ", later], size=9), NEW))
    await turns()
    made.clock.advance(SILENCE_TIMEOUT * 20)
    assert result == []
    later.callback(b"data")
    await until(lambda: result)
    assert result[0].asset_id == "s-1"


@pytest_twisted.ensureDeferred
async def test_bytes_that_immich_has_are_a_duplicate(scripted: Any) -> None:
    made, script = scripted
    script.answers["POST /assets"] = (200, {"id": "s-7", "status": "duplicate"})
    uploaded = await session_on(made).upload(Pieces([b"fine data"], size=9), NEW)
    assert (uploaded.asset_id, uploaded.duplicate) == ("s-7", True)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, {"message": "Quota has been exceeded!"}), QuotaExceeded),
        ((400, {"message": "Unsupported file type x"}), Refused),
        ((413, b"<html>"), Refused),
        ((503, b""), Unreachable),
        ("drop", Unreachable),
        ((201, {"id": "s-1"}), BadAnswer),
    ],
)
async def test_a_refused_upload_says_why_and_is_sent_once(
    scripted: Any, answer: Any, error: Any
) -> None:
    made, script = scripted
    script.answers["POST /assets"] = answer
    with pytest.raises(error):
        await session_on(made).upload(Pieces([b"fine data"], size=9), NEW)
    assert script.paths().count("POST /assets") == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("size", [9, None])
async def test_a_body_that_cannot_be_read_ends_the_upload_with_its_own_error(
    scripted: Any, size: int | None
) -> None:
    made, script = scripted
    with pytest.raises(FileNotFoundError):
        await session_on(made).upload(Pieces([b"fine ", FileNotFoundError("gone")], size=size), NEW)
    await turns()
    assert "POST /assets" not in script.paths()


@pytest_twisted.ensureDeferred
async def test_dates_that_never_come_end_the_upload_with_their_own_error(scripted: Any) -> None:
    made, script = scripted

    async def never() -> NewAsset:
        raise QuotaExceeded

    with pytest.raises(QuotaExceeded):
        await session_on(made).upload(Pieces([b"fine data"]), never, ".jpg")
    await turns()
    assert "POST /assets" not in script.paths()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("pieces", [[b"short"], [b"much too long"]])
async def test_a_file_that_changed_its_size_is_not_uploaded(scripted: Any, pieces: Any) -> None:
    made, script = scripted
    with pytest.raises(Refused):
        await session_on(made).upload(Pieces(pieces, size=9), NEW)
    await turns()
    assert "POST /assets" not in script.paths()


def failed(result: list[Any]) -> BaseException:
    assert isinstance(result[0], Failure), result
    return result[0].value


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("size", [None, 10**12])
@pytest.mark.parametrize("whole", [True, False])
async def test_an_early_refusal_is_heard_and_the_rest_never_sent(
    stubborn: Any, size: int | None, whole: bool
) -> None:
    made, peers = stubborn
    body = Pieces([], size=size, endless=True)
    _, result = started(session_on(made).upload(body, NEW))
    peer = await peers.next()
    await turns()
    reads = body.reads
    assert 0 < reads < 100
    head = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(REFUSAL)
    if whole:
        peer.say(head + REFUSAL)
    else:
        peer.say(head)
        await turns()
        peer.say(REFUSAL)
        await turns()
        made.clock.advance(1.5)
    await until(lambda: result)
    assert isinstance(failed(result), QuotaExceeded)
    peer.transport.resumeProducing()
    await until(lambda: peer.lost)
    assert body.reads <= reads + 1
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_an_early_yes_to_half_a_file_is_not_believed(stubborn: Any) -> None:
    made, peers = stubborn
    _, result = started(session_on(made).upload(Pieces([], endless=True), NEW))
    peer = await peers.next()
    await turns()
    said = json.dumps(CREATED[1]).encode()
    peer.say(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
    await until(lambda: result)
    assert type(failed(result)) is BadAnswer


@pytest_twisted.ensureDeferred
async def test_an_early_duplicate_is_believed(stubborn: Any) -> None:
    made, peers = stubborn
    _, result = started(session_on(made).upload(Pieces([], endless=True), NEW))
    peer = await peers.next()
    await turns()
    said = b'{"id":"s-7","status":"duplicate"}'
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
    await until(lambda: result)
    assert result[0].duplicate


@pytest_twisted.ensureDeferred
async def test_a_connection_that_takes_no_more_is_given_up_after_a_minute(stubborn: Any) -> None:
    made, peers = stubborn
    body = Pieces([], endless=True)
    _, result = started(session_on(made).upload(body, NEW))
    peer = await peers.next()
    await turns()
    for _ in range(int(SILENCE_TIMEOUT) + 2):
        made.clock.advance(1)
    await until(lambda: result)
    assert type(failed(result)) is Unreachable
    peer.transport.resumeProducing()
    await until(lambda: peer.lost)
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_the_answer_may_take_long_once_all_is_sent(stubborn: Any) -> None:
    made, peers = stubborn
    _, result = started(session_on(made).upload(Pieces([b"fine data"], size=9), NEW))
    await peers.next()
    await turns()
    for _ in range(int(UPLOAD_ANSWER_TIMEOUT) - 5):
        made.clock.advance(1)
    await turns(3)
    assert result == []
    for _ in range(10):
        made.clock.advance(1)
    await until(lambda: result)
    assert type(failed(result)) is Unreachable


@pytest_twisted.ensureDeferred
async def test_the_connection_breaking_half_way_fails_the_upload(stubborn: Any) -> None:
    made, peers = stubborn
    _, result = started(session_on(made).upload(Pieces([], endless=True), NEW))
    peer = await peers.next()
    await turns()
    peer.transport.abortConnection()
    await until(lambda: result)
    assert type(failed(result)) is Unreachable
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("waiting", [True, False])
@pytest.mark.parametrize("size", [None, 10**9])
async def test_giving_an_upload_up_closes_its_connection(
    stubborn: Any, waiting: bool, size: int | None
) -> None:
    made, peers = stubborn
    never: Deferred[bytes] = Deferred()
    body = Pieces([b"x", never], size) if waiting else Pieces([], size, endless=True)
    running, result = started(session_on(made).upload(body, NEW))
    peer = await peers.next()
    await turns()
    running.cancel()
    await until(lambda: result)
    assert isinstance(failed(result), CancelledError)
    peer.transport.resumeProducing()
    await until(lambda: peer.lost)
    assert made.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("seconds", "zone", "text"),
    [
        (0.0, UTC, "1970-01-01T00:00:00.000Z"),
        (1.0006, UTC, "1970-01-01T00:00:01.001Z"),
        (0.0, timezone(timedelta(hours=2)), "1970-01-01T02:00:00.000+02:00"),
        (-3e9, ZoneInfo("Europe/Amsterdam"), "1874-12-07T18:40:00.000Z"),
        (2**32 - 1, UTC, "2106-02-07T06:28:15.000Z"),
    ],
)
def test_dates_are_sent_with_the_offset_of_the_zone(seconds: float, zone: Any, text: str) -> None:
    assert iso_time(seconds, zone) == text


def test_impossible_dates_become_possible_ones() -> None:
    assert iso_time(1e18, UTC).startswith("9999-")
    assert iso_time(-1e18, UTC).startswith("0001-")


@pytest.mark.parametrize(
    ("extension", "name"),
    [(".jpg", "upload.jpg"), ("", "upload"), ('."\r\n', "upload"), (".jpä", "upload")],
)
def test_the_parts_own_name_is_harmless(extension: str, name: str) -> None:
    assert placeholder(extension) == name
