"""Live photos in a rig, as a session sees them in each of the three ways."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest
from attrs import frozen
from live_halves import motion, still
from rig import VERSIONS, Rig, Session, quiet
from twisted.internet.defer import Deferred

from immich_conch.demo.entities import Album, Asset

T = TypeVar("T")

ways = pytest.mark.parametrize("way", ["mirror", "listings", "key"])
versions = pytest.mark.parametrize("version", VERSIONS)


def settings(way: str) -> dict[str, Any]:
    """Settings under which a session sees the library this way."""
    return {"mirror_max_assets": 1000} if way == "mirror" else {}


async def session(r: Rig, way: str) -> Session:
    """A session that sees the library this way."""
    return await r.session(key=r.demo.add_key(r.alice) if way == "key" else "")


@frozen
class Pair:
    """A live photo in an album."""

    still: Asset
    part: Asset
    album: Album


def pair(r: Rig, album: str = "Live", name: str = "IMG_7", linked: bool = True) -> Pair:
    """Two halves in an album, linked by Immich or still to be."""
    r.demo.links_live_photos = False
    one = r.asset(f"{name}.JPG", still(name, name))
    two = r.asset(f"{name}.MOV", motion(name, name))
    made = Pair(one, two, r.album(album, one, two))
    if linked:
        r.demo.link_live_photos()
        assert two.visibility == "hidden"
        assert one.live_video == two.id
        assert r.names_in(made.album) == [f"{name}.JPG"]
    return made


async def patiently(r: Rig, work: Awaitable[T]) -> T:
    """The result of work that waits for Immich now and then."""

    async def run() -> T:
        return await work

    running = Deferred.fromCoroutine(run())
    while not running.called:
        r.clock.advance(0.1)
        await quiet(5)
    return await running


def later(r: Rig) -> None:
    """Let what is known grow too old."""
    r.clock.advance(3.0)
