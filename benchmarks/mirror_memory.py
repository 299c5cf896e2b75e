"""What a mirror costs: memory, and the time to enter everything and a delta, over its size.

    python -m benchmarks.mirror_memory [--quick] [--assets 10000 … 100000] [--plot]

The lines are as Immich 3.1 sends them (the recordings' fields, 700 bytes an asset), 75 assets an
album, one in ten a live photo, one in twenty with a note of ours; read from a file, parsed and
entered in batches of 100, as a socket brings them, each time by a process of its own.  Immich's
own time is not in these figures.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gc
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.fit import NoPlot, fit, need_matplotlib, plot
from benchmarks.process import MB, busy, load, machine, resident_mb
from benchmarks.tables import Figure, Limit, Report, Series
from immich_conch.immich.sync import parse
from immich_conch.library.records import raw_id
from immich_conch.library.tables import METADATA_KEY, Tables

BATCH = 100
ALBUM = 75
USER = "00000000-0000-4000-8000-000000000001"
#: Assets that change between two deltas.
CHANGED = 100
SIZES = (10_000, 25_000, 50_000, 75_000, 100_000)
QUICK_SIZES = (2_000, 4_000, 6_000, 8_000, 10_000)
#: The size that the mark is for, and MB that it has to stay under.
MARKED, MARK = 100_000, 80.0
#: R² from which growth counts as linear; over the default sizes, growth by the square has 0.95.
LINEAR = 0.99
RESULTS = Path(__file__).with_name("results")
SUMMARY = (__doc__ or "").splitlines()[0]


def _line(kind: str, **data: Any) -> bytes:
    return json.dumps({"type": kind, "data": data, "ack": f"{kind}|{USER}"}).encode()


def _asset(number: int, asset_id: str, live: str | None, dice: random.Random) -> bytes:
    day = f"20{10 + number % 15}-0{1 + number % 9}-{10 + number % 18}"
    moment = f"{day}T{number % 24:02}:{number % 60:02}:{number // 60 % 60:02}.{number % 1000:03}Z"
    return _line(
        "AssetV2",
        id=asset_id,
        ownerId=USER,
        originalFileName=f"IMG_{number:06}.{'MOV' if live == '' else 'JPG'}",
        fileCreatedAt=moment,
        fileModifiedAt=moment.replace("20", "21", 1),
        createdAt=f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}Z",
        localDateTime=moment,
        type="IMAGE",
        deletedAt=None,
        isFavorite=False,
        visibility="hidden" if live == "" else "timeline",
        duration=None,
        livePhotoVideoId=live or None,
        stackId=None,
        libraryId=None,
        width=4032,
        height=3024,
        isEdited=False,
        checksum=base64.b64encode(dice.randbytes(20)).decode(),
        thumbhash="YKgDBYCPZnZ3h4h4d4d3h3iH8Jd3",
    )


def _exif(asset_id: str, dice: random.Random) -> bytes:
    return _line(
        "AssetExifV1",
        assetId=asset_id,
        description="",
        fileSizeInByte=dice.randrange(10**5, 10**7),
        rating=None,
        make="Apple",
        model="iPhone 13",
        exifImageWidth=4032,
        exifImageHeight=3024,
    )


def stream(assets: int) -> Iterator[bytes]:
    """The lines of a library."""
    dice = random.Random(1)
    ids = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(assets)]
    parts = set(ids[9::10])
    for number, asset_id in enumerate(ids):
        live = "" if asset_id in parts else ids[number + 1] if number % 10 == 8 else None
        yield _asset(number, asset_id, live, dice)
    albums = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(-(-assets // ALBUM))]
    moment = "2026-01-01T00:00:00.000Z"
    for number, album_id in enumerate(albums):
        yield _line(
            "AlbumV2",
            id=album_id,
            name=f"Album {number}",
            description="",
            createdAt=moment,
            updatedAt=moment,
            thumbnailAssetId=None,
        )
    for album_id in albums:
        yield _line("AlbumUserV1", albumId=album_id, userId=USER, role="owner")
    for number, asset_id in enumerate(ids):
        if asset_id not in parts:
            yield _line("AlbumToAssetV1", albumId=albums[number // ALBUM], assetId=asset_id)
    for asset_id in ids:
        yield _exif(asset_id, dice)
    for number, asset_id in enumerate(ids):
        if number % 20 == 0:
            value = {"version": 1, "albums": {albums[number // ALBUM]: [{"name": "x.jpg"}]}}
            yield _line("AssetMetadataV1", assetId=asset_id, key=METADATA_KEY, value=value)


def enter(lines: Iterator[bytes], tables: Tables) -> float:
    """Enter all lines; the CPU seconds it took, without making the lines.

    Nothing waits in it, so that on a quiet machine it is the time that passes.
    """
    seconds = 0.0
    while batch := list(islice(lines, BATCH)):
        start = time.process_time()
        tables.apply(parse(batch))
        seconds += time.process_time() - start
    start = time.process_time()
    tables.finish()
    return seconds + time.process_time() - start


def write_lines(path: Path, assets: int) -> None:
    """The lines of a library as a file, which takes no memory of who reads it."""
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in stream(assets))


def loaded(path: Path, assets: int) -> tuple[Tables, float]:
    """Tables with everything in them, and the seconds that took."""
    tables = Tables(raw_id(USER), assets, count(1))
    with path.open("rb") as file:
        seconds = enter(iter(file), tables)
    if len(tables.assets) != assets or tables.incomplete:
        raise RuntimeError(f"{len(tables.assets)} of {assets} assets came in")
    return tables, seconds


@frozen
class Load:
    """What one process saw of one library; memory in MB, CPU times in seconds."""

    memory: float
    reset: float = 0.0
    delta: float = 0.0
    albums: float = 0.0


def traced(path: Path, assets: int) -> Load:
    """The memory that Python objects of the tables take, which does not vary."""
    tracemalloc.start()
    tables, _ = loaded(path, assets)
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0] / MB
    del tables
    return Load(memory)


def resident(path: Path, assets: int) -> Load:
    """By how much the process grows, with what loading leaves behind; and the times."""
    gc.collect()
    before = resident_mb()
    tables, reset = loaded(path, assets)
    gc.collect()
    memory = resident_mb() - before
    with path.open("rb") as file:
        changed = [
            line.replace(b"IMG_", b"PIC_")
            for line in islice((line for line in file if b'"AssetV2"' in line), CHANGED)
        ]
    delta = enter(iter(changed), tables)
    start = time.process_time()
    albums = [album.value(tables.user) for album in tables.albums.values()]
    listing = time.process_time() - start
    if len(albums) != -(-assets // ALBUM):
        raise RuntimeError("albums are missing")
    return Load(memory, reset, delta, listing)


@frozen
class Point:
    """Everything about one size."""

    assets: int
    traced: float
    loads: tuple[Load, ...]

    def series(self, what: str, scale: float = 1.0, unit: str = "s") -> Series:
        """One field of all runs."""
        return Series("ours", tuple(getattr(run, what) * scale for run in self.loads), unit)


def measure(sizes: Sequence[int], runs: int, place: Path) -> list[Point]:
    """Figures for libraries of these sizes, in turn, each run in a new process."""
    new = multiprocessing.get_context("spawn")
    paths = {assets: place / f"{assets}.jsonl" for assets in sizes}
    memory: dict[int, float] = {}
    loads: dict[int, list[Load]] = {assets: [] for assets in sizes}
    with ProcessPoolExecutor(1, mp_context=new, max_tasks_per_child=1) as pool:
        for assets, path in paths.items():
            pool.submit(write_lines, path, assets).result()
            memory[assets] = pool.submit(traced, path, assets).result().memory
            print(f"{assets} assets: {memory[assets]:.1f} MB of Python objects", flush=True)
        for number in range(1, runs + 1):
            for assets, path in paths.items():
                seen = pool.submit(resident, path, assets).result()
                loads[assets].append(seen)
                told = f"{seen.memory:.1f} MB, reset {seen.reset:.2f} s"
                print(f"run {number} of {runs}: {assets} assets, {told}", flush=True)
    return [Point(assets, memory[assets], tuple(loads[assets])) for assets in sizes]


def add_point(report: Report, point: Point) -> None:
    """The rows of one size; marks where it is the size they are for."""
    kinds = {
        "Python objects": Series("ours", (point.traced,), "MB"),
        "growth of the process": point.series("memory", unit="MB"),
    }
    for kind, series in kinds.items():
        name = f"{point.assets} assets, {kind}"
        if point.assets == MARKED:
            report.add(Limit(name, series, MARK, of_worst=True))
        else:
            report.add(Figure(name, series))
    report.add(Figure(f"{point.assets} assets, reset", point.series("reset")))
    changed = point.series("delta", 1000, "ms")
    report.add(Figure(f"{point.assets} assets, delta of {CHANGED}", changed))
    report.add(Figure(f"{point.assets} assets, albums listed", point.series("albums", 1000, "ms")))


def add_growth(report: Report, points: Sequence[Point]) -> None:
    """Whether memory and the time of a reset grow in step with the assets."""
    sizes = [point.assets for point in points]
    grown = {
        "Python objects": ([point.traced for point in points], "MB"),
        "growth of the process": ([point.series("memory").median for point in points], "MB"),
        # Noise only ever adds to a time.
        "fastest reset": ([point.series("reset").least for point in points], "s"),
    }
    for name, (values, unit) in grown.items():
        line = fit(sizes, values)
        report.note(
            f"{name}: {line.intercept:.3g} {unit} + {line.slope * 1000:.3g} {unit} per 1,000 "
            f"assets; R2 {line.r_squared:.5f}, greatest deviation {line.deviation:.1%}"
        )
        r_squared = Series("ours", (line.r_squared,), "R2")
        report.add(Limit(f"linear growth, {name}", r_squared, LINEAR, at_most=False))
    if MARKED not in sizes:
        report.note(f"No verdict on {MARK:g} MB: {MARKED} assets are not among the sizes.")


def write_points(path: Path, points: Sequence[Point]) -> None:
    """What is plotted, a line for each run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("assets", "run", "objects MB", "growth MB", "reset s", "delta ms"))
        for point in points:
            for number, run in enumerate(point.loads):
                times = (f"{run.reset:.3f}", f"{run.delta * 1000:.3f}")
                memory = (f"{point.traced:.3f}", f"{run.memory:.3f}")
                writer.writerow((point.assets, number, *memory, *times))


