"""Uploading halves of live photos: again, elsewhere, and over what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from live_halves import motion, still
from live_rig import later, pair, session, settings, versions, ways
from rig import TAKEN, rig

from immich_conch.immich.session import Session as ImmichSession


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_uploading_both_halves_again_changes_nothing(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, loopback=True, **settings(way)) as r:
        p = pair(r)
        s = await session(r, way)
        before = await s.ls("/Live")
        await s.put("/Live/IMG_7.MOV", motion("IMG_7", "IMG_7"), TAKEN)
        await s.put("/Live/IMG_7.JPG", still("IMG_7", "IMG_7"), TAKEN)
        for _ in range(2):
            assert await s.ls("/Live") == before
            later(r)
        assert len(r.demo.state.assets) == 2
        assert p.still.live_video == p.part.id


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_uploading_the_part_elsewhere_brings_its_still(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, loopback=True, **settings(way)) as r:
        p = pair(r)
        r.album("Other")
        s = await session(r, way)
        await s.ls("/Live")
        await s.put("/Other/Clip.MOV", motion("IMG_7", "IMG_7"), TAKEN + 9)
        for _ in range(2):
            listed = await s.ls("/Other")
            assert sorted(listed) == ["Clip.MOV", "IMG_7.JPG"]
            assert listed["Clip.MOV"]["mtime"] == TAKEN + 9
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert p.still.live_video == p.part.id


@versions
@pytest_twisted.ensureDeferred
async def test_uploading_the_part_of_a_trashed_still_restores_both(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        p = pair(r)
        s = await r.session()
        await s.ls("/Live")
        await s.rm("/Live/IMG_7.JPG")
        await s.rm("/Live/IMG_7.MOV")
        await s.put("/Live/IMG_7.MOV", motion("IMG_7", "IMG_7"), TAKEN)
        assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert p.still.deleted is None


@versions
@pytest_twisted.ensureDeferred
async def test_uploading_a_removed_part_again_brings_it_back(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        p = pair(r)
        s = await r.session()
        await s.rm("/Live/IMG_7.MOV")
        await s.put("/Live/IMG_7.MOV", motion("IMG_7", "IMG_7"), TAKEN)
        for _ in range(2):
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert p.part.deleted is None


@versions
@pytest_twisted.ensureDeferred
async def test_a_hidden_video_of_no_still_is_shown_when_it_is_uploaded(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        video = r.asset("A.MOV", motion("A", "A"), visibility="hidden")
        album = r.album("Live")
        s = await r.session()
        await s.put("/Live/A.MOV", motion("A", "A"), TAKEN)
        assert list(await s.ls("/Live")) == ["A.MOV"]
        assert video.visibility == "timeline"
        assert r.names_in(album) == ["A.MOV"]


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_overwriting_the_still_hands_the_part_on(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, loopback=True, **settings(way)) as r:
        p = pair(r)
        s = await session(r, way)
        await s.put("/Live/IMG_7.JPG", still("7b", "edited"), TAKEN)
        for _ in range(2):
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert await s.get("/Live/IMG_7.JPG") == still("7b", "edited")
        assert p.still.deleted is not None
        assert p.part.deleted is None
        assert p.part.visibility == "hidden"


@ways
@pytest_twisted.ensureDeferred
async def test_overwriting_a_still_while_another_comes_hands_the_part_on(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path, loopback=True, **settings(way)) as r:
        p, other = pair(r), pair(r, "Other", "IMG_8")
        s = await session(r, way)
        await s.ls("/Live")
        copy = ImmichSession.copy_relations

        async def meanwhile(self: ImmichSession, source_id: str, target_id: str) -> None:
            await copy(self, source_id, target_id)
            # A live photo that Immich has: what the folder shows has to be asked for anew.
            await s.put("/Live/IMG_8.JPG", still("IMG_8", "IMG_8"), TAKEN)

        monkeypatch.setattr(ImmichSession, "copy_relations", meanwhile)
        await s.put("/Live/IMG_7.JPG", still("7b", "edited"), TAKEN)
        assert p.still.deleted is not None
        assert p.album.id in other.still.albums
        later(r)
        wanted = ["IMG_7.JPG", "IMG_7.MOV", "IMG_8.JPG", "IMG_8.MOV"]
        assert sorted(await s.ls("/Live")) == wanted


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_overwriting_the_part_puts_another_in_its_place(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, loopback=True, **settings(way)) as r:
        p = pair(r)
        r.album("Other", p.still)
        s = await session(r, way)
        await s.put("/Live/IMG_7.MOV", motion("7b", "edited"), TAKEN)
        for _ in range(2):
            for folder in ("/Live", "/Other"):
                assert sorted(await s.ls(folder)) == ["IMG_7.JPG", "IMG_7.MOV"]
                assert await s.get(f"{folder}/IMG_7.MOV") == motion("7b", "edited")
            later(r)
        assert p.part.deleted is not None
        assert p.still.live_video not in (None, p.part.id)
