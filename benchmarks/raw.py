"""The same knowledge asked of Immich's API directly: what no client of it can be quicker than."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from benchmarks.clients import timed
from benchmarks.peers import CannotMeasure, Immich

PAGE = 1000
PAGES_AT_ONCE = 4
#: Streams after which one without changes has to have come.
SETTLE_STREAMS = 8
SYNC_TYPES = {
    3: "AlbumsV2 AlbumUsersV1 AlbumToAssetsV1 AlbumAssetsV2 AlbumAssetExifsV1 AssetsV2 "
    "AssetExifsV1 AssetMetadataV1",
    2: "AlbumsV1 AlbumUsersV1 AlbumToAssetsV1 AlbumAssetsV1 AlbumAssetExifsV1 AssetsV1 "
    "AssetExifsV1 AssetMetadataV1",
}


def major(version: str) -> int:
    """The dialect: 2 or 3."""
    return min(3, max(2, int(version.partition(".")[0])))


def _stream(session: Immich, dialect: int) -> bytes:
    return session.read("POST", "/api/sync/stream", {"types": SYNC_TYPES[dialect].split()})


def whole_stream(server: Immich, dialect: int) -> float:
    """Seconds for the whole sync stream, read to its end by a new session; nothing is decoded."""
    with server.session() as session:
        return timed(lambda: _stream(session, dialect))


def last_acks(stream: bytes) -> list[str]:
    """The last acknowledgement of each type in a stream's lines."""
    acks = (json.loads(line)["ack"] for line in stream.splitlines())
    return list({ack.partition("|")[0]: ack for ack in acks}.values())


def deltas(server: Immich, dialect: int, times: int) -> list[float]:
    """Seconds for each of so many streams in which nothing has changed."""
    with server.session() as session:
        for _ in range(SETTLE_STREAMS):
            acks = last_acks(_stream(session, dialect))
            if len(acks) <= 1:
                return [timed(lambda: _stream(session, dialect)) for _ in range(times)]
            session.call("POST", "/api/sync/ack", {"acks": acks})
    raise CannotMeasure("the library changes all the time")


def _album(session: Immich, dialect: int, album_id: str, count: int) -> None:
    """The whole of an album: its one answer (2.x), or its pages side by side."""
    if dialect < 3:
        session.read("GET", f"/api/albums/{album_id}")
        return

    def page(number: int) -> bytes:
        wanted = {"albumIds": [album_id], "withExif": True, "size": PAGE, "page": number}
        return session.read("POST", "/api/search/metadata", wanted)

    with ThreadPoolExecutor(PAGES_AT_ONCE) as pool:
        list(pool.map(page, range(1, -(-count // PAGE) + 1)))


def folder(server: Immich, dialect: int, album_id: str, count: int) -> float:
    """Seconds of the fastest raw way to read one album: each once, with a session of its own.

    Without the album's id that is the whole stream.
    """
    stream = whole_stream(server, dialect)
    if not album_id:
        return stream
    with server.session() as session:
        return min(stream, timed(lambda: _album(session, dialect, album_id, count)))
