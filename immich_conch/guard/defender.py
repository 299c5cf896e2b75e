"""Scores and bans: who does wrong too often is shut out for a while, longer each time.

A score is a bucket that leaks: it falls from the threshold to nothing in the observation time, so
one number and one time are all there is to keep for an address.  Both tables hold only so much,
for whoever has a large IPv6 network has more /64 than there is memory.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from immich_conch.guard.recent import Recent

#: Scores and bans that are remembered; some 300 bytes each.
MAX_SCORES = 20_000
MAX_BANS = 10_000
#: Seconds after a ban's end until it makes the next one longer no more.
BANS_REMEMBERED = 86_400.0


@frozen
class Rules:
    """`threshold` 0 bans nobody; times are seconds."""

    threshold: float
    observation: float
    ban: float
    longest: float


@define(eq=False)
class _Score:
    value: float
    at: float


@define(eq=False)
class _Ban:
    until: float
    count: int
    timer: IDelayedCall | None = None


@define(eq=False)
class Defender:
    """Scores of anything that has a name: addresses, or users where addresses tell nothing.

    `growing` says whether each ban is twice as long as the one before.
    """

    rules: Rules
    clock: IReactorTime
    what: str = ""
    growing: bool = True
    _scores: Recent[_Score] = field(factory=lambda: Recent(MAX_SCORES))
    _bans: Recent[_Ban] = field(factory=lambda: Recent(MAX_BANS))

    _log = Logger()

    def score(self, key: str) -> float:
        """The score now."""
        known = self._scores.get(key)
        if known is None:
            return 0.0
        rules = self.rules
        fallen = (self.clock.seconds() - known.at) * rules.threshold / rules.observation
        return max(0.0, known.value - fallen)

    def banned(self, key: str) -> bool:
        """Whether something is banned now."""
        ban = self._bans.get(key)
        return ban is not None and self.clock.seconds() < ban.until

    def punish(self, key: str, points: float, hint: Callable[[], str] = str) -> None:
        """Add to a score, and ban where that is too much; `hint` goes into that line."""
        rules = self.rules
        if not rules.threshold or points <= 0 or self.banned(key):
            return
        score = self.score(key) + points
        if score < rules.threshold:
            self._scores.put(key, _Score(score, self.clock.seconds()))
            return
        # As long as it is banned nothing is counted (SFTPGo does the same).
        self._scores.drop(key)
        self._ban(key, hint())

    def _ban(self, key: str, hint: str) -> None:
        now, old = self.clock.seconds(), self._bans.get(key)
        count = old.count + 1 if old is not None and now < old.until + BANS_REMEMBERED else 1
        rules = self.rules
        factor = 2 ** min(count - 1, 30) if self.growing else 1
        seconds = min(rules.ban * factor, max(rules.longest, rules.ban))
        ban = _Ban(now + seconds, count)
        ban.timer = self.clock.callLater(seconds, self._unban, key, ban)
        evicted = self._bans.put(key, ban)
        if evicted is not None:
            _stop(evicted)
        self._log.warn(
            "banned {what}{key} for {seconds} s (ban {count}){hint}",
            what=self.what,
            key=key,
            seconds=round(seconds),
            count=count,
            hint=hint,
        )

    def _unban(self, key: str, ban: _Ban) -> None:
        ban.timer = None
        self._log.info("unbanned {what}{key}", what=self.what, key=key)

    def stop(self) -> None:
        """No timer is left behind."""
        for ban in self._bans:
            _stop(ban)


def _stop(ban: _Ban) -> None:
    if ban.timer is not None and ban.timer.active():
        ban.timer.cancel()
    ban.timer = None
