"""Memory while many read slowly: `python -m benchmarks.reader_memory`.

Sixteen clients download a file of 1 GiB each, slower than Immich gives it, with as much asked for
ahead as OpenSSH's client does; half of them by a window that they open late, half by not reading
their socket.  One more opens all the files, asks for every byte of them and never opens its window.
The resident memory of the service is looked at four times a second.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks import curves
from benchmarks.curves import Curve
from benchmarks.harness import arguments_of, reported, status_of
from benchmarks.peers import USER, CannotMeasure, Immich, Login, demo, ours
from benchmarks.process import peak_mib, resident_mib
from benchmarks.raw_sftp import CLOSED_WINDOW, Channel, channel, connect
from benchmarks.tables import Figure, Limit, Report, Series

SUMMARY = (__doc__ or "").splitlines()[0]
RUNS, QUICK_RUNS = 1, 1
READERS = 16
SIZE = 2**30
#: Bytes a second that each reads; the demo has to make four times as much with both.
RATE = 4e6
#: Seconds of the quick run, which ends in the middle; the whole takes 270.
QUICK_SECONDS = 20.0
MOST_SECONDS = 1200.0
MARK = 150.0
#: MiB by which a flat curve may gain, from the start to the end: allocators round.
FLAT = 5.0
ALBUM = "Large"


def fill(server: Immich) -> list[str]:
    """Large files in an album; their names."""
    names = [f"MOV_{number:02d}.mp4" for number in range(READERS)]
    entries = [{"name": name, "size": SIZE, "modified": 1_500_000_000.0} for name in names]
    ids = server.call("POST", "/control/assets", {"email": USER, "assets": entries})["ids"]
    server.call("POST", "/control/albums", {"email": USER, "name": ALBUM, "assets": ids})
    return names


async def load(login: Login, names: Sequence[str], seconds: float, curve: Curve) -> list[int]:
    """Read for so long or to the end; the bytes that each has got."""
    paths = [login.path(f"{ALBUM}/{name}") for name in names]
    connections = [await connect(login) for _ in range(len(paths) + 1)]
    watcher = asyncio.create_task(curve.watch(login.pid))
    tasks: list[asyncio.Task[None]] = []
    try:
        readers: list[Channel] = []
        greedy = await channel(connections[-1], CLOSED_WINDOW)
        tasks.append(asyncio.create_task(greedy.ask_for_everything(paths, SIZE)))
        for number, path in enumerate(paths):
            reader = await channel(connections[number], rate=RATE, of_socket=number % 2 == 1)
            readers.append(reader)
            tasks.append(asyncio.create_task(reader.download(path, SIZE)))
        done, _ = await asyncio.wait(tasks, timeout=seconds)
        for task in done:
            task.result()
        if greedy.ended:
            raise CannotMeasure("the client that takes nothing was thrown out")
        return [reader.received for reader in readers]
    finally:
        for task in (watcher, *tasks):
            task.cancel()
        for connection in connections:
            connection.abort()
        with suppress(asyncio.CancelledError):
            await watcher


def measure(runs: int, quick: bool, out: Path) -> Report:
    """Take all measures, each run with a new service."""
    found: list[Curve] = []
    peaks, before, after = [], [], []
    with reported("readers", out) as report, ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(demo(place))
        names = fill(server)
        for number in range(runs):
            curve = Curve(f"run {number}")
            with tempfile.TemporaryDirectory(dir=place) as own, ours(Path(own), server) as login:
                before.append(resident_mib(login.pid))
                seconds = QUICK_SECONDS if quick else MOST_SECONDS
                got = asyncio.run(load(login, names, seconds, curve))
                peaks.append(peak_mib(login.pid))
                after.append(resident_mib(login.pid))
            report.note(
                f"Run {number}: {min(got) / 2**20:.0f} to {max(got) / 2**20:.0f} MiB read by each "
                f"of {READERS} in {curve.times[-1]:.0f} s, at most {RATE / 1e6:g} MB/s each"
            )
            if min(got) < SIZE / 100:
                raise CannotMeasure("somebody has read next to nothing")
            found.append(curve)
        name = f"resident memory, {READERS} slow readers and a closed window"
        report.add(Limit(f"{name}: peak", Series("ours", tuple(peaks), "MiB"), MARK, of_worst=True))
        growth = Series("ours", tuple(curve.growth for curve in found), "MiB")
        report.add(Limit(f"{name}: growth after the start", growth, FLAT, of_worst=True))
        report.add(
            Figure("resident memory, nobody connected", Series("ours", tuple(before), "MiB"))
        )
        report.add(Figure(f"{name}: at the end", Series("ours", tuple(after), "MiB")))
        out.mkdir(parents=True, exist_ok=True)
        curves.write(out / "readers-points.csv", found)
        report.note(curves.draw(out / "readers.png", found, MARK))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it, the CSV and a plot; 1 if a mark is missed, 2 for no measure."""
    options = arguments_of(arguments, "benchmarks.reader_memory", SUMMARY, RUNS, QUICK_RUNS)
    return status_of(lambda: measure(options.runs, options.quick, options.out))


if __name__ == "__main__":
    sys.exit(main())
