"""Moving and renaming: files, folders, and uploads on their way (BEHAVIOUR, section 8)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, VERSIONS, jpeg, raises, rig

from immich_conch.errors import AlreadyExists, NotFound, Unsupported

#: What a key needs to look and to upload.
UPLOADS = {
    "user.read",
    "album.read",
    "asset.read",
    "asset.download",
    "asset.upload",
    "asset.update",
    "albumAsset.create",
    "server.about",
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_moving_a_file_to_another_album_adds_it_there_first(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        best = r.album("Best")
        session = await r.session()
        # A move that breaks off half-way has lost nothing.
        r.demo.faults.add("status", method="DELETE", route="/albums/{id}/assets", count=None)
        with pytest.raises(Exception, match="not reachable"):
            await session.mv("/Rome/a.jpg", "/Best/a.jpg")
        assert len(asset.albums) == 2
        r.demo.faults.clear()
        await session.posix_mv("/Rome/a.jpg", "/Best/a.jpg")
        assert asset.albums == {best.id}
        assert asset.deleted is None
        assert (list(await session.ls("/Best")), await session.ls("/Rome")) == (["a.jpg"], {})


@pytest_twisted.ensureDeferred
async def test_plain_rename_never_replaces_and_posix_rename_does(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        moved, old = r.asset("a.jpg", jpeg("moved")), r.asset("a.jpg", jpeg("old"))
        r.album("Rome", moved)
        best = r.album("Best", old)
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/Best/a.jpg"))
        await session.posix_mv("/Rome/a.jpg", "/Best/a.jpg")
        assert moved.albums == {best.id}
        assert (moved.deleted, old.deleted is None) == (None, False)
        assert list(await session.ls("/Best")) == ["a.jpg"]
        assert await session.get("/Best/a.jpg") == jpeg("moved")


@pytest_twisted.ensureDeferred
async def test_a_name_that_cannot_be_kept_is_unsupported(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("a.jpg"))
        least = sorted({*UPLOADS, "albumAsset.delete"} - {"asset.update"})
        session = await r.session(key=r.demo.add_key(r.alice, least))
        await raises(Unsupported, session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        await session.mv("/Rome/a.jpg", "/Rome/a.jpg")
        assert r.names_in(album) == ["a.jpg"]
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_renaming_a_folder_renames_the_album(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("Rome", r.asset("a.jpg"))
        r.album("Best")
        session = await r.session()
        await session.mv("/Rome", "/Roma")
        assert album.name == "Roma"
        assert list(await session.ls("/Roma")) == ["a.jpg"]
        await raises(NotFound, session.stat("/Rome"))
        await raises(AlreadyExists, session.mv("/Roma", "/Best"))
        await raises(NotFound, session.mv("/Nowhere", "/X"))


@pytest_twisted.ensureDeferred
async def test_a_sealed_file_is_moved_to_another_album(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        rome, best = r.album("Rome"), r.album("Best")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        await session.mv("/Rome/a.jpg", "/Best/b.jpg")
        await r.settled()
        assert (r.names_in(rome), r.names_in(best)) == ([], ["b.jpg"])


@pytest_twisted.ensureDeferred
async def test_a_file_is_renamed_while_it_is_written(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg.part")
        handle.writeChunk(0, jpeg("a"))
        await session.mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        handle.setAttrs({"mtime": TAKEN})
        await handle.close()
        assert r.names_in(album) == ["a.jpg"]
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_parked_file_replaces_a_committed_one_by_posix_rename_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        r.album("Rome", old)
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("new"), TAKEN)
        await raises(AlreadyExists, session.mv("/Rome/a.jpg.part", "/Rome/a.jpg"))
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "a.jpg.part"]
        await session.posix_mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert await session.get("/Rome/a.jpg") == jpeg("new")
        assert old.deleted is not None


@pytest_twisted.ensureDeferred
async def test_a_rename_that_fails_leaves_the_file_under_its_old_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("a"), TAKEN)
        r.demo.faults.add("status", method="POST", route="/assets", count=None)
        with pytest.raises(Exception, match="not reachable"):
            await session.posix_mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        assert list(await session.ls("/Rome")) == ["a.jpg.part"]
        r.demo.faults.clear()
        await session.posix_mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        assert r.names_in(album) == ["a.jpg"]
