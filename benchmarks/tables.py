"""Medians, spreads, marks, and the table and CSV that a measurement leaves."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen


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

    @property
    def least(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def greatest(self) -> float:
        """The largest value."""
        return max(self.values)

    def __str__(self) -> str:
        return f"{self.median:.4g} {self.unit} ({self.least:.4g}..{self.greatest:.4g})"


def _mark(bound: float, at_most: bool, unit: str) -> str:
    return f"{'<=' if at_most else '>='} {bound:g} {unit}"


def _holds(value: float, bound: float, at_most: bool) -> bool:
    return value <= bound if at_most else value >= bound


class Row(Protocol):
    """A line of the table."""

    @property
    def measure(self) -> str:
        """What was measured."""

    @property
    def met(self) -> bool | None:
        """Whether the mark is met; None where there is no mark."""

    @property
    def series(self) -> tuple[Series, ...]:
        """All that was measured, for the CSV."""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Ours, the peer's, what is judged, and the mark."""


@frozen
class Ratio:
    """A measure with its peer and the mark for the ratio of their medians."""

    measure: str
    ours: Series
    peer: Series
    bound: float
    #: Whether the ratio must be at most the bound, or at least.
    at_most: bool = True

    @property
    def value(self) -> float:
        """Ours over the peer's."""
        return self.ours.median / self.peer.median

    @property
    def met(self) -> bool:
        """Whether the mark is met."""
        return _holds(self.value, self.bound, self.at_most)

    @property
    def series(self) -> tuple[Series, ...]:
        """Ours and the peer's."""
        return (self.ours, self.peer)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """With the spread of the ratio, run by run, where the runs are pairs."""
        # Three digits, so that what misses a mark by a hair is seen to.
        judged = f"{self.value:.3f} x"
        if len(self.ours.values) == len(self.peer.values):
            pairs = [a / b for a, b in zip(self.ours.values, self.peer.values, strict=True)]
            judged += f" ({min(pairs):.2f}..{max(pairs):.2f})"
        peer = f"{self.peer.name}: {self.peer}"
        return str(self.ours), peer, judged, _mark(self.bound, self.at_most, "x")


@frozen
class Limit:
    """A measure with a mark of its own: for its median, or for its worst value."""

    measure: str
    ours: Series
    bound: float
    at_most: bool = True
    of_worst: bool = False

    @property
    def value(self) -> float:
        """What the mark is for."""
        if not self.of_worst:
            return self.ours.median
        return self.ours.greatest if self.at_most else self.ours.least

    @property
    def met(self) -> bool:
        """Whether the mark is met."""
        return _holds(self.value, self.bound, self.at_most)

    @property
    def series(self) -> tuple[Series, ...]:
        """Ours alone."""
        return (self.ours,)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Says whether it is the worst value that counts."""
        judged = f"{'worst' if self.of_worst else 'median'} {self.value:.4g}"
        return str(self.ours), "", judged, _mark(self.bound, self.at_most, self.ours.unit)


@frozen
class Figure:
    """A measure without a mark."""

    measure: str
    ours: Series

    @property
    def met(self) -> None:
        """There is no mark."""
        return

    @property
    def series(self) -> tuple[Series, ...]:
        """Ours alone."""
        return (self.ours,)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Nothing is judged."""
        return str(self.ours), "", "", ""


@frozen
class Beside:
    """A measure beside its peer, without a mark."""

    measure: str
    ours: Series
    peer: Series

    @property
    def met(self) -> None:
        """There is no mark."""
        return

    @property
    def series(self) -> tuple[Series, ...]:
        """Ours and the peer's."""
        return (self.ours, self.peer)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """With the ratio of the medians, for those who want to know."""
        judged = f"{self.ours.median / self.peer.median:.3f} x"
        return str(self.ours), f"{self.peer.name}: {self.peer}", judged, ""


VERDICTS = {True: "met", False: "MISSED", None: ""}
HEADING = ("measure", "ours", "peer", "judged", "mark", "verdict")


def table(rows: Sequence[Row]) -> str:
    """The rows in columns of fixed width."""
    lines: list[tuple[str, ...]] = [
        HEADING,
        *((row.measure, *row.cells, VERDICTS[row.met]) for row in rows),
    ]
    widths = [max(len(line[number]) for line in lines) for number in range(len(HEADING))]
    lines.insert(1, tuple("=" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Every single value, so that noise can be looked at."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("measure", "who", "run", "value", "unit"))
        for row in rows:
            for series in row.series:
                for number, value in enumerate(series.values):
                    line = (row.measure, series.name, number, f"{value:.6f}", series.unit)
                    writer.writerow(line)


@define(eq=False)
class Report:
    """What a measurement found: shown as it comes, left as a table and a CSV of one name."""

    name: str
    out: Path
    rows: list[Row] = field(factory=list)
    notes: list[str] = field(factory=list)

    def add(self, row: Row) -> None:
        """One more row, shown at once."""
        self.rows.append(row)
        mine, peer, judged, mark = row.cells
        print(f"{row.measure}\n    {mine}", flush=True)
        if peer:
            print(f"    {peer}", flush=True)
        if row.met is not None:
            print(f"    {judged}, mark {mark}: {VERDICTS[row.met]}", flush=True)

    def note(self, text: str) -> None:
        """A line to read with the table, shown at once."""
        self.notes.append(text)
        print(text, flush=True)

    @property
    def verdict(self) -> str:
        """How many marks were met."""
        marks = [row.met for row in self.rows if row.met is not None]
        return f"{marks.count(True)} marks met, {marks.count(False)} missed"

    def finish(self) -> int:
        """Print the table, write the files; 1 if a mark is missed, else 0."""
        text = "\n".join([*self.notes, "", table(self.rows), "", f"{self.name}: {self.verdict}"])
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{self.name}.txt").write_text(text + "\n")
        write_csv(self.out / f"{self.name}.csv", self.rows)
        print(f"\n{text}\n", flush=True)
        return int(any(row.met is False for row in self.rows))
