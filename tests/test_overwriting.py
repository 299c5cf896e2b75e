"""Overwriting, editing, and bytes that Immich has already (BEHAVIOUR, section 5)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import (
    APPEND,
    EDIT,
    NO_TRUNC,
    TAKEN,
    VERSIONS,
    WRITE,
    contents,
    jpeg,
    quiet,
    raises,
    rig,
    until,
    whole,
)

from immich_conch.demo.entities import Tag
from immich_conch.errors import Denied, NotFound, Refused, Unreachable


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_overwriting_hands_over_what_immich_knows_and_trashes_the_old(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        old = r.asset("a.jpg", favorite=True, description="Forum", rating=4)
        album = r.album("Rome", old)
        session = await r.session()
        tag = Tag("0a1b2c3d-0000-4000-8000-000000000001", r.alice.id, "Rome", None, 0, 0)
        r.demo.state.tags[tag.id] = tag
        old.tags.append(tag.id)
        await session.put("/Rome/a.jpg", jpeg("new"), TAKEN)
        assert old.deleted is not None
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        (new,) = (a for a in r.demo.assets_of(album) if a.deleted is None)
        assert (new.favorite, new.description, new.rating) == (True, "Forum", 4)
        assert new.tags == [tag.id]
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert await session.get("/Rome/a.jpg") == jpeg("new")


@pytest.mark.parametrize("description", ["", "#nosync"])
@pytest_twisted.ensureDeferred
async def test_other_albums_keep_what_was_overwritten_here(
    tmp_path: Path, description: str
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album, other = r.album("Rome", old), r.album("Best of", old, description=description)
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("new"), TAKEN)
        assert old.deleted is None
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        assert contents(r, other) == {"a.jpg": r.demo.content(old)}


@pytest.mark.parametrize("flags", [WRITE, NO_TRUNC])
@pytest_twisted.ensureDeferred
async def test_the_same_bytes_again_change_nothing(tmp_path: Path, flags: int) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg", jpeg("same", 300))
        album = r.album("Rome", old)
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", flags)
        handle.writeChunk(0, jpeg("same", 300))
        handle.setAttrs({"size": 300})
        await handle.close()
        await r.settled()
        assert r.demo.assets_of(album) == [old]
        assert old.deleted is None
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert r.demo.requests["POST /assets"] == 0


@pytest_twisted.ensureDeferred
async def test_scp_overwrites_without_truncating_and_sets_the_size_last(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("a.jpg", jpeg("old", 500)))
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", NO_TRUNC)
        handle.writeChunk(0, jpeg("new", 100))
        handle.setAttrs({"size": 100})
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await handle.close()
        assert contents(r, album) == {"a.jpg": jpeg("new", 100)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_edit_in_place_keeps_the_bytes_around_it(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        before = jpeg("0123456789", 700_000)
        album = r.album("Rome", r.asset("a.jpg", before))
        session, other = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg", EDIT)
        handle.writeChunk(4, b"XY")
        handle.writeChunk(600_000, b"Z")
        after = bytearray(before)
        after[4:6], after[600_000:600_001] = b"XY", b"Z"
        assert await whole(handle.readChunk(0, 700_000)) == bytes(after)
        assert handle.getAttrs()["size"] == 700_000
        reader = await other.sftp.openFile(b"/Rome/a.jpg", 1, {})
        assert await whole(reader.readChunk(2, 6)) == bytes(after[2:8])
        handle.setAttrs({"mtime": TAKEN})
        await handle.close()
        assert contents(r, album) == {"a.jpg": bytes(after)}
        assert await whole(reader.readChunk(599_999, 4)) == bytes(after[599_999:600_003])
        reader.close()
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_who_reads_an_edit_that_is_cut_off_gets_no_zeros(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg", jpeg("old", 1000)))
        session, other = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg", EDIT)
        handle.writeChunk(900, b"new")
        reader = await other.sftp.openFile(b"/Rome/a.jpg", 1, {})
        handle.abort()
        await raises(NotFound, reader.readChunk(0, 100))
        reader.close()
        assert await other.get("/Rome/a.jpg") == jpeg("old", 1000)


@pytest_twisted.ensureDeferred
async def test_two_who_edit_one_file_both_start_from_all_of_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("a.jpg", jpeg("old", 1000)))
        one, two = await r.session(), await r.session()
        first = await one.open("/Rome/a.jpg", EDIT)
        first.writeChunk(990, b"1")
        second = await two.open("/Rome/a.jpg", EDIT)
        assert second.getAttrs()["size"] == 1000
        second.writeChunk(995, b"2")
        second.setAttrs({"mtime": TAKEN})
        await second.close()
        expected = bytearray(jpeg("old", 1000))
        expected[990:991], expected[995:996] = b"1", b"2"
        assert contents(r, album) == {"a.jpg": bytes(expected)}
        first.abort()
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_opening_setting_the_size_it_has_and_closing_changes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg", jpeg("old", 300))
        album = r.album("Rome", old)
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", NO_TRUNC)
        handle.setAttrs({"size": 300, "mtime": TAKEN})
        await handle.close()
        await quiet()
        assert r.demo.assets_of(album) == [old]
        assert r.in_spool() == []
        assert not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_size_set_by_path_cuts_a_committed_file(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("a.jpg", jpeg("old", 300)))
        session = await r.session()
        await session.setstat("/Rome/a.jpg", size=100, mtime=TAKEN)
        assert contents(r, album) == {"a.jpg": jpeg("old", 300)[:100]}


@pytest_twisted.ensureDeferred
async def test_a_size_set_by_path_means_the_file_that_is_being_written(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("a", 200))
        await session.setstat("/Rome/a.jpg", size=50, mtime=TAKEN)
        handle.writeChunk(50, b"end")
        await handle.close()
        assert contents(r, album) == {"a.jpg": jpeg("a", 50) + b"end"}


@pytest_twisted.ensureDeferred
async def test_winscp_resumes_a_parked_file(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, later = await r.session(), await r.session()
        await session.put("/Rome/a.jpg.filepart", jpeg("first", 100))
        session.hang_up()
        handle = await later.open("/Rome/a.jpg.filepart", APPEND)
        handle.writeChunk(0, b"second")  # curl -a sends offset 0
        await handle.close()
        await later.mv("/Rome/a.jpg.filepart", "/Rome/a.jpg")
        await later.utime("/Rome/a.jpg")
        assert contents(r, album) == {"a.jpg": jpeg("first", 100) + b"second"}


@pytest_twisted.ensureDeferred
async def test_a_resume_that_is_cut_off_keeps_what_arrived(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("first", 100))
        handle = await session.open("/Rome/a.jpg.part", APPEND)
        handle.writeChunk(0, b"more")
        handle.abort()
        assert (await session.stat("/Rome/a.jpg.part"))["size"] == 104
        assert await session.get("/Rome/a.jpg.part") == jpeg("first", 100) + b"more"


class Full:
    """A spool file's write that finds no space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import errno
        import os

        def pwritev(fd: int, pieces: object, offset: int) -> int:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "pwritev", pwritev)


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("hang_up", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_write_that_failed_poisons_the_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopened: bool, hang_up: bool
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        name = "/Rome/a.jpg.part"
        if reopened:
            await session.put(name, jpeg("a"))
        handle = await session.open(name, APPEND | NO_TRUNC)
        handle.writeChunk(0, jpeg("b"))
        with monkeypatch.context() as patch:
            Full(patch)
            with pytest.raises(Refused, match="No space"):
                handle.writeChunk(0, jpeg("c"))
        deep = []
        for _ in range(9):
            with pytest.raises(Refused, match="No space") as caught:
                handle.writeChunk(0, jpeg("d"))
            deep.append(len(caught.traceback))
        # What is raised again and again keeps no bytes of the WRITEs before it.
        assert len(set(deep)) == 1
        handle.setAttrs({"mtime": TAKEN})  # as OpenSSH does even then
        if hang_up:
            handle.abort()
        else:
            with pytest.raises(Refused, match="No space"):
                await handle.close()
        await raises(NotFound, session.stat(name))
        await r.pass_time(60)
        assert (r.in_spool(), r.demo.assets_of(album)) == ([], [])


@pytest_twisted.ensureDeferred
async def test_a_full_spool_at_open_leaves_no_session_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        r.accounts.spool.directory = "/nowhere"
        with pytest.raises(Refused):
            await session.open("/Rome/a.jpg")
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_known_bytes_are_only_added_to_the_album(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        known = r.asset("a.jpg", jpeg("known"))
        album, _ = r.album("Rome"), r.album("Best of", known)
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("known"), TAKEN)
        assert r.demo.assets_of(album) == [known]
        assert r.demo.requests["POST /assets"] == 0
        assert await session.get("/Rome/a.jpg") == jpeg("known")


@pytest_twisted.ensureDeferred
async def test_a_trashed_asset_comes_back_into_this_album_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        known = r.asset("a.jpg", jpeg("known"))
        album, other = r.album("Rome"), r.album("Best of", known)
        hidden = r.album("Secret", known, description="#nosync")
        web = await r.server.log_in("alice@example.com", "correct horse")
        await web.trash([known.id])
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("known"), TAKEN)
        assert known.deleted is None
        assert known.albums == {album.id, hidden.id}
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert await session.ls("/Best of") == {}
        assert r.demo.assets_of(other) == []


