"""What measures have in common: options, the state of the machine, runs in turn."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import CannotMeasure
from benchmarks.process import busy, load, machine
from benchmarks.tables import Report

RESULTS = Path(__file__).with_name("results")


def arguments_of(
    arguments: Sequence[str] | None, module: str, summary: str, runs: int, quick_runs: int
) -> argparse.Namespace:
    """The options that each measure takes; what is wrong ends the program with a line."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=summary)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    text = f"how often each measure is taken ({runs}, quick {quick_runs})"
    parser.add_argument("--runs", type=int, help=text)
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = quick_runs if options.quick else runs
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


@contextmanager
def reported(name: str, out: Path) -> Iterator[Report]:
    """A report that says on which machine, and how busy that was."""
    report = Report(name, out)
    began, warning = load(), busy(os.getloadavg()[0])
    report.note(machine())
    yield report
    report.note(f"Load of the machine (1, 5, 15 minutes): {began} before, {load()} after")
    if warning:
        report.note(warning)


def status_of(measure: Callable[[], Report]) -> int:
    """Take a measure and leave its table; 1 if a mark is missed, 2 if nothing was measured."""
    try:
        return measure().finish()
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2


def in_turn(works: Sequence[Callable[[int], float]], runs: int) -> tuple[tuple[float, ...], ...]:
    """The values of each; in each run they follow each other, and who begins changes."""
    found: list[list[float]] = [[] for _ in works]
    for number in range(runs):
        order = list(range(len(works)))
        for who in order if number % 2 == 0 else reversed(order):
            found[who].append(works[who](number))
    return tuple(map(tuple, found))
