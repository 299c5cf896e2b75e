"""How soon a change shows: one made by another client of Immich, and one of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from io import BytesIO

from benchmarks.clients import Client
from benchmarks.peers import CannotMeasure, Immich

#: Seconds between two looks for a change.
PAUSE = 0.02
#: Seconds after which a change is not waited for any longer.
PATIENCE = 30.0
#: Bytes of the file that is uploaded.
TINY = 64


def until(seen: Callable[[], bool]) -> float:
    """Seconds until it is seen; raises CannotMeasure."""
    start = time.perf_counter()
    while not seen():
        if time.perf_counter() - start > PATIENCE:
            raise CannotMeasure(f"a change did not show for {PATIENCE:g} s")
        time.sleep(PAUSE)
    return time.perf_counter() - start


def some_asset(session: Immich) -> str:
    """An asset of the user's own; raises CannotMeasure."""
    found = session.call("POST", "/api/search/metadata", {"size": 1})["assets"]["items"]
    if not found:
        raise CannotMeasure("the user has no assets")
    return str(found[0]["id"])


def from_outside(session: Immich, client: Client, name: str, asset_id: str) -> list[float]:
    """Seconds until each shows: an album made, a file put in, taken out, the album deleted.

    They count from Immich's answer to the other client.
    """
    album_id = session.call("POST", "/api/albums", {"albumName": name})["id"]
    album = f"/api/albums/{album_id}"
    try:
        seconds = [until(lambda: name in client.names())]
        session.call("PUT", f"{album}/assets", {"ids": [asset_id]})
        seconds.append(until(lambda: len(client.names(name)) == 1))
        session.call("DELETE", f"{album}/assets", {"ids": [asset_id]})
        seconds.append(until(lambda: not client.names(name)))
    finally:
        session.call("DELETE", album)
    seconds.append(until(lambda: name not in client.names()))
    return seconds


def own(client: Client, name: str) -> list[int]:
    """Listings until each shows: a folder made and renamed, a file uploaded, renamed and removed
    (to Immich's trash), the folder removed.  1 is the first listing after the answer.
    """
    sftp, path = client.sftp, client.login.path
    renamed = f"{name} renamed"

    def upload() -> None:
        sftp.putfo(BytesIO(os.urandom(TINY)), path(f"{renamed}/tiny.jpg"))
        # With its time it goes to Immich now, and not after the settle time.
        sftp.utime(path(f"{renamed}/tiny.jpg"), (1_500_000_000, 1_500_000_000))

    steps: list[tuple[Callable[[], None], Callable[[], bool]]] = [
        (lambda: sftp.mkdir(path(name)), lambda: name in client.names()),
        (
            lambda: sftp.rename(path(name), path(renamed)),
            lambda: renamed in (found := client.names()) and name not in found,
        ),
        (upload, lambda: client.names(renamed) == ["tiny.jpg"]),
        (
            lambda: sftp.rename(path(f"{renamed}/tiny.jpg"), path(f"{renamed}/other.jpg")),
            lambda: client.names(renamed) == ["other.jpg"],
        ),
        (
            lambda: sftp.remove(path(f"{renamed}/other.jpg")),
            lambda: client.names(renamed) == [],
        ),
        (lambda: sftp.rmdir(path(renamed)), lambda: renamed not in client.names()),
    ]
    listings = []
    for change, shows in steps:
        looks = 0

        def seen(shows: Callable[[], bool] = shows) -> bool:
            nonlocal looks
            looks += 1
            return shows()

        change()
        until(seen)
        listings.append(looks)
    return listings
