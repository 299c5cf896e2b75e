"""Makes sealed uploads durable in groups, off the reactor's thread.

An fsync takes as long as the disk likes.  While one group is being synced the next one gathers,
so that many uploads that seal at once share the syncs of directory and journal, and a slow disk
stalls nobody who does not wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from immich_conch.library.gather import Shared
from immich_conch.transfer.spool import Spool
from immich_conch.transfer.spool_file import SpoolFile

Entry = Mapping[str, Any]
#: Uploads synced together at most.
GROUP = 64


@define(eq=False)
class Syncer:
    """One spool's queue of files that want to be safe."""

    spool: Spool
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    _queue: list[tuple[SpoolFile, Entry, Deferred[None]]] = field(factory=list)
    _running: bool = False

    async def seal(self, file: SpoolFile, entry: Entry) -> None:
        """The file and its entry are durable when this returns; raises NoSpace or Refused."""
        done: Deferred[None] = Deferred()
        self._queue.append((file, entry, done))
        if not self._running:
            self._running = True
            Shared.start(self._work())
        await done

    async def _work(self) -> None:
        try:
            while self._queue:
                group, self._queue = self._queue[:GROUP], self._queue[GROUP:]
                await self._sync(group)
        finally:
            self._running = False

    async def _sync(self, group: Sequence[tuple[SpoolFile, Entry, Deferred[None]]]) -> None:
        work = [(file, entry) for file, entry, _ in group]
        results: Sequence[BaseException | None]
        try:
            results = await self.in_thread(lambda: self.spool.seal_all(work))
        except BaseException as error:
            results = [error] * len(group)
        for (_, _, done), result in zip(group, results, strict=True):
            if result is None:
                done.callback(None)
            else:
                done.errback(result)
