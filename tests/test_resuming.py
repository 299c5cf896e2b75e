"""Resuming, limits, overlap, and syncing in groups (BEHAVIOUR, section 5)."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest
import pytest_twisted
from rig import (
    APPEND,
    NEW,
    NO_TRUNC,
    TAKEN,
    WRITE,
    Rig,
    contents,
    jpeg,
    quiet,
    raises,
    rig,
    sha1,
    until,
)
from twisted.internet.defer import Deferred

from immich_conch import spool_tool
from immich_conch.errors import NoSpace, NotFound
from immich_conch.transfer.spool import Limits, Spool
from immich_conch.transfer.syncer import Syncer
from immich_conch.transfer.upload import State


@pytest.mark.parametrize("died", [False, True])
@pytest.mark.parametrize("flags", [APPEND, NO_TRUNC])
@pytest_twisted.ensureDeferred
async def test_an_upload_that_was_cut_off_is_resumed(
    tmp_path: Path, flags: int, died: bool
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        data = jpeg("whole", 90_000)
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, data[:40_000])
        if died:
            r.restart()
        else:
            handle.abort()
            session.hang_up()
            await until(lambda: r.demo.open_sessions == 0)
        session = await r.session()
        assert await session.ls("/Rome") == {}
        assert (await session.stat("/Rome/a.jpg"))["size"] == 40_000
        await raises(NotFound, session.get("/Rome/a.jpg"))
        handle = await session.open("/Rome/a.jpg", flags)
        handle.writeChunk(40_000, data[40_000:])
        handle.setAttrs({"mtime": TAKEN})
        await handle.close()
        assert contents(r, album) == {"a.jpg": data}
        assert [a.checksum for a in r.demo.assets_of(album)] == [b64encode(sha1(data)).decode()]
        assert r.in_spool() == []


@pytest.mark.parametrize("flags", [WRITE, NEW])
@pytest_twisted.ensureDeferred
async def test_a_new_open_with_trunc_starts_afresh(tmp_path: Path, flags: int) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("half", 5000))
        handle.abort()
        handle = await session.open("/Rome/a.jpg", flags, mtime=TAKEN)
        assert handle.getAttrs()["size"] == 0
        handle.writeChunk(0, jpeg("new"))
        await handle.close()
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_removing_what_was_cut_off_forgets_it_and_spares_the_photo(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("half"))
        handle.abort()
        await session.rm("/Rome/a.jpg")
        await raises(NotFound, session.stat("/Rome/a.jpg"))
        await raises(NotFound, session.rm("/Rome/a.jpg"))
        assert (r.in_spool(), contents(r, album)) == ([], {})


@pytest_twisted.ensureDeferred
async def test_a_resumed_overwrite_replaces_what_its_open_saw(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("half", 100))
        handle.abort()
        web = await r.server.log_in("alice@example.com", "correct horse")
        phone = r.asset("a.jpg", jpeg("phone"))
        await web.add_to_album(album.id, [phone.id])
        session.lease.catalog.stale()
        handle = await session.open("/Rome/a.jpg", NO_TRUNC, mtime=TAKEN)
        handle.writeChunk(100, b"rest")
        await handle.close()
        assert contents(r, album) == {"a.jpg": jpeg("half", 100) + b"rest"}
        assert phone.deleted is not None


@pytest_twisted.ensureDeferred
async def test_a_full_quota_of_one_user_stops_no_other(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=Limits(total=100_000, user=10_000)) as r:
        r.demo.add_user("bob@example.com", "correct horse", "Bob")
        r.album("Rome", shared={"bob@example.com": "editor"})
        session, bob = await r.session(), await r.session("bob@example.com")
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, bytes(9_000))
        with pytest.raises(NoSpace):
            handle.writeChunk(9_000, bytes(1_001))
        theirs = await bob.open("/Rome/b.jpg")
        theirs.writeChunk(0, bytes(10_000))
        with pytest.raises(NoSpace):
            await handle.close()
        assert r.accounts.spool.used == {bob.lease.immich.user.id: 10_000}
        theirs.abort()


@pytest_twisted.ensureDeferred
async def test_the_oldest_of_what_was_cut_off_makes_room(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=Limits(total=10_000)) as r:
        r.album("Rome")
        session = await r.session()
        for name in ("old", "new"):
            handle = await session.open(f"/Rome/{name}.jpg")
            handle.writeChunk(0, bytes(4_000))
            handle.abort()
            await r.pass_time(60)
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, bytes(5_000))
        await raises(NotFound, session.stat("/Rome/old.jpg"))
        assert (await session.stat("/Rome/new.jpg"))["size"] == 4_000
        handle.abort()


@pytest_twisted.ensureDeferred
async def test_only_so_many_of_a_user_that_were_cut_off_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("immich_conch.transfer.uploads.MAX_PARTIALS", 3)
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        for name in (*"abc", "a", *"de"):
            handle = await session.open(f"/Rome/{name}.jpg")
            handle.writeChunk(0, jpeg(name))
            handle.abort()
        assert sorted(entry["name"] for entry in r.journal()) == ["a.jpg", "d.jpg", "e.jpg"]
        assert len(list(r.spool.glob("*.data"))) == 3
        handle = await session.open("/Rome/a.jpg", NO_TRUNC)
        assert handle.getAttrs()["size"] == len(jpeg("a"))
        handle.abort()


@pytest_twisted.ensureDeferred
async def test_no_byte_is_taken_beyond_what_the_disk_must_keep_free(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=Limits(free=2**62)) as r:
        r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        with pytest.raises(NoSpace, match="disk"):
            handle.writeChunk(0, b"x")
        handle.abort()
        assert r.in_spool() == []


async def _write(r: Rig, size: int, step: int = 32_768) -> tuple[object, bytes]:
    session = await r.session()
    data = jpeg("large", size)
    handle = await session.open("/Rome/a.jpg")
    for at in range(0, size, step):
        handle.writeChunk(at, data[at : at + step])
    return handle, data


@pytest.mark.parametrize("timed", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_large_file_goes_to_immich_while_it_is_written(tmp_path: Path, timed: bool) -> None:
    async with rig(tmp_path, loopback=True, overlap_from=500_000) as r:
        album = r.album("Rome")
        handle, data = await _write(r, 2_000_000)
        await quiet()
        assert r.counters["uploads.overlapped"] == 1
        assert contents(r, album) == {}
        if timed:
            handle.setAttrs({"mtime": TAKEN})  # type: ignore[attr-defined]
        await handle.close()  # type: ignore[attr-defined]
        if not timed:
            assert contents(r, album) == {}
            await r.sessions[0].utime("/Rome/a.jpg")
        assert contents(r, album) == {"a.jpg": data}
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]
        assert r.demo.requests["POST /assets"] == 1
        assert r.in_spool() == []


@pytest.mark.parametrize("how", ["abort", "out of order", "duplicate"])
@pytest_twisted.ensureDeferred
async def test_an_upload_beside_the_writing_that_is_given_up_makes_no_asset(
    tmp_path: Path, how: str
) -> None:
    async with rig(tmp_path, loopback=True, overlap_from=500_000) as r:
        album = r.album("Rome")
        known = [r.asset("a.jpg", jpeg("large", 2_000_000))] if how == "duplicate" else []
        handle, data = await _write(r, 2_000_000)
        await quiet()
        assert r.counters["uploads.overlapped"] == 1
        if how == "abort":
            handle.abort()  # type: ignore[attr-defined]
            expected = {}
        else:
            if how == "out of order":
                handle.writeChunk(2, b"late")  # type: ignore[attr-defined]
                data = data[:2] + b"late" + data[6:]
            handle.setAttrs({"mtime": TAKEN})  # type: ignore[attr-defined]
            await handle.close()  # type: ignore[attr-defined]
            expected = {"a.jpg": data}
        r.sessions[0].hang_up()
        await until(lambda: r.demo.open_sessions == 0)
        assert contents(r, album) == expected
        assert len(r.demo.state.assets) == (1 if expected else 0)
        assert known in ([], list(r.demo.state.assets.values()))


@pytest_twisted.ensureDeferred
async def test_uploads_that_seal_at_once_share_the_syncs_and_hold_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.make(os.fspath(tmp_path))
    threads: list[tuple[object, Deferred[object]]] = []

    def in_thread(work: object) -> Deferred[object]:
        threads.append((work, Deferred()))
        return threads[-1][1]

    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    syncer = Syncer(spool, in_thread)  # type: ignore[arg-type]
    files = [spool.create("u", {}) for _ in range(11)]
    done: list[None] = []
    for file in files:
        file.write(0, b"x")
        Deferred.fromCoroutine(syncer.seal(file, {})).addCallback(done.append)
    # One group is on the slow disk; nobody has been told anything, and the rest gather.
    assert (len(threads), done) == (1, [])
    for _ in range(2):
        work, answer = threads[-1]
        answer.callback(work())  # type: ignore[operator]
    assert len(done) == 11
    assert len(threads) == 2
    # Data and entry of each file, and the directory once a group.
    assert len(syncs) == 11 * 2 + 2
    spool.close()


def _tool(r: Rig, *words: str) -> tuple[int, str]:
    lines: list[str] = []
    status = spool_tool.main(["spool", "--spool-dir", os.fspath(r.spool), *words], lines.append)
    return status, "\n".join(lines)


@pytest_twisted.ensureDeferred
async def test_the_administrator_sees_the_spool_and_drops_from_it_while_nothing_runs(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a", 2048))
        await session.put("/Rome/b.jpg.part", jpeg("b"))
        status, text = _tool(r, "list")
        assert status == 0
        lines = sorted(line.split()[1:4] for line in text.splitlines())
        assert lines == [["parked", "3", "B"], ["sealed", "2.0", "KiB"]]
        assert "alice@example.com  Rome/a.jpg" in text
        sealed = next(line.split()[0] for line in text.splitlines() if "sealed" in line)
        assert '"sha1"' in _tool(r, "show", sealed[:12])[1]
        assert _tool(r, "show", "ffffffffffff")[0] == 1
        r.accounts.spool.close()
        assert _tool(r, "drop", sealed) == (0, "dropped")
        assert [entry["name"] for entry in r.journal()] == ["b.jpg.part"]
        (parked,) = (entry["id"] for entry in r.journal())
        assert _tool(r, "retry", parked)[0] == 1
        r.restart()
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["b.jpg.part"]


@pytest_twisted.ensureDeferred
async def test_a_running_service_does_what_the_administrator_left_for_it(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    assert spool_tool.requests(os.fspath(place)) == []
    control = place / spool_tool.CONTROL
    (control / ("ab" * 16 + ".request")).write_text("drop")
    (control / "..request").write_text("drop")
    assert spool_tool.requests(os.fspath(place)) == [("ab" * 16, "drop")]
    assert spool_tool.requests(os.fspath(place)) == []
    spool_tool.answer(os.fspath(place), "ab" * 16, "ok")
    assert (control / ("ab" * 16 + ".answer")).read_text() == "ok"


@pytest.mark.parametrize("closed", [False, True])
@pytest_twisted.ensureDeferred
async def test_what_waits_for_days_keeps_nothing_of_the_session_that_wrote_it(
    tmp_path: Path, closed: bool
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg.part")
        handle.writeChunk(0, jpeg("half", 5000))
        assert handle.upload.session is session.sftp
        upload = handle.upload
        if closed:
            await handle.close()
        else:
            handle.abort()
        assert upload.size == 5000 and upload.state in (State.PARTIAL, State.PARKED)
        assert upload.session is None and upload.lease is None
