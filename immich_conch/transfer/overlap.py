"""Uploading to Immich while the client still writes, so that it does not wait twice.

The bytes go out in order as one chunked request, read back from the spool file as far as it has
grown; name, dates and checksum follow last (FACTS.md: fields may come after the file).  The spool
file stays the truth: whatever goes wrong here, the commit uploads it again from the start.  A
client that writes out of order, cuts the file, or goes away ends the request, and Immich makes no
asset of a body that was cut.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import ConchError
from immich_conch.immich.interfaces import IImmich, IUploadBody
from immich_conch.immich.model import NewAsset, Uploaded
from immich_conch.library.gather import Shared
from immich_conch.transfer.spool_file import SpoolFile

#: Bytes held back from the request's body until CLOSE: OpenSSH sends the last ones again in no
#: order that could be relied on, and a file that is cut by FSETSTAT is cut at its end.
HOLD_BACK = 256 * 1024


@implementer(IUploadBody)
@define(eq=False)
class GrowingBody:
    """A spool file that may still grow, read in order."""

    file: SpoolFile
    size: int | None = None
    #: Bytes handed out so far.
    sent: int = 0
    _ended: bool = False
    _waiter: Deferred[bytes] | None = None
    _wanted: int = 0

    def read(self, size: int) -> bytes | Deferred[bytes]:
        """The next bytes, when there are any; empty at the end."""
        piece = self._next(size)
        if piece or self._ended:
            return piece
        self._wanted = size
        self._waiter = Deferred()
        return self._waiter

    def _next(self, size: int) -> bytes:
        reach = self.file.size if self._ended else self.file.size - HOLD_BACK
        piece = self.file.read(self.sent, max(0, min(size, reach - self.sent)))
        self.sent += len(piece)
        return piece

    def grew(self) -> None:
        """More was written."""
        if self._waiter is not None and not self._waiter.called:
            piece = self._next(self._wanted)
            if piece or self._ended:
                waiter, self._waiter = self._waiter, None
                waiter.callback(piece)

    def end(self) -> None:
        """The file is whole."""
        self._ended = True
        self.grew()


@define(eq=False)
class Overlap:
    """One upload under way beside the writing.  `extension` is the file's, with its dot."""

    immich: IImmich
    body: GrowingBody
    extension: str
    _new: Deferred[NewAsset] = field(factory=Deferred)
    _request: Deferred[Uploaded] | None = None
    _result: Shared[Uploaded] | None = None
    failed: bool = False

    _log = Logger()

    @classmethod
    def start(cls, immich: IImmich, file: SpoolFile, extension: str) -> Overlap:
        """Open the request at once."""
        self = cls(immich, GrowingBody(file), extension)
        self._request = Deferred.fromCoroutine(immich.upload(self.body, self._fields, extension))
        self._result = Shared.start(self._run(self._request))
        return self

    async def _fields(self) -> NewAsset:
        return await self._new

    async def _run(self, request: Deferred[Uploaded]) -> Uploaded:
        try:
            return await request
        except (ConchError, CancelledError) as error:
            self.failed = True
            reason = error.text if isinstance(error, ConchError) else "it was given up"
            self._log.debug("an upload beside the writing failed: {reason}", reason=reason)
            raise

    @property
    def alive(self) -> bool:
        """Whether the request is still under way."""
        return not self.failed and self._result is not None and not self._result.done

    def wrote(self, offset: int) -> bool:
        """The client wrote or cut at `offset`; whether that ended the request.

        What is on its way already cannot be changed.
        """
        if offset < self.body.sent:
            self.abort()
        else:
            self.body.grew()
        return not self.alive

    def closed(self) -> None:
        """The file is whole: the last bytes may go, name and dates follow."""
        self.body.end()

    async def finish(self, new: NewAsset) -> Uploaded:
        """Send the rest, then name and dates; raises what the request raised."""
        assert self._result is not None
        self.body.end()
        if not self._new.called:
            self._new.callback(new)
        return await self._result.wait()

    def abort(self) -> None:
        """End the request; no asset comes of it."""
        if self.alive and self._request is not None:
            self.failed = True
            self._request.cancel()
