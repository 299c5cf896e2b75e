"""Moving and renaming: files, folders, and uploads on their way (BEHAVIOUR, section 8)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, VERSIONS, jpeg, raises, rig
from twisted.internet.defer import Deferred, DeferredList

from immich_conch.errors import AlreadyExists, ConchError, Denied, NotFound, Unsupported

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
async def test_a_file_with_a_mark_replaces_its_namesake_and_is_not_lost(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first, second = r.asset("a.jpg", jpeg("first")), r.asset("a.jpg", jpeg("second"))
        r.album("Rome", first, second)
        session = await r.session()
        marked = f"a ~{second.id[:8]}.jpg"
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", marked])
        await session.posix_mv(f"/Rome/{marked}", "/Rome/a.jpg")
        assert (first.deleted is None, second.deleted is None) == (False, True)
        for _ in range(2):
            assert list(await session.ls("/Rome")) == ["a.jpg"]
            assert await session.get("/Rome/a.jpg") == jpeg("second")
            r.clock.advance(3.0)


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


STEPS = (
    ("GET", "/assets/{id}/metadata"),
    ("GET", "/albums"),
    ("PUT", "/assets/{id}/metadata"),
    ("PUT", "/albums/{id}/assets"),
    ("DELETE", "/assets"),
    ("DELETE", "/albums/{id}/assets"),
    ("DELETE", "/assets/{id}/metadata/{key}"),
)


@pytest.mark.parametrize("kind", ["status", "lose-answer"])
@pytest.mark.parametrize(("method", "route"), STEPS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_move_that_fails_anywhere_loses_nothing_and_can_be_done_again(
    tmp_path: Path, version: str, method: str, route: str, kind: str
) -> None:
    async with rig(tmp_path, version, freshness=60.0) as r:
        moved, old = r.asset("a.jpg", jpeg("moved")), r.asset("b.jpg", jpeg("old"))
        rome, best = r.album("Rome", moved), r.album("Best", old)
        session = await r.session()
        # With a time of its own, so that there is a note to take back.
        await session.utime("/Rome/a.jpg", TAKEN + 1)
        await session.ls("/Rome"), await session.ls("/Best")
        r.demo.faults.add(kind, method=method, route=route, count=None)
        failed = False
        try:
            await session.posix_mv("/Rome/a.jpg", "/Best/b.jpg")
        except ConchError:
            failed = True
        r.demo.faults.clear()
        assert moved.deleted is None and moved.albums
        if failed and rome.id not in moved.albums:
            # Only Immich's word for the last step was lost, so it is where it was to be.
            assert (kind, method, moved.albums) == ("lose-answer", "DELETE", {best.id})
            session.lease.catalog.stale()
        elif failed:
            # Where the client has seen it, it is still.
            assert (await session.get("/Rome/a.jpg")) == jpeg("moved")
            await session.posix_mv("/Rome/a.jpg", "/Best/b.jpg")
        assert moved.albums == {best.id}
        assert old.deleted is not None
        assert {name: a["mtime"] for name, a in (await session.ls("/Best")).items()} == {
            "b.jpg": TAKEN + 1
        }
        assert await session.ls("/Rome") == {}


@pytest.mark.parametrize(("method", "route"), STEPS)
@pytest_twisted.ensureDeferred
async def test_a_rename_over_another_file_that_fails_anywhere_loses_nothing(
    tmp_path: Path, method: str, route: str
) -> None:
    async with rig(tmp_path, freshness=60.0) as r:
        moved, old = r.asset("a.jpg", jpeg("moved")), r.asset("b.jpg", jpeg("old"))
        r.album("Rome", moved, old)
        session = await r.session()
        await session.ls("/Rome")
        r.demo.faults.add("status", method=method, route=route, count=None)
        failed = False
        try:
            await session.posix_mv("/Rome/a.jpg", "/Rome/b.jpg")
        except ConchError:
            failed = True
        r.demo.faults.clear()
        if failed:
            assert (await session.get("/Rome/a.jpg")) == jpeg("moved")
            await session.posix_mv("/Rome/a.jpg", "/Rome/b.jpg")
        assert (moved.deleted, old.deleted is None) == (None, False)
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        assert await session.get("/Rome/b.jpg") == jpeg("moved")


@pytest_twisted.ensureDeferred
async def test_two_files_moved_over_each_other_at_once_do_not_wait_in_a_ring(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        one, two = r.asset("a.jpg", jpeg("one")), r.asset("b.jpg", jpeg("two"))
        r.album("Rome", one, two)
        session = await r.session()
        await session.ls("/Rome")
        first = Deferred.fromCoroutine(session.posix_mv("/Rome/a.jpg", "/Rome/b.jpg"))
        second = Deferred.fromCoroutine(session.posix_mv("/Rome/b.jpg", "/Rome/a.jpg"))
        results = await DeferredList([first, second], consumeErrors=True)
        assert any(fine for fine, _ in results)
        # Whoever was second found it changed; one of them at least is there, under one name.
        left = await session.ls("/Rome")
        assert left
        assert [asset.deleted for asset in (one, two)].count(None) == len(left)


@pytest_twisted.ensureDeferred
async def test_a_committed_file_replaces_one_that_waits_for_its_time(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        moved = r.asset("a.jpg", jpeg("moved"))
        r.album("Rome", moved)
        best = r.album("Best")
        session = await r.session()
        await session.put("/Best/a.jpg", jpeg("waits"))
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/Best/a.jpg"))
        await session.posix_mv("/Rome/a.jpg", "/Best/a.jpg")
        assert moved.albums == {best.id}
        assert list(await session.ls("/Best")) == ["a.jpg"]
        assert await session.get("/Best/a.jpg") == jpeg("moved")
        await r.settled()
        assert r.names_in(best) == ["a.jpg"]
        # What is being written is not in the way of nothing: it has the name.
        handle = await session.open("/Rome/c.jpg")
        handle.writeChunk(0, jpeg("c"))
        await raises(AlreadyExists, session.posix_mv("/Best/a.jpg", "/Rome/c.jpg"))
        handle.setAttrs({"mtime": TAKEN})
        await handle.close()
        assert sorted(await session.ls("/Rome")) == ["c.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_move_onto_itself_changes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        for again in (session.mv, session.posix_mv):
            await again("/Rome/a.jpg", "/Rome/./a.jpg")
        assert (asset.albums, asset.deleted) == ({album.id}, None)
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_move_to_where_the_asset_is_already_leaves_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        best = r.album("Best", asset)
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/Best/a.jpg"))
        await session.posix_mv("/Rome/a.jpg", "/Best/a.jpg")
        assert (asset.albums, asset.deleted) == ({best.id}, None)
        assert (await session.ls("/Rome"), list(await session.ls("/Best"))) == ({}, ["a.jpg"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_files_move_between_own_and_shared_albums_as_immich_allows(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN)
        shared = {"alice@example.com": "editor"}
        edited = r.demo.add_album(bob, "Edited", [theirs], shared=shared)
        r.demo.add_album(bob, "Viewed", [theirs], shared={"alice@example.com": "viewer"})
        mine = r.asset("mine.jpg")
        rome = r.album("Rome", mine)
        session = await r.session()
        await session.mv("/Rome/mine.jpg", "/Edited/mine.jpg")
        assert mine.albums == {edited.id}
        await session.mv("/Edited/mine.jpg", "/Rome/again.jpg")
        assert mine.albums == {rome.id}
        assert list(await session.ls("/Rome")) == ["again.jpg"]
        before = set(theirs.albums)
        for path in ("/Edited/theirs.jpg", "/Viewed/theirs.jpg"):
            await raises(Denied, session.mv(path, "/Rome/theirs.jpg"))
        await raises(Denied, session.mv("/Rome/again.jpg", "/Viewed/again.jpg"))
        await raises(Denied, session.posix_mv("/Rome/again.jpg", "/Edited/theirs.jpg"))
        assert (theirs.albums, mine.albums) == (before, {rome.id})


@pytest_twisted.ensureDeferred
async def test_a_file_moved_to_the_name_of_a_cut_upload_takes_its_place(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg", jpeg("a", 100)))
        r.album("Best")
        session = await r.session()
        handle = await session.open("/Best/a.jpg")
        handle.writeChunk(0, b"half")
        handle.abort()
        assert (await session.stat("/Best/a.jpg"))["size"] == 4
        await session.mv("/Rome/a.jpg", "/Best/a.jpg")
        assert (await session.stat("/Best/a.jpg"))["size"] == 100


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_file_trashed_by_somebody_else_is_not_moved_into_thin_air(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, freshness=60.0) as r:
        asset, rome, best = r.asset("a.jpg"), r.album("Rome"), r.album("Best")
        r.demo._albums._link(rome, asset)
        session = await r.session()
        await session.ls("/Rome")
        await session.lease.immich.trash([asset.id])
        await raises(NotFound, session.mv("/Rome/a.jpg", "/Best/b.jpg"))
        assert await session.ls("/Best") == {}
        # Restored it is where it was, and nowhere else.
        await session.lease.immich.restore([asset.id])
        assert asset.albums == {rome.id}
        assert not asset.notes
        assert r.names_in(best) == []


@pytest_twisted.ensureDeferred
async def test_many_files_are_moved_with_a_few_questions_each(tmp_path: Path) -> None:
    count = 200
    async with rig(tmp_path, freshness=60.0) as r:
        assets = r.demo.add_assets(r.alice, [f"{n}.jpg" for n in range(count)], TAKEN)
        r.album("Rome", *assets)
        best = r.album("Best")
        session = await r.session()
        await session.ls("/Rome"), await session.ls("/Best")
        before = sum(r.demo.requests.values())
        for number in range(count):
            await session.mv(f"/Rome/{number}.jpg", f"/Best/{number}.jpg")
        assert all(asset.albums == {best.id} for asset in assets)
        # What is noted, which albums hold it, into the one, not in the trash, out of the other.
        assert sum(r.demo.requests.values()) - before <= 5 * count + 10
        assert len(await session.ls("/Best")) == count
        assert await session.ls("/Rome") == {}