@pytest_twisted.ensureDeferred
async def test_bytes_that_immich_would_not_show_are_refused_at_close(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.asset("a.jpg", jpeg("known"), visibility="locked")
        r.album("Rome")
        session = await r.session()
        await raises(Denied, session.put("/Rome/a.jpg", jpeg("known")))
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_known_bytes_under_another_name_hide_no_file_meanwhile(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg", jpeg("known")))
        session = await r.session()
        await session.put("/Rome/b.jpg", jpeg("known"))
        r.demo.faults.add("status", method="PUT", route="/albums/{id}/assets", count=None)
        await raises(Unreachable, session.utime("/Rome/b.jpg"))
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "b.jpg"]
        assert await session.get("/Rome/a.jpg") == jpeg("known")
        r.demo.faults.clear()


@pytest_twisted.ensureDeferred
async def test_somebody_elses_photo_that_took_the_name_meanwhile_stays(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        album = r.album("Rome", shared={"bob@example.com": "editor"})
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("mine"))
        theirs = r.demo.add_asset(bob, "a.jpg", jpeg("theirs"), TAKEN)
        web = await r.server.log_in("bob@example.com", "correct horse")
        await web.add_to_album(album.id, [theirs.id])
        session.lease.catalog.stale()
        await r.settled()
        assert len([a for a in r.demo.assets_of(album) if a.deleted is None]) == 2
        listed = sorted(await session.ls("/Rome"))
        assert len(listed) == 2
        assert listed[0].startswith("a ~")
        assert await session.get("/Rome/a.jpg") == jpeg("theirs")


@pytest.mark.parametrize("step", [("PUT", "/albums/{id}/assets"), ("PUT", "/assets/copy")])
@pytest.mark.parametrize("again", ["new", "newer"])
@pytest_twisted.ensureDeferred
async def test_an_overwrite_that_was_told_an_error_may_be_there_beside_the_old_file_and_no_more(
    tmp_path: Path, step: tuple[str, str], again: str
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album = r.album("Rome", old)
        session = await r.session()
        # Immich has done it, and nobody heard.
        r.demo.faults.add("lose-answer", method=step[0], route=step[1], count=None)
        await raises(Unreachable, session.put("/Rome/a.jpg", jpeg("new"), TAKEN))
        r.demo.faults.clear()
        session.lease.catalog.stale()
        left = [name for name in await session.ls("/Rome") if name != "a.jpg"]
        assert await session.get("/Rome/a.jpg") == r.demo.content(old)
        assert [await session.get(f"/Rome/{name}") for name in left] == [jpeg("new")]
        # The same bytes again take the name, others leave what is there beside it.
        await session.put("/Rome/a.jpg", jpeg(again), TAKEN)
        session.lease.catalog.stale()
        left = [] if again == "new" else left
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", *left])
        assert await session.get("/Rome/a.jpg") == jpeg(again)
        await session.rm("/Rome/a.jpg")
        session.lease.catalog.stale()
        assert list(await session.ls("/Rome")) == left
        shown = [asset for asset in r.demo.assets_of(album) if asset.deleted is None]
        assert [r.demo.content(asset) for asset in shown] == [jpeg("new")] * len(left)
