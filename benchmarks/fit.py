"""Whether something grows in step: a straight line through points, and the plot of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen


@frozen
class Line:
    """The line of least squares, and how far the points are from it."""

    slope: float
    intercept: float
    #: 1 where all points lie on it.
    r_squared: float
    #: The greatest distance of a point, as a part of the value of the line there.
    deviation: float

    def at(self, x: float) -> float:
        """The value of the line."""
        return self.intercept + self.slope * x


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line through at least three points; raises ValueError."""
    if len(xs) < 3:
        raise ValueError("two points are on a line whatever they are: three are needed")
    slope, intercept = statistics.linear_regression(xs, ys)
    rest = [y - (intercept + slope * x) for x, y in zip(xs, ys, strict=True)]
    mean = statistics.fmean(ys)
    total = sum((y - mean) ** 2 for y in ys)
    r_squared = 1.0 if total == 0 else 1 - sum(r * r for r in rest) / total
    deviation = max(abs(r / (intercept + slope * x)) for r, x in zip(rest, xs, strict=True))
    return Line(slope, intercept, r_squared, deviation)


class NoPlot(Exception):
    """There is nothing here to plot with; the text says what to do."""


def need_matplotlib() -> None:
    """Raise NoPlot unless it is installed, before anything was measured in vain."""
    try:
        import matplotlib  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise NoPlot("--plot needs matplotlib: pip install 'immich-conch[bench]'") from error


def plot(
    path: Path,
    sizes: Sequence[int],
    memory: Mapping[str, Sequence[float]],
    times: Mapping[str, Sequence[float]],
    mark: float,
) -> None:
    """A PNG: MB over assets with lines and the mark, and times below.  Raises NoPlot."""
    need_matplotlib()
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    figure = Figure(figsize=(8, 8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for label, values in memory.items():
        line = fit(sizes, values)
        [points] = upper.plot(sizes, values, "o", label=label)
        upper.plot(
            sizes,
            [line.at(size) for size in sizes],
            color=points.get_color(),
            linewidth=1,
            label=f"line, R² {line.r_squared:.4f}",
        )
    upper.axhline(mark, color="grey", linestyle="--", label=f"mark, {mark:g} MB")
    upper.set_ylabel("MB")
    for label, values in times.items():
        lower.plot(sizes, values, "o-", label=label)
    lower.set_xlabel("assets")
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
