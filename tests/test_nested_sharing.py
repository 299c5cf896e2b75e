"""Shared albums among nested ones, and what becomes of them when they are shared no more."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import pytest_twisted
from nesting import EVERY_VERSION, albums, folders, mkdir, rmdir
from rig import TAKEN, jpeg, raises, rig
from test_tree import bob, with_bob

from immich_conch.errors import (
    Denied,
    NotFound,
)


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_shared_albums_nest_like_own_ones(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        look = r.album("Trips/Look", r.asset("a.jpg"), shared={"bob@example.com": "viewer"})
        edit = r.album("Trips/Edit", r.asset("b.jpg"), shared={"bob@example.com": "editor"})
        session = await bob(r)
        assert await folders(session) == ["/Trips", "/Trips/Edit", "/Trips/Look"]
        assert (await session.stat("/Trips/Look"))["permissions"] == stat.S_IFDIR | 0o555
        assert (await session.stat("/Trips/Edit"))["permissions"] == stat.S_IFDIR | 0o755
        await raises(Denied, session.open("/Trips/Look/new.jpg"))
        await raises(Denied, mkdir(session, "/Trips/Look/new"))
        await session.put("/Trips/Edit/new.jpg", jpeg("new"), TAKEN)
        await mkdir(session, "/Trips/Edit/Own")
        await raises(Denied, session.mv("/Trips", "/Reisen"))
        await raises(Denied, session.mv("/Trips/Look", "/Look"))
        assert albums(r) == ["Trips/Edit", "Trips/Edit/Own", "Trips/Look"]
        # An editor may rename on 3.x; where Immich refuses nothing is changed.
        if version == "3.1.0":
            await session.mv("/Trips/Edit", "/Trips/Both")
            assert albums(r) == ["Trips/Both", "Trips/Both/Own", "Trips/Look"]
            await session.mv("/Trips/Both", "/Trips/Edit")
        else:
            await raises(Denied, session.mv("/Trips/Edit", "/Trips/Both"))
            assert albums(r) == ["Trips/Edit", "Trips/Edit/Own", "Trips/Look"]
        await rmdir(session, "/Trips/Look")
        await rmdir(session, "/Trips/Edit/Own")
        await rmdir(session, "/Trips/Edit")
        await rmdir(session, "/Trips")
        assert await session.ls("/") == {}
        # Left, not deleted: others keep them, and what was put there.
        assert albums(r) == ["Trips/Edit", "Trips/Look"]
        assert r.names_in(edit) == ["b.jpg", "new.jpg"]
        assert r.names_in(look) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_leaving_an_album_takes_the_own_notes_for_it_along(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        with_bob(r)
        album = r.album("Trips/Edit", shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/a.jpg", jpeg("a"), TAKEN)
        await session.mv("/Trips/Edit/a.jpg", "/Trips/Edit/b.jpg")
        [asset] = r.demo.assets_of(album)
        assert album.id in str(asset.notes["immich-conch"].value)
        await rmdir(session, "/Trips/Edit")
        assert asset.notes == {}


@EVERY_VERSION
@pytest.mark.parametrize("mirror", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_an_album_that_is_shared_no_more_is_not_found(
    tmp_path: Path, version: str, mirror: int
) -> None:
    async with rig(tmp_path, version, mirror_max_assets=mirror, mirror_keep=0.0) as r:
        with_bob(r)
        asset = r.asset("a.jpg")
        album = r.album("Trips/Edit", asset, shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/mine.jpg", jpeg("mine"), TAKEN)
        assert sorted(await session.ls("/Trips/Edit")) == ["a.jpg", "mine.jpg"]
        handle = await session.open("/Trips/Edit/late.jpg")
        handle.writeChunk(0, jpeg("late"))
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        r.clock.advance(10)
        for work in (
            session.ls("/Trips/Edit"),
            session.stat("/Trips/Edit"),
            session.stat("/Trips/Edit/a.jpg"),
            session.get("/Trips/Edit/a.jpg"),
            session.open("/Trips/Edit/new.jpg"),
            session.rm("/Trips/Edit/mine.jpg"),
            session.mv("/Trips/Edit", "/Trips/Mine"),
            rmdir(session, "/Trips/Edit"),
            session.ls("/Trips"),
        ):
            await raises(NotFound, work)
        # The album is gone for an upload on its way: CLOSE says so.
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await raises(NotFound, handle.close())
        # Shared once more, it is there once more.
        r.demo.core.albums.share(album, [(r.demo.user("bob@example.com").id, "viewer")])
        r.clock.advance(10)
        assert sorted(await session.ls("/Trips/Edit")) == ["a.jpg", "mine.jpg"]
        session.hang_up()


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_upload_answered_ok_into_an_album_unshared_after_is_kept(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        album = r.album("Trips/Edit", shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/late.jpg", jpeg("late"))
        user = r.demo.user("bob@example.com")
        r.demo.core.albums.unshare(album, user.id)
        await r.settled()
        # Section 5: it was answered OK, so it is in Immich, without an album.
        assets = [a for a in r.demo.state.assets.values() if a.owner_id == user.id]
        assert [(a.name, a.albums) for a in assets] == [("late.jpg", set())]
        assert r.in_spool() == []


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_unshared_album_within_the_freshness_bound_is_no_traceback(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        album = r.album("Trips/Edit", r.asset("a.jpg"), shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.ls("/Trips")
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        # The list of albums is as old as it may be: each of these asks Immich and is told.
        await raises(NotFound, session.ls("/Trips/Edit"))
        r.demo.core.albums.share(album, [(r.demo.user("bob@example.com").id, "editor")])
        r.clock.advance(10)
        await session.ls("/Trips/Edit")
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        await raises(NotFound, rmdir(session, "/Trips/Edit"))
        await raises(NotFound, session.ls("/Trips/Edit"))
