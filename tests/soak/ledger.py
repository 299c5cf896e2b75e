"""What clients were told, and what has to be so in the end; and everything that was wrong."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable

from attrs import define, field

#: Where a file may not be at all.
ABSENT = ""


@define(eq=False)
class Ledger:
    """For each file the contents (SHA-1 as Immich writes it) that it may have."""

    counts: Counter[str] = field(factory=Counter)
    findings: list[str] = field(factory=list)
    began: float = field(factory=time.monotonic)
    _files: dict[tuple[str, str, str], set[str]] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)

    def told(self, place: tuple[str, str], name: str, digest: str, *, sure: bool) -> None:
        """A client was told that a file (of a user, in an album) has these bytes, or is ABSENT.

        If it was told an error, or does not listen (not `sure`), what was before may be as well.
        """
        with self._lock:
            before = self._files.get((*place, name), {ABSENT})
            self._files[(*place, name)] = {digest} if sure else before | {digest}
            self.counts["told for sure" if sure else "told otherwise"] += 1

    def may_be(self, place: tuple[str, str]) -> dict[str, set[str]]:
        """Each name in an album with what it may be."""
        with self._lock:
            return {
                name: set(digests)
                for (user, album, name), digests in self._files.items()
                if (user, album) == place
            }

    def places(self) -> set[tuple[str, str]]:
        """All albums that anything was told of."""
        with self._lock:
            return {(user, album) for user, album, _ in self._files}

    def settle(self, place: tuple[str, str], names: Iterable[str]) -> list[str]:
        """Whether a listing can be true, in words for what is wrong with it."""
        known, seen = self.may_be(place), set(names)
        missing = [name for name, may in known.items() if ABSENT not in may and name not in seen]
        extra = [name for name in seen if known.get(name, {ABSENT}) == {ABSENT}]
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
