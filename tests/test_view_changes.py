"""Removing from views and moving between them: what a view stands for goes and comes."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, jpeg, raises
from test_copying import cp, ln
from viewing import both, person, tag, trashed, viewed

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
    Unsupported,
)

# -- removing ------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_removing_undoes_just_what_the_view_stands_for(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg", favorite=True, visibility="archive")
        album = r.album("Rome", asset)
        tag(r, "Places/Rome", asset)
        other = tag(r, "Other", asset)
        session = await r.session()
        for path in ("/@Favorites/a.jpg", "/@Archive/a.jpg", "/@Tags/Places/a.jpg"):
            await session.rm(path)
            await raises(NotFound, session.stat(path))
            assert "a.jpg" not in await session.ls(path.rpartition("/")[0])
        assert (asset.favorite, asset.visibility, asset.tags) == (False, "timeline", [other.id])
        assert asset.deleted is None
        assert r.names_in(album) == ["a.jpg"]
        assert list(await session.ls("/@Tags/Places")) == ["Rome"]
        assert await session.ls("/@Tags/Places/Rome") == {}


@both
@pytest_twisted.ensureDeferred
async def test_removing_from_unsorted_and_timeline_is_the_trash(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        loose, kept = r.asset("loose.jpg"), r.asset("kept.jpg")
        r.album("Rome", kept)
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["kept.jpg"]
        await session.rm("/@Unsorted/loose.jpg")
        await session.rm("/@Timeline/2017/2017-07/kept.jpg")
        assert loose.deleted is not None
        assert kept.deleted is not None
        assert await session.ls("/Rome") == {}
        assert sorted(await session.ls("/@Trash")) == ["kept.jpg", "loose.jpg"]


@pytest_twisted.ensureDeferred
async def test_removing_where_there_is_no_trash_is_refused_but_relations_can_go(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        r.demo.trash_enabled = False
        asset = r.asset("a.jpg", favorite=True)
        session = await r.session()
        await raises(Denied, session.rm("/@Unsorted/a.jpg"))
        await raises(Denied, session.rm("/@Timeline/2017/2017-07/a.jpg"))
        await session.rm("/@Favorites/a.jpg")
        assert (asset.favorite, asset.deleted) == (False, None)


@both
@pytest_twisted.ensureDeferred
async def test_the_trash_gives_nothing_up_without_final_deletion(
    tmp_path: Path, version: str
) -> None:
    for final in (False, True):
        async with viewed(tmp_path / str(final), version, final_delete=final) as r:
            asset = r.asset("a.jpg")
            await trashed(r, asset)
            session = await r.session()
            if not final:
                with pytest.raises(Denied, match="--final-delete"):
                    await session.rm("/@Trash/a.jpg")
                assert asset.status == "trashed"
                continue
            await session.rm("/@Trash/a.jpg")
            assert asset.status == "deleted"
            assert await session.ls("/@Trash") == {}


@pytest_twisted.ensureDeferred
async def test_people_are_left_alone(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        anna = person(r, "Anna", asset)
        session = await r.session()
        await raises(Denied, session.rm("/@People/Anna/a.jpg"))
        await raises(Denied, session.sftp.removeDirectory(b"/@People/Anna"))
        await raises(Denied, session.sftp.makeDirectory(b"/@People/Bob", {}))
        await raises(Unsupported, session.mv("/@People/Anna", "/@People/Bob"))
        assert asset.people == [anna.id]


@both
@pytest_twisted.ensureDeferred
async def test_tags_are_made_and_removed_while_nothing_has_them(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        session = await r.session()
        await session.sftp.makeDirectory(b"/@Tags/Places", {})
        await session.sftp.makeDirectory(b"/@Tags/Places/Rome", {})
        await raises(AlreadyExists, session.sftp.makeDirectory(b"/@Tags/Places/Rome", {}))
        await raises(NotFound, session.sftp.makeDirectory(b"/@Tags/No/Where", {}))
        assert sorted(t.value for t in r.demo.state.tags.values()) == ["Places", "Places/Rome"]
        await session.put("/@Tags/Places/Rome/a.jpg", jpeg("a"), TAKEN)
        await raises(NotEmpty, session.sftp.removeDirectory(b"/@Tags/Places"))
        await raises(NotEmpty, session.sftp.removeDirectory(b"/@Tags/Places/Rome"))
        await session.rm("/@Tags/Places/Rome/a.jpg")
        await session.sftp.removeDirectory(b"/@Tags/Places/Rome")
        await session.sftp.removeDirectory(b"/@Tags/Places")
        assert await session.ls("/@Tags") == {}
        assert r.demo.state.tags == {}
        await raises(Denied, session.sftp.removeDirectory(b"/@Tags"))
        await raises(NotFound, session.sftp.removeDirectory(b"/@Tags/Places"))


# -- moving --------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_moving_out_of_the_trash_restores_into_that_album_alone(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        rome, paris = r.album("Rome", asset), r.album("Paris")
        hidden = r.album("Hidden", asset, description="#nosync")
        await trashed(r, asset)
        session = await r.session()
        await session.mv("/@Trash/a.jpg", "/Paris/b.jpg")
        assert asset.deleted is None
        assert r.demo.assets_of(rome) == []
        assert r.demo.assets_of(paris) == r.demo.assets_of(hidden) == [asset]
        assert await session.ls("/@Trash") == {}
        assert await session.get("/Paris/b.jpg") == jpeg("a.jpg")


@both
@pytest.mark.parametrize("mirrored", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_moving_between_views_and_albums_follows_what_they_stand_for(
    tmp_path: Path, version: str, mirrored: int
) -> None:
    async with viewed(tmp_path, version, mirror_max_assets=mirrored, mirror_keep=0.0) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome")
        mine = tag(r, "Mine")
        session = await r.session()

        async def state() -> tuple[bool, list[str], list[str]]:
            shown = [p for p in ("Rome", "@Favorites", "@Tags/Mine") if await session.ls(f"/{p}")]
            assert await session.ls("/@Unsorted") == ({} if asset.albums else {**here})
            return asset.favorite, asset.tags, shown

        here = await session.ls("/@Unsorted")
        await session.mv("/@Unsorted/a.jpg", "/Rome/a.jpg")
        assert await state() == (False, [], ["Rome"])
        await session.mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        assert await state() == (True, [], ["@Favorites"])
        await session.mv("/@Favorites/a.jpg", "/@Tags/Mine/a.jpg")
        assert await state() == (False, [mine.id], ["@Tags/Mine"])
        await session.mv("/@Tags/Mine/a.jpg", "/Rome/b.jpg")
        assert await state() == (False, [], ["Rome"])
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        await raises(Unsupported, session.mv("/Rome/b.jpg", "/@Unsorted/b.jpg"))
        await session.mv("/Rome/b.jpg", "/@Unsorted/a.jpg")
        assert await state() == (False, [], [])
        assert r.names_in(album) == []
        assert asset.deleted is None


@pytest_twisted.ensureDeferred
async def test_moving_out_of_the_timeline_and_people_only_adds(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        person(r, "Anna", asset)
        rome, paris = r.album("Rome"), r.album("Paris")
        session = await r.session()
        await session.mv("/@Timeline/2017/2017-07/a.jpg", "/Rome/a.jpg")
        await session.mv("/@People/Anna/a.jpg", "/Paris/a.jpg")
        assert r.names_in(rome) == r.names_in(paris) == ["a.jpg"]
        assert list(await session.ls("/@Timeline/2017/2017-07")) == ["a.jpg"]
        assert list(await session.ls("/@People/Anna")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_moves_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg", favorite=True)
        album = r.album("Rome", asset)
        r.album("Paris", asset)
        session = await r.session()
        await raises(Unsupported, session.mv("/@Favorites/a.jpg", "/@Favorites/b.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Trash/a.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Timeline/2017/2017-07/a.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Archive/a.jpg"))
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/@Favorites/a.jpg"))
        await raises(Refused, session.mv("/Rome/a.jpg", "/@Unsorted/a.jpg"))
        await raises(Unsupported, session.mv("/Rome", "/@Tags/Rome"))
        await session.posix_mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        assert r.names_in(album) == []
        await session.mv("/Paris/a.jpg", "/Paris/b.jpg")
        await session.put("/Paris/a.jpg", jpeg("a.jpg"), TAKEN)
        assert sorted(await session.ls("/Paris")) == ["a.jpg", "b.jpg"]
        await raises(Refused, session.mv("/Paris/a.jpg", "/@Unsorted/a.jpg"))
        assert asset.favorite


@pytest_twisted.ensureDeferred
async def test_a_link_into_a_view_makes_its_relation_and_keeps_the_place(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset, gone = r.asset("a.jpg"), r.asset("gone.jpg")
        album = r.album("Rome", asset)
        await trashed(r, gone)
        mine = tag(r, "Mine")
        session = await r.session()
        await ln(session, "/Rome/a.jpg", "/@Favorites/a.jpg")
        await ln(session, "/@Favorites/a.jpg", "/@Tags/Mine/a.jpg")
        assert (asset.favorite, asset.tags) == (True, [mine.id])
        assert r.names_in(album) == ["a.jpg"]
        assert not asset.notes
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await raises(Unsupported, ln(session, "/@Favorites/a.jpg", "/@Favorites/b.jpg"))
        await raises(Unsupported, ln(session, "/Rome/a.jpg", "/@Unsorted/a.jpg"))
        await raises(Unsupported, ln(session, "/@Trash/gone.jpg", "/Rome/gone.jpg"))
        await raises(Denied, ln(session, "/Rome/a.jpg", "/@Archive/a.jpg"))
        await session.put("/Rome/late.jpg", jpeg("late"))
        await raises(Unsupported, ln(session, "/Rome/late.jpg", "/@Favorites/other.jpg"))
        assert sorted(r.names_in(album)) == ["a.jpg", "late.jpg"]
        await ln(session, "/@Timeline/2017/2017-07/a.jpg", "/Rome/b.jpg")
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "b.jpg", "late.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_a_copy_into_a_view_is_held_to_what_the_view_can_show(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        asset = r.asset("IMG_7.heic", live_video=part.id)
        album = r.album("Rome", asset)
        tag(r, "Mine")
        session = await r.session()
        for old, new, kind in (
            ("/Rome/IMG_7.heic", "/@Favorites/other.heic", Unsupported),
            ("/Rome/IMG_7.heic", "/@Unsorted/IMG_7.heic", Refused),
            ("/Rome/IMG_7.mov", "/@Favorites/IMG_7.mov", Refused),
            ("/Rome/IMG_7.mov", "/@Tags/Mine/IMG_7.mov", Refused),
        ):
            await raises(kind, cp(session, old, new))
            assert await session.ls(new.rpartition("/")[0]) == {}
        assert (asset.favorite, asset.tags, asset.albums) == (False, [], {album.id})
        await cp(session, "/Rome/IMG_7.heic", "/@Favorites/IMG_7.heic")
        assert asset.favorite
        assert r.names_in(album) == ["IMG_7.heic"]


@both
@pytest_twisted.ensureDeferred
async def test_no_view_takes_the_motion_part_of_a_live_photo(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        still = r.asset("IMG_7.heic", live_video=part.id)
        session = await r.session()
        assert list(await session.ls("/@Unsorted")) == ["IMG_7.heic"]
        with pytest.raises(Refused, match="motion part"):
            await session.put("/@Favorites/IMG_7.mov", jpeg("part"), TAKEN)
        await session.rm("/@Unsorted/IMG_7.heic")
        assert still.deleted is not None
        await session.sftp.makeDirectory(b"/Rome", {})
        await session.mv("/@Trash/IMG_7.heic", "/Rome/IMG_7.heic")
        assert sorted(await session.ls("/Rome")) == ["IMG_7.heic", "IMG_7.mov"]


@pytest_twisted.ensureDeferred
async def test_a_part_whose_still_was_moved_into_a_view_can_be_removed_and_moved(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        still = r.asset("IMG_7.heic", live_video=part.id)
        r.album("Live", still)
        r.album("Films")
        session = await r.session()
        await session.ls("/Live")
        await session.mv("/Live/IMG_7.heic", "/@Favorites/IMG_7.heic")
        await session.rm("/Live/IMG_7.mov")
        assert (part.deleted, still.live_video) == (None, part.id)
        await session.mv("/Live/IMG_7.mov", "/Films/IMG_7.mov")
        assert list(await session.ls("/Films")) == ["IMG_7.mov"]
        assert list(await session.ls("/@Favorites")) == ["IMG_7.heic"]


@pytest_twisted.ensureDeferred
async def test_overwriting_a_still_that_is_in_no_album_hands_its_motion_part_on(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        old = r.asset("IMG_7.heic", live_video=part.id)
        session = await r.session()
        await session.put("/@Unsorted/IMG_7.heic", jpeg("edited"), TAKEN)
        new = next(a for a in r.demo.state.assets.values() if a not in (part, old))
        assert old.deleted is not None
        assert new.live_video == part.id
        assert part.deleted is None
