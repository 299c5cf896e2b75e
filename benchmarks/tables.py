"""Medians, spreads, and the table, CSV and plot that a measurement leaves."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen


@frozen
class Series:
    """The values of one measure, interleaved with its peer's; seconds unless said otherwise."""

    name: str
    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.4g} {self.unit} ({low:.4g} to {high:.4g})"


@frozen
class Row:
    """A measure with its peer and the mark for their ratio."""

    measure: str
    ours: Series
    peer: Series
    mark: str
    bound: float
    #: Whether the ratio must be at most the bound, or at least.
    at_most: bool = True

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours.median / self.peer.median

    @property
    def met(self) -> bool:
        """Whether the mark is met."""
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return (
            f"{self.measure}\n    ours {self.ours}\n    {self.peer.name} {self.peer}\n"
            f"    ratio {self.ratio:.2f}, mark {self.mark}: {verdict}"
        )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Every single value, so that noise can be looked at."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("measure", "who", "run", "value", "unit"))
        for row in rows:
            for who, series in (("ours", row.ours), (row.peer.name, row.peer)):
                for number, value in enumerate(series.values):
                    writer.writerow((row.measure, who, number, f"{value:.6f}", series.unit))
