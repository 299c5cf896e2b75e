"""What clients were told, and what has to be so in the end; and everything that was wrong."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable

from attrs import define, evolve, field, frozen

#: Where a file may not be at all.
ABSENT = ""


@frozen
class Told:
    """What was said of one file, as SHA-1s or ABSENT.

    It may be one of `may` now; uploads of `doubted` were told an error, so Immich may have their
    bytes or not; `ever` is all that was said since the beginning.
    """

    may: frozenset[str] = frozenset((ABSENT,))
    doubted: frozenset[str] = frozenset()
    ever: frozenset[str] = frozenset()


@define(eq=False)
class Ledger:
    """For each file the contents (SHA-1 as Immich writes it) that it may have."""

    counts: Counter[str] = field(factory=Counter)
    findings: list[str] = field(factory=list)
    began: float = field(factory=time.monotonic)
    _files: dict[tuple[str, str, str], Told] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)

    def told(self, place: tuple[str, str], name: str, digest: str, *, sure: bool) -> None:
        """A client was told that a file (of a user, in an album) has these bytes, or is ABSENT.

        If it was told an error, or does not listen (not `sure`), what was before may be as well.
        """
        with self._lock:
            before = self._files.get((*place, name), Told())
            said = frozenset((digest,))
            self._files[(*place, name)] = evolve(
                before,
                may=said if sure else before.may | said,
                doubted=before.doubted if sure or digest == ABSENT else before.doubted | said,
                ever=before.ever | said,
            )
            self.counts["told for sure" if sure else "told otherwise"] += 1

    def of(self, place: tuple[str, str]) -> dict[str, Told]:
        """What was said of each name in an album."""
        with self._lock:
            return {
                name: told
                for (user, album, name), told in self._files.items()
                if (user, album) == place
            }

    def places(self) -> set[tuple[str, str]]:
        """All albums that anything was told of."""
        with self._lock:
            return {(user, album) for user, album, _ in self._files}

    def settle(self, place: tuple[str, str], names: Iterable[str]) -> list[str]:
        """Whether a listing can be true, in words for what is wrong with it."""
        known, seen = self.of(place), set(names)
        missing = [
            name for name, told in known.items() if ABSENT not in told.may and name not in seen
        ]
        extra = [name for name in seen if known.get(name, Told()).may == {ABSENT}]
        return [f"{name} is missing" for name in missing] + [
            f"{name}: is nobody's" for name in extra
        ]

    def found(self, text: str) -> None:
        """Something is wrong."""
        with self._lock:
            self.findings.append(f"{time.monotonic() - self.began:7.1f} s  {text}")

    def count(self, what: str, number: int = 1) -> None:
        """Something happened."""
        with self._lock:
            self.counts[what] += number
