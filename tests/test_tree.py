"""The tree: what is where, removing, moving (BEHAVIOUR, sections 2, 7, 8)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import pytest_twisted
from rig import NEW, TAKEN, VERSIONS, Rig, Session, jpeg, raises, rig
from twisted.internet.defer import Deferred

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
)


async def bob(r: Rig) -> Session:
    """A session of another user."""
    return await r.session("bob@example.com")


def with_bob(r: Rig) -> None:
    """Bob may log in."""
    r.demo.add_user("bob@example.com", "correct horse", "Bob")


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_root_lists_own_and_shared_albums(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        r.album("Mine", shared={"bob@example.com": "viewer"})
        r.album("Alice only")
        r.demo.add_album(r.demo.user("bob@example.com"), "Bob's")
        session = await bob(r)
        entries = await session.ls("/")
        assert sorted(entries) == ["Bob's", "Mine"]
        assert entries["Bob's"]["permissions"] == stat.S_IFDIR | 0o755
        assert entries["Mine"]["permissions"] == stat.S_IFDIR | 0o555


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_folder_lists_timeline_and_archive_only(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        trashed = r.asset("trashed.jpg")
        r.album(
            "Rome",
            r.asset("a.jpg"),
            r.asset("archived.jpg", visibility="archive"),
            r.asset("hidden.jpg", visibility="hidden"),
            trashed,
        )
        await (await r.server.log_in("alice@example.com", "correct horse")).trash([trashed.id])
        session = await r.session()
        entries = await session.ls("/Rome")
        assert sorted(entries) == ["a.jpg", "archived.jpg"]
        assert entries["a.jpg"]["size"] == len(jpeg("a.jpg"))
        assert entries["a.jpg"]["mtime"] == TAKEN
        assert entries["a.jpg"]["permissions"] == stat.S_IFREG | 0o644


@pytest_twisted.ensureDeferred
async def test_a_time_is_clamped_to_what_sftp_can_say(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old = r.demo.add_asset(r.alice, "old.jpg", jpeg("old"), -5_000_000)
        late = r.demo.add_asset(r.alice, "late.jpg", jpeg("late"), 2**32 + 5)
        r.album("Rome", old, late)
        entries = await (await r.session()).ls("/Rome")
        assert entries["old.jpg"]["mtime"] == 0
        assert entries["late.jpg"]["mtime"] == 2**32 - 1


@pytest_twisted.ensureDeferred
async def test_a_nosync_album_is_hidden_and_its_name_is_taboo(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Secret", r.asset("a.jpg"), description="private #nosync")
        session = await r.session()
        assert await session.ls("/") == {}
        await raises(NotFound, session.stat("/Secret"))
        await raises(Denied, session.ls("/Secret"))
        await raises(Denied, session.stat("/Secret/a.jpg"))
        await raises(Denied, session.get("/Secret/a.jpg"))
        await raises(Denied, session.open("/Secret/b.jpg"))
        await raises(Denied, session.rm("/Secret/a.jpg"))
        await raises(Denied, session.sftp.makeDirectory(b"/Secret", {}))
        await raises(Denied, session.sftp.removeDirectory(b"/Secret"))
        await session.sftp.makeDirectory(b"/Open", {})
        await raises(Denied, session.mv("/Open", "/Secret"))
        # It still takes part in naming: a second one of the name gets a mark.
        second = r.album("Secret")
        r.clock.advance(10)
        assert sorted(await session.ls("/")) == ["Open", f"Secret ~{second.id[:8]}"]
        assert r.names_in(album) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_the_root_takes_no_files_and_cannot_be_changed(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await raises(Denied, session.open("/a.jpg"))
        await raises(Denied, session.sftp.removeDirectory(b"/"))
        await raises(Denied, session.mv("/", "/x"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/a.jpg"))
        await raises(AlreadyExists, session.sftp.makeDirectory(b"/", {}))
        await raises(NotFound, session.open("/None/a.jpg"))
        await raises(NotFound, session.open("/Rome/sub/a.jpg"))
        await raises(Refused, session.ls("/Rome/a.jpg"))
        await raises(Refused, session.rm("/Rome"))


@pytest_twisted.ensureDeferred
async def test_read_only_serves_without_any_change(tmp_path: Path) -> None:
    async with rig(tmp_path, read_only=True) as r:
        album = r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        assert (await session.stat("/Rome"))["permissions"] == stat.S_IFDIR | 0o555
        assert await session.get("/Rome/a.jpg") == jpeg("a.jpg")
        await raises(Denied, session.open("/Rome/b.jpg"))
        await raises(Denied, session.open("/Rome/a.jpg"))
        await raises(Denied, session.rm("/Rome/a.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        await raises(Denied, session.sftp.makeDirectory(b"/Oslo", {}))
        await raises(Denied, session.sftp.removeDirectory(b"/Rome"))
        await raises(Denied, session.setstat("/Rome/a.jpg", size=1))
        await session.utime("/Rome/a.jpg")
        assert r.names_in(album) == ["a.jpg"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_editor_uploads_and_a_viewer_only_looks(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        edit = r.album("Edit", r.asset("a.jpg"), shared={"bob@example.com": "editor"})
        r.album("View", r.asset("b.jpg"), shared={"bob@example.com": "viewer"})
        session = await bob(r)
        await session.put("/Edit/mine.jpg", jpeg("mine"), TAKEN)
        assert r.names_in(edit) == ["a.jpg", "mine.jpg"]
        await raises(Denied, session.open("/View/mine.jpg"))
        await raises(Denied, session.rm("/View/b.jpg"))
        await raises(Denied, session.mv("/View/b.jpg", "/Edit/b.jpg"))
        assert await session.get("/View/b.jpg") == jpeg("b.jpg")
        # Somebody else's photo is not overwritten and, for an editor, not removed.
        await raises(Denied, session.open("/Edit/a.jpg"))
        await raises(Denied, session.rm("/Edit/a.jpg"))
        await session.rm("/Edit/mine.jpg")
        assert r.names_in(edit) == ["a.jpg"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_file_in_one_album_goes_to_the_trash(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        await session.rm("/Rome/a.jpg")
        assert (asset.deleted is None, asset.status) == (False, "trashed")
        assert await session.ls("/Rome") == {}
        await raises(NotFound, session.rm("/Rome/a.jpg"))


@pytest.mark.parametrize("description", ["", "#nosync"])
@pytest_twisted.ensureDeferred
async def test_a_file_in_another_album_too_leaves_this_one_only(
    tmp_path: Path, description: str
) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        rome, best = r.album("Rome", asset), r.album("Best", asset, description=description)
        session = await r.session()
        await session.rm("/Rome/a.jpg")
        assert asset.deleted is None
        assert asset.albums == {best.id}
        assert r.names_in(rome) == []
        assert await session.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_the_owner_takes_somebody_elses_photo_out_of_the_album_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        with_bob(r)
        theirs = r.demo.add_asset(r.demo.user("bob@example.com"), "b.jpg", jpeg("b"), TAKEN)
        r.album("Rome", theirs, shared={"bob@example.com": "editor"})
        await (await r.session()).rm("/Rome/b.jpg")
        assert (theirs.deleted, theirs.albums) == (None, set())


@pytest.mark.parametrize("allowed", [False, True])
@pytest_twisted.ensureDeferred
async def test_without_a_trash_removing_needs_the_administrators_word(
    tmp_path: Path, allowed: bool
) -> None:
    async with rig(tmp_path, final_delete=allowed) as r:
        album = r.album("Rome", r.asset("a.jpg"))
        r.demo.trash_enabled = False
        session = await r.session()
        if allowed:
            await session.rm("/Rome/a.jpg")
            assert r.names_in(album) == []
        else:
            await raises(Denied, session.rm("/Rome/a.jpg"))
            await raises(Denied, session.open("/Rome/a.jpg"))
            assert r.names_in(album) == ["a.jpg"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_rmdir_keeps_the_assets(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        await session.sftp.removeDirectory(b"/Rome")
        assert (asset.deleted, asset.albums) == (None, set())
        assert await session.ls("/") == {}


@pytest_twisted.ensureDeferred
async def test_rmdir_of_a_shared_album_leaves_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        with_bob(r)
        album = r.album("Rome", shared={"bob@example.com": "viewer"})
        session = await bob(r)
        await session.sftp.removeDirectory(b"/Rome")
        assert await session.ls("/") == {}
        assert r.demo.album("Rome") is album


@pytest_twisted.ensureDeferred
async def test_rmdir_waits_for_uploads(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", NEW)
        await raises(NotEmpty, session.sftp.removeDirectory(b"/Rome"))
        handle.writeChunk(0, jpeg("a"))
        await handle.close()
        await raises(NotEmpty, session.sftp.removeDirectory(b"/Rome"))
        await session.utime("/Rome/a.jpg")
        await session.sftp.removeDirectory(b"/Rome")


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_file_that_somebody_took_out_of_the_album_meanwhile_is_not_trashed(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.ls("/Rome")
        web = await r.server.log_in("alice@example.com", "correct horse")
        await web.remove_from_album(album.id, [asset.id])
        await session.rm("/Rome/a.jpg")
        assert asset.deleted is None
        assert await session.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_a_folder_made_with_a_key_is_there_for_the_password_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        password, key = await r.session(), await r.session(key=r.demo.add_key(r.alice))
        assert await password.ls("/") == await key.ls("/") == {}
        await key.sftp.makeDirectory(b"/Rome", {})
        assert list(await password.ls("/")) == ["Rome"]
        await password.mv("/Rome", "/Roma")
        assert list(await key.ls("/")) == ["Roma"]
        await key.sftp.removeDirectory(b"/Roma")
        assert await password.ls("/") == {}


@pytest_twisted.ensureDeferred
async def test_one_folder_made_by_two_at_once_is_made_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        one, two = await r.session(), await r.session()
        first = Deferred.fromCoroutine(one.sftp.makeDirectory(b"/Rome", {}))
        second = Deferred.fromCoroutine(two.sftp.makeDirectory(b"/Rome", {}))
        await first
        await raises(AlreadyExists, second)
        assert list(await one.ls("/")) == ["Rome"]


@pytest_twisted.ensureDeferred
async def test_what_holds_a_library_is_named_in_a_few_words(tmp_path: Path) -> None:
    """A log line or a traceback with one of these would otherwise write the whole library out."""
    async with rig(tmp_path, VERSIONS[0]) as r:
        r.album("Trip", *(r.asset(f"{number}.jpg") for number in range(50)))
        session = await r.session()
        await session.ls("/Trip")
        server = session.sftp
        for thing in (server, server.tree, server.tree.catalog, server.uploads, r.accounts):
            assert len(repr(thing)) < 2000
