"""When a file gets into Immich, and who hears the result (BEHAVIOUR, section 5)."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import pytest_twisted
from rig import ARRIVED, NEW, TAKEN, VERSIONS, WRITE, jpeg, quiet, raises, rig, until

from immich_conch.errors import (
    Denied,
    NotFound,
    QuotaExceeded,
    Unreachable,
)

TEMPORARY = ["a.jpg.filepart", "a.jpg.part", ".in.a.jpg", "a.jpg.8f2c1d.partial", ".a.jpg.Ab3dEf"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_file_whose_time_is_known_is_in_immich_when_close_is_answered(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"), TAKEN)
        (asset,) = r.demo.assets_of(album)
        assert (asset.name, asset.modified) == ("a.jpg", TAKEN * 1000)
        assert r.demo.content(asset) == jpeg("a")
        assert r.in_spool() == []
        assert (await session.stat("/Rome/a.jpg"))["mtime"] == TAKEN
        assert await session.get("/Rome/a.jpg") == jpeg("a")


@pytest_twisted.ensureDeferred
async def test_a_time_in_open_counts_as_known(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", WRITE, atime=1, mtime=TAKEN)
        handle.writeChunk(0, jpeg())
        await handle.close()
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_without_a_time_close_seals_and_setstat_on_another_connection_commits(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("Rome")
        one, other = await r.session(), await r.session()
        await one.put("/Rome/a.jpg", jpeg("a"))
        assert r.demo.assets_of(album) == []
        assert r.in_spool() == [".data", ".json"]
        one.hang_up()
        assert (await other.stat("/Rome/a.jpg"))["size"] == len(jpeg("a"))
        await other.utime("/Rome/a.jpg")
        (asset,) = r.demo.assets_of(album)
        assert asset.modified == TAKEN * 1000
        assert r.in_spool() == []
        assert not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_without_any_time_the_file_gets_in_after_the_settle_time(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        session.hang_up()
        assert r.demo.open_sessions == 1  # it is needed until the file is in
        await r.pass_time(4.9)
        assert r.demo.assets_of(album) == []
        await r.settled()
        assert [a.modified for a in r.demo.assets_of(album)] == [ARRIVED * 1000]
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("temporary", TEMPORARY)
@pytest_twisted.ensureDeferred
async def test_a_temporary_name_with_a_time_gets_in_at_rename(
    tmp_path: Path, temporary: str
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put(f"/Rome/{temporary}", jpeg("a"))
        await session.utime(f"/Rome/{temporary}")
        assert list(await session.ls("/Rome")) == [temporary]
        await r.pass_time(3600)
        assert r.demo.assets_of(album) == []
        await session.posix_mv(f"/Rome/{temporary}", "/Rome/a.jpg")
        assert [(a.name, a.modified) for a in r.demo.assets_of(album)] == [("a.jpg", TAKEN * 1000)]
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_temporary_name_without_a_time_waits_for_it_after_rename(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("a"))
        await session.mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        await r.pass_time(4)
        assert r.demo.assets_of(album) == []
        assert r.journal()[0]["name"] == "a.jpg"
        await session.utime("/Rome/a.jpg")
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]


@pytest_twisted.ensureDeferred
async def test_a_rename_starts_the_settle_time_anew(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        await r.pass_time(4)
        await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        await r.pass_time(4)
        assert r.demo.assets_of(album) == []
        await r.settled()
        assert r.names_in(album) == ["b.jpg"]


@pytest.mark.parametrize("name", ["a.txt", "a.xmp", "a", "a.jpg.txt", "IMG.jpg.xmp"])
@pytest_twisted.ensureDeferred
async def test_a_type_that_immich_does_not_take_is_refused_at_open(
    tmp_path: Path, name: str
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await raises(Denied, session.open(f"/Rome/{name}"))
        assert r.in_spool() == []
        assert await session.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_renaming_a_temporary_file_to_a_type_immich_does_not_take_leaves_it(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.part", jpeg("a"))
        await raises(Denied, session.mv("/Rome/a.part", "/Rome/a.txt"))
        assert list(await session.ls("/Rome")) == ["a.part"]
        await session.rm("/Rome/a.part")
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_over_quota_close_fails_and_the_name_vanishes(tmp_path: Path) -> None:
    async with rig(tmp_path, quota=1000) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a", 600))
        # What is sealed already counts, though Immich does not know of it yet.
        await raises(QuotaExceeded, session.put("/Rome/b.jpg", jpeg("b", 600)))
        await raises(NotFound, session.stat("/Rome/b.jpg"))
        await r.settled()
        assert r.names_in(album) == ["a.jpg"]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_an_empty_file_is_seen_until_the_session_ends(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, other = await r.session(), await r.session()
        await session.put("/Rome/a.jpg", b"", TAKEN)
        assert (await other.ls("/Rome"))["a.jpg"]["size"] == 0
        session.hang_up()
        assert await other.ls("/Rome") == {}
        assert (r.in_spool(), r.demo.assets_of(album)) == ([], [])


@pytest_twisted.ensureDeferred
async def test_an_empty_file_that_is_written_in_the_end_gets_in(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", b"")
        await session.put("/Rome/a.jpg", jpeg("a"), TAKEN)
        session.hang_up()
        assert r.names_in(album) == ["a.jpg"]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_all_sessions_of_the_user_see_a_file_while_it_is_written(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        key = await r.session(key=r.demo.add_key(r.alice))
        handle = await session.open("/Rome/a.jpg", NEW)
        assert (await key.stat("/Rome/a.jpg"))["size"] == 0
        handle.writeChunk(0, jpeg("a", 100))
        assert (await key.stat("/Rome/a.jpg"))["size"] == 100
        assert (await key.ls("/Rome"))["a.jpg"]["size"] == 100
        assert await key.get("/Rome/a.jpg") == jpeg("a", 100)
        await key.utime("/Rome/a.jpg")  # sshfs sets the time by path while it writes
        assert handle.getAttrs()["mtime"] == TAKEN
        await handle.close()
        assert (await key.stat("/Rome/a.jpg"))["mtime"] == TAKEN
        assert await key.get("/Rome/a.jpg") == jpeg("a", 100)


@pytest_twisted.ensureDeferred
async def test_a_dropped_connection_commits_nothing_and_keeps_what_came(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("half"))
        handle.abort()
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)
        await r.pass_time(23 * 3600)
        r.accounts.sweep()
        assert (r.in_spool(), r.demo.assets_of(album)) == ([".data", ".json"], [])
        await r.pass_time(2 * 3600)
        r.accounts.sweep()
        assert (r.in_spool(), r.demo.assets_of(album)) == ([], [])


@pytest_twisted.ensureDeferred
async def test_a_connection_that_drops_while_close_is_worked_on_does_not_cut_it_short(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg", WRITE, mtime=TAKEN)
        handle.writeChunk(0, jpeg("a"))
        closing = handle.close()
        handle.abort()
        session.hang_up()
        await closing
        assert r.names_in(album) == ["a.jpg"]
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_close_fails_when_immich_is_out_of_reach_and_nothing_is_left(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("a"))
        r.demo.faults.add("status", route="/assets/bulk-upload-check", count=None)
        await raises(Unreachable, handle.close())
        await raises(NotFound, session.stat("/Rome/a.jpg"))
        assert r.in_spool() == []
        session.hang_up()
        r.demo.faults.clear()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_what_was_answered_ok_is_retried_with_growing_pauses(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        r.accounts.uploads(session.lease).random = lambda: 0.5
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", route="POST", method="POST", count=0)
        r.demo.faults.clear()
        r.demo.faults.add("status", method="POST", route="/assets", count=None)
        await raises(Unreachable, session.utime("/Rome/a.jpg"))
        pauses = []
        for _ in range(3):
            await until(r.clock.getDelayedCalls)
            (call,) = r.clock.getDelayedCalls()
            pauses.append(round(call.getTime() - r.clock.seconds(), 3))
            r.clock.advance(pauses[-1])
            await until(lambda: not any(r.busy()))
        assert pauses == [1.0, 2.0, 4.0]
        assert r.counters["uploads.retried"] == 4
        assert r.journal()[0]["time"] == TAKEN  # a restart would not lose it either
        assert (await session.stat("/Rome/a.jpg"))["size"] == len(jpeg("a"))
        r.demo.faults.clear()
        session.hang_up()
        r.clock.advance(8)
        await until(lambda: r.counters["uploads.committed"] == 1)
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]
        assert r.in_spool() == []
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_log_ins_one_after_the_other_do_not_make_a_storm_of_tries(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        r.accounts.uploads(session.lease).random = lambda: 0.5
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", method="POST", route="/assets", count=None)
        await raises(Unreachable, session.utime("/Rome/a.jpg"))
        for pause in (1, 2, 4, 8):
            for _ in range(3):
                await r.session()
                await quiet()
            # No sooner than it would have been, and no later.
            r.clock.advance(min(pause, 5) - 0.01)
            await until(lambda: not any(r.busy()))
            before = r.counters["uploads.retried"]
            r.clock.advance(0.02)
            await until(lambda before=before: r.counters["uploads.retried"] == before + 1)
            await until(lambda: not any(r.busy()))
        assert r.counters["uploads.retried"] == 5
        # Long after the last try a log-in leads to one at once.
        r.clock.advance(6)
        r.demo.faults.clear()
        await r.session()
        await until(lambda: r.counters["uploads.committed"] == 1)
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]


@pytest_twisted.ensureDeferred
async def test_what_immich_refuses_for_good_stays_in_the_spool(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", method="POST", route="/assets", status=400)
        r.clock.advance(5)
        await until(lambda: r.counters["uploads.refused"] == 1)
        await until(lambda: not any(r.busy()))
        assert r.journal()[0]["state"] == "refused"
        assert not r.clock.getDelayedCalls()
        error = await _error(session.utime("/Rome/a.jpg"))
        assert "Immich" in error
        await _error(session.mv("/Rome/a.jpg", "/Rome/b.jpg"))
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)  # nothing of it is in flight


@pytest_twisted.ensureDeferred
async def test_bytes_whose_album_vanishes_on_the_way_are_sent_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, web = await r.session(), await r.session()
        handle = await session.open("/Rome/a.jpg", mtime=TAKEN)
        handle.writeChunk(0, jpeg("a"))
        r.demo.faults.add("hang", method="PUT", route="/albums/{id}/assets", seconds=0.5)
        closing = handle.close()
        await until(lambda: r.demo.requests["PUT /albums/{id}/assets"] == 1)
        await web.lease.immich.delete_album(album.id)
        await closing
        assert r.demo.requests["POST /assets"] == 1
        assert not r.in_spool()


@pytest_twisted.ensureDeferred
async def test_what_immich_refused_keeps_nothing_of_the_session_that_wrote_it(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", method="POST", route="/assets", status=400)
        # OpenSSH's SETSTAT is what meets the refusal: the error went through its whole session.
        await _error(session.utime("/Rome/a.jpg"))
        assert r.accounts.uploads(session.lease).find(album.id, "a.jpg") is not None
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)
        r.sessions.remove(session)
        kept = weakref.ref(session.sftp)
        del session
        gc.collect()
        assert kept() is None


async def _error(work: object) -> str:
    from immich_conch.errors import Refused

    return (await raises(Refused, work)).text  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_an_album_deleted_meanwhile_leaves_the_file_in_immich(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session, web = (
            await r.session(),
            await r.server.log_in("alice@example.com", "correct horse"),
        )
        await session.put("/Rome/a.jpg", jpeg("a"))
        await web.delete_album(album.id)
        await r.settled()
        (asset,) = r.demo.state.assets.values()
        assert (asset.name, asset.albums) == ("a.jpg", set())
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_the_service_commits_what_is_sealed_when_it_stops(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        session.hang_up()
        await r.accounts.stop()
        assert r.names_in(album) == ["a.jpg"]
        assert r.demo.open_sessions == 0
        assert not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_the_journal_is_private_holds_no_secret_and_goes(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        files = r.spooled()
        assert sorted(path.suffix for path in files) == [".data", ".json"]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert r.spool.stat().st_mode & 0o777 == 0o700
        (entry,) = r.journal()
        assert (entry["name"], entry["state"], entry["time"]) == ("a.jpg", "sealed", None)
        token = session.lease.immich.credential.secret  # type: ignore[attr-defined]
        for path in files:
            content = path.read_bytes()
            assert token.encode() not in content
            assert b"correct horse" not in content
        await session.utime("/Rome/a.jpg")
        assert r.spooled() == []
        await quiet()
        assert r.spooled() == []
