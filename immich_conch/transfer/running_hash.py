"""The SHA-1 of a file that is being written, kept up to date in a thread.

Of a large file a third of the work is the hash.  hashlib and the system let others run meanwhile,
so a thread reads what was written back from the page cache and follows the writer, some MiB behind;
at CLOSE only the rest is left.  Small files are hashed as they come: a thread would cost more.
Whoever writes again where the hash has been ruins it; then the whole file is read at the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

Threads = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function away from the reactor's thread."""

INLINE_BYTES = 2**20
"""Up to here a file is hashed as it comes."""

STEP_BYTES = 2**22
"""How much must have been written for a thread to be asked."""

READ_BYTES = 2**20
"""Read back and hashed at once."""


def _sha1() -> Any:
    return hashlib.sha1(usedforsecurity=False)


@define(eq=False)
class RunningHash:
    """The hash of one file.  `wrote`, `cut` and the properties are for the reactor's thread.

    `use` and `release` keep the descriptor open while a thread reads.  Without `threads`
    everything that comes in order is hashed at once.
    """

    fd: int
    use: Callable[[], None]
    release: Callable[[], None]
    threads: Threads | None = None
    _sha1: Any = field(factory=_sha1, repr=False)
    #: Bytes from the start that are in the hash; a thread changes it under the lock.
    _at: int = 0
    #: Bytes that are in it or will be, once the thread has done what it was asked for.
    _claimed: int = 0
    #: Bytes from the start that were written.
    _reach: int = 0
    #: Whether something was written or cut where the hash has been.
    ruined: bool = False
    _running: bool = False
    _lock: Lock = field(factory=Lock, repr=False)

    def covers(self, size: int) -> bool:
        """Whether `digest` of a file of this size costs nothing."""
        return not self.ruined and not self._running and self._at == size

    def wrote(self, offset: int, pieces: Sequence[memoryview], end: int, reach: int) -> None:
        """Something was written from `offset` to `end`; now all is there up to `reach`."""
        self._reach = reach
        if offset < self._claimed:
            self.ruined = True
        if self.ruined:
            return
        if offset == self._claimed == self._at and (self.threads is None or end <= INLINE_BYTES):
            for piece in pieces:
                self._sha1.update(piece)
            self._at = self._claimed = end
        else:
            self._follow()

    def cut(self, size: int) -> None:
        """The file ends at `size` now, or goes on with zeros up to there."""
        if size < self._claimed:
            self.ruined = True
        self._reach = min(self._reach, size)

    def digest(self, size: int) -> bytes:
        """The hash of the whole file (blocking: call it in a thread unless it `covers` it).

        Nobody may write meanwhile.  Raises OSError.
        """
        with self._lock:
            if self.ruined:
                self._sha1, self._at, self.ruined = _sha1(), 0, False
            self._read_up_to(size)
            self._claimed = self._at
            return bytes(self._sha1.digest())

    def _read_up_to(self, end: int) -> None:
        while self._at < end and not self.ruined:
            piece = os.pread(self.fd, min(READ_BYTES, end - self._at), self._at)
            if not piece:
                return  # the disk has lost some: the hash will not match
            self._sha1.update(piece)
            self._at += len(piece)

    def _follow(self) -> None:
        """Ask a thread to hash what was written, if that is worth it."""
        if self.threads is None or self._running or self._reach - self._claimed < STEP_BYTES:
            return
        self._claimed = self._reach
        self._running = True
        self.use()
        Deferred.fromCoroutine(self._catch_up(self.threads, self._claimed))

    async def _catch_up(self, threads: Threads, end: int) -> None:
        try:
            await threads(partial(self._in_thread, end))
        except Exception:
            # Whatever it was, CLOSE reads the file again, and it is raised there.
            self.ruined = True
        finally:
            self._running = False
            self.release()
        if not self.ruined:
            self._follow()

    def _in_thread(self, end: int) -> None:
        with self._lock:
            self._read_up_to(end)
