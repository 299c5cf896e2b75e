"""Live photos: two files here, in Immich a still and its hidden motion part (sections 2 and 5)."""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from attrs import frozen
from live_halves import motion, still
from rig import TAKEN, VERSIONS, Rig, Session, contents, jpeg, quiet, raises, rig
from test_copying import cp, ln
from twisted.internet.defer import Deferred

from immich_conch.demo.entities import Album, Asset
from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from immich_conch.immich.session import Session as ImmichSession

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


# -- removing -----------------------------------------------------------------------------------


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


# -- moving -------------------------------------------------------------------------------------


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


# -- a half takes the name of another file ------------------------------------------------------


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


# -- uploading ----------------------------------------------------------------------------------


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


# -- what Immich is doing just now ----------------------------------------------------------------


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


# -- names --------------------------------------------------------------------------------------


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
