"""Downloads through the Immich client, over the loopback: flow, place, length, and their ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from immich_fakes import Peers, Rig, scripted, started, turns, until

from immich_conch.errors import BadAnswer, NotFound, Refused, SessionRevoked, Unreachable
from immich_conch.immich.limits import SILENCE_TIMEOUT
from immich_conch.immich.model import User
from immich_conch.immich.requests import Credential
from immich_conch.immich.session import Session

__all__ = ["scripted"]

ETAG = 'W/"33b-17009392950"'


def session_on(made: Rig) -> Session:
    return Session(made.server, User("u-1", "ann@example.com", "Ann"), Credential("tok", False))


@define(eq=False)
class Taker:
    """What came of a download."""

    data: bytes = b""
    ends: list[BaseException | None] = field(factory=list)
    after: Any = None

    def take(self, piece: bytes) -> None:
        self.data += piece
        if self.after is not None:
            self.after()

    def start(self, download: Any) -> Taker:
        download.deliver(self.take, self.ends.append)
        return self


@pytest_twisted.async_yield_fixture
async def raw() -> AsyncIterator[tuple[Rig, Peers]]:
    peers = Peers()
    made = Rig.on(peers)
    yield made, peers
    await made.stop()


async def opened(raw: Any, answer: bytes, *, offset: int = 0, etag: str | None = None) -> Any:
    """A download and the peer it comes from, which has said `answer`."""
    made, peers = raw
    _, result = started(session_on(made).download("s-1", offset, etag))
    peer = await peers.next()
    peer.say(answer)
    await until(lambda: result)
    if hasattr(result[0], "raiseException"):
        result[0].raiseException()
    return result[0], peer


def head(code: int = 200, length: int | None = 10, **more: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", *(f"{k.replace('_', '-')}: {v}" for k, v in more.items())]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


@pytest_twisted.ensureDeferred
async def test_a_whole_file_comes_with_its_size_and_etag(raw: Any) -> None:
    download, peer = await opened(raw, head(etag=ETAG) + b"01234")
    assert (download.total, download.offset, download.etag) == (10, 0, ETAG)
    assert b"x-api-key" not in peer.came
    taker = Taker().start(download)
    peer.say(b"56789")
    await until(lambda: taker.ends)
    assert (taker.data, taker.ends) == (b"0123456789", [None])
    assert raw[0].clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_part_begins_where_it_was_asked_for(raw: Any) -> None:
    answer = head(206, 4, content_range="bytes 6-9/10") + b"6789"
    download, peer = await opened(raw, answer, offset=6)
    assert b"range: bytes=6-" in peer.came.lower()
    assert (download.total, download.offset) == (10, 6)
    taker = Taker().start(download)
    await until(lambda: taker.ends)
    assert (taker.data, taker.ends) == (b"6789", [None])


@pytest_twisted.ensureDeferred
async def test_a_server_that_ignores_the_range_is_read_past_the_offset(raw: Any) -> None:
    download, peer = await opened(raw, head() + b"0123", offset=6)
    taker = Taker().start(download)
    peer.say(b"456789")
    await until(lambda: taker.ends)
    assert (taker.data, taker.ends, download.offset) == (b"6789", [None], 6)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "answer",
    [
        head(206, 5, content_range="bytes 5-9/10"),
        head(206, 4, content_range="bytes 6-8/10"),
        head(206, 3, content_range="bytes 6-8/10"),
        head(206, 4, content_range="nonsense"),
        head(206, 4),
        head(200, 3),
    ],
)
async def test_another_part_of_the_file_is_never_passed_off(raw: Any, answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        await opened(raw, answer, offset=6)
    await until(lambda: raw[1].all[0].lost)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("length", [10, None])
async def test_a_file_cut_short_is_an_error_and_not_the_end(raw: Any, length: int | None) -> None:
    answer = head(200, length) + b"012"
    if length is None:
        answer = head(200, None, transfer_encoding="chunked") + b"3\r\n012\r\n"
    download, peer = await opened(raw, answer)
    taker = Taker().start(download)
    peer.transport.loseConnection()
    await until(lambda: taker.ends)
    assert taker.data == b"012"
    assert isinstance(taker.ends[0], Unreachable)


@pytest_twisted.ensureDeferred
async def test_a_file_without_any_length_is_not_taken_for_whole(raw: Any) -> None:
    download, peer = await opened(raw, head(200, None) + b"012")
    taker = Taker().start(download)
    peer.transport.loseConnection()
    await until(lambda: taker.ends)
    assert isinstance(taker.ends[0], Unreachable)


@pytest_twisted.ensureDeferred
async def test_silence_ends_a_download_but_not_while_its_reader_pauses(raw: Any) -> None:
    made, _ = raw
    download, peer = await opened(raw, head() + b"012")
    taker = Taker().start(download)
    await until(lambda: taker.data)
    download.pause()
    made.clock.advance(SILENCE_TIMEOUT * 10)
    peer.say(b"345")
    await turns()
    assert (taker.data, taker.ends) == (b"012", [])
    download.resume()
    await until(lambda: taker.data == b"012345")
    made.clock.advance(SILENCE_TIMEOUT + 1)
    assert isinstance(taker.ends[0], Unreachable)
    await until(lambda: peer.lost)
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_pause_holds_even_what_has_arrived_already(raw: Any) -> None:
    chunks = b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"
    download, _ = await opened(raw, head(200, None, transfer_encoding="chunked"))
    taker = Taker()
    taker.after = download.pause
    taker.start(download)
    raw[1].all[0].say(chunks)
    for so_far in (b"a", b"ab", b"abc"):
        await until(lambda so_far=so_far: taker.data == so_far)
        await turns()
        assert (taker.data, taker.ends) == (so_far, [])
        download.resume()
    assert taker.ends == [None]


@pytest_twisted.ensureDeferred
async def test_back_pressure_reaches_immich(raw: Any) -> None:
    size = 64 * 1024 * 1024
    download, peer = await opened(raw, head(200, size))
    taker = Taker()
    taker.after = download.pause
    taker.start(download)
    piece = bytes(1024 * 1024)
    for _ in range(16):
        peer.say(piece)
    await turns(50)
    assert 0 < len(taker.data) <= 1024 * 1024
    assert peer.transport.dataBuffer or peer.transport._tempDataBuffer
    download.abort()


@pytest_twisted.ensureDeferred
async def test_a_download_paused_before_it_begins_does_not_fill_the_memory(raw: Any) -> None:
    download, peer = await opened(raw, head(200, 64 * 1024 * 1024))
    download.pause()
    taker = Taker().start(download)
    for _ in range(16):
        peer.say(bytes(1024 * 1024))
    await turns(50)
    assert taker.data == b""
    assert sum(map(len, download._held)) <= 1024 * 1024
    download.resume()
    await until(lambda: len(taker.data) == 16 * 1024 * 1024)
    download.abort()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("begun", [True, False])
async def test_abort_closes_the_connection_and_says_nothing(raw: Any, begun: bool) -> None:
    download, peer = await opened(raw, head() + b"012")
    taker = Taker()
    if begun:
        taker.start(download)
        await until(lambda: taker.data)
    download.abort()
    await until(lambda: peer.lost)
    assert taker.ends == []
    assert raw[0].clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_another_file_under_the_same_id_is_refused(raw: Any) -> None:
    with pytest.raises(Refused):
        await opened(raw, head(etag='W/"other"'), etag=ETAG)
    await until(lambda: raw[1].all[0].lost)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, {"message": "Not Found"}), NotFound),
        ((400, {"message": "Not found or no asset.download access"}), NotFound),
        ((401, {"message": "Invalid user token"}), SessionRevoked),
        ((500, b"no"), Unreachable),
    ],
)
async def test_a_file_that_cannot_be_had_says_why(scripted: Any, answer: Any, error: Any) -> None:
    made, script = scripted
    script.answers["GET /assets/s-1/original"] = answer
    with pytest.raises(error):
        await session_on(made).download("s-1")


@pytest_twisted.ensureDeferred
async def test_opening_is_tried_again_when_immich_is_just_starting(scripted: Any) -> None:
    made, script = scripted
    script.answers["GET /assets/s-1/original"] = ["drop", (502, b"x"), (200, b"data")]
    _, result = started(session_on(made).download("s-1"))

    def over() -> bool:
        made.clock.advance(0.1)
        return bool(result)

    await until(over)
    taker = Taker().start(result[0])
    await until(lambda: taker.ends)
    assert (taker.data, taker.ends) == (b"data", [None])


@pytest_twisted.ensureDeferred
async def test_size_is_the_originals_length(scripted: Any) -> None:
    made, script = scripted
    script.answers["HEAD /assets/s-1/original"] = (200, b"", {"content-length": "12345678901"})
    assert await session_on(made).size("s-1") == 12345678901


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("code", [400, 404, 500])
async def test_a_file_that_is_not_on_the_disk_has_no_size(scripted: Any, code: int) -> None:
    made, script = scripted
    script.answers["HEAD /assets/s-1/original"] = (code, b"")
    assert await session_on(made).size("s-1") is None


@pytest_twisted.ensureDeferred
async def test_a_revoked_session_is_not_a_missing_size(scripted: Any) -> None:
    made, script = scripted
    script.answers["HEAD /assets/s-1/original"] = (401, b"")
    with pytest.raises(SessionRevoked):
        await session_on(made).size("s-1")
