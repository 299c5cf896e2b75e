"""How much all files that are being read may keep in memory together.

A client may open hundreds of files and read a little of each; what was read ahead for one would
stay until it is closed.  Above the limit whoever was read longest ago gives its memory back: a
later read asks Immich again.  Streams for which somebody waits keep what they need, and no more.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define, field

LIMIT = 96 * 2**20
"""Bytes; a fast download from a slow Immich takes 5 MiB, a slow one 1 MiB."""


class Keeper(Protocol):
    """Something that keeps bytes."""

    def give_back(self) -> None:
        """Let go of everything and end, unless somebody waits."""


@define(eq=False)
class Budget:
    """`used` of `limit` bytes are taken."""

    limit: int = LIMIT
    used: int = 0
    #: The one that was used longest ago comes first.
    _keepers: dict[Keeper, None] = field(factory=dict)

    @property
    def tight(self) -> bool:
        """Whether more is taken than there is."""
        return self.used > self.limit

    def touch(self, keeper: Keeper) -> None:
        """It is used just now."""
        self._keepers.pop(keeper, None)
        self._keepers[keeper] = None

    def leave(self, keeper: Keeper) -> None:
        """It keeps nothing any more."""
        self._keepers.pop(keeper, None)

    def changed(self, keeper: Keeper, more: int) -> None:
        """It keeps so many bytes more, or fewer; others may have to give theirs back."""
        self.used += more
        if more <= 0 or not self.tight:
            return
        for other in list(self._keepers):
            if not self.tight:
                return
            if other is not keeper:
                other.give_back()


EVERYBODY = Budget()
"""What all readers of the process share."""
