"""A plot of throughputs: ours and its peer in each row, with the spread and the mark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.fit import need_matplotlib
from benchmarks.tables import Ratio, Row

UNIT = "MB/s"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A PNG of all rows in MB/s.  Raises NoPlot."""
    need_matplotlib()
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    shown = [row for row in rows if row.series[0].unit == UNIT]
    figure = Figure(figsize=(10, 1.5 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()
    for number, row in enumerate(shown):
        for place, series in enumerate(row.series):
            kind = "ours" if series.name == "ours" else "peer"
            median = series.median
            axes.errorbar(
                [median],
                [number + 0.2 * place],
                xerr=[[median - series.least], [series.greatest - median]],
                fmt="o",
                capsize=3,
                color="tab:blue" if kind == "ours" else "tab:orange",
                label=None if kind in labelled else kind,
            )
            labelled.add(kind)
        if isinstance(row, Ratio):
            mark = row.bound * row.peer.median
            label = None if "mark" in labelled else "mark"
            axes.plot([mark], [number], "|", color="black", markersize=16, label=label)
            labelled.add("mark")
    axes.set_yticks(range(len(shown)), [row.measure for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("MB/s, median, least and greatest")
    axes.grid(alpha=0.3, axis="x")
    if labelled:
        axes.legend()
    figure.savefig(path, dpi=120)
