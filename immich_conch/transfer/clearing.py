"""What the spool needs no more goes off the disk, in a thread.

A disk may take its time over an unlink, and a journalling file system does after every burst of
new files.  What makes a file unwanted, its other name, is there before anybody is told; the rest a
crash leaves to the next start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from attrs import define, field
from twisted.logger import Logger

from immich_conch.library.gather import Shared
from immich_conch.transfer.running_hash import Threads

#: The ending of data that nobody wants any more, while it is being removed.
GONE = "gone"
#: Files removed in one go of a thread at most.
GROUP = 64


def unlink(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def condemn(directory: str, file_id: str) -> None:
    """Have an upload's data say by its name that nobody wants it.

    Without that, data whose entry is gone already would look like bytes to be kept.
    """
    path = os.path.join(directory, file_id)
    with suppress(FileNotFoundError):
        os.rename(f"{path}.data", f"{path}.{GONE}")


def clear(directory: str, file_id: str) -> None:
    """Remove the entry of a condemned upload, and its data (blocking)."""
    path = os.path.join(directory, file_id)
    unlink(f"{path}.json")
    unlink(f"{path}.{GONE}")


def bury(directory: str, file_id: str) -> None:
    """Remove an upload at once (blocking).

    Where its entry cannot be removed the data is wanted after all.
    """
    path = os.path.join(directory, file_id)
    condemn(directory, file_id)
    try:
        unlink(f"{path}.json")
    except OSError:
        with suppress(OSError):
            os.rename(f"{path}.{GONE}", f"{path}.data")
        raise
    unlink(f"{path}.{GONE}")


@define(eq=False)
class Clearing:
    """Removes the uploads of one spool, many in one thread."""

    directory: str
    _queue: list[str] = field(factory=list)
    _running: bool = False

    _log = Logger()

    def bury(self, file_id: str, threads: Threads | None) -> None:
        """Remove an upload, without threads at once.

        It is condemned when this returns; raises OSError if it is not.
        """
        if threads is None:
            bury(self.directory, file_id)
            return
        condemn(self.directory, file_id)
        self._queue.append(file_id)
        if not self._running:
            self._running = True
            Shared.start(self._work(threads))

    async def _work(self, threads: Threads) -> None:
        try:
            while self._queue:
                group, self._queue = self._queue[:GROUP], self._queue[GROUP:]
                await threads(partial(self._clear, group))
        finally:
            self._running = False

    def _clear(self, group: Sequence[str]) -> None:
        for file_id in group:
            try:
                clear(self.directory, file_id)
            except OSError as error:
                self._log.error(
                    "the spool keeps {id}, which nobody wants, until the next start: {reason}",
                    id=file_id,
                    reason=error.strerror,
                )
