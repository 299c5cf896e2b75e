"""What a client holds open: a file it reads, a file it writes, a folder it lists.

READ and WRITE answer with plain values where they can, for they are the hot path.  `close` is a
plain method that returns a Deferred, because Conch calls it bare when a connection drops; `abort`
is what happens then (CONCH.md, traps 1 and 2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.conch.interfaces import ISFTPFile
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import ConchError, Denied
from immich_conch.immich.model import Asset
from immich_conch.library.nodes import Info
from immich_conch.transfer.download import Reader
from immich_conch.transfer.spool_file import SpoolFile
from immich_conch.transfer.upload import Upload
from immich_conch.transfer.uploads import Uploads

Attrs = dict[str, Any]

#: Entries handed over at once; the packet layer packs them into answers.
BATCH = 512


def attributes(info: Info) -> Attrs:
    """SFTP attributes; an unknown size is left out, never guessed (section 2)."""
    attrs: Attrs = {
        "uid": 0,
        "gid": 0,
        "permissions": info.mode,
        "atime": info.modified,
        "mtime": info.modified,
    }
    if info.size is not None:
        attrs["size"] = info.size
    return attrs


@implementer(ISFTPFile)
@define(eq=False)
class AssetHandle:
    """An asset opened for reading.  `info` is as it was at OPEN; so are the bytes."""

    reader: Reader
    asset: Asset
    info: Info
    set_attrs: Callable[[Attrs], Awaitable[None]]

    def readChunk(self, offset: int, length: int) -> bytes | Deferred[bytes]:
        """READ; `b""` is the end."""
        return self.reader.read(offset, length)

    def writeChunk(self, offset: int, data: bytes) -> None:
        """WRITE to a file that was opened for reading."""
        raise Denied("The file was opened for reading only.")

    def pause(self) -> None:
        """The client does not take what it has asked for."""
        self.reader.pause()

    def resume(self) -> None:
        """The client takes its answers again."""
        self.reader.resume()

    def getAttrs(self) -> Attrs:
        """FSTAT."""
        return attributes(self.info)

    async def setAttrs(self, attrs: Attrs) -> None:
        """FSETSTAT: as SETSTAT by path."""
        await self.set_attrs(attrs)

    def close(self) -> None:
        """CLOSE: the download ends."""
        self.reader.close()

    abort = close


@implementer(ISFTPFile)
@define(eq=False)
class SpoolHandle:
    """A file in flight opened for reading: the bytes as they are, also after it is in Immich."""

    upload: Upload
    info: Callable[[], Info]
    set_attrs: Callable[[Attrs], Awaitable[None]]
    _file: SpoolFile = field(init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._file = self.upload.file
        self._file.use()

    def readChunk(self, offset: int, length: int) -> Any:
        """READ; bytes at once unless they must come from what lies under an edited file."""
        return self.upload.read(offset, length)

    def writeChunk(self, offset: int, data: bytes) -> None:
        """WRITE to a file that was opened for reading."""
        raise Denied("The file was opened for reading only.")

    def getAttrs(self) -> Attrs:
        """FSTAT."""
        return attributes(self.info())

    async def setAttrs(self, attrs: Attrs) -> None:
        """FSETSTAT: as SETSTAT by path."""
        await self.set_attrs(attrs)

    def close(self) -> None:
        """CLOSE."""
        if not self._closed:
            self._closed = True
            self._file.close()

    abort = close


@implementer(ISFTPFile)
@define(eq=False)
class UploadHandle:
    """A file that a client writes."""

    uploads: Uploads
    upload: Upload
    info: Callable[[], Info]
    append: bool = False
    _closed: bool = field(default=False, init=False)

    _log = Logger()

    def readChunk(self, offset: int, length: int) -> Any:
        """READ of what was written so far, or of what lies under it."""
        return self.upload.read(offset, length)

    def writeChunk(self, offset: int, data: bytes | memoryview) -> None:
        """WRITE.  Under APPEND the offset is ignored: `curl -a` sends 0 (CLIENTS.md)."""
        self.writePieces(offset, (memoryview(data),))

    def writePieces(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """WRITE of pieces that follow each other, without joining them."""
        self.upload.write_pieces(self.upload.size if self.append else offset, pieces)

    def getAttrs(self) -> Attrs:
        """FSTAT."""
        return attributes(self.info())

    def setAttrs(self, attrs: Attrs) -> None:
        """FSETSTAT: a size truncates or extends, a time is kept; the rest is ignored."""
        size = attrs.get("size")
        if size is not None:
            self.upload.truncate(size)
        mtime = attrs.get("mtime")
        # After a failed WRITE OpenSSH still sets the time of what is no file (CLIENTS.md, 4).
        if mtime is not None and self.upload.poison is None:
            self.upload.time = float(mtime)

    def close(self) -> Deferred[None]:
        """CLOSE: raises whatever keeps the file from being safe."""
        self._closed = True
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        size = self.upload.size
        try:
            await self.uploads.close(self.upload)
        except ConchError as error:
            # Not all clients look at this answer (CLIENTS.md, 4): `mv` into an sshfs mount then
            # removes what it moved.  Whoever misses a file has to find out where it went.
            self._log.warn(
                "upload of {folder}/{name} by {user}, {size} bytes, failed at its end: {reason}",
                folder=self.upload.folder,
                name=self.upload.name,
                user=self.upload.user,
                size=size,
                reason=error.text,
            )
            raise

    def abort(self) -> None:
        """The connection dropped: nothing is committed."""
        if not self._closed:
            self._closed = True
            self.uploads.abort(self.upload)


@define(eq=False)
class FolderHandle:
    """A folder's entries as they go on the wire, complete before OPENDIR was answered (rule 2).

    Those of a large view come in pages: `more` gives the next ones, or raises at every call what
    kept them away, so that a listing that broke off never looks like one that ended.
    """

    entries: Sequence[bytes]
    more: Callable[[], Awaitable[Sequence[bytes]]] | None = None
    _at: int = 0

    async def next_batch(self) -> Sequence[bytes]:
        """The next entries; empty at the end, and ever after."""
        if self._at >= len(self.entries) and self.more is not None:
            self.entries, self._at = await self.more(), 0
        batch = self.entries[self._at : self._at + BATCH]
        self._at += len(batch)
        return batch

    def close(self) -> None:
        """CLOSE."""
        self.entries, self.more = (), None
