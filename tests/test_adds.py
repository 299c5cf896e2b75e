"""Assets go into albums side by side: in few calls, and each hears what became of its own.

Over the loopback: in memory a call has ended before the next one begins.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, WRITE, Rig, contents, jpeg, rig
from twisted.internet.defer import Deferred

from immich_conch.demo.entities import Album
from immich_conch.errors import ConchError, NotFound, SessionRevoked, Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.library.adds import Adds

PUT = "PUT /albums/{id}/assets"
CHECK = "POST /assets/bulk-upload-check"
NOWHERE = "00000000-0000-4000-8000-000000000000"


async def words(
    adds: Adds, album_id: str, ids: list[str], *sessions: IImmich
) -> list[str | type[ConchError] | None]:
    """What each hears of its asset, all asked for at once by the sessions in turn."""
    found = [
        Deferred.fromCoroutine(adds.add(sessions[at % len(sessions)], album_id, asset_id))
        for at, asset_id in enumerate(ids)
    ]
    told: list[str | type[ConchError] | None] = []
    for one in found:
        try:
            told.append(await one)
        except ConchError as error:
            told.append(type(error))
    return told


def some(r: Rig, count: int) -> tuple[Album, list[str]]:
    return r.album("Rome"), [r.asset(f"{number}.jpg").id for number in range(count)]


@pytest_twisted.ensureDeferred
async def test_what_comes_while_a_call_is_under_way_goes_with_the_next(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 8)
        immich = (await r.session()).lease.immich
        adds = Adds()
        assert await words(adds, album.id, ids, immich) == [None] * 8
        assert sorted(album.assets) == sorted(ids)
        assert r.demo.requests[PUT] == 2
        # Nothing is left of it: the next one goes at once.
        assert await words(adds, album.id, [r.asset("late.jpg").id], immich) == [None]
        assert r.demo.requests[PUT] == 3


@pytest_twisted.ensureDeferred
async def test_who_asks_for_an_asset_that_is_not_there_hears_so_alone(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 5)
        immich = (await r.session()).lease.immich
        wanted = [*ids[:3], NOWHERE, *ids[3:]]
        told = await words(Adds(), album.id, wanted, immich)
        assert told[3] is not None
        assert told[:3] + told[4:] == [None] * 5
        assert sorted(album.assets) == sorted(ids)


@pytest_twisted.ensureDeferred
async def test_an_asset_that_two_add_is_in_once_and_both_hear_it(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 2)
        immich = (await r.session()).lease.immich
        assert await words(Adds(), album.id, [ids[0], ids[1], ids[1]], immich) == [None] * 3
        assert sorted(album.assets) == sorted(ids)


@pytest_twisted.ensureDeferred
async def test_of_an_album_that_is_gone_everybody_hears(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 3)
        immich = (await r.session()).lease.immich
        await immich.delete_album(album.id)
        assert await words(Adds(), album.id, ids, immich) == [NotFound] * 3


@pytest_twisted.ensureDeferred
async def test_a_session_that_was_revoked_takes_nobody_along(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 6)
        one, other = (await r.session()).lease.immich, (await r.session()).lease.immich
        await one.log_out()
        # The first goes by itself; the second asks for the rest, and each of them for its own then.
        told = await words(Adds(), album.id, ids, other, one)
        assert told == [None, SessionRevoked] * 3
        assert sorted(album.assets) == sorted(ids[::2])


@pytest_twisted.ensureDeferred
async def test_an_immich_out_of_reach_is_not_asked_for_each(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 8)
        immich = (await r.session()).lease.immich
        r.demo.faults.add("status", method="PUT", route="/albums/{id}/assets", count=None)
        before = r.demo.requests[PUT]
        assert await words(Adds(), album.id, ids, immich) == [Unreachable] * 8
        # Two calls, each of which is tried again three times.
        assert r.demo.requests[PUT] - before == 8


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_less_does_not_speak_for_others(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album, ids = some(r, 4)
        key = r.demo.add_key(r.alice, ["asset.read", "user.read"])
        small, whole = (await r.session(key=key)).lease.immich, (await r.session()).lease.immich
        told = await words(Adds(), album.id, ids, small, whole)
        assert told[1::2] == [None] * 2
        assert all(isinstance(word, type) for word in told[::2])


@pytest.mark.parametrize("version", ["2.5.6", "3.1.0"])
@pytest_twisted.ensureDeferred
async def test_uploads_side_by_side_share_calls_and_are_all_in(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version, loopback=True) as r:
        album = r.album("Rome")
        session = await r.session()
        handles = []
        for number in range(8):
            handle = await session.open(f"/Rome/{number}.jpg", WRITE, mtime=TAKEN)
            handle.writeChunk(0, jpeg(str(number)))
            handles.append(handle)
        for closing in [handle.close() for handle in handles]:
            await closing
        assert contents(r, album) == {f"{number}.jpg": jpeg(str(number)) for number in range(8)}
        assert r.demo.requests[PUT] < 8
        # CLOSE has looked whether Immich knows the bytes; the commit need not look again.
        assert r.demo.requests[CHECK] == 8
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_bytes_that_come_in_from_elsewhere_behind_close_are_recognised(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        phone = r.asset("phone.jpg", jpeg("a"))
        await session.utime("/Rome/a.jpg")
        assert list(album.assets) == [phone.id]
        assert list(await session.ls("/Rome")) == ["a.jpg"]
        assert (await session.stat("/Rome/a.jpg"))["mtime"] == TAKEN
        assert len(r.demo.state.assets) == 1
        assert r.demo.requests[CHECK] == 1


@pytest_twisted.ensureDeferred
async def test_a_commit_that_failed_looks_what_became_of_it(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        r.demo.faults.add("lose-answer", method="POST", route="/assets")
        with pytest.raises(Unreachable):
            await session.utime("/Rome/a.jpg")
        checks = r.demo.requests[CHECK]
        await r.pass_time(60)
        assert contents(r, album) == {"a.jpg": jpeg("a")}
        assert r.demo.requests[CHECK] == checks + 1
        assert len(r.demo.state.assets) == 1
