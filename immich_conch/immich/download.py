"""One streamed original: an HTTP answer as an IDownload, with its length and place checked.

Nothing here decides what to read or when to try again; a body that ends early, or comes from
another place in the file than was asked for, is an error and never the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from immich_conch.errors import BadAnswer, Refused, Unreachable
from immich_conch.immich.http import Silence, header, kill, read_more_at_once
from immich_conch.immich.interfaces import IDownload

_RANGE = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@frozen
class Extent:
    """Which bytes an answer carries: `skip` of its body lie before the offset asked for."""

    total: int | None
    body: int | None
    skip: int

    @classmethod
    def of(cls, response: IResponse, offset: int) -> Extent:
        """Read a 200 or 206; raises BadAnswer where it is not what was asked for.

        A 200 to a request with `Range` means that something on the way ignored the range: the
        bytes before the offset are then skipped.
        """
        length = None if response.length is UNKNOWN_LENGTH else int(response.length)
        if response.code == 200:
            if length is not None and offset > length:
                raise BadAnswer("Immich's file is shorter than it said.")
            return cls(total=length, body=length, skip=offset)
        match = _RANGE.fullmatch((header(response.headers, b"content-range") or b"").strip())
        if response.code != 206 or match is None or int(match[1]) != offset:
            raise BadAnswer("Immich sent another part of the file than asked for.")
        announced = int(match[2]) - int(match[1]) + 1
        if length is not None and length != announced:
            raise BadAnswer("Immich contradicts itself about a file's length.")
        total = None if match[3] == b"*" else int(match[3])
        if total is not None and int(match[2]) + 1 != total:
            raise BadAnswer("Immich sent less of the file than asked for.")
        return cls(total=total, body=announced, skip=0)


def check_etag(etag: str | None, wanted: str | None) -> None:
    """Raise Refused if this is another file now.

    Immich's ETags are weak, so `If-Range` would never match (RFC 9110, 13.1.5): compared here.
    """
    if wanted is not None and etag != wanted:
        raise Refused("The file has changed at Immich.")


@implementer(IDownload)
class Download(Protocol):
    """A response whose body flows on demand.

    The silence timer runs only while data is wanted: a client may pause for as long as it likes.
    """

    def __init__(self, response: IResponse, offset: int, clock: IReactorTime) -> None:
        extent = Extent.of(response, offset)
        self.total = extent.total
        self.offset = offset
        etag = header(response.headers, b"etag")
        self.etag = None if etag is None else etag.decode("latin-1")
        self._response: Any = response
        self._expected = extent.body
        self._skip = extent.skip
        self._received = 0
        self._silence = Silence(clock, self._silent)
        self._data: Callable[[bytes], None] | None = None
        self._done: Callable[[BaseException | None], None] | None = None
        self._paused = False
        # What arrived in the same read as the byte on which the owner paused.
        self._held: list[bytes] = []
        self._end: tuple[BaseException | None] | None = None

    def deliver(
        self, data: Callable[[bytes], None], done: Callable[[BaseException | None], None]
    ) -> None:
        """Start the flow."""
        self._data, self._done = data, done
        self._response.deliverBody(self)

    def pause(self) -> None:
        """Stop reading from the connection."""
        self._paused = True
        self._silence.stop()
        if self.transport is not None:
            self.transport.pauseProducing()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Read on."""
        if not self._paused:
            return
        self._paused = False
        while self._held and not self._paused and self._data is not None:
            self._data(self._held.pop(0))
        if self._paused or self._done is None:
            return
        if self._end is not None:
            self._finish(*self._end)
        elif self.transport is not None:
            self._silence.heard()
            self.transport.resumeProducing()  # type: ignore[attr-defined]

    def abort(self) -> None:
        """Close the connection and forget the callbacks."""
        self._forget()
        if self.transport is None:
            # Nobody has taken the body yet; it must be taken before it can be refused.
            self._response.deliverBody(self)
        kill(self.transport)

    def connectionMade(self) -> None:
        """The body is ours now."""
        read_more_at_once(self.transport)
        if self._done is not None and not self._paused:
            self._silence.heard()

    def dataReceived(self, data: bytes) -> None:
        """A piece of the body."""
        if self._done is None:
            return
        self._received += len(data)
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._paused:
            if data:
                self._held.append(data)
            # Twisted resumes the connection when the body is taken, paused or not.
            self.transport.pauseProducing()  # type: ignore[union-attr]
            return
        self._silence.heard()
        if data and self._data is not None:
            self._data(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        """The end, clean or not."""
        whole = self._expected is None or self._received == self._expected
        if reason.check(ResponseDone) and whole and not self._skip:
            self._ended(None)
        else:
            self._ended(Unreachable("Immich broke the download off."))

    def _silent(self) -> None:
        self._ended(Unreachable("Immich did not answer in time."))
        kill(self.transport)

    def _ended(self, error: BaseException | None) -> None:
        self._silence.stop()
        if self._paused:
            if self._end is None:
                self._end = (error,)
        else:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        done = self._done
        self._forget()
        if done is not None:
            done(error)

    def _forget(self) -> None:
        self._data = self._done = None
        self._held.clear()
        self._silence.stop()
