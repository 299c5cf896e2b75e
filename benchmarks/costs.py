"""What keeping a mirror fresh costs while nobody asks, and what a walk adds to it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks import raw
from benchmarks.clients import Client, timed
from benchmarks.peers import Immich
from benchmarks.process import cpu_seconds
from benchmarks.tables import Figure, Limit, Report, Series

#: Raw deltas in a row, for their latency.
DELTAS = 20


def idle(pid: int, seconds: float, times: int) -> list[float]:
    """CPU ms a second of a process that is left alone, over so many windows of time."""
    found = []
    for _ in range(times):
        before = cpu_seconds(pid)
        time.sleep(seconds)
        found.append((cpu_seconds(pid) - before) / seconds * 1000)
    return found


def unused(values: Sequence[float]) -> Figure:
    """What the service uses before it has anything to keep fresh."""
    name = "CPU while idle, connected, nothing listed yet"
    return Figure(name, Series("ours", tuple(values), "ms/s"))


def caused(server: Immich, client: Client) -> int:
    """Deltas in a warm walk, less those of as long a time without one."""
    before = server.streams()
    seconds = timed(client.tree)
    walked = server.streams() - before
    before = server.streams()
    time.sleep(seconds)
    return walked - (server.streams() - before)


def deltas(
    report: Report, server: Immich, dialect: int, client: Client, seconds: float, times: int
) -> None:
    """Add the rows: the latency of a raw delta, CPU while kept fresh, deltas that a walk causes."""
    add, pid = report.add, client.login.pid
    latency = tuple(1000 * one for one in raw.deltas(server, dialect, DELTAS))
    add(Figure("a delta without changes, raw", Series("raw API", latency, "ms")))
    kept = "CPU while idle, kept fresh"
    if not server.counted:
        add(Figure(kept, Series("ours", tuple(idle(pid, seconds, times)), "ms/s")))
        report.note(
            "Skipped: CPU per delta, and at most one delta in a warm walk; only the demo tells how "
            "often it was asked."
        )
        return
    ours, theirs, rate, each = [], [], [], []
    for _ in range(times):
        streams, used = server.streams(), cpu_seconds(server.pid)
        [part] = idle(pid, seconds, 1)
        theirs.append((cpu_seconds(server.pid) - used) / seconds * 1000)
        count = server.streams() - streams
        ours.append(part)
        rate.append(count / seconds)
        each.append(part * seconds / max(1, count))
    add(Figure(kept, Series("ours", tuple(ours), "ms/s")))
    add(Figure(f"{kept}: the demo's", Series("demo", tuple(theirs), "ms/s")))
    add(Figure("deltas while idle", Series("ours", tuple(rate), "/s")))
    add(Figure("CPU per delta", Series("ours", tuple(each), "ms")))
    more = tuple(float(caused(server, client)) for _ in range(times))
    name = "warm walk: deltas beyond those of as long an idle time"
    add(Limit(name, Series("ours", more, "deltas"), 1))
