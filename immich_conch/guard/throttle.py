"""Not more than so many a second: a bucket of turns, and a short wait for who comes too soon."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

#: Seconds of turns that may be taken at once: a client that opens ten connections waits for none.
BURST_SECONDS = 2.0
#: Seconds that one waits for a turn; longer would only keep those back who come after.
MAX_WAIT = 5.0
#: Seconds that are none, but for the rounding of sums.
TINY = 1e-6


class TooSoon(Exception):
    """There is no turn within MAX_WAIT."""


@define(eq=False)
class Throttle:
    """Turns, `rate` a second; 0 is no limit.

    All there is to keep is when the bucket was, or will be, full (GCRA): those who wait stand in
    no queue of ours, and there are never more of them than MAX_WAIT times the rate.
    """

    rate: float
    clock: IReactorTime
    _full: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._full = self.clock.seconds()

    async def turn(self) -> None:
        """Wait for a turn; raises TooSoon."""
        if not self.rate:
            return
        now = self.clock.seconds()
        full = max(self._full, now) + 1 / self.rate
        wait = full - now - max(BURST_SECONDS, 1 / self.rate)
        if wait > MAX_WAIT:
            raise TooSoon
        self._full = full
        if wait > TINY:
            await deferLater(self.clock, wait)
