"""What a process has used so far, and the machine it ran on, read from /proc."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1_000_000
#: The load up to which a machine counts as left to the benchmark.
QUIET = 0.5


def cpu_seconds_of(line: str) -> float:
    """User and system time in a line of `/proc/PID/stat`, in steps of a tick (10 ms)."""
    # The name stands in parentheses and may hold blanks and parentheses itself.
    fields = line.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads together.

    In nanoseconds where the kernel tells them; threads that have ended are not in these.
    """
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except FileNotFoundError:
        tasks = []
    if tasks:
        return sum(int(task.split()[0]) for task in tasks) / 1e9
    return cpu_seconds_of(Path(f"/proc/{pid}/stat").read_text())


def _children(pid: int) -> list[int]:
    """Processes that a process has started, and those of theirs."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [one for child in map(int, found) for one in (child, *_children(child))]


def tree_cpu_seconds(pid: int) -> float:
    """CPU time of a process with all that it has started, as long as these run."""
    seconds = cpu_seconds(pid)
    for child in _children(pid):
        # One that ends just now, of an earlier session, counts for nothing.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            seconds += cpu_seconds(child)
    return seconds


def resident_mb(pid: int | str = "self") -> float:
    """Memory of a process that is in RAM, in MB of a million bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MB


def load() -> str:
    """The load of the machine over 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def busy(over_one_minute: float) -> str:
    """What to say of a load that was there before anything was measured; empty if it is low."""
    if over_one_minute <= QUIET:
        return ""
    return (
        f"The machine was busy (load {over_one_minute:.2f} before): believe no verdict near its "
        "mark, and repeat this on a quiet one."
    )


def machine() -> str:
    """What a figure is worth without: cores and versions."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {sys.version.split()[0]}, Twisted {version('twisted')}, "
        f"cryptography {version('cryptography')}"
    )
