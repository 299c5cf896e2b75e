"""Files being written: random access, a running SHA-1, durable and journaled once sealed.

A spool directory holds for each upload `<id>.data` and, once it is sealed, `<id>.json`, its
journal entry.  Names are random, modes 0600; nothing a client sent becomes a file name, and no
token, password or key is ever written.  A journal entry appears by rename after the data and the
entry have been fsynced, and the directory is fsynced before anybody is told that the upload is
safe, so an entry that can be read names data that is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen

from immich_conch.errors import NoSpace, Refused, SettingsError

#: Version of the journal's format.
FORMAT = 1
#: Bytes read at once when a hash is computed anew.
HASH_CHUNK = 1 << 20
#: Largest file that can be spooled: a wild offset must not make a sparse monster (bytes).
MAX_FILE = 1 << 43

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@frozen
class Extents:
    """Sorted, disjoint, non-adjacent byte ranges `[start, end)`; what of a file was written."""

    ranges: tuple[tuple[int, int], ...] = ()

    def add(self, start: int, end: int) -> Extents:
        """With one more range."""
        if start >= end:
            return self
        if self.ranges:
            last_start, last_end = self.ranges[-1]
            # In order, as nearly every client writes: no search.
            if last_start <= start <= last_end:
                if end <= last_end:
                    return self
                return Extents((*self.ranges[:-1], (last_start, end)))
        kept = []
        for low, high in self.ranges:
            if high < start or low > end:
                kept.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        kept.append((start, end))
        kept.sort()
        return Extents(tuple(kept))

    def cut(self, size: int) -> Extents:
        """Without what lies at or beyond `size`."""
        return Extents(tuple((low, min(high, size)) for low, high in self.ranges if low < size))

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """The ranges of `[0, size)` that were not written."""
        gaps, at = [], 0
        for low, high in self.ranges:
            if at >= size:
                break
            if low > at:
                gaps.append((at, min(low, size)))
            at = high
        if at < size:
            gaps.append((at, size))
        return gaps


@define(eq=False)
class SpoolFile:
    """One file being written.  Its descriptor lives until `close`, also past `unlink`."""

    id: str
    path: str
    fd: int
    size: int = 0
    written: Extents = field(factory=Extents)
    _sha1: Any = field(factory=lambda: hashlib.sha1(usedforsecurity=False), repr=False)
    #: How many bytes from the start are in the running hash; -1: bytes came out of order.
    _hashed: int = 0
    #: Readers and the writer each hold the descriptor open.
    _users: int = 1

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at an offset; raises NoSpace or Refused."""
        if not data:
            # As on POSIX, nothing written beyond the end extends nothing.
            return
        end = offset + len(data)
        if end > MAX_FILE:
            raise NoSpace("The file is larger than this service takes (8 TiB).")
        try:
            done = os.pwrite(self.fd, data, offset)
            while done < len(data):
                more = os.pwrite(self.fd, memoryview(data)[done:], offset + done)
                done += more
        except OSError as error:
            raise _own(error) from error
        if offset == self._hashed:
            self._sha1.update(data)
            self._hashed = end
        else:
            self._hashed = -1
        self.written = self.written.add(offset, end)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros; raises NoSpace or Refused."""
        if size > MAX_FILE:
            raise NoSpace("The file is larger than this service takes (8 TiB).")
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise _own(error) from error
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
            raise _own(error) from error

    @property
    def hash_ready(self) -> bool:
        """Whether `sha1` costs nothing: all bytes came in order."""
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

    def use(self) -> None:
        """One more user of the descriptor."""
        self._users += 1

    def close(self) -> None:
        """A user leaves; the last one closes the descriptor."""
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)
            self.fd = -1


@define(eq=False)
class Spool:
    """The spool directory.  `make` it once at start; `sync=False` skips every fsync."""

    directory: str
    sync: bool = True
    random_id: Callable[[], str] = field(default=lambda: secrets.token_hex(16))
    #: Bytes in files that are not yet unlinked.
    files: dict[str, SpoolFile] = field(factory=dict)

    @classmethod
    def make(cls, directory: str, sync: bool = True) -> Spool:
        """Create the directory where needed; raises SettingsError if it cannot be written."""
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            probe = os.path.join(directory, f".probe-{secrets.token_hex(8)}")
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.unlink(probe)
        except OSError as error:
            raise SettingsError(
                f"--spool-dir: {directory} cannot be written: {error.strerror}"
            ) from None
        return cls(directory, sync)

    def create(self) -> SpoolFile:
        """A new, empty file; raises NoSpace or Refused."""
        file_id = self.random_id()
        path = os.path.join(self.directory, f"{file_id}.data")
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _own(error) from error
        file = SpoolFile(file_id, path, fd)
        self.files[file_id] = file
        return file

    def _entry_path(self, file: SpoolFile) -> str:
        return os.path.join(self.directory, f"{file.id}.json")

    def seal(self, file: SpoolFile, entry: Mapping[str, Any]) -> None:
        """Make the file and its journal entry durable (blocking: call it in a thread).

        Raises NoSpace or Refused; then nothing may be said to be safe.
        """
        if self.sync:
            file.flush()
        self.journal(file, entry)

    def journal(self, file: SpoolFile, entry: Mapping[str, Any]) -> None:
        """Replace the journal entry of a sealed file, durably (blocking).

        Raises NoSpace or Refused.  An entry never outlives its file: one that was discarded
        meanwhile, on the reactor's thread, gets none.
        """
        path = self._entry_path(file)
        fresh = f"{path}.new"
        text = json.dumps({"format": FORMAT, "id": file.id, **entry}, ensure_ascii=True)
        try:
            try:
                self._write_entry(fresh, text.encode())
                os.replace(fresh, path)
            except OSError:
                _unlink(fresh)
                raise
            if file.id not in self.files:
                _unlink(path)
                return
            if self.sync:
                self._sync_directory()
        except OSError as error:
            raise _own(error) from error

    def _write_entry(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(fd, data) :]
            if self.sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self, file: SpoolFile) -> None:
        """Remove the entry, then the data; the order keeps an entry from naming nothing."""
        if self.files.pop(file.id, None) is None:
            return
        try:
            for path in (self._entry_path(file), file.path):
                _unlink(path)
        finally:
            file.close()


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _own(error: OSError) -> Refused:
    if error.errno in _FULL:
        return NoSpace()
    return Refused(f"The upload spool cannot be written: {error.strerror}.")
