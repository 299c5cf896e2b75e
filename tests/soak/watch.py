"""The process under the soak: memory, open files; once a second, as CSV and as a plot."""

from __future__ import annotations

import csv
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import astuple, define, field, fields, frozen

from benchmarks.fit import fit, need_matplotlib
from benchmarks.process import cpu_seconds, resident_mb

#: The part of a run that is warm-up: every kind of client has met every other a few times, and
#: the allocator has what the busiest moment needs.
WARM_UP = 0.25
#: Seconds from which on a run tells whether memory is flat.  In a shorter one, which is all
#: warm-up, only gross growth is looked at.
TELLING, GROSS = 600.0, 80.0
#: MB by which the process may grow over the rest of the run, whatever its length, and for each
#: asset that came in (the mirror's record, its name, a folder's listing).
MAY_GROW, MAY_GROW_BY_ASSET = 12.0, 0.004


@frozen
class Sample:
    """One look; seconds since the start, MB of a million bytes, CPU seconds so far."""

    seconds: float
    resident: float
    handles: int
    cpu: float
    weather: str


def more_handles(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """What is open now and was not before; of sockets, whose names are numbers, the surplus."""
    surplus = list((Counter(now) - Counter(before)).elements())
    sockets = [handle for handle in surplus if handle.startswith("socket:")]
    more = sum(name.startswith("socket:") for name in now)
    more -= sum(name.startswith("socket:") for name in before)
    others = [handle for handle in surplus if handle not in sockets]
    return others + sockets[: max(0, more)]


def handles_of(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return sorted(found)


@define(eq=False)
class Watch:
    """Looks at a process, once a second."""

    pid: int
    weather: Callable[[], str]
    samples: list[Sample] = field(factory=list)
    began: float = field(factory=time.monotonic)

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop, or until the process has ended."""
        while not stop.wait(1.0):
            try:
                self.samples.append(self.look())
            except (FileNotFoundError, ProcessLookupError):
                return

    def look(self) -> Sample:
        """How it is now."""
        return Sample(
            round(time.monotonic() - self.began, 1),
            resident_mb(self.pid),
            len(handles_of(self.pid)),
            cpu_seconds(self.pid),
            self.weather(),
        )

    def growth(self, assets: int) -> tuple[str, bool]:
        """The line through what comes after the warm-up, in words, and whether it is flat."""
        end = self.samples[-1].seconds
        warm = WARM_UP * end
        after = [sample for sample in self.samples if sample.seconds >= warm]
        if len(after) < 10:
            return "too short to tell whether memory grows", False
        line = fit([sample.seconds for sample in after], [sample.resident for sample in after])
        grown = line.slope * (end - warm)
        bound = MAY_GROW + MAY_GROW_BY_ASSET * assets if end >= TELLING else GROSS
        resident = [sample.resident for sample in after]
        text = (
            f"memory after {warm:.0f} s of warm-up: median {statistics.median(resident):.1f} MB, "
            f"{min(resident):.1f} to {max(resident):.1f}; line {line.slope * 60:+.3f} MB a minute, "
            f"{grown:+.1f} MB over {end - warm:.0f} s, bound {bound:.1f}"
            f"{'' if end >= TELLING else ' (too short to tell whether it is flat)'}"
        )
        return text, grown <= bound

    def write(self, path: Path) -> None:
        """The samples as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([attribute.name for attribute in fields(Sample)])
            writer.writerows(astuple(sample) for sample in self.samples)

    def plot(self, path: Path) -> None:
        """A PNG: memory and open files over time, bad weather shaded.  Raises NoPlot."""
        need_matplotlib()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 7), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        minutes = [sample.seconds / 60 for sample in self.samples]
        upper.plot(minutes, [sample.resident for sample in self.samples])
        upper.set_ylabel("resident MB")
        lower.plot(minutes, [sample.handles for sample in self.samples])
        lower.set_ylabel("open file descriptors")
        lower.set_xlabel("minutes; grey: Immich has a fault")
        bad = [sample.weather != "fine" for sample in self.samples]
        for axes in (upper, lower):
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.fill_between(
                minutes,
                0,
                1,
                where=bad,
                color="grey",
                alpha=0.2,
                transform=axes.get_xaxis_transform(),
            )
        figure.savefig(path, dpi=120)
