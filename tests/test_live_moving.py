"""Moving one half of a live photo, and both; a half that takes the name of another file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import pytest_twisted
from live_halves import motion
from live_rig import later, pair, session, settings, versions, ways
from rig import TAKEN, contents, raises, rig
from test_copying import cp, ln

from immich_conch.errors import (
    AlreadyExists,
    MissingPermission,
    NotFound,
    Unsupported,
)

# -- moving --------------------------------------------------------------------------------------


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_moving_the_still_takes_the_part_along(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r)
        r.album("Other")
        s = await session(r, way)
        await s.utime("/Live/IMG_7.MOV", TAKEN + 5)
        await s.mv("/Live/IMG_7.MOV", "/Live/Clip.MOV")
        assert sorted(await s.ls("/Live")) == ["Clip.MOV", "IMG_7.JPG"]
        await s.mv("/Live/IMG_7.JPG", "/Other/IMG_7.JPG")
        assert await s.ls("/Live") == {}
        assert sorted(await s.ls("/Other")) == ["Clip.MOV", "IMG_7.JPG"]
        assert (await s.stat("/Other/Clip.MOV"))["mtime"] == TAKEN + 5
        await s.mv("/Live/Clip.MOV", "/Other/Clip.MOV")
        await s.mv("/Live/Clip.MOV", "/Other/Film.MOV")
        assert sorted(await s.ls("/Other")) == ["Film.MOV", "IMG_7.JPG"]
        assert p.still.live_video == p.part.id
        later(r)
        assert sorted(await s.ls("/Other")) == ["Film.MOV", "IMG_7.JPG"]
        assert await s.ls("/Live") == {}


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_moving_the_part_first_loses_neither(tmp_path: Path, version: str, way: str) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r)
        r.album("Other")
        r.album("Third", p.still)
        s = await session(r, way)
        await s.mv("/Live/IMG_7.MOV", "/Other/IMG_7.MOV")
        assert list(await s.ls("/Live")) == ["IMG_7.JPG"]
        assert list(await s.ls("/Other")) == ["IMG_7.MOV"]
        assert sorted(await s.ls("/Third")) == ["IMG_7.JPG", "IMG_7.MOV"]
        await s.mv("/Live/IMG_7.JPG", "/Other/IMG_7.JPG")
        for _ in range(2):
            assert await s.ls("/Live") == {}
            assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
            assert sorted(await s.ls("/Third")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert p.part.visibility == "timeline"


@pytest_twisted.ensureDeferred
async def test_a_part_whose_still_was_removed_can_still_be_moved(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        p = pair(r)
        other = r.album("Other")
        s = await r.session()
        await s.ls("/Live")
        await s.rm("/Live/IMG_7.JPG")
        await s.mv("/Live/IMG_7.MOV", "/Other/IMG_7.MOV")
        assert contents(r, other) == {"IMG_7.MOV": motion("IMG_7", "IMG_7")}
        assert list(await s.ls("/Other")) == ["IMG_7.MOV"]
        assert await s.ls("/Live") == {}
        assert p.still.deleted is not None


@ways
@pytest_twisted.ensureDeferred
async def test_removing_the_part_where_it_was_leaves_it_where_it_went(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p = pair(r)
        r.album("Other")
        s = await session(r, way)
        await s.ls("/Live")
        await s.mv("/Live/IMG_7.JPG", "/Other/IMG_7.JPG")
        await s.rm("/Live/IMG_7.MOV")
        assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert p.part.deleted is None


@pytest_twisted.ensureDeferred
async def test_a_part_that_went_along_is_known_in_any_spelling(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        part = r.asset("Café.MOV", visibility="hidden")
        r.album("Live", r.asset("Café.JPG", live_video=part.id))
        s = await r.session()
        assert sorted(await s.ls("/Live")) == ["Café.JPG", "Café.MOV"]
        for end in ("JPG", "MOV"):
            await s.rm(unicodedata.normalize("NFD", f"/Live/Café.{end}"))
        assert await s.ls("/Live") == {}


@ways
@pytest_twisted.ensureDeferred
async def test_a_part_that_went_along_takes_no_name_that_somebody_has(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        rival = r.asset("IMG_7.MOV", motion("rival", "rival"))
        pair(r)
        r.album("Other", rival)
        s = await session(r, way)
        await s.ls("/Live")
        await s.mv("/Live/IMG_7.JPG", "/Other/IMG_7.JPG")
        assert len(await s.ls("/Other")) == 3
        await raises(AlreadyExists, s.mv("/Live/IMG_7.MOV", "/Other/IMG_7.MOV"))
        assert await s.get("/Other/IMG_7.MOV") == motion("rival", "rival")
        await s.posix_mv("/Live/IMG_7.MOV", "/Other/IMG_7.MOV")
        for _ in range(2):
            assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
            assert await s.get("/Other/IMG_7.MOV") == motion("IMG_7", "IMG_7")
            later(r)
        assert rival.deleted is not None


@ways
@pytest_twisted.ensureDeferred
async def test_a_part_that_was_removed_with_its_still_gets_no_other_name(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        pair(r)
        s = await session(r, way)
        await s.ls("/Live")
        await s.rm("/Live/IMG_7.JPG")
        await raises(NotFound, s.mv("/Live/IMG_7.MOV", "/Live/Film.MOV"))
        assert await s.ls("/Live") == {}


@pytest_twisted.ensureDeferred
async def test_a_key_that_cannot_unlink_a_part_changes_nothing_of_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        p, other = pair(r), r.album("Other")
        granted = ("user.read", "album.read", "asset.read", "asset.delete", "asset.download")
        granted += ("albumAsset.create", "albumAsset.delete")
        s = await r.session(key=r.demo.add_key(r.alice, granted))
        for _ in range(2):
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            await raises(MissingPermission, s.rm("/Live/IMG_7.MOV"))
            await raises(MissingPermission, s.mv("/Live/IMG_7.MOV", "/Other/IMG_7.MOV"))
            later(r)
        assert (p.part.deleted, p.part.albums, p.still.live_video) == (None, set(), p.part.id)
        await s.mv("/Live/IMG_7.JPG", "/Other/IMG_7.JPG")
        assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert r.names_in(other) == ["IMG_7.JPG"]


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_a_part_is_linked_with_its_still_and_not_alone(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p, other = pair(r), r.album("Other")
        s = await session(r, way)
        await s.ls("/Live")
        await raises(Unsupported, ln(s, "/Live/IMG_7.MOV", "/Other/IMG_7.MOV"))
        assert (await s.ls("/Other"), p.part.albums, p.part.notes) == ({}, set(), {})
        for end in ("JPG", "MOV"):
            await ln(s, f"/Live/IMG_7.{end}", f"/Other/IMG_7.{end}")
        await raises(AlreadyExists, ln(s, "/Live/IMG_7.MOV", "/Live/IMG_7.MOV"))
        await raises(AlreadyExists, ln(s, "/Live/IMG_7.JPG", "/Other/IMG_7.JPG"))
        # A second name in its own album is a name like others.
        await ln(s, "/Live/IMG_7.MOV", "/Live/Film.MOV")
        for _ in range(2):
            assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
            assert sorted(await s.ls("/Live")) == ["Film.MOV", "IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert r.names_in(other) == ["IMG_7.JPG"]


# -- a half takes the name of another file -------------------------------------------------------


@ways
@pytest_twisted.ensureDeferred
async def test_a_part_with_a_mark_gets_its_own_name_once_that_is_free(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        rival = r.asset("IMG_7.MOV", motion("rival", "rival"))
        p = pair(r)
        r.demo._albums._link(p.album, rival)
        s, other = await session(r, way), await r.session()
        marked = f"IMG_7 ~{p.part.id[:8]}.MOV"
        assert sorted(await s.ls("/Live")) == sorted(["IMG_7.JPG", "IMG_7.MOV", marked])
        await other.lease.immich.trash([rival.id])
        later(r)
        assert sorted(await s.ls("/Live")) == sorted(["IMG_7.JPG", marked])
        await s.mv(f"/Live/{marked}", "/Live/IMG_7.MOV")
        for _ in range(2):
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert p.still.live_video == p.part.id


@ways
@pytest.mark.parametrize("where", ["/Live", "/Other"])
@pytest.mark.parametrize("with_still", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_part_that_replaces_another_file_is_there_at_once(
    tmp_path: Path, way: str, where: str, with_still: bool
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p, old = pair(r), r.asset("old.MOV", motion("old", "old"))
        other = r.album("Other")
        r.demo._albums._link(p.album if where == "/Live" else other, old)
        s = await session(r, way)
        before = {"/Live": set(await s.ls("/Live")), "/Other": set(await s.ls("/Other"))}
        if with_still:
            await s.mv("/Live/IMG_7.JPG", f"{where}/IMG_7.JPG")
            before["/Live"].discard("IMG_7.JPG")
            before[where].add("IMG_7.JPG")
        await s.posix_mv("/Live/IMG_7.MOV", f"{where}/old.MOV")
        before["/Live"].discard("IMG_7.MOV")
        for _ in range(2):
            for folder, wanted in before.items():
                assert set(await s.ls(folder)) == wanted
            assert await s.get(f"{where}/old.MOV") == motion("IMG_7", "IMG_7")
            later(r)
        assert old.deleted is not None


@ways
@pytest.mark.parametrize("way_there", ["mv", "cp"])
@pytest.mark.parametrize("half", ["JPG", "MOV"])
@pytest_twisted.ensureDeferred
async def test_one_half_that_takes_the_place_of_the_other_is_not_lost_with_it(
    tmp_path: Path, way: str, way_there: str, half: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p = pair(r)
        s = await session(r, way)
        await s.ls("/Live")
        source = f"/Live/IMG_7.{half}"
        target = f"/Live/IMG_7.{'MOV' if half == 'JPG' else 'JPG'}"
        data = await s.get(source)
        await (s.posix_mv(source, target) if way_there == "mv" else cp(s, source, target))
        names = {target[6:], *([source[6:]] if way_there == "cp" else [])}
        for _ in range(2):
            assert set(await s.ls("/Live")) == names
            for name in names:
                assert await s.get(f"/Live/{name}") == data
            later(r)
        kept, gone = (p.still, p.part) if half == "JPG" else (p.part, p.still)
        assert kept.deleted is None
        assert gone.deleted is not None
