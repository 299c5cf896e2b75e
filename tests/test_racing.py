"""Two at once: what several sessions do to one name at the same time (BEHAVIOUR, section 5)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, WRITE, Session, contents, jpeg, quiet, raises, rig, until
from twisted.internet.defer import Deferred

from immich_conch.errors import NotFound
from immich_conch.library.nodes import FileNode, asset_key
from immich_conch.library.paths import parse
from immich_conch.transfer.upload import State


@pytest_twisted.ensureDeferred
async def test_a_file_removed_while_it_is_written_goes_and_the_photo_below_stays(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album = r.album("Rome", old)
        session, other = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("half"))
        await other.rm("/Rome/a.jpg")
        assert (await other.stat("/Rome/a.jpg"))["size"] == old.size
        handle.writeChunk(100, b"more")
        await handle.close()
        assert r.demo.assets_of(album) == [old]
        assert (old.deleted, r.in_spool()) == (None, [])


@pytest_twisted.ensureDeferred
async def test_removing_a_sealed_overwrite_removes_what_it_was_to_overwrite(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album = r.album("Rome", old)
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("new"))
        await session.rm("/Rome/a.jpg")
        assert await session.ls("/Rome") == {}
        assert contents(r, album) == {}
        assert r.in_spool() == []
        assert not r.clock.getDelayedCalls()


@pytest.mark.parametrize("timed", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_remove_that_meets_close_leaves_nothing_behind(tmp_path: Path, timed: bool) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, other = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg", WRITE, **({"mtime": TAKEN} if timed else {}))
        handle.writeChunk(0, jpeg("a"))
        closing = handle.close()
        await other.rm("/Rome/a.jpg")
        await closing
        assert await other.ls("/Rome") == {}
        assert contents(r, album) == {}
        assert r.in_spool() == []
        await r.pass_time(60)
        assert contents(r, album) == {}


@pytest_twisted.ensureDeferred
async def test_a_rename_that_meets_close_still_gets_the_file_in(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, other = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg.part", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("a"))
        closing = handle.close()
        await other.mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        await closing
        assert r.names_in(album) == ["a.jpg"]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_setstat_that_meets_a_rename_commits_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, other = await r.session(), await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        upload = r.accounts.uploads(session.lease).find(album.id, "a.jpg")
        assert upload is not None
        renaming = Deferred.fromCoroutine(session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        setting = Deferred.fromCoroutine(
            r.accounts.uploads(other.lease).set_time(upload, float(TAKEN))
        )
        await renaming
        await setting
        await r.pass_time(60)
        assert r.counters["uploads.committed"] == 1
        assert len(contents(r, album)) == 1
        assert len(await other.ls("/Rome")) == 1


@pytest_twisted.ensureDeferred
async def test_a_rename_that_comes_after_the_commit_puts_nothing_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        uploads = r.accounts.uploads(session.lease)
        upload = uploads.find(album.id, "a.jpg")
        assert upload is not None
        await r.settled()
        assert upload.state is State.COMMITTED
        shown = (await session.lease.catalog.albums())["Rome"]
        # The tree looks again, and finds a file that Immich has.
        assert not await uploads.rename(upload, shown, "b.jpg")
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert len(uploads) == 0


@pytest.mark.parametrize("first_timed", [False, True])
@pytest.mark.parametrize("last_timed", [False, True])
@pytest.mark.parametrize("first_opened_first", [False, True])
@pytest_twisted.ensureDeferred
async def test_of_two_who_write_one_name_the_one_that_closes_last_stays(
    tmp_path: Path, first_timed: bool, last_timed: bool, first_opened_first: bool
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        one, two = await r.session(), await r.session()
        handles = [await one.open("/Rome/a.jpg"), await two.open("/Rome/a.jpg")]
        first, last = handles if first_opened_first else reversed(handles)
        first.writeChunk(0, jpeg("first"))
        last.writeChunk(0, jpeg("last"))
        if first_timed:
            first.setAttrs({"mtime": TAKEN})
        if last_timed:
            last.setAttrs({"mtime": TAKEN})
        await first.close()
        await last.close()
        await r.settled()
        assert contents(r, album) == {"a.jpg": jpeg("last")}
        assert list(await one.ls("/Rome")) == ["a.jpg"]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_an_older_upload_that_settles_while_a_newer_one_is_committed_stays_out(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("old"))
        handle = await session.open("/Rome/a.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("new"))
        r.demo.faults.add("hang", method="POST", route="/assets", seconds=0.2)
        closing = handle.close()
        await until(lambda: r.demo.requests["POST /assets"])
        r.clock.advance(5)
        await closing
        await until(lambda: not any(r.busy()))
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        assert r.in_spool() == []


async def _key(session: Session, album_id: str, name: str) -> object:
    """The lock of what is shown under a name."""
    return asset_key((await session.lease.catalog.folder(album_id)).by_key[name].asset)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("target", ["a.jpg", "c.jpg"])
@pytest_twisted.ensureDeferred
async def test_a_file_that_a_remove_gets_first_takes_nobodys_name(
    tmp_path: Path, target: str, elsewhere: bool
) -> None:
    """What is in the trash, or in another album only, can be given a name in this one as well."""
    async with rig(tmp_path) as r:
        gone, stays = r.asset("b.jpg"), r.asset("a.jpg")
        album = r.album("Rome", gone, stays)
        r.album("Other", *([gone] if elsewhere else []))
        session, other = await r.session(), await r.session()
        held = await _key(session, album.id, "b.jpg")
        locks = r.accounts.uploads(session.lease).locks
        async with locks.hold(held):
            removing = Deferred.fromCoroutine(other.rm("/Rome/b.jpg"))
            await quiet()
            moving = Deferred.fromCoroutine(session.posix_mv("/Rome/b.jpg", f"/Rome/{target}"))
            await quiet()
        await removing
        await raises(NotFound, moving)
        assert contents(r, album) == {"a.jpg": jpeg("a.jpg")}
        assert (stays.deleted, gone.deleted is None) == (None, elsewhere)
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_file_that_a_remove_gets_first_gets_no_second_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("b.jpg"))
        session, other = await r.session(), await r.session()
        held = await _key(session, album.id, "b.jpg")
        locks = r.accounts.uploads(session.lease).locks
        async with locks.hold(held):
            removing = Deferred.fromCoroutine(other.rm("/Rome/b.jpg"))
            await quiet()
            source, target = (parse(one) for one in (b"/Rome/b.jpg", b"/Rome/c.jpg"))
            linking = Deferred.fromCoroutine(session.sftp.tree.link(source, target))
            await quiet()
        await removing
        await raises(NotFound, linking)
        assert await session.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_overwritten_first_takes_nobodys_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old, stays = r.asset("b.jpg"), r.asset("a.jpg")
        album = r.album("Rome", old, stays)
        session, other = await r.session(), await r.session()
        handle = await other.open("/Rome/b.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("new"))
        node = await session.sftp.tree.find(parse(b"/Rome/a.jpg"))
        assert node is not None
        locks = r.accounts.uploads(session.lease).locks
        folder = await session.lease.catalog.folder(album.id)
        source = FileNode(node.album, folder.by_key["b.jpg"])
        held = asset_key(source.file.asset)
        async with locks.hold(held):
            closing = handle.close()
            await until(lambda: r.demo.requests["PUT /assets/copy"])
            await quiet()
            moving = Deferred.fromCoroutine(
                session.sftp.tree._move(source, node.album, "a.jpg", node)
            )
            await quiet()
        await closing
        await raises(NotFound, moving)
        assert contents(r, album) == {"a.jpg": jpeg("a.jpg"), "b.jpg": jpeg("new")}


@pytest.mark.parametrize("name", ["a.jpg.part", "a.jpg"])
@pytest_twisted.ensureDeferred
async def test_of_two_renames_of_one_upload_the_first_one_counts(tmp_path: Path, name: str) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, other = await r.session(), await r.session()
        await session.put(f"/Rome/{name}", jpeg("a"))
        uploads = r.accounts.uploads(session.lease)
        upload = uploads.find(album.id, name)
        assert upload is not None
        async with uploads._alone(upload):
            first = Deferred.fromCoroutine(session.mv(f"/Rome/{name}", "/Rome/b.jpg"))
            await quiet()
            second = Deferred.fromCoroutine(other.mv(f"/Rome/{name}", "/Rome/c.jpg"))
            await quiet()
        await first
        await raises(NotFound, second)
        assert list(await other.ls("/Rome")) == ["b.jpg"]
        await r.settled()
        assert contents(r, album) == {"b.jpg": jpeg("a")}
