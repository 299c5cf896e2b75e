"""Values over time: whether they grow, as a CSV of points and a plot."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path

from attrs import Factory, define

from benchmarks.fit import NoPlot, fit, need_matplotlib
from benchmarks.process import resident_mib

#: Seconds between two looks.
STEP = 0.25
#: The part of the time that counts as the start.
START = 0.2


@define(eq=False)
class Curve:
    """Resident memory of a process, in MiB, at seconds since the first look."""

    label: str
    times: list[float] = Factory(list)
    values: list[float] = Factory(list)

    async def watch(self, pid: int) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            self.times.append(loop.time() - began)
            self.values.append(resident_mib(pid))
            await asyncio.sleep(STEP)

    @property
    def growth(self) -> float:
        """What the line of least squares gains after the start, in MiB."""
        first = self.times[0] + START * (self.times[-1] - self.times[0])
        points = [
            (at, value) for at, value in zip(self.times, self.values, strict=True) if at >= first
        ]
        times, values = [at for at, _ in points], [value for _, value in points]
        return fit(times, values).slope * (times[-1] - times[0])


def write(path: Path, curves: Sequence[Curve]) -> None:
    """All points."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("curve", "seconds", "MiB"))
        for curve in curves:
            for at, value in zip(curve.times, curve.values, strict=True):
                writer.writerow((curve.label, f"{at:.2f}", f"{value:.3f}"))


def draw(path: Path, curves: Sequence[Curve], mark: float | None = None) -> str:
    """A PNG with the mark, in MiB; what to say of it, also where there is nothing to plot with."""
    try:
        need_matplotlib()
    except NoPlot:
        return "No plot: matplotlib is not installed."
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.times, curve.values, label=curve.label, linewidth=1)
    if mark is not None:
        axes.axhline(mark, color="grey", linestyle="--", label=f"mark, {mark:g} MiB")
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory of the service, MiB")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return f"Plot: {path.name}"
