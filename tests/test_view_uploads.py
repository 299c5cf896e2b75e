"""Uploading into views: a file gets what its view stands for, from who may give it."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import pytest_twisted
from rig import NEW, NO_TRUNC, TAKEN, jpeg, raises
from viewing import ALL, both, person, tag, trashed, viewed

from immich_conch.errors import (
    Denied,
    MissingPermission,
    Refused,
    Unsupported,
)

# -- uploading -----------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_an_upload_gets_what_its_view_stands_for(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        rome = tag(r, "Places/Rome")
        session = await r.session()
        for path in ("/@Favorites/a.jpg", "/@Tags/Places/Rome/b.jpg", "/@Unsorted/c.jpg"):
            await session.put(path, jpeg(path), TAKEN)
            assert (await session.stat(path))["mtime"] == TAKEN
            assert await session.get(path) == jpeg(path)
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert [made[name].favorite for name in ("a.jpg", "b.jpg", "c.jpg")] == [True, False, False]
        assert [made[name].tags for name in ("a.jpg", "b.jpg", "c.jpg")] == [[], [rome.id], []]
        assert not any(asset.albums for asset in made.values())
        assert sorted(await session.ls("/@Unsorted")) == ["a.jpg", "b.jpg", "c.jpg"]
        assert sorted(await session.ls("/@Timeline/2017/2017-07")) == ["a.jpg", "b.jpg", "c.jpg"]
        assert not r.in_spool()


@both
@pytest_twisted.ensureDeferred
async def test_an_upload_without_a_time_and_by_a_rename_gets_there_too(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        session = await r.session()
        await session.put("/@Favorites/late.jpg", jpeg("late"))
        assert (await session.stat("/@Favorites/late.jpg"))["size"] == len(jpeg("late"))
        assert list(await session.ls("/@Favorites")) == ["late.jpg"]
        await session.put("/@Favorites/x.jpg.partial", jpeg("x"), TAKEN)
        await session.mv("/@Favorites/x.jpg.partial", "/@Favorites/x.jpg")
        await r.settled()
        found = {asset.name: asset.favorite for asset in r.demo.state.assets.values()}
        assert found == {"late.jpg": True, "x.jpg": True}
        assert sorted(await session.ls("/@Favorites")) == ["late.jpg", "x.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_known_bytes_get_what_the_view_stands_for_and_no_second_asset(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("a.jpg"), TAKEN)
        assert asset.favorite
        assert len(r.demo.state.assets) == 1
        assert r.names_in(album) == ["a.jpg"]
        await session.put("/@Favorites/a.jpg", jpeg("a.jpg"), TAKEN + 5)
        assert (await session.stat("/@Favorites/a.jpg"))["mtime"] == TAKEN
        assert not asset.notes


@both
@pytest_twisted.ensureDeferred
async def test_what_a_view_could_not_show_is_refused_at_close(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        with pytest.raises(Unsupported, match=r"'a\.jpg'"):
            await session.put("/@Favorites/other.jpg", jpeg("a.jpg"), TAKEN)
        with pytest.raises(Refused, match="'Rome'"):
            await session.put("/@Unsorted/a.jpg", jpeg("a.jpg"), TAKEN)
        assert not asset.favorite
        assert not r.in_spool()
        assert await session.ls("/@Unsorted") == {}


@pytest_twisted.ensureDeferred
async def test_trashed_bytes_come_back_without_their_albums(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        await trashed(r, asset)
        session = await r.session()
        await session.put("/@Unsorted/a.jpg", jpeg("a.jpg"), TAKEN)
        assert asset.deleted is None
        assert r.demo.assets_of(album) == []
        assert list(await session.ls("/@Unsorted")) == ["a.jpg"]
        assert await session.ls("/@Trash") == {}


@both
@pytest_twisted.ensureDeferred
async def test_overwriting_in_a_view_hands_on_what_it_stands_for(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        old = r.asset("a.jpg", favorite=True)
        album = r.album("Rome", old)
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("new"), TAKEN)
        new = next(asset for asset in r.demo.state.assets.values() if asset is not old)
        assert (new.favorite, old.favorite, old.deleted) == (True, False, None)
        assert r.demo.assets_of(album) == [old]
        assert await session.get("/@Favorites/a.jpg") == jpeg("new")
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await session.put("/@Unsorted/a.jpg", jpeg("newer"), TAKEN)
        assert await session.get("/@Unsorted/a.jpg") == jpeg("newer")
        assert new.deleted is not None
        newest = next(asset for asset in r.demo.state.assets.values() if asset not in (old, new))
        assert newest.favorite


@pytest_twisted.ensureDeferred
async def test_a_sealed_upload_finds_its_view_after_a_restart_without_views(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        rome, paris = tag(r, "Rome"), tag(r, "Paris")
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("a"))
        await session.put("/@Tags/Rome/b.jpg", jpeg("b"))
        await session.put("/@Tags/Paris/c.jpg", jpeg("c"))
        await session.put("/@Unsorted/d.jpg", jpeg("d"))
        del r.demo.state.tags[paris.id]
        session.hang_up()
        r.settings = attrs.evolve(r.settings, views=())
        r.restart()
        session = await r.session()
        await r.settled()
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert sorted(made) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert made["a.jpg"].favorite
        assert made["b.jpg"].tags == [rome.id]
        assert not r.in_spool()


@pytest.mark.parametrize(
    "path",
    [
        "/@Trash/x.jpg",
        "/@Archive/x.jpg",
        "/@People/Anna/x.jpg",
        "/@People/x.jpg",
        "/@Tags/x.jpg",
        "/@Timeline/2017/2017-07/x.jpg",
        "/@Timeline/x.jpg",
        "/@Favorites",
    ],
)
@pytest_twisted.ensureDeferred
async def test_where_files_cannot_be_put_the_open_is_refused(tmp_path: Path, path: str) -> None:
    async with viewed(tmp_path) as r:
        person(r, "Anna", r.asset("a.jpg"))
        session = await r.session()
        await raises(Denied, session.open(path))
        assert not r.in_spool()


@pytest_twisted.ensureDeferred
async def test_a_file_on_its_way_can_be_moved_into_a_view_and_out_of_it(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        await session.mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        await session.put("/@Favorites/b.jpg", jpeg("b"))
        await session.mv("/@Favorites/b.jpg", "/Rome/b.jpg")
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        await r.settled()
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert {name: asset.favorite for name, asset in made.items()} == {
            "a.jpg": True,
            "b.jpg": False,
        }
        assert r.names_in(album) == ["b.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_overwriting_by_remove_and_rename_hands_the_favourite_on(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        old = r.asset("a.jpg", favorite=True, description="mine")
        session = await r.session()
        await session.put("/@Favorites/a.jpg.filepart", jpeg("new"))
        await session.rm("/@Favorites/a.jpg")
        assert list(await session.ls("/@Favorites")) == ["a.jpg.filepart"]
        await session.mv("/@Favorites/a.jpg.filepart", "/@Favorites/a.jpg")
        await session.utime("/@Favorites/a.jpg")
        new = next(asset for asset in r.demo.state.assets.values() if asset is not old)
        assert (new.favorite, new.description, old.favorite) == (True, "mine", False)
        assert await session.get("/@Favorites/a.jpg") == jpeg("new")
        await r.settled()
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_an_upload_that_was_cut_off_is_resumed_in_its_view(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        session = await r.session()
        handle = await session.open("/@Favorites/a.jpg")
        handle.writeChunk(0, jpeg("a")[:2])
        handle.abort()
        assert await session.ls("/@Favorites") == {}
        assert (await session.stat("/@Favorites/a.jpg"))["size"] == 2
        handle = await session.open("/@Favorites/a.jpg", NO_TRUNC)
        handle.writeChunk(2, jpeg("a")[2:])
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await handle.close()
        assert await session.get("/@Favorites/a.jpg") == jpeg("a")


# -- who may -------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_a_key_without_a_permission_sees_the_view_and_cannot_open_it(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg", favorite=True)
        tag(r, "Mine", asset)
        session = await r.session(
            key=r.demo.add_key(r.alice, ("user.read", "album.read", "asset.read"))
        )
        assert set(await session.ls("/")) == ALL
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        for path, permission in (("/@People", "person.read"), ("/@Tags", "tag.read")):
            with pytest.raises(MissingPermission, match=permission):
                await session.ls(path)
        with pytest.raises(MissingPermission, match=r"asset\.update"):
            await session.rm("/@Favorites/a.jpg")
        assert asset.favorite


@pytest_twisted.ensureDeferred
async def test_a_key_that_could_not_finish_an_upload_hears_it_at_the_open(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        tag(r, "Mine")
        granted = ("user.read", "album.read", "asset.read", "asset.upload", "albumAsset.create")
        session = await r.session(key=r.demo.add_key(r.alice, (*granted, "tag.read")))
        for path, permission in (
            ("/@Favorites/a.jpg", "asset.update"),
            ("/@Tags/Mine/a.jpg", "tag.asset"),
        ):
            assert (await raises(MissingPermission, session.open(path))).permission == permission
        with pytest.raises(MissingPermission, match=r"tag\.create"):
            await session.sftp.makeDirectory(b"/@Tags/New", {})
        with pytest.raises(MissingPermission, match=r"tag\.delete"):
            await session.sftp.removeDirectory(b"/@Tags/Mine")
        await session.put("/@Unsorted/a.jpg", jpeg("a"), TAKEN)
        assert list(await session.ls("/@Unsorted")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_read_only_keeps_everything_as_it_is(tmp_path: Path) -> None:
    async with viewed(tmp_path, read_only=True) as r:
        asset = r.asset("a.jpg", favorite=True)
        r.album("Rome")
        session = await r.session()
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await raises(Denied, session.rm("/@Favorites/a.jpg"))
        await raises(Denied, session.open("/@Favorites/b.jpg", NEW))
        await raises(Denied, session.mv("/@Favorites/a.jpg", "/Rome/a.jpg"))
        await raises(Denied, session.sftp.makeDirectory(b"/@Tags/x", {}))
        await raises(Denied, session.sftp.removeDirectory(b"/@Tags/x"))
        assert asset.favorite