def draw(path: Path, points: Sequence[Point]) -> None:
    """The plot."""
    memory = {
        "Python objects": [point.traced for point in points],
        "growth of the process": [point.series("memory").median for point in points],
    }
    times = {
        "fastest reset, s": [point.series("reset").least for point in points],
        f"fastest delta of {CHANGED}, ms": [point.series("delta").least * 1000 for point in points],
    }
    plot(path, [point.assets for point in points], memory, times, MARK)
    print(f"plot: {path}")


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; what is wrong ends the program with a line that says so."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mirror_memory", description=SUMMARY)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 assets")
    parser.add_argument("--runs", type=int, default=3, help="processes for each size (3)")
    parser.add_argument("--assets", type=int, nargs="+", help="sizes, at least three")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    parser.add_argument("--plot", action="store_true", help="a PNG, too; needs matplotlib")
    options = parser.parse_args(arguments)
    options.assets = sorted(set(options.assets or (QUICK_SIZES if options.quick else SIZES)))
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.assets[0] < CHANGED:
        parser.error(f"--assets: at least {CHANGED}, which is what a delta changes")
    if len(options.assets) < 3:
        parser.error("--assets: a line needs three sizes")
    if options.plot:
        try:
            need_matplotlib()
        except NoPlot as error:
            parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it, the CSV and the plot if asked; 1 if a mark is missed."""
    options = arguments_of(arguments)
    report = Report("memory", options.out)
    began, warning = load(), busy(os.getloadavg()[0])
    report.note(machine())
    with tempfile.TemporaryDirectory() as place:
        points = measure(options.assets, options.runs, Path(place))
    for point in points:
        add_point(report, point)
    add_growth(report, points)
    report.note(f"Load of the machine (1, 5, 15 minutes): {began} before, {load()} after")
    if warning:
        report.note(warning)
    status = report.finish()
    write_points(options.out / "memory-points.csv", points)
    if options.plot:
        draw(options.out / "memory.png", points)
    return status


if __name__ == "__main__":
    sys.exit(main())
