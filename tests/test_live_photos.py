"""Live photos: two files here, in Immich a still and its hidden motion part (sections 2 and 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen

from immich_conch.demo.entities import Album, Asset
from tests.live_halves import motion, still
from tests.rig import TAKEN, VERSIONS, Rig, Session, rig

ways = pytest.mark.parametrize("way", ["mirror", "listings", "key"])
versions = pytest.mark.parametrize("version", VERSIONS)
HEIC, MOV = still("7"), motion("7")


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


def later(r: Rig) -> None:
    """Let what is known grow too old."""
    r.clock.advance(3.0)


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_linking_leaves_the_folder_as_it_was(tmp_path: Path, version: str, way: str) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        pair(r, linked=False)
        s = await session(r, way)
        before = await s.ls("/Live")
        assert sorted(before) == ["IMG_7.JPG", "IMG_7.MOV"]
        r.demo.link_live_photos()
        later(r)
        assert await s.ls("/Live") == before
        assert await s.stat("/Live/IMG_7.MOV") == before["IMG_7.MOV"]
        assert await s.get("/Live/IMG_7.MOV") == motion("IMG_7", "IMG_7")


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_a_linked_part_is_a_file_for_who_comes_later(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        pair(r)
        s = await session(r, way)
        listed = await s.ls("/Live")
        assert sorted(listed) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert listed["IMG_7.MOV"]["mtime"] == TAKEN
        assert listed["IMG_7.MOV"]["size"] == len(motion("IMG_7", "IMG_7"))
        asked = r.demo.requests["GET /assets/{id}"]
        later(r)
        r.demo.add_album(r.alice, "Other")
        assert await s.ls("/Live") == listed
        assert r.demo.requests["GET /assets/{id}"] == asked
