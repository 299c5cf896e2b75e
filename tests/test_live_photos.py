"""Live photos: two files here, in Immich a still and its hidden motion part (sections 2 and 5)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from live_halves import motion, still
from live_rig import later, pair, patiently, session, settings, versions, ways
from rig import TAKEN, jpeg, quiet, raises, rig
from test_copying import cp, ln
from twisted.internet.defer import Deferred

from immich_conch.errors import (
    Denied,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)

# -- looking -------------------------------------------------------------------------------------


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


# -- removing ------------------------------------------------------------------------------------


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_removing_the_still_takes_the_part_along(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r)
        s = await session(r, way)
        await s.ls("/Live")
        await s.rm("/Live/IMG_7.JPG")
        assert await s.ls("/Live") == {}
        assert p.still.deleted is not None
        await s.rm("/Live/IMG_7.MOV")
        # In Immich the pair is whole: restoring the still brings both back.
        assert p.still.live_video == p.part.id
        assert p.part.deleted is None
        r.demo._assets.restore([p.still])
        for _ in range(2):  # the mirror believes its own change until two deltas say otherwise
            later(r)
            await s.ls("/Live")
        assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_removing_the_part_alone_unlinks_it_everywhere(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r)
        r.album("Other", p.still)
        s, other = await session(r, way), await r.session()
        assert len(await s.ls("/Live")) == len(await other.ls("/Other")) == 2
        await s.rm("/Live/IMG_7.MOV")
        assert list(await s.ls("/Live")) == list(await other.ls("/Other")) == ["IMG_7.JPG"]
        assert p.still.live_video is None
        assert p.part.deleted is not None
        assert p.part.visibility == "timeline"
        await raises(NotFound, s.rm("/Live/IMG_7.MOV"))
        later(r)
        assert list(await s.ls("/Live")) == list(await other.ls("/Other")) == ["IMG_7.JPG"]
        # And the still by itself.
        await s.rm("/Live/IMG_7.JPG")
        assert await s.ls("/Live") == {}


@ways
@pytest_twisted.ensureDeferred
async def test_a_still_that_is_in_another_album_leaves_with_its_part(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p = pair(r)
        r.album("Other", p.still)
        s = await session(r, way)
        await s.ls("/Live")
        await s.rm("/Live/IMG_7.JPG")
        await s.rm("/Live/IMG_7.MOV")
        assert await s.ls("/Live") == {}
        assert sorted(await s.ls("/Other")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert p.still.deleted is p.part.deleted is None


@pytest_twisted.ensureDeferred
async def test_a_part_that_was_linked_a_moment_ago_is_removed_as_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        p = pair(r, linked=False)
        s = await r.session()
        await s.ls("/Live")
        r.demo.link_live_photos()
        await s.rm("/Live/IMG_7.MOV")
        assert p.part.deleted is not None
        assert p.still.live_video is None
        later(r)
        assert list(await s.ls("/Live")) == ["IMG_7.JPG"]


@versions
@pytest.mark.parametrize("order", [("JPG", "MOV"), ("MOV", "JPG")])
@pytest_twisted.ensureDeferred
async def test_halves_whose_removal_is_held_back_go_together(
    tmp_path: Path, version: str, order: tuple[str, str]
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        p = pair(r)
        s = await r.session()
        await s.put("/Live/new.jpg", jpeg("new"))  # without a time: it waits
        for end in order:
            await s.rm(f"/Live/IMG_7.{end}")
        assert list(await s.ls("/Live")) == ["new.jpg"]
        assert p.still.deleted is p.part.deleted is None
        await r.settled()
        await r.settled()
        assert list(await s.ls("/Live")) == ["new.jpg"]
        assert p.still.deleted is not None
        assert p.still.live_video == p.part.id
        assert p.part.deleted is None


# -- what Immich is doing just now ---------------------------------------------------------------


@versions
@ways
@pytest.mark.parametrize("seen", [("hide",), ("leave",), ("refer",), ("hide", "leave")])
@pytest_twisted.ensureDeferred
async def test_half_a_link_is_no_absence(
    tmp_path: Path, version: str, way: str, seen: tuple[str, ...]
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r, linked=False)
        s = await session(r, way)
        before = await s.ls("/Live")
        r.demo.link_partly(p.still, p.part, *seen)
        later(r)
        listing = Deferred.fromCoroutine(s.ls("/Live"))
        await quiet()
        r.demo.link_partly(p.still, p.part, *({"hide", "leave", "refer"} - set(seen)))
        assert await patiently(r, listing) == before
        later(r)
        assert await s.ls("/Live") == before


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_a_video_that_is_hidden_for_good_is_absent(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        p = pair(r, linked=False)
        s = await session(r, way)
        assert len(await s.ls("/Live")) == 2
        r.demo.link_partly(p.still, p.part, "hide")
        later(r)
        assert list(await patiently(r, s.ls("/Live"))) == ["IMG_7.JPG"]
        asked = r.demo.requests["GET /assets/{id}"]
        later(r)
        assert list(await s.ls("/Live")) == ["IMG_7.JPG"]
        assert r.demo.requests["GET /assets/{id}"] == asked


@ways
@pytest_twisted.ensureDeferred
async def test_a_video_that_somebody_took_out_is_absent(tmp_path: Path, way: str) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p = pair(r, linked=False)
        s, other = await session(r, way), await r.session()
        assert len(await s.ls("/Live")) == 2
        await other.lease.immich.remove_from_album(p.album.id, [p.part.id])
        later(r)
        assert list(await patiently(r, s.ls("/Live"))) == ["IMG_7.JPG"]


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_what_immich_cut_out_is_no_file(tmp_path: Path, version: str, way: str) -> None:
    async with rig(tmp_path, version, loopback=True, **settings(way)) as r:
        path = f"/data/encoded-video/{r.alice.id}/ab/cd/abcd-MP.mp4"
        cut = r.asset("PXL.mp4", motion("", "cut"), visibility="hidden", path=path)
        uploaded = r.asset("IMG.mp4", motion("", "mine"), visibility="hidden")
        one = r.asset("PXL.jpg", live_video=cut.id)
        two = r.asset("IMG.jpg", live_video=uploaded.id)
        r.album("Live", one, two)
        s = await session(r, way)
        listed = ["IMG.jpg", "IMG.mp4", "PXL.jpg"]
        assert sorted(await s.ls("/Live")) == listed
        asked = r.demo.requests["GET /assets/{id}"]
        # To put it beside the still as a file of its own is refused, and said.
        await raises(Refused, s.put("/Live/PXL.mp4", motion("", "cut"), TAKEN))
        await s.rm("/Live/PXL.jpg")
        later(r)
        assert sorted(await s.ls("/Live")) == listed[:2]
        assert r.demo.requests["GET /assets/{id}"] <= asked + 3


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_a_listing_fails_if_a_part_cannot_be_asked_for(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        video = r.asset("IMG.mp4", motion("", "mine"), visibility="hidden")
        r.album("Live", r.asset("IMG.jpg", live_video=video.id))
        s = await session(r, way)
        r.demo.faults.add("status", route="/assets/{id}", method="GET", status=500, count=None)
        await raises(Unreachable, s.ls("/Live"))
        r.demo.faults.clear()
        assert sorted(await s.ls("/Live")) == ["IMG.jpg", "IMG.mp4"]


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_somebody_elses_live_photo_is_whole_too(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        p = pair(r)
        r.demo._albums.share(p.album, [(bob.id, "editor")])
        key = r.demo.add_key(bob) if way == "key" else ""
        s = await r.session("bob@example.com", key=key)
        for _ in range(2):
            assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
            later(r)
        assert await s.get("/Live/IMG_7.MOV") == motion("IMG_7", "IMG_7")
        await raises(Denied, s.rm("/Live/IMG_7.MOV"))
        assert p.still.live_video == p.part.id


@versions
@pytest_twisted.ensureDeferred
async def test_a_viewer_copies_both_halves_and_changes_nothing(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        p = pair(r)
        r.demo._albums.share(p.album, [(bob.id, "viewer")])
        mine = r.demo.add_album(bob, "Mine")
        s = await r.session("bob@example.com")
        for end in ("MOV", "JPG"):
            path = f"/Live/IMG_7.{end}"
            await raises(Denied, s.rm(path))
            await raises(Denied, s.mv(path, f"/Mine/IMG_7.{end}"))
            await raises(Denied, s.mv(path, f"/Live/other.{end}"))
            with pytest.raises((Denied, Unsupported)):
                await ln(s, path, f"/Mine/IMG_7.{end}")
            assert await s.ls("/Mine") == {}
        for end in ("MOV", "JPG"):
            await cp(s, f"/Live/IMG_7.{end}", f"/Mine/IMG_7.{end}")
            await s.utime(f"/Mine/IMG_7.{end}")
        assert await s.get("/Mine/IMG_7.MOV") == motion("IMG_7", "IMG_7")
        assert await s.get("/Mine/IMG_7.JPG") == still("IMG_7", "IMG_7")
        assert {asset.owner_id for asset in r.demo.assets_of(mine)} == {bob.id}
        assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert p.still.live_video == p.part.id


@ways
@pytest_twisted.ensureDeferred
async def test_a_removal_of_the_part_is_refused_where_there_is_no_trash(
    tmp_path: Path, way: str
) -> None:
    async with rig(tmp_path, **settings(way)) as r:
        p = pair(r)
        r.demo.trash_enabled = False
        s = await session(r, way)
        await raises(Denied, s.rm("/Live/IMG_7.MOV"))
        assert sorted(await s.ls("/Live")) == ["IMG_7.JPG", "IMG_7.MOV"]
        assert p.still.live_video == p.part.id


# -- names ---------------------------------------------------------------------------------------


@versions
@ways
@pytest_twisted.ensureDeferred
async def test_a_still_and_its_part_have_the_same_digits(
    tmp_path: Path, version: str, way: str
) -> None:
    async with rig(tmp_path, version, **settings(way)) as r:
        first = pair(r, "A")
        one = r.asset("IMG_7.JPG", still("second", "2"))
        two = r.asset("IMG_7.MOV", motion("second", "2"))
        second = r.album("B", first.still, one, two)
        r.demo.link_live_photos()
        assert r.names_in(second) == ["IMG_7.JPG", "IMG_7.JPG"]
        s = await session(r, way)
        mark = one.id[:8]
        wanted = ["IMG_7 ~" + mark + ".JPG", "IMG_7 ~" + mark + ".MOV", "IMG_7.JPG", "IMG_7.MOV"]
        assert sorted(await s.ls("/B")) == wanted
        assert await s.get(f"/B/IMG_7 ~{mark}.MOV") == motion("second", "2")
        later(r)
        assert sorted(await s.ls("/B")) == wanted
