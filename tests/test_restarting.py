"""The process dies and starts again: nothing lost, nothing twice (BEHAVIOUR, section 5).

A step of a commit that Immich never answers stands for a death there: from the first request of
that kind on, all fail, and the next process starts over what the spool directory holds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import pytest_twisted
from rig import ARRIVED, TAKEN, VERSIONS, Rig, contents, jpeg, quiet, raises, rig, sha1, until
from twisted.internet import reactor
from twisted.internet.task import deferLater

from immich_conch.errors import NotFound, Refused
from immich_conch.transfer.commits import QUIET_PARALLEL
from immich_conch.transfer.spool import SET_ASIDE

CHECK, UPLOAD = ("POST", "/assets/bulk-upload-check"), ("POST", "/assets")
LOOK, ADD = ("GET", "/assets/{id}"), ("PUT", "/albums/{id}/assets")
COPY, TRASH = ("PUT", "/assets/copy"), ("DELETE", "/assets")
RESTORE, UNLINK = ("POST", "/trash/restore/assets"), ("DELETE", "/albums/{id}/assets")
#: Never done, or done and nobody heard of it.
DEATHS = ("status", "lose-answer")


async def death_at(r: Rig, step: tuple[str, str], how: str) -> None:
    """Let what is sealed come to its commit, which dies at a step; then start again."""
    before = r.demo.requests[" ".join(step)]
    r.demo.faults.add(how, method=step[0], route=step[1], count=None)
    r.clock.advance(5)
    await until(lambda: r.demo.requests[" ".join(step)] > before)
    await until(lambda: not any(r.busy()))
    r.demo.faults.clear()
    r.restart()


async def back(r: Rig) -> dict[str, int]:
    """Log in again, let everything get in; the listing."""
    session = await r.session()
    await r.settled()
    await until(lambda: r.in_spool() == [])
    await until(lambda: not any(r.busy()))
    assert not r.accounts.uploads(session.lease).busy
    session.lease.catalog.stale()
    return {name: attrs["size"] for name, attrs in (await session.ls("/Rome")).items()}


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("step", [CHECK, UPLOAD, LOOK, ADD])
@pytest_twisted.ensureDeferred
async def test_a_new_file_gets_in_once_wherever_its_commit_died(
    tmp_path: Path, step: tuple[str, str], how: str
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        await (await r.session()).put("/Rome/a.jpg", jpeg("a"))
        await death_at(r, step, how)
        assert await back(r) == {"a.jpg": len(jpeg("a"))}
        assert contents(r, album) == {"a.jpg": jpeg("a")}
        assert len(r.demo.state.assets) == 1
        assert [a.modified for a in r.demo.assets_of(album)] == [ARRIVED * 1000]


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("step", [CHECK, UPLOAD, LOOK, ADD, COPY, TRASH])
@pytest_twisted.ensureDeferred
async def test_an_overwrite_is_finished_wherever_its_commit_died(
    tmp_path: Path, step: tuple[str, str], how: str
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg", favorite=True)
        album = r.album("Rome", old)
        await (await r.session()).put("/Rome/a.jpg", jpeg("new"))
        await death_at(r, step, how)
        assert await back(r) == {"a.jpg": len(jpeg("new"))}
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        assert old.deleted is not None
        assert [a.favorite for a in r.demo.assets_of(album) if a.deleted is None] == [True]


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("step", [CHECK, UNLINK, RESTORE, ADD, LOOK])
@pytest_twisted.ensureDeferred
async def test_a_trashed_asset_is_restored_here_only_wherever_that_died(
    tmp_path: Path, step: tuple[str, str], how: str
) -> None:
    async with rig(tmp_path) as r:
        known = r.asset("a.jpg", jpeg("known"))
        album, other = r.album("Rome"), r.album("Best of", known)
        web = await r.server.log_in("alice@example.com", "correct horse")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("known"))
        await web.trash([known.id])
        await death_at(r, step, how)
        assert await back(r) == {"a.jpg": len(jpeg("known"))}
        assert known.deleted is None
        assert (r.demo.assets_of(album), r.demo.assets_of(other)) == ([known], [])


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_what_was_sealed_is_seen_and_committed_at_the_next_login(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("Rome")
        await (await r.session()).put("/Rome/a.jpg", jpeg("a"))
        r.restart()
        await r.pass_time(3600)
        assert contents(r, album) == {}
        session = await r.session()
        assert (await session.stat("/Rome/a.jpg"))["size"] == len(jpeg("a"))
        await session.utime("/Rome/a.jpg")  # the client still has its time to tell
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_login_that_may_not_upload_commits_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        await (await r.session()).put("/Rome/a.jpg", jpeg("a"))
        r.restart()
        permissions = ["user.read", "album.read", "asset.read", "asset.download", "apiKey.read"]
        reader = await r.session(key=r.demo.add_key(r.alice, permissions))
        await r.pass_time(60)
        assert contents(r, album) == {}
        assert await reader.get("/Rome/a.jpg") == jpeg("a")
        assert await back(r) == {"a.jpg": len(jpeg("a"))}


@pytest_twisted.ensureDeferred
async def test_many_are_committed_a_few_at_a_time_after_a_login(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        for number in range(20):
            await session.put(f"/Rome/{number}.jpg", jpeg(str(number)))
        r.restart()
        session = await r.session()
        most, done = 0, 0
        r.clock.advance(5)
        while done < 20:
            most = max(most, sum(key[0] == "name" for key in r.busy()))  # type: ignore[index]
            await deferLater(reactor, 0.001)
            done = r.counters["uploads.committed"]
        assert most <= QUIET_PARALLEL
        assert len(contents(r, album)) == 20
        assert most > 1
        await until(lambda: r.in_spool() == [])


@pytest_twisted.ensureDeferred
async def test_log_ins_queue_no_upload_twice(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        for number in range(QUIET_PARALLEL + 2):
            await session.put(f"/Rome/{number}.jpg", jpeg(str(number)))
        r.restart()
        r.demo.faults.add("hang", method="POST", route="/assets", seconds=0.3, count=None)
        session = await r.session()
        uploads = r.accounts.uploads(session.lease)
        r.clock.advance(5)
        await until(lambda: r.demo.requests["POST /assets"] == QUIET_PARALLEL)
        for _ in range(5):
            await r.session()
            await quiet(3)
            r.clock.advance(5)
            assert len(uploads._slots.waiting) == 2
        await until(lambda: r.in_spool() == [])
        assert len(contents(r, album)) == QUIET_PARALLEL + 2


@pytest_twisted.ensureDeferred
async def test_a_revoked_session_leaves_the_commit_to_another_that_is_here(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        one = await r.session()
        await one.put("/Rome/a.jpg", jpeg("a"))
        other = await r.session()
        r.demo.revoke(one.lease.immich.credential.secret)  # type: ignore[attr-defined]
        await other.utime("/Rome/a.jpg")
        assert [a.modified for a in r.demo.assets_of(album)] == [TAKEN * 1000]
        one.hang_up()
        other.hang_up()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_without_another_session_it_waits_for_the_next_login(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        one = await r.session()
        await one.put("/Rome/a.jpg", jpeg("a"))
        r.demo.revoke(one.lease.immich.credential.secret)  # type: ignore[attr-defined]
        r.clock.advance(5)
        await until(lambda: not any(r.busy()) and one.lease.revoked)
        assert not r.clock.getDelayedCalls()
        one.hang_up()
        await r.session()
        await until(lambda: contents(r, album) == {"a.jpg": jpeg("a")})


@pytest_twisted.ensureDeferred
async def test_of_two_under_one_name_the_later_one_stays_after_a_restart(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        ids = iter(["ff" * 16, "00" * 16])  # a directory lists the later one first
        r.accounts.spool.random_id = lambda: next(ids)
        await session.put("/Rome/a.jpg", jpeg("first"))
        kept = {path: path.read_bytes() for path in r.spooled()}
        await session.put("/Rome/a.jpg", jpeg("second"))
        for path, data in kept.items():
            path.write_bytes(data)  # the death came before the first one was let go
        r.restart()
        assert await back(r) == {"a.jpg": len(jpeg("second"))}
        assert contents(r, album) == {"a.jpg": jpeg("second")}


@pytest_twisted.ensureDeferred
async def test_an_upload_over_an_own_one_replaces_it_after_a_restart_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("first"))
        handle = await session.open("/Rome/a.jpg")
        handle.writeChunk(0, jpeg("second"))
        await r.settled()
        assert contents(r, album) == {"a.jpg": jpeg("first")}
        await handle.close()
        r.restart()
        assert await back(r) == {"a.jpg": len(jpeg("second"))}
        assert contents(r, album) == {"a.jpg": jpeg("second")}


@pytest_twisted.ensureDeferred
async def test_a_rename_that_failed_is_not_remembered(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"), None)
        uploads = r.accounts.uploads(session.lease)
        upload = uploads.find(album.id, "a.jpg")
        assert upload is not None
        r.demo.faults.add("status", method="POST", route="/assets", count=None)
        with pytest.raises(Exception, match="not reachable"):
            await session.utime("/Rome/a.jpg")
        with pytest.raises(Exception, match="not reachable"):
            await session.mv("/Rome/a.jpg", "/Rome/b.jpg")
        await until(lambda: not any(r.busy()))
        r.demo.faults.clear()
        r.restart()
        assert await back(r) == {"a.jpg": len(jpeg("a"))}


@pytest_twisted.ensureDeferred
async def test_a_parked_file_and_its_time_survive(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("a"), TAKEN)
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)  # it may wait for days
        r.restart()
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["a.jpg.part"]
        await session.mv("/Rome/a.jpg.part", "/Rome/a.jpg")
        assert [(a.name, a.modified) for a in r.demo.assets_of(album)] == [("a.jpg", TAKEN * 1000)]
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_parked_file_that_nobody_renames_goes_after_a_week(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("a"))
        for days, left in ((6.9, [".data", ".json"]), (0.2, [])):
            await r.pass_time(days * 86_400)
            r.accounts.sweep()
            assert r.in_spool() == left
        assert r.counters["uploads.dropped"] == 1
        assert await session.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_what_immich_refused_waits_for_the_administrator_through_restarts(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", method="POST", route="/assets", status=400)
        r.clock.advance(5)
        await until(lambda: r.counters["uploads.refused"] == 1)
        await until(lambda: not any(r.busy()))
        r.restart()
        session = await r.session()
        await r.pass_time(60)
        assert contents(r, album) == {}
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        (entry,) = r.journal()
        assert entry["state"] == "refused"
        assert entry["reason"]
        # A later file takes the name; the bytes of the refused one stay, also after a restart.
        await session.put("/Rome/a.jpg", jpeg("b"), TAKEN)
        r.restart()
        session = await r.session()
        assert await session.get("/Rome/a.jpg") == jpeg("b")
        with pytest.raises(Refused):
            await r.accounts.command(entry["id"], "retry")
        await r.accounts.command(entry["id"], "drop")
        assert r.in_spool() == []
        await raises(NotFound, r.accounts.command(entry["id"], "drop"))
        assert contents(r, album) == {"a.jpg": jpeg("b")}


@pytest.mark.parametrize("action", ["retry", "drop"])
@pytest_twisted.ensureDeferred
async def test_the_administrator_retries_or_drops_what_was_refused(
    tmp_path: Path, action: str
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("status", method="POST", route="/assets", status=400)
        r.clock.advance(5)
        await until(lambda: r.counters["uploads.refused"] == 1)
        await until(lambda: not any(r.busy()))
        (entry,) = r.journal()
        await r.accounts.command(entry["id"], action)
        expected = {"a.jpg": jpeg("a")} if action == "retry" else {}
        await until(lambda: r.in_spool() == [])
        assert contents(r, album) == expected
        assert list(await session.ls("/Rome")) == list(expected)
        session.hang_up()
        await until(lambda: r.demo.open_sessions == 0)


def _ruin(path: Path, how: str) -> None:
    if how == "no JSON":
        path.write_text("{")
    elif how == "cut":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    else:
        entry = json.loads(path.read_text())
        change = {
            "other format": {"format": 99},
            "other state": {"state": "nonsense"},
            "no hash": {"sha1": ""},
            "wrong hash": {"sha1": "xyz"},
            "wrong size": {"size": 7},
            "wrong type": {"arrived": "yesterday"},
        }[how]
        path.write_text(json.dumps({**entry, **change}))


RUINS = ["no JSON", "cut", "gone", "other format", "other state", "no hash", "wrong hash"]


@pytest.mark.parametrize("how", [*RUINS, "wrong size", "wrong type"])
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_used_is_set_aside_with_its_bytes(tmp_path: Path, how: str) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/bad.jpg", jpeg("bad"))
        (entry,) = r.spool.glob("*.json")
        await session.put("/Rome/good.jpg", jpeg("good"))
        _ruin(entry, how)
        r.restart()
        aside = r.spool / SET_ASIDE
        assert (aside / f"{entry.stem}.data").read_bytes() == jpeg("bad")
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["good.jpg"]
        r.restart()
        await r.session()
        r.clock.advance(5)
        await until(lambda: contents(r, album) == {"good.jpg": jpeg("good")})
        await until(lambda: not r.journal())
        assert len(list(aside.glob("*.data"))) == 1


@pytest_twisted.ensureDeferred
async def test_bytes_that_a_disk_lost_are_never_passed_off_as_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        await (await r.session()).put("/Rome/a.jpg", jpeg("a", 5000))
        (data,) = r.spool.glob("*.data")
        data.write_bytes(bytes(5000))
        r.restart()
        await r.session()
        r.clock.advance(5)
        await until(lambda: r.counters["uploads.refused"] == 1)
        assert r.demo.state.assets == {}
        assert contents(r, album) == {}
        await until(lambda: not any(r.busy()))
        (entry,) = r.journal()
        assert (entry["state"], entry["sha1"]) == ("refused", sha1(jpeg("a", 5000)).hex())


@pytest.mark.parametrize("left", [("gone",), ("gone", "json"), ("json.new",)])
@pytest_twisted.ensureDeferred
async def test_what_a_death_left_of_an_upload_that_was_over_goes(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        for kind in left:
            (r.spool / f"{'ab' * 16}.{kind}").write_text("{}")
        r.restart()
        assert r.spooled() == []


@pytest_twisted.ensureDeferred
async def test_a_second_process_over_the_same_spool_does_not_start(tmp_path: Path) -> None:
    from immich_conch.errors import SettingsError
    from immich_conch.transfer.spool import Spool

    async with rig(tmp_path) as r:
        with pytest.raises(SettingsError, match="in use"):
            Spool.make(os.fspath(r.spool))


@pytest_twisted.ensureDeferred
async def test_nothing_secret_and_nothing_of_a_client_is_in_a_file_name_or_entry(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        secret = r.demo.add_key(r.alice)
        session, by_key = await r.session(), await r.session(key=secret)
        await session.put("/Rome/sealed.jpg", jpeg("s"))
        await by_key.put("/Rome/key.jpg", jpeg("k"))
        await session.put("/Rome/parked.jpg.part", jpeg("p"))
        open_one = await by_key.open("/Rome/open.jpg")
        open_one.writeChunk(0, jpeg("o"))
        cut = await session.open("/Rome/cut.jpg")
        cut.writeChunk(0, jpeg("c"))
        cut.abort()
        token = session.lease.immich.credential.secret  # type: ignore[attr-defined]
        files = r.spooled()
        assert len(files) == 10
        for path in files:
            assert path.stat().st_mode & 0o777 == 0o600
            assert len(path.stem) == 32
            text = path.read_bytes()
            for word in (token, secret, "correct horse"):
                assert word.encode() not in text
        assert {entry["format"] for entry in r.journal()} == {1}
        open_one.abort()
