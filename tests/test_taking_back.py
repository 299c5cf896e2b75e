"""REMOVE of an upload that waits: its bytes are nowhere else, so they go last (section 5 and 7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from rig import (
    TAKEN,
    VERSIONS,
    WRITE,
    Rig,
    Session,
    contents,
    jpeg,
    quiet,
    raises,
    rig,
    until,
)
from twisted.internet.defer import Deferred, gatherResults

from immich_conch.demo.entities import Album, Asset
from immich_conch.errors import NotFound, Refused, Unreachable

LOOK, HOLDING = ("GET", "/assets/{id}"), ("GET", "/albums")
ADD, COPY, TRASH = ("PUT", "/albums/{id}/assets"), ("PUT", "/assets/copy"), ("DELETE", "/assets")
#: What Immich may do to a removal.
TROUBLE = ("status", "refuse", "lose-answer")


async def _overwrite(r: Rig) -> tuple[Session, Album, Asset]:
    """/Rome/a.jpg, and a sealed upload over it."""
    old = r.asset("a.jpg", favorite=True)
    album = r.album("Rome", old)
    session = await r.session()
    await session.put("/Rome/a.jpg", jpeg("new bytes"))
    return session, album, old


async def _broken_off(r: Rig, at: tuple[str, str]) -> tuple[Session, Album, Asset]:
    """As `_overwrite`, and the commit of the upload came as far as a step, which was done."""
    session, album, old = await _overwrite(r)
    r.demo.faults.add("lose-answer", method=at[0], route=at[1], count=None)
    r.clock.advance(5)
    await until(lambda: r.demo.requests[" ".join(at)])
    await until(lambda: not any(r.busy()))
    r.demo.faults.clear()
    return session, album, old


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("step", [HOLDING, TRASH])
@pytest.mark.parametrize("trouble", TROUBLE)
@pytest_twisted.ensureDeferred
async def test_a_remove_that_fails_keeps_the_new_bytes_and_another_one_works(
    tmp_path: Path, version: str, step: tuple[str, str], trouble: str
) -> None:
    async with rig(tmp_path, version) as r:
        session, album, old = await _overwrite(r)
        await session.ls("/Rome")
        r.demo.faults.add(trouble, method=step[0], route=step[1], count=None)
        await raises(Unreachable, session.rm("/Rome/a.jpg"))
        r.demo.faults.clear()
        assert await session.get("/Rome/a.jpg") == jpeg("new bytes")
        assert [entry["state"] for entry in r.journal()] == ["sealed"]
        await session.rm("/Rome/a.jpg")
        assert await session.ls("/Rome") == {}
        assert contents(r, album) == {}
        assert old.deleted is not None
        assert r.in_spool() == []
        await r.pass_time(60)
        assert contents(r, album) == {}


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest_twisted.ensureDeferred
async def test_after_a_remove_that_failed_the_upload_gets_in(tmp_path: Path, trouble: str) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _overwrite(r)
        r.demo.faults.add(trouble, method=TRASH[0], route=TRASH[1], count=None)
        await raises(Unreachable, session.rm("/Rome/a.jpg"))
        r.demo.faults.clear()
        await r.settled()
        assert contents(r, album) == {"a.jpg": jpeg("new bytes")}
        assert old.deleted is not None
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_remove_that_waits_for_immich_in_vain_keeps_the_new_bytes(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        session, album, _ = await _overwrite(r)
        r.demo.faults.add("hang", method=TRASH[0], route=TRASH[1], count=None)
        removing = Deferred.fromCoroutine(session.rm("/Rome/a.jpg"))
        await until(lambda: r.demo.requests["DELETE /assets"])
        # What a death finds while the answer is still waited for.
        assert [entry["state"] for entry in r.journal()] == ["sealed"]
        assert await session.get("/Rome/a.jpg") == jpeg("new bytes")
        await raises(Unreachable, removing)
        r.demo.faults.clear()
        await r.settled()
        assert contents(r, album) == {"a.jpg": jpeg("new bytes")}


@pytest.mark.parametrize("how", TROUBLE)
@pytest_twisted.ensureDeferred
async def test_a_death_between_the_two_removals_leaves_the_new_file(
    tmp_path: Path, how: str
) -> None:
    async with rig(tmp_path) as r:
        session, album, _ = await _overwrite(r)
        r.demo.faults.add(how, method=TRASH[0], route=TRASH[1], count=None)
        await raises(Unreachable, session.rm("/Rome/a.jpg"))
        r.demo.faults.clear()
        r.restart()
        again = await r.session()
        assert await again.get("/Rome/a.jpg") == jpeg("new bytes")
        await r.settled()
        await until(lambda: r.in_spool() == [])
        assert contents(r, album) == {"a.jpg": jpeg("new bytes")}


@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_bytes_that_the_spool_cannot_let_go_stay_a_file(
    tmp_path: Path, died: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _overwrite(r)
        unlink: Callable[[str], None] = os.unlink

        def broken(path: str) -> None:
            if path.endswith(".json"):
                raise PermissionError(13, "Permission denied", path)
            unlink(path)

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", broken)
            await raises(Refused, session.rm("/Rome/a.jpg"))
        assert old.deleted is not None
        if died:
            r.restart()
            session = await r.session()
        assert await session.get("/Rome/a.jpg") == jpeg("new bytes")
        await r.settled()
        await until(lambda: r.in_spool() == [])
        assert contents(r, album) == {"a.jpg": jpeg("new bytes")}


@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_while_another_upload_waits_both_go_and_the_removal_may_wait(
    tmp_path: Path, died: bool
) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _overwrite(r)
        await session.put("/Rome/b.jpg.part", jpeg("another"))
        r.demo.faults.add("status", method=TRASH[0], route=TRASH[1], count=None)
        await session.rm("/Rome/a.jpg")
        assert list(await session.ls("/Rome")) == ["b.jpg.part"]
        r.demo.faults.clear()
        if died:
            r.restart()
            session = await r.session()
            assert list(await session.ls("/Rome")) == ["b.jpg.part"]
        r.clock.advance(5)
        await until(lambda: old.deleted is not None)
        assert contents(r, album) == {}
        await until(lambda: [entry["state"] for entry in r.journal()] == ["parked"])


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("at", [ADD, COPY])
@pytest_twisted.ensureDeferred
async def test_what_a_commit_that_broke_off_brought_into_the_album_goes_as_well(
    tmp_path: Path, at: tuple[str, str], known: bool
) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _broken_off(r, at)
        if known:
            session.lease.catalog.stale()
            assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert len(r.demo.assets_of(album)) == 2
        await session.rm("/Rome/a.jpg")
        assert await session.ls("/Rome") == {}
        assert [asset for asset in r.demo.assets_of(album) if asset.deleted is None] == []
        assert old.deleted is not None
        await r.pass_time(60)
        session.lease.catalog.stale()
        assert await session.ls("/Rome") == {}
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_remove_that_takes_back_half_of_a_commit_and_fails_keeps_the_new_bytes(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        session, album, _ = await _broken_off(r, ADD)
        r.demo.faults.add("lose-answer", method=TRASH[0], route=TRASH[1], count=None)
        await raises(Unreachable, session.rm("/Rome/a.jpg"))
        r.demo.faults.clear()
        assert await session.get("/Rome/a.jpg") == jpeg("new bytes")
        await session.rm("/Rome/a.jpg")
        assert [asset for asset in r.demo.assets_of(album) if asset.deleted is None] == []
        assert r.in_spool() == []


@pytest.mark.parametrize("hangs", [("POST", "/assets"), ADD, COPY, TRASH])
@pytest_twisted.ensureDeferred
async def test_a_remove_that_meets_the_commit_leaves_neither(
    tmp_path: Path, hangs: tuple[str, str]
) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _overwrite(r)
        r.demo.faults.add("hang", method=hangs[0], route=hangs[1], seconds=0.1)
        r.clock.advance(5)
        await until(lambda: r.demo.requests[" ".join(hangs)])
        await session.rm("/Rome/a.jpg")
        assert await session.ls("/Rome") == {}
        assert contents(r, album) == {}
        assert old.deleted is not None
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_remove_beside_the_commit_of_an_older_upload_leaves_none_of_them(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        session, album, old = await _overwrite(r)
        r.demo.faults.add("hang", method="POST", route="/assets", seconds=0.1)
        r.clock.advance(5)
        await until(lambda: r.demo.requests["POST /assets"])
        await session.put("/Rome/a.jpg", jpeg("newer"))
        await session.rm("/Rome/a.jpg")
        await until(lambda: not any(r.busy()))
        assert await session.ls("/Rome") == {}
        assert contents(r, album) == {}
        assert old.deleted is not None
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_two_removes_at_once_are_both_answered_ok(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        session, album, _ = await _overwrite(r)
        other = await r.session()
        r.demo.faults.add("hang", method=TRASH[0], route=TRASH[1], seconds=0.1)
        removing = [Deferred.fromCoroutine(session.rm("/Rome/a.jpg"))]
        await until(lambda: r.demo.requests["DELETE /assets"])
        removing.append(Deferred.fromCoroutine(other.rm("/Rome/a.jpg")))
        await gatherResults(removing)
        assert contents(r, album) == {}
        assert r.in_spool() == []
        assert r.demo.requests["DELETE /assets"] == 1


@pytest_twisted.ensureDeferred
async def test_a_write_goes_on_beside_a_remove_of_what_was_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        session, album, _ = await _overwrite(r)
        handle = await session.open("/Rome/b.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("b"))
        r.demo.faults.add("hang", method=TRASH[0], route=TRASH[1], seconds=0.05)
        removing = Deferred.fromCoroutine(session.rm("/Rome/a.jpg"))
        await handle.close()
        await removing
        assert contents(r, album) == {"b.jpg": jpeg("b")}


@pytest.mark.parametrize("name", ["a.jpg.part", "a.jpg"])
@pytest_twisted.ensureDeferred
async def test_a_remove_that_a_rename_overtakes_finds_nothing(tmp_path: Path, name: str) -> None:
    """Both wait for what is being done with the upload; the RENAME is the first to have its turn.

    Its file is answered OK under the other name, which nobody has asked to remove.
    """
    async with rig(tmp_path) as r:
        old = r.asset("b.jpg")
        album = r.album("Rome", old)
        session, other = await r.session(), await r.session()
        await session.put(f"/Rome/{name}", jpeg("new bytes"))
        uploads = r.accounts.uploads(session.lease)
        upload = uploads.find(album.id, name)
        assert upload is not None
        async with uploads._alone(upload):
            moving = Deferred.fromCoroutine(session.posix_mv(f"/Rome/{name}", "/Rome/b.jpg"))
            await quiet()
            removing = Deferred.fromCoroutine(other.rm(f"/Rome/{name}"))
            await quiet()
        await moving
        await raises(NotFound, removing)
        assert await other.get("/Rome/b.jpg") == jpeg("new bytes")
        await r.settled()
        assert contents(r, album) == {"b.jpg": jpeg("new bytes")}
        assert r.in_spool() == []
