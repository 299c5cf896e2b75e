"""How fresh a listing is, what it costs Immich, and names that stay (BEHAVIOUR, rule 2 and 3)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, VERSIONS, Rig, jpeg, raises, rig, until
from twisted.internet.defer import Deferred, gatherResults

from immich_conch.errors import NotFound, SessionRevoked, Unreachable
from immich_conch.immich.model import Album
from immich_conch.immich.session import Session as ImmichSession

LISTINGS = ("GET /albums", "GET /albums/{id}", "POST /search/metadata")


def listings(r: Rig) -> int:
    """Requests for lists, of albums or of an album's content."""
    return sum(r.demo.requests[route] for route in LISTINGS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_stat_of_a_thousand_files_costs_a_handful_of_calls(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        assets = r.demo.add_assets(r.alice, [f"{n}.jpg" for n in range(1000)], TAKEN)
        r.album("Rome", *assets)
        session = await r.session()
        before = r.demo.requests.total()
        for n in range(1000):
            assert (await session.stat(f"/Rome/{n}.jpg"))["size"] == 1000
        # Without the sync stream each asset's metadata is read, once.
        notes = "GET /assets/{id}/metadata"
        assert r.demo.requests[notes] == 1000
        assert r.demo.requests.total() - before - 1000 <= 6
        r.clock.advance(10)
        await session.ls("/Rome")
        assert r.demo.requests[notes] == 1000


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_one_refresh_is_shared_by_all_who_wait(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Rome", r.asset("a.jpg"))
        sessions = [await r.session() for _ in range(4)]
        await sessions[0].ls("/Rome")
        once = listings(r)
        r.demo.requests.clear()
        sessions[0].lease.catalog.stale()
        sessions[0].lease.catalog._folders.clear()
        stats = [Deferred.fromCoroutine(s.ls("/Rome")) for s in sessions for _ in range(5)]
        for entries in await gatherResults(stats):
            assert list(entries) == ["a.jpg"]
        assert 0 < listings(r) <= once


@pytest_twisted.ensureDeferred
async def test_an_album_is_listed_again_only_when_it_changed(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        album = r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await session.ls("/Rome")
        searches = r.demo.requests["POST /search/metadata"]
        for _ in range(5):
            r.clock.advance(10)
            await session.ls("/Rome")
        assert r.demo.requests["POST /search/metadata"] == searches
        web = await r.server.log_in("alice@example.com", "correct horse")
        await web.add_to_album(album.id, [r.asset("b.jpg").id])
        assert list(await session.ls("/Rome")) == ["a.jpg"]  # fresh enough
        r.clock.advance(2)
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "b.jpg"]
        await web.remove_from_album(album.id, [r.demo.assets_of(album)[0].id])
        r.clock.advance(2)
        assert list(await session.ls("/Rome")) == ["b.jpg"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", ["/", "/Rome"])
@pytest_twisted.ensureDeferred
async def test_a_listing_that_fails_is_an_error_and_not_empty(
    tmp_path: Path, version: str, path: str
) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        routes = ("/albums",) if path == "/" else ("/search/metadata", "/albums/{id}")
        for route in routes:
            r.demo.faults.add("status", route=route, count=None)
        await raises(Unreachable, session.ls(path))
        await raises(Unreachable, session.stat(f"{path.rstrip('/')}/nothing"))
        r.demo.faults.clear()
        assert len(await session.ls(path)) == 1


@pytest_twisted.ensureDeferred
async def test_a_listing_that_fails_later_on_is_no_absence_either(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        session = await r.session()
        await session.ls("/Rome")
        r.clock.advance(10)
        r.demo.faults.add("status", route="/albums", count=None)
        await raises(Unreachable, session.ls("/"))
        await raises(Unreachable, session.stat("/Rome/a.jpg"))
        r.demo.faults.clear()


@pytest_twisted.ensureDeferred
async def test_a_size_that_cannot_be_had_for_now_fails_the_listing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        asset.size = None
        session = await r.session()
        r.demo.faults.add("status", method="HEAD", route="*", count=None)
        await raises(Unreachable, session.ls("/Rome"))
        r.demo.faults.clear()
        assert (await session.ls("/Rome"))["a.jpg"]["size"] == len(jpeg("a.jpg"))


@pytest_twisted.ensureDeferred
async def test_an_asset_without_a_file_is_listed_without_a_size(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        gone = r.demo.add_asset(
            r.alice, "gone.jpg", None, TAKEN, size=None, library_id="library", offline=True
        )
        r.album("Rome", gone, r.asset("a.jpg"))
        session = await r.session()
        entries = await session.ls("/Rome")
        assert "size" not in entries["gone.jpg"]
        assert "size" in entries["a.jpg"]
        with pytest.raises(Exception, match="offline"):
            await session.get("/Rome/gone.jpg")


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_name_freed_by_remove_does_not_pass_to_the_sibling(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        first, second = r.asset("a.jpg", jpeg("1")), r.asset("a.jpg", jpeg("2", 50))
        r.album("Rome", first, second)
        session = await r.session()
        sibling = f"a ~{second.id[:8]}.jpg"
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", sibling])
        await session.rm("/Rome/a.jpg")
        for _ in range(3):
            assert list(await session.ls("/Rome")) == [sibling]
            await raises(NotFound, session.stat("/Rome/a.jpg"))
            r.clock.advance(10)
        # A new file may have it.
        await session.put("/Rome/a.jpg", jpeg("3"), TAKEN)
        r.clock.advance(10)
        assert sorted(await session.ls("/Rome")) == sorted(["a.jpg", sibling])
        assert await session.get("/Rome/a.jpg") == jpeg("3")


@pytest_twisted.ensureDeferred
async def test_an_albums_name_freed_does_not_pass_to_its_sibling(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        second = r.album("Rome")
        session = await r.session()
        sibling = f"Rome ~{second.id[:8]}"
        assert sorted(await session.ls("/")) == ["Rome", sibling]
        await session.sftp.removeDirectory(b"/Rome")
        r.clock.advance(10)
        assert list(await session.ls("/")) == [sibling]


@pytest.mark.parametrize("change", ["mkdir", "rmdir", "rename"])
@pytest_twisted.ensureDeferred
async def test_a_late_listing_of_albums_does_not_undo_an_own_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.ls("/")
        catalog = session.lease.catalog
        held: Deferred[None] = Deferred()
        albums, asked = ImmichSession.albums, []

        async def late(immich: ImmichSession) -> object:
            answer = await albums(immich)
            asked.append(immich)
            await held
            return answer

        monkeypatch.setattr(ImmichSession, "albums", late)
        # The list is asked for, and answered by Immich, before the change ...
        known = catalog._albums
        catalog.stale()
        waiting = Deferred.fromCoroutine(session.ls("/"))
        await until(lambda: asked)
        catalog._albums = known
        if change == "mkdir":
            await session.sftp.makeDirectory(b"/Oslo", {})
            expected = ["Oslo", "Rome"]
        elif change == "rmdir":
            await session.sftp.removeDirectory(b"/Rome")
            expected = []
        else:
            await session.mv("/Rome", "/Oslo")
            expected = ["Oslo"]
        # ... and arrives after it.
        held.callback(None)
        assert sorted(await waiting) == expected
        assert sorted(await session.ls("/")) == expected


@pytest_twisted.ensureDeferred
async def test_a_late_listing_of_files_does_not_undo_an_own_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        keep, go = r.asset("keep.jpg"), r.asset("go.jpg")
        album = r.album("Rome", keep, go)
        session = await r.session()
        await session.ls("/Rome")
        catalog = session.lease.catalog
        folder = catalog._folders.pop(album.id)
        held: Deferred[None] = Deferred()
        assets, asked = ImmichSession.assets, []

        async def late(immich: ImmichSession, album: Album) -> object:
            answer = await assets(immich, album)
            asked.append(album)
            await held
            return answer

        monkeypatch.setattr(ImmichSession, "assets", late)
        waiting = Deferred.fromCoroutine(session.ls("/Rome"))
        await until(lambda: asked)
        catalog._folders[album.id] = folder
        await session.rm("/Rome/go.jpg")
        await session.put("/Rome/new.jpg", jpeg("new"), TAKEN)
        held.callback(None)
        assert sorted(await waiting) == ["keep.jpg", "new.jpg"]
        assert sorted(await session.ls("/Rome")) == ["keep.jpg", "new.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_key_does_not_see_through_the_password_of_its_owner(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        password = await r.session()
        await password.ls("/Rome")
        key = await r.session(key=r.demo.add_key(r.alice, ["user.read", "album.read"]))
        other = await r.session(key=r.demo.add_key(r.alice))
        assert list(await key.ls("/")) == ["Rome"]
        with pytest.raises(Exception, match=r"permission asset\.read"):
            await key.ls("/Rome")
        assert list(await other.ls("/Rome")) == ["a.jpg"]
        assert len({s.lease.catalog for s in (password, key, other)}) == 3


@pytest_twisted.ensureDeferred
async def test_an_upload_by_password_is_in_the_listing_of_a_key_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        password, key = await r.session(), await r.session(key=r.demo.add_key(r.alice))
        assert await key.ls("/Rome") == {}
        await password.put("/Rome/a.jpg", jpeg("a"), TAKEN)
        assert list(await key.ls("/Rome")) == ["a.jpg"]
        await password.rm("/Rome/a.jpg")
        assert await key.ls("/Rome") == {}


@pytest_twisted.ensureDeferred
async def test_a_session_that_leaves_during_a_listing_ends_nobody_elses(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        stays, leaves = await r.session(), await r.session()
        r.demo.faults.add("hang", route="/albums", seconds=0.05)
        waiting = Deferred.fromCoroutine(stays.ls("/"))
        await until(lambda: r.demo.requests["GET /albums"])
        leaves.hang_up()
        assert list(await waiting) == ["Rome"]
        await until(lambda: r.demo.open_sessions == 1)
        r.clock.advance(10)
        assert list(await stays.ls("/")) == ["Rome"]


@pytest_twisted.ensureDeferred
async def test_a_revoked_session_ends_nobody_elses(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        stays, revoked = await r.session(), await r.session()
        r.demo.revoke(revoked.lease.immich.credential.secret)  # type: ignore[attr-defined]
        assert list(await stays.ls("/Rome")) == ["a.jpg"]
        r.demo.revoke(stays.lease.immich.credential.secret)  # type: ignore[attr-defined]
        r.clock.advance(10)
        await raises(SessionRevoked, stays.ls("/"))
