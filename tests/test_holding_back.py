"""Overwriting by REMOVE and RENAME, and what meets a removal (BEHAVIOUR, sections 5 and 7)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, VERSIONS, Rig, contents, jpeg, raises, rig, until
from twisted.internet.defer import Deferred, gatherResults

from immich_conch.demo.entities import Album, Asset
from immich_conch.errors import MissingPermission, NotFound
from immich_conch.library.lookup import OVERWRITE_PERMISSIONS
from immich_conch.transfer.lease import UPLOAD_PERMISSIONS


async def _held(r: Rig) -> tuple[Asset, Album]:
    """A removal of /Rome/a.jpg that is held back, for /Rome/a.jpg.filepart waits."""
    old = r.asset("a.jpg", favorite=True)
    album = r.album("Rome", old)
    session = await r.session()
    await session.put("/Rome/a.jpg.filepart", jpeg("new"))
    await session.rm("/Rome/a.jpg")
    return old, album


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_winscps_remove_and_rename_is_an_overwrite(
    tmp_path: Path, version: str, died: bool
) -> None:
    async with rig(tmp_path, version) as r:
        old, album = await _held(r)
        if died:
            r.restart()
        other = await r.session()
        assert list(await other.ls("/Rome")) == ["a.jpg.filepart"]
        await raises(NotFound, other.stat("/Rome/a.jpg"))
        assert old.deleted is None
        await other.mv("/Rome/a.jpg.filepart", "/Rome/a.jpg")
        await other.utime("/Rome/a.jpg")
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        assert old.deleted is not None
        assert [a.favorite for a in r.demo.assets_of(album) if a.deleted is None] == [True]
        assert r.in_spool() == []
        await r.pass_time(60)
        assert contents(r, album) == {"a.jpg": jpeg("new")}


@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_removal_that_nothing_follows_is_carried_out(tmp_path: Path, died: bool) -> None:
    async with rig(tmp_path) as r:
        old, _ = await _held(r)
        assert [entry["kind"] for entry in r.journal()].count("removal") == 1
        if died:
            r.restart()
            await r.pass_time(3600)
            assert old.deleted is None
            await r.session()
        await r.pass_time(4.9)
        assert old.deleted is None
        r.clock.advance(0.2)
        await until(lambda: old.deleted is not None)
        await until(lambda: r.in_spool() == [".data", ".json"])  # what is parked stays


@pytest_twisted.ensureDeferred
async def test_a_removal_waits_for_an_immich_that_is_away(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old, _ = await _held(r)
        r.demo.faults.add("status", method="DELETE", route="/assets", count=None)
        r.clock.advance(5)
        await until(lambda: r.demo.requests["DELETE /assets"])
        await until(lambda: not any(r.busy()))
        assert list(await r.sessions[0].ls("/Rome")) == ["a.jpg.filepart"]
        r.demo.faults.clear()
        r.clock.advance(30)
        await until(lambda: old.deleted is not None)
        r.sessions[0].hang_up()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_without_an_upload_that_waits_a_remove_is_done_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        r.album("Rome", old)
        session = await r.session()
        await session.rm("/Rome/a.jpg")
        assert old.deleted is not None
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_folder_goes_only_after_what_was_removed_from_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        old, album = await _held(r)
        session = r.sessions[0]
        await session.rm("/Rome/a.jpg.filepart")
        await session.sftp.removeDirectory(b"/Rome")
        assert old.deleted is not None
        assert album.id not in r.demo.state.albums
        assert r.in_spool() == []
        assert not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_not_remove_hears_so_even_where_another_session_may(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        r.album("Rome", old)
        may = {"user.read", "album.read", "asset.read", "apiKey.read", *UPLOAD_PERMISSIONS}
        key = await r.session(key=r.demo.add_key(r.alice, sorted(may)))
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("new"))
        await raises(MissingPermission, key.rm("/Rome/a.jpg"))
        assert sorted(await key.ls("/Rome")) == ["a.jpg", "a.jpg.part"]
        allowed = sorted(may | set(OVERWRITE_PERMISSIONS))
        full = await r.session(key=r.demo.add_key(r.alice, allowed))
        await full.rm("/Rome/a.jpg")
        assert old.deleted is None
        r.clock.advance(5)
        await until(lambda: old.deleted is not None)


@pytest.mark.parametrize("target", ["a.jpg", "b.jpg"])
@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_same_bytes_again_end_a_removal(tmp_path: Path, target: str, died: bool) -> None:
    async with rig(tmp_path) as r:
        old, album = await _held(r)
        if died:
            r.restart()
        session = await r.session()
        r.clock.advance(4.99)
        checks = r.demo.requests["POST /assets/bulk-upload-check"]
        putting = Deferred.fromCoroutine(session.put(f"/Rome/{target}", r.demo.content(old), TAKEN))
        await until(lambda: r.demo.requests["POST /assets/bulk-upload-check"] >= checks + 2)
        r.clock.advance(5)
        await putting
        await r.pass_time(60)
        await until(lambda: not any(r.busy()))
        assert old.deleted is None
        assert [a for a in r.demo.assets_of(album) if a.deleted is None] == [old]
        assert [entry["kind"] for entry in r.journal()] == ["upload"]


@pytest.mark.parametrize("first", ["remove", "upload"])
@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_remove_here_against_upload_there_keeps_it_there(
    tmp_path: Path, first: str, died: bool
) -> None:
    async with rig(tmp_path) as r:
        known = r.asset("a.jpg", jpeg("known"))
        here, there = r.album("Here", known), r.album("There")
        one, two = await r.session(), await r.session()
        await two.put("/There/a.jpg", jpeg("known"))
        if died:
            r.demo.faults.add("status", method="PUT", route="/albums/{id}/assets", count=None)
            r.clock.advance(5)
            await until(lambda: r.demo.requests["PUT /albums/{id}/assets"])
            await until(lambda: not any(r.busy()))
            r.demo.faults.clear()
            r.restart()
            one, two = await r.session(), await r.session()
        work = {
            "remove": lambda: one.rm("/Here/a.jpg"),
            "upload": lambda: two.utime("/There/a.jpg"),
        }
        order = ["remove", "upload"] if first == "remove" else ["upload", "remove"]
        await gatherResults([Deferred.fromCoroutine(work[name]()) for name in order])
        await r.settled()
        assert known.deleted is None
        assert (r.demo.assets_of(here), r.demo.assets_of(there)) == ([], [known])
        assert r.in_spool() == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest_twisted.ensureDeferred
async def test_two_removes_in_two_albums_trash_it_in_the_end(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    async with rig(tmp_path) as r:
        known = r.asset("a.jpg")
        r.album("0", known)
        r.album("1", known)
        sessions = [await r.session(), await r.session()]
        await gatherResults(
            [Deferred.fromCoroutine(sessions[at].rm(f"/{at}/a.jpg")) for at in order]
        )
        assert known.deleted is not None
        assert len(known.albums) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("died", [False, True])
@pytest_twisted.ensureDeferred
async def test_two_uploads_of_one_content_make_one_asset_in_both_albums(
    tmp_path: Path, order: tuple[int, int], died: bool
) -> None:
    async with rig(tmp_path) as r:
        albums = [r.album("0"), r.album("1")]
        sessions = [await r.session(), await r.session()]
        for at in order:
            await sessions[at].put(f"/{at}/a.jpg", jpeg("same"))
        if died:
            r.demo.faults.add("lose-answer", method="POST", route="/assets", count=None)
            r.clock.advance(5)
            await until(lambda: r.demo.requests["POST /assets"])
            await until(lambda: not any(r.busy()))
            r.demo.faults.clear()
            r.restart()
            sessions = [await r.session(), await r.session()]
        await gatherResults(
            [Deferred.fromCoroutine(sessions[at].utime(f"/{at}/a.jpg")) for at in order]
        )
        (asset,) = r.demo.state.assets.values()
        assert asset.albums == {album.id for album in albums}
        assert r.in_spool() == []


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("when", ["before", "meanwhile", "died"])
@pytest_twisted.ensureDeferred
async def test_an_overwrite_against_a_delete_in_the_web_interface(
    tmp_path: Path, when: str, final: bool
) -> None:
    async with rig(tmp_path) as r:
        old = r.asset("a.jpg")
        album = r.album("Rome", old)
        session = await r.session()
        web = await r.server.log_in("alice@example.com", "correct horse")
        await session.put("/Rome/a.jpg", jpeg("new"))
        if when == "before":
            await web.trash([old.id], final=final)
        else:
            r.demo.faults.add(
                *(("status",) if when == "died" else ("hang",)),
                method="PUT",
                route="/assets/copy",
                **({"count": None} if when == "died" else {"seconds": 0.1}),
            )
        r.clock.advance(5)
        if when != "before":
            await until(lambda: r.demo.requests["PUT /assets/copy"])
            await web.trash([old.id], final=final)
        if when == "died":
            await until(lambda: not any(r.busy()))
            r.demo.faults.clear()
            r.restart()
            session = await r.session()
            r.clock.advance(5)
        await until(lambda: r.in_spool() == [])
        await until(lambda: not any(r.busy()))
        assert contents(r, album) == {"a.jpg": jpeg("new")}
        session.lease.catalog.stale()
        assert list(await session.ls("/Rome")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_new_asset_deleted_in_the_web_interface_meanwhile_comes_back(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        web = await r.server.log_in("alice@example.com", "correct horse")
        await session.put("/Rome/a.jpg", jpeg("new"))
        r.demo.faults.add("hang", method="PUT", route="/albums/{id}/assets", seconds=0.1)
        r.clock.advance(5)
        await until(lambda: r.demo.requests["PUT /albums/{id}/assets"])
        (asset,) = r.demo.state.assets.values()
        await web.trash([asset.id])
        await until(lambda: r.in_spool() == [])
        assert asset.deleted is None
        assert contents(r, album) == {"a.jpg": jpeg("new")}


@pytest_twisted.ensureDeferred
async def test_removing_what_waits_leaves_what_another_device_put_there_meanwhile(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("mine"))
        web = await r.server.log_in("alice@example.com", "correct horse")
        phone = r.asset("a.jpg", jpeg("phone"))
        await web.add_to_album(album.id, [phone.id])
        session.lease.catalog.stale()
        await session.rm("/Rome/a.jpg")
        assert phone.deleted is None
        assert await session.get("/Rome/a.jpg") == jpeg("phone")
