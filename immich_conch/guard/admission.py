"""How many connections there may be: in all, of one address, and of those who are nobody yet.

Those who have not logged in yet cost memory and key exchanges and may stay for a minute.  From
`start` of them on new ones are dropped at random, ever more of them, and from `full` on all
(OpenSSH's MaxStartups): a flood then cannot shut everybody else out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from attrs import define, field, frozen

#: Connections from this machine that get in above the limits: the health check's.
RESERVE = 5


@frozen
class Startups:
    """`rate` percent are dropped from `start` on, rising to all at `full`; `full` 0 is no limit."""

    start: int
    rate: int
    full: int

    def chance(self, waiting: int) -> float:
        """The share of new connections to drop, 0 to 1, with so many not logged in."""
        if not self.full or waiting < self.start:
            return 0.0
        if waiting >= self.full:
            return 1.0
        rate = self.rate / 100
        return rate + (1 - rate) * (waiting - self.start) / (self.full - self.start)


@frozen
class Caps:
    """Connections at once; 0 is no limit.  `address_startups` have not logged in yet."""

    startups: Startups
    address_startups: int
    address: int
    total: int


@define(eq=False)
class Admission:
    """Counts connections.  `chance` gives numbers from 0 up to, not including, 1."""

    caps: Caps
    chance: Callable[[], float]
    total: int = 0
    waiting: int = 0
    #: By source; both hold only those who are connected, so `total` bounds them.
    _here: Counter[str] = field(factory=Counter)
    _unknown: Counter[str] = field(factory=Counter)

    def full_for(self, source: str) -> str:
        """Why an address may have no more connections, or nothing."""
        caps = self.caps
        if source and caps.address and self._here[source] >= caps.address:
            return "connections"
        if source and caps.address_startups and self._unknown[source] >= caps.address_startups:
            return "connections that have not logged in"
        return ""

    def full(self, local: bool) -> str:
        """Why nobody gets in just now, or nothing; `local` has a reserve and no bad luck."""
        caps, reserve = self.caps, RESERVE if local else 0
        if caps.total and self.total >= caps.total + reserve:
            return "too many connections"
        share = caps.startups.chance(self.waiting - reserve)
        if share and (share >= 1 or (not local and self.chance() < share)):
            return "too many connections that have not logged in"
        return ""

    def opened(self, source: str) -> None:
        """A connection is there; `source` is empty where addresses tell nothing."""
        self.total += 1
        self.waiting += 1
        if source:
            self._here[source] += 1
            self._unknown[source] += 1

    def known(self, source: str) -> None:
        """It has logged in."""
        self.waiting -= 1
        _less(self._unknown, source)

    def closed(self, source: str, known: bool) -> None:
        """It is gone."""
        self.total -= 1
        _less(self._here, source)
        if not known:
            self.known(source)


def _less(counts: Counter[str], key: str) -> None:
    if key:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
