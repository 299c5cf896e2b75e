"""What a mirror costs: memory by `tracemalloc`, and the time to enter everything and a delta.

    python -m benchmarks.mirror_memory [--assets 25000 50000 100000] [--csv FILE]

The lines are as Immich 3.1 sends them (the recordings' fields, 700 bytes an asset), 75 assets an
album, one in ten a live photo, one in twenty with a note of ours; parsed and entered in batches
of 100, as a socket brings them.  Immich's own time is not in these figures.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gc
import json
import random
import sys
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from immich_conch.immich.sync import parse
from immich_conch.library.records import raw_id
from immich_conch.library.tables import METADATA_KEY, Tables

BATCH = 100
ALBUM = 75
MB = 1_000_000
USER = "00000000-0000-4000-8000-000000000001"
#: Assets that change between two deltas.
CHANGED = 100


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
    """Enter all lines; the seconds it took, without making the lines."""
    seconds = 0.0
    while batch := list(islice(lines, BATCH)):
        start = time.perf_counter()
        tables.apply(parse(batch))
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    tables.finish()
    return seconds + time.perf_counter() - start


def measure(assets: int) -> dict[str, float]:
    """Figures for a library of so many assets."""
    tables = Tables(raw_id(USER), assets, count(1))
    reset = enter(stream(assets), tables)
    changed = [
        line.replace(b"IMG_", b"PIC_")
        for line in islice((x for x in stream(assets) if b"AssetV2" in x), CHANGED)
    ]
    delta = enter(iter(changed), tables)
    start = time.perf_counter()
    albums = [album.value(tables.user) for album in tables.albums.values()]
    listing = time.perf_counter() - start
    assert len(albums) == -(-assets // ALBUM) and not tables.incomplete
    del tables, albums
    gc.collect()
    tracemalloc.start()
    tables = Tables(raw_id(USER), assets, count(1))
    enter(stream(assets), tables)
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0] / MB
    tracemalloc.stop()
    assert len(tables.assets) == assets
    return {
        "assets": assets,
        "MB": round(memory, 1),
        "bytes/asset": round(memory * MB / assets),
        "reset s": round(reset, 2),
        f"delta of {CHANGED} ms": round(delta * 1000, 2),
        "albums ms": round(listing * 1000, 2),
    }


def main(arguments: list[str]) -> None:
    """Print a table, and write it as CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for assets in options.assets:
        rows.append(measure(assets))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
