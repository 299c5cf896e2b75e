"""Log lines that a flood cannot turn into a flood of lines."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

#: Seconds between two lines about the same thing.
PAUSE = 60.0


@define(eq=False)
class Seldom:
    """Lines of which each kind is written at most once in `PAUSE`, with how many were left out.

    Kinds are texts of ours, never a client's: there are few of them.
    """

    log: Logger
    clock: IReactorTime
    #: Kind -> when it was last written, and how often it came since.
    _kinds: dict[str, tuple[float, int]] = field(factory=dict)

    def info(self, kind: str, example: str) -> None:
        """Something of this kind happened."""
        now = self.clock.seconds()
        last, left_out = self._kinds.get(kind, (now - PAUSE, 0))
        if now - last < PAUSE:
            self._kinds[kind] = (last, left_out + 1)
            return
        self._kinds[kind] = (now, 0)
        self.log.info(
            "{kind}: {example}{more}",
            kind=kind,
            example=example,
            more=f" (and {left_out} more before)" if left_out else "",
        )
