"""A load of a mirror from nothing, as those see it who cannot wait for its end.

The stream tells assets first and metadata last, and names are in the metadata: no folder is whole
before everything is.  But what is noted of all assets is a stream of its own, of some hundred
bytes an asset at most and none for most, where reading it asset by asset takes 5 ms each.  So a
load begins with the notes, and with them an album can be listed long before the rest has come.

Figures, for 15,000 assets of the demo on a machine with two busy cores: the whole stream 2.4 s, one
that only has notes 0.03 s (0.1 s by real servers of either dialect), the list of albums below
0.1 s, an album of 25 by listing 0.03 s, one of 10,000 by ten pages side by side 0.85 s; a page
costs Immich 60 ms of CPU, which a stream under way waits for.  One asset's metadata takes 5 ms.

Hence the rules of `may_list`: what is asked for before the stream has begun goes first, whatever
its size, and the stream waits for it; beside a running stream RACE_ASSETS are listed and no more,
so that a walk of everything costs some 60 ms more, and a larger folder waits for the stream.

During a load the notes are as old as its beginning, but for own changes: a name or a time that
another program notes meanwhile shows when the mirror is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

#: Assets that are listed in one load while the stream runs: a page of a search.
RACE_ASSETS = 1000
#: Seconds for which the stream waits at most for a listing that was asked for before.
HOLD = 5.0

Notes = Mapping[bytes, Mapping[str, Any]]


@define(eq=False)
class FirstLoad:
    """One load, from its beginning to its end, good or bad."""

    clock: IReactorTime
    #: Whether the stream of everything has begun, and what is noted, once that has come.
    _streaming: bool = field(default=False, init=False)
    _notes: Notes | None = field(default=None, init=False, repr=False)
    _over: bool = field(default=False, init=False)
    #: Assets of the folders that were listed meanwhile, and the listings that go first.
    _listed: int = field(default=0, init=False)
    _holding: int = field(default=0, init=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False, repr=False)

    def may_list(self, assets: int) -> bool:
        """Whether a folder of so many assets is worth a listing now; if so it counts."""
        goes_first = not self._streaming and not self._listed
        if not goes_first and self._listed + assets > RACE_ASSETS:
            return False
        self._listed += assets
        return True

    def hold(self) -> None:
        """A listing is under way: it goes first if the stream has not begun."""
        self._holding += 1

    def release(self) -> None:
        """It has ended."""
        self._holding -= 1
        self._tell()

    async def notes(self) -> Notes | None:
        """What is noted of all own assets; None if the load ends before that is known."""
        while self._notes is None and not self._over:
            await self._change()
        return self._notes

    def told(self, notes: Notes) -> None:
        """This is what is noted."""
        self._notes = notes
        self._tell()

    async def turn(self) -> None:
        """Return when it is the stream's turn."""
        late = self.clock.callLater(HOLD, self._begin)
        try:
            while self._holding and not self._streaming:
                await self._change()
        finally:
            if late.active():
                late.cancel()
        self._streaming = True

    def _begin(self) -> None:
        self._streaming = True
        self._tell()

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        self._tell()

    async def _change(self) -> None:
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        await waiter

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)
