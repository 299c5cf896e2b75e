"""What is counted while the service runs; exposing it is somebody else's job."""

from __future__ import annotations

from collections import Counter

from attrs import Factory, define


@define(eq=False)
class Counters:
    """Named counts since the start, such as `uploads.committed`."""

    counts: Counter[str] = Factory(Counter)

    def add(self, name: str, amount: int = 1) -> None:
        """Count something that happened."""
        self.counts[name] += amount

    def __getitem__(self, name: str) -> int:
        return self.counts[name]
