"""One file being written in the spool: random access and a running SHA-1.

The descriptor stays open as long as anybody reads or writes, also past the file's removal, so a
reader keeps the bytes it began with.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field

from immich_conch.errors import NoSpace, Refused
from immich_conch.transfer.extents import Extents

#: Bytes read at once when a hash is computed anew.
HASH_CHUNK = 1 << 20
#: Largest file that can be spooled: a wild offset must not make a sparse monster (bytes).
MAX_FILE = 1 << 43

#: Pieces written in one call at most; the system's own limit is IOV_MAX, 1024.
MAX_PIECES = 256

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@define(eq=False)
class SpoolFile:
    """One file being written.  Its descriptor lives until `close`, also past `unlink`."""

    id: str
    path: str
    fd: int
    size: int = 0
    written: Extents = field(factory=Extents)
    #: Asks for room for so many more bytes; raises NoSpace.
    room: Callable[[int], None] = field(default=lambda more: None, repr=False)
    _sha1: Any = field(factory=lambda: hashlib.sha1(usedforsecurity=False), repr=False)
    #: How many bytes from the start are in the running hash; -1: bytes came out of order.
    _hashed: int = 0
    #: Readers and the writer each hold the descriptor open.
    _users: int = 1

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at an offset; raises NoSpace or Refused."""
        self.write_pieces(offset, (memoryview(data),))

    def write_pieces(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Write pieces that follow each other, without joining them."""
        size = sum(map(len, pieces))
        if not size:
            # As on POSIX, nothing written beyond the end extends nothing.
            return
        if len(pieces) > MAX_PIECES:
            pieces = (memoryview(b"".join(pieces)),)
        end = offset + size
        if end > MAX_FILE:
            raise NoSpace("The file is larger than this service takes (8 TiB).")
        written = self.written.add(offset, end)
        more = max(0, end - self.size)
        self.room(more)
        try:
            done = os.pwritev(self.fd, pieces, offset)
            if done < size:
                whole = memoryview(b"".join(pieces))
                while done < size:
                    done += os.pwrite(self.fd, whole[done:], offset + done)
        except OSError as error:
            self.room(-more)
            raise own_error(error) from error
        if offset == self._hashed:
            for piece in pieces:
                self._sha1.update(piece)
            self._hashed = end
        else:
            self._hashed = -1
        self.written = written
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros; raises NoSpace or Refused."""
        if size > MAX_FILE:
            raise NoSpace("The file is larger than this service takes (8 TiB).")
        self.room(size - self.size)
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            self.room(self.size - size)
            raise own_error(error) from error
        if size < self._hashed:
            self._hashed = -1
        self.written = self.written.cut(size)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; empty at the end.  A hole reads as zeros."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return os.pread(self.fd, length, offset)

    def flush(self) -> None:
        """Make what was written so far durable (blocking); raises NoSpace or Refused."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise own_error(error) from error

    @property
    def hash_ready(self) -> bool:
        """Whether `sha1` costs nothing: all bytes came in order, from the start."""
        return self._hashed == self.size

    def sha1(self) -> bytes:
        """The SHA-1 of the whole; reads the file where bytes came out of order (blocking)."""
        if not self.hash_ready:
            sha1 = hashlib.sha1(usedforsecurity=False)
            at = 0
            while piece := self.read(at, HASH_CHUNK):
                sha1.update(piece)
                at += len(piece)
            self._sha1, self._hashed = sha1, at
        return bytes(self._sha1.digest())

    def found(self, size: int) -> None:
        """Take over a file of an earlier run, whose bytes are all there up to `size`."""
        self.size = size
        self.written = Extents().add(0, size)
        self._hashed = 0 if size == 0 else -1

    def use(self) -> None:
        """One more user of the descriptor."""
        self._users += 1

    def close(self) -> None:
        """A user leaves; the last one closes the descriptor."""
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)
            self.fd = -1


def own_error(error: OSError) -> Refused:
    """What a user is told of the spool's disk; never its paths."""
    if error.errno in _FULL:
        return NoSpace()
    return Refused(f"The upload spool cannot be written: {error.strerror}.")
