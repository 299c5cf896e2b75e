"""The wire's troubles as a user of the Immich client meets them: silence, breaks, garbage, floods.

A raw peer on the loopback misbehaves; a Clock stands in for time, so nothing is waited for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from immich_fakes import Peers, Rig, album, scripted, started, turns, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from immich_conch.errors import BadAnswer, SettingsError, Unreachable
from immich_conch.immich.client import base_url, connect, trust_only
from immich_conch.immich.http import Http
from immich_conch.immich.limits import MAX_ANSWER, SILENCE_TIMEOUT

__all__ = ["scripted"]

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest_twisted.async_yield_fixture
async def raw() -> AsyncIterator[tuple[Rig, Peers, Http]]:
    peers = Peers()
    made = Rig.on(peers)
    yield made, peers, made.server.http
    await made.stop()


def error_of(result: list[Any]) -> BaseException:
    assert isinstance(result[0], Failure), result
    return result[0].value


async def finish(made: Rig, result: list[Any], step: float = 0.1) -> None:
    def over() -> bool:
        if not result:
            made.clock.advance(step)
        return bool(result)

    await until(over)


@pytest_twisted.ensureDeferred
async def test_a_server_that_says_nothing_is_unreachable_after_a_minute(raw: Any) -> None:
    made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    made.clock.advance(SILENCE_TIMEOUT - 1)
    assert result == []
    made.clock.advance(2)
    await until(lambda: result and peer.lost)
    assert type(error_of(result)) is Unreachable
    assert len(peers.all) == 1
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_body_that_stops_half_way_is_given_up_after_a_minute(raw: Any) -> None:
    made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    peer.say(HEAD + b"Content-Length: 10\r\n\r\n12345")
    await until(lambda: len(made.clock.getDelayedCalls()) == 1)
    await turns()
    made.clock.advance(SILENCE_TIMEOUT + 1)
    await until(lambda: result and peer.lost)
    assert type(error_of(result)) is Unreachable
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_body_that_trickles_is_waited_for(raw: Any) -> None:
    made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    peer.say(HEAD + b"Content-Length: 4\r\n\r\n")
    for piece in (b"a", b"b", b"c", b"d"):
        await turns()
        made.clock.advance(SILENCE_TIMEOUT - 5)
        assert result == []
        peer.say(piece)
        await turns()
    await until(lambda: result)
    assert result[0].body == b"abcd"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_without_end_is_cut_off(raw: Any, announced: bool) -> None:
    _made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}, limit=1000))
    peer = await peers.next()
    length = b"Content-Length: 5000\r\n" if announced else b""
    peer.say(HEAD + length + b"\r\n" + b"x" * 2000)
    await until(lambda: result and peer.lost)
    assert type(error_of(result)) is BadAnswer
    assert len(peers.all) == 1


@pytest_twisted.ensureDeferred
async def test_a_peer_that_speaks_no_http_is_a_bad_answer_and_not_asked_again(raw: Any) -> None:
    _made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    peer.say(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    await until(lambda: result)
    assert type(error_of(result)) is BadAnswer
    assert len(peers.all) == 1


@pytest_twisted.ensureDeferred
async def test_a_body_cut_short_is_never_a_whole_answer(raw: Any) -> None:
    _made, peers, http = raw
    _, result = started(http.answer("GET", "/x", {}, retry=False))
    peer = await peers.next()
    peer.say(HEAD + b"Content-Length: 10\r\n\r\n[]")
    await turns()
    peer.transport.loseConnection()
    await until(lambda: result)
    assert type(error_of(result)) is Unreachable


@pytest_twisted.ensureDeferred
async def test_a_call_that_may_be_repeated_is_after_growing_pauses(scripted: Any) -> None:
    made, script = scripted
    script.answers["GET /x"] = ["drop", (503, b""), (502, b""), (200, {"a": 1})]
    _, result = started(made.server.http.answer("GET", "/x", {}))
    times: list[float] = []
    for count in (1, 2, 3):
        await until(lambda count=count: len(script.seen) == count)
        await until(lambda: any(c.getTime() for c in made.clock.getDelayedCalls()))
        await until(lambda: made.clock.getDelayedCalls()[0].getTime() - made.clock.seconds() < 5)
        times.append(made.clock.getDelayedCalls()[0].getTime() - made.clock.seconds())
        made.clock.advance(times[-1])
    await until(lambda: result)
    assert times == pytest.approx([0.2, 0.6, 1.8])
    assert result[0].tries == 4


@pytest_twisted.ensureDeferred
async def test_four_tries_are_all(scripted: Any) -> None:
    made, script = scripted
    script.answers["GET /x"] = (503, b"")
    _, result = started(made.server.http.answer("GET", "/x", {}))
    await finish(made, result)
    assert result[0].code == 503
    assert len(script.seen) == 4


@pytest_twisted.ensureDeferred
async def test_a_server_that_asks_for_a_long_pause_is_left_alone(scripted: Any) -> None:
    made, script = scripted
    script.answers["GET /x"] = (503, b"", {"retry-after": "120"})
    with pytest.raises(Unreachable) as caught:
        await made.server.http.done("GET", "/x", {})
    assert caught.value.retry_after == 120
    assert len(script.seen) == 1


@pytest_twisted.ensureDeferred
async def test_an_album_is_never_made_twice(scripted: Any) -> None:
    made, script = scripted
    session = await made.server.log_in("ann@example.com", "pass")
    script.answers["POST /albums"] = ["drop", (201, album())]
    with pytest.raises(Unreachable):
        await session.create_album("x")
    assert script.paths().count("POST /albums") == 1


@pytest_twisted.ensureDeferred
async def test_nobody_listening_is_unreachable(raw: Any) -> None:
    made, _, http = raw
    await made.port.stopListening()
    _, result = started(http.answer("GET", "/x", {}))
    await finish(made, result)
    assert type(error_of(result)) is Unreachable


@pytest_twisted.ensureDeferred
async def test_who_gives_up_ends_the_request(raw: Any) -> None:
    made, peers, http = raw
    running, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    running.cancel()
    await until(lambda: result and peer.lost)
    assert isinstance(error_of(result), CancelledError)
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_who_gives_up_half_way_through_a_body_ends_the_request(raw: Any) -> None:
    made, peers, http = raw
    running, result = started(http.answer("GET", "/x", {}))
    peer = await peers.next()
    peer.say(HEAD + b"Content-Length: 10\r\n\r\n12345")
    await turns()
    running.cancel()
    await until(lambda: result and peer.lost)
    assert isinstance(error_of(result), CancelledError)
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_answers_are_asked_for_uncompressed(scripted: Any) -> None:
    made, script = scripted
    await made.server.version()
    assert script.seen[0].headers["accept-encoding"] == "identity"


def test_an_ordinary_answer_has_room_for_what_immich_says() -> None:
    assert 1024 * 1024 <= MAX_ANSWER <= 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://immich:2283", "http://immich:2283"),
        ("http://immich:2283/", "http://immich:2283"),
        ("http://immich:2283/api", "http://immich:2283"),
        ("https://example.com/photos/api/", "https://example.com/photos"),
        ("http://[::1]:2283/photos/", "http://[::1]:2283/photos"),
    ],
)
def test_the_url_may_be_given_as_people_write_it(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    "given",
    [
        "immich:2283",
        "ftp://immich",
        "http://",
        "http://u:p@immich",
        "http://immich:x",
        "http://i?a",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_reason(given: str) -> None:
    with pytest.raises(SettingsError):
        base_url(given)


@pytest.mark.parametrize("content", [None, "", "-----END CERTIFICATE-----"])
def test_a_file_of_authorities_without_any_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError):
        trust_only(path)


def test_connect_keeps_idle_connections_shorter_than_immich_does() -> None:
    server = connect(reactor, "http://127.0.0.1:9/api")
    assert server.url == "http://127.0.0.1:9"
    pool = server.http.agent._pool
    assert pool.cachedConnectionTimeout < 5
