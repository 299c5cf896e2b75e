"""The sync stream of a password session: lines of JSON as they come, and their acknowledgement.

A stream is read without holding up the reactor: what one read of the socket brought is parsed
and handed on, a few hundred lines at most.  What the lines mean is not known here.  Source:
FACTS.md, "The sync stream", and the recordings `sync.json` and `sync_shared.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from immich_conch.errors import BadAnswer, NoMirror, Unreachable
from immich_conch.immich.http import Silence, Whole, kill
from immich_conch.immich.limits import MAX_ERROR
from immich_conch.immich.problems import problem

if TYPE_CHECKING:
    from immich_conch.immich.dialects import Dialect
    from immich_conch.immich.requests import Credential
    from immich_conch.immich.session import Server

Take = Callable[[Sequence[dict[str, Any]]], None]
"""Takes some lines of the stream, in order; what it raises ends the stream."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line: an asset's is 700, a description or a metadata value may be long."""

MAX_ACKS = 500
"""Acknowledgements in one call; one a type of line is enough, and there are some thirty."""

#: The lines that end a stream; without one of them it was cut.
ENDS = frozenset({"SyncCompleteV1", "SyncResetV1"})

_NOT_SERVED = frozenset({400, 403, 404, 405, 501})
_CUT = "Immich broke its sync stream off."


class _NotServed(BadAnswer):
    """This server has no such stream; or it is of another dialect than we thought."""


class Syncing:
    """The part of a session that follows changes; see IImmich."""

    __slots__ = ()

    server: Server
    credential: Credential

    async def sync_stream(
        self, take: Take, reset: bool = False, only: Collection[str] = ()
    ) -> None:
        """Pass on what changed since this session's checkpoints, or with `reset` everything."""
        if self.credential.is_key:
            raise NoMirror("API keys have no sync stream.")
        try:
            response = await self.server.in_dialect(
                lambda dialect: self._open(dialect, reset, only)
            )
        except _NotServed as error:
            raise NoMirror(error.text) from error
        lines = _Lines(self.server.http.clock, take)
        response.deliverBody(lines)
        await lines.done
        if lines.last not in ENDS:
            raise Unreachable(_CUT)

    async def sync_ack(self, acks: Sequence[str]) -> None:
        """Move this session's checkpoints; what is acknowledged does not come again."""
        for start in range(0, len(acks), MAX_ACKS):
            data = {"acks": list(acks[start : start + MAX_ACKS])}
            await self.server.http.done("POST", "/sync/ack", self.credential.headers, data=data)

    async def _open(self, dialect: Dialect, reset: bool, only: Collection[str]) -> IResponse:
        http = self.server.http
        types = [kind for kind in dialect.sync_types if not only or kind in only]
        query: dict[str, Any] = {"types": types}
        if reset:
            query["reset"] = True
        body = Whole(json.dumps(query, separators=(",", ":")).encode())
        headers = {**self.credential.headers, "content-type": "application/json"}
        # It may be repeated: only an acknowledgement changes what comes next.
        response = await http.stream("POST", "/sync/stream", headers, producer=body)
        if 200 <= response.code < 300:
            return response
        words = await http.collect(response, MAX_ERROR)
        error = problem(response.code, words)
        if response.code in _NOT_SERVED:
            raise _NotServed(f"Immich gives no sync stream: {error.text}")
        raise error


class _Lines(Protocol):
    """A body of JSON lines."""

    def __init__(self, clock: IReactorTime, take: Take) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self._drop())
        self.last = ""
        self._take = take
        self._rest: list[bytes] = []
        self._waiting = 0
        silence = Unreachable("Immich did not answer in time.")
        self._silence = Silence(clock, lambda: self._fail(silence))

    def connectionMade(self) -> None:
        """The body is ours now."""
        self._silence.heard()

    def dataReceived(self, data: bytes) -> None:
        """A piece of the body: whole lines are passed on, the rest of one is kept."""
        if self.done.called:
            return
        self._silence.heard()
        if b"\n" not in data:
            self._keep(data)
            return
        *whole, rest = data.split(b"\n")
        whole[0] = b"".join((*self._rest, whole[0]))
        self._rest, self._waiting = [], 0
        self._keep(rest)
        try:
            lines = parse([line for line in whole if line.strip()])
            if lines:
                self.last = lines[-1]["type"]
                self._take(lines)
        except Exception as error:
            # It is not hidden but raised where the stream is awaited.
            self._fail(error)

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._waiting += len(piece)
            if self._waiting > MAX_LINE:
                self._fail(BadAnswer("Immich sent a line without an end."))

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        """The end, clean or not; a stream without its last line is found out by the caller."""
        self._silence.stop()
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss) and not self._rest:
            self.done.callback(None)
        else:
            self.done.errback(Unreachable(_CUT))

    def _fail(self, error: Exception) -> None:
        if not self.done.called:
            self.done.errback(error)
        self._drop()

    def _drop(self) -> None:
        self._silence.stop()
        self._rest.clear()
        kill(self.transport)


def parse(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Lines of the stream, each `{type, data, ack}`; raises BadAnswer.

    They are parsed as one list, which takes half the time of one by one.
    """
    try:
        parsed = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError) as error:
        raise BadAnswer("Immich sent a line that is no JSON.") from error
    if len(parsed) != len(lines):
        raise BadAnswer("Immich sent a line that is no JSON.")
    try:
        for line in parsed:
            # JSON gives these types and none derived from them, nor subscripts others by a text.
            if type(line["type"]) is not str or type(line["data"]) is not dict:
                raise TypeError
            if type(line["ack"]) is not str:
                raise TypeError
    except (KeyError, TypeError) as error:
        raise BadAnswer("Immich sent a line that is none of its sync stream.") from error
    return parsed  # type: ignore[no-any-return]
