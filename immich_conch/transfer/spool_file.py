"""One file being written in the spool: random access and a running SHA-1.

The descriptor stays open as long as anybody reads or writes, also past the file's removal, so a
reader keeps the bytes it began with.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from attrs import define, field

from immich_conch.errors import NoSpace, Refused
from immich_conch.transfer.extents import Extents
from immich_conch.transfer.running_hash import RunningHash

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
    hash: RunningHash = field(init=False, repr=False)
    #: Readers and the writer each hold the descriptor open.
    _users: int = 1

    def __attrs_post_init__(self) -> None:
        self.hash = RunningHash(self.fd, self.use, self.close)

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
        self.written = written
        self.size = max(self.size, end)
        self.hash.wrote(offset, pieces, end, written.reach)

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
        self.hash.cut(size)
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
        """Whether `sha1` costs nothing."""
        return self.hash.covers(self.size)

    @property
    def in_order(self) -> bool:
        """Whether it was written from the start on, without holes, and is that still."""
        return self.written.reach == self.size and not self.hash.ruined

    def sha1(self) -> bytes:
        """The SHA-1 of the whole; reads what is not in it yet (blocking).  Raises Refused."""
        try:
            return self.hash.digest(self.size)
        except OSError as error:
            raise own_error(error) from error

    def found(self, size: int) -> None:
        """Take over a file of an earlier run, whose bytes are all there up to `size`."""
        self.size = size
        self.written = Extents().add(0, size)

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
