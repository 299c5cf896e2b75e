"""Nested folders by the slash in album names (BEHAVIOUR, sections 2, 3, 7 and 8)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import pytest_twisted
from nesting import EVERY_VERSION, albums, folders, mkdir, rmdir
from rig import NEW, NO_TRUNC, TAKEN, jpeg, raises, rig
from twisted.internet.defer import Deferred

from immich_conch.errors import (
    AlreadyExists,
    BadName,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
    Unreachable,
)
from immich_conch.library.albums import VANISHED_TIME

# -- looking -------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_nested_album_is_a_folder_in_folders(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Trips/2024/Rome", r.asset("a.jpg"))
        r.album("Trips/2024", r.asset("b.jpg"))
        oslo = r.album("Trips/2023/Oslo")
        session = await r.session()
        assert list(await session.ls("/")) == ["Trips"]
        assert sorted(await session.ls("/Trips")) == ["2023", "2024"]
        assert sorted(await session.ls("/Trips/2024")) == ["Rome", "b.jpg"]
        assert list(await session.ls("/Trips/2024/Rome")) == ["a.jpg"]
        assert await session.get("/Trips/2024/Rome/a.jpg") == jpeg("a.jpg")
        assert (await session.stat("/Trips/2024/b.jpg"))["size"] == len(jpeg("b.jpg"))
        prefix = await session.stat("/Trips/2023")
        assert prefix["permissions"] == stat.S_IFDIR | 0o755
        assert prefix["mtime"] == oslo.updated // 1_000
        for path in ("/Trips/2022", "/Trips/2023/x.jpg", "/Trips/2024/Rome/a.jpg/b", "/2024"):
            await raises(NotFound, session.stat(path))
            await raises(NotFound, session.ls(path))
        await raises(Refused, session.get("/Trips/2023"))


@pytest_twisted.ensureDeferred
async def test_a_folder_on_the_way_shows_the_newest_change_below(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A/1")
        session = await r.session()
        before = (await session.stat("/A"))["mtime"]
        later = r.album("A/2/3")
        later.updated += 1_000_000_000
        r.clock.advance(10)
        assert (await session.stat("/A"))["mtime"] == later.updated // 1_000 > before
        assert (await session.ls("/"))["A"]["mtime"] == later.updated // 1_000


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_hidden_album_on_the_way_is_a_folder_that_takes_nothing(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Secret", r.asset("a.jpg"), description="#nosync")
        r.album("Secret/Open", r.asset("b.jpg"))
        r.album("Mine")
        session = await r.session()
        assert await folders(session) == ["/Mine", "/Secret", "/Secret/Open"]
        assert list(await session.ls("/Secret")) == ["Open"]
        assert (await session.stat("/Secret"))["permissions"] == stat.S_IFDIR | 0o555
        for work in (
            session.stat("/Secret/a.jpg"),
            session.open("/Secret/b.jpg"),
            mkdir(session, "/Secret"),
            mkdir(session, "/Secret/New"),
            session.mv("/Mine", "/Secret/Mine"),
            session.mv("/Secret/Open/b.jpg", "/Secret/b.jpg"),
            session.mv("/Secret", "/Other"),
            session.posix_mv("/Mine", "/Secret"),
        ):
            await raises(Denied, work)
        await raises(NotEmpty, rmdir(session, "/Secret"))
        await session.put("/Secret/Open/c.jpg", jpeg("c"), TAKEN)
        await mkdir(session, "/Secret/Open/Deeper")
        assert albums(r) == ["Mine", "Secret", "Secret/Open", "Secret/Open/Deeper"]


@pytest_twisted.ensureDeferred
async def test_a_hidden_nested_album_is_taboo_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A", r.asset("B.jpg"))
        hidden = r.album("A/B.jpg", description="#nosync")
        session = await r.session()
        # It takes part in naming: the file has another name than the album.
        [name] = await session.ls("/A")
        assert name.startswith("B ~")
        await raises(Denied, session.open("/A/B.jpg"))
        await raises(Denied, mkdir(session, "/A/B.jpg"))
        await raises(Denied, rmdir(session, "/A/B.jpg"))
        await raises(Denied, session.mv(f"/A/{name}", "/A/B.jpg"))
        # What is hidden does not keep a folder.
        await rmdir(session, "/A")
        assert await session.ls("/") == {}
        assert r.demo.album("A/B.jpg") is hidden


# -- an asset named like a folder ----------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_asset_named_like_a_folder_in_its_album_gets_a_mark(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("B.jpg")
        r.album("A", asset)
        session = await r.session()
        assert list(await session.ls("/A")) == ["B.jpg"]
        inner = r.album("A/B.jpg", r.asset("c.jpg"))
        r.clock.advance(10)
        marked = f"B ~{asset.id[:8]}.jpg"
        entries = await session.ls("/A")
        assert sorted(entries) == [marked, "B.jpg"]
        assert stat.S_ISDIR(entries["B.jpg"]["permissions"])
        assert await session.get(f"/A/{marked}") == jpeg("B.jpg")
        assert list(await session.ls("/A/B.jpg")) == ["c.jpg"]
        # A new catalog sees the same.
        assert sorted(await (await r.session(key=r.demo.add_key(r.alice))).ls("/A")) == sorted(
            entries
        )
        await raises(Refused, session.open("/A/B.jpg"))
        await raises(Refused, session.open("/A/B.jpg", NEW))
        await raises(Refused, session.mv(f"/A/{marked}", "/A/B.jpg"))
        await raises(Refused, session.posix_mv(f"/A/{marked}", "/A/B.jpg"))
        await raises(Refused, session.rm("/A/B.jpg"))
        # The folder is gone: the file keeps the name it was shown under, and can be given its own.
        await rmdir(session, "/A/B.jpg")
        assert inner.id not in r.demo.state.albums
        assert list(await session.ls("/A")) == [marked]
        await session.mv(f"/A/{marked}", "/A/B.jpg")
        assert list(await session.ls("/A")) == ["B.jpg"]


@pytest_twisted.ensureDeferred
async def test_no_folder_is_made_over_a_file(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A", r.asset("B.jpg"))
        r.album("Mine")
        session = await r.session()
        handle = await session.open("/A/flying.jpg")
        for name in ("B.jpg", "flying.jpg"):
            await raises(AlreadyExists, mkdir(session, f"/A/{name}"))
            await raises(AlreadyExists, session.mv("/Mine", f"/A/{name}"))
            await raises(AlreadyExists, session.posix_mv("/Mine", f"/A/{name}"))
            await raises(Refused, mkdir(session, f"/A/{name}/deeper"))
        assert albums(r) == ["A", "Mine"]
        handle.writeChunk(0, jpeg("f"))
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await handle.close()


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_upload_whose_name_a_folder_gets_meanwhile_is_never_hidden(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("A")
        session = await r.session()
        await session.put("/A/B.jpg", jpeg("new"))
        r.album("A/B.jpg")
        r.clock.advance(2)
        entries = await session.ls("/A")
        assert len(entries) == 2
        [name] = entries.keys() - {"B.jpg"}
        assert name.startswith("B ~")
        assert (await session.stat(f"/A/{name}"))["size"] == len(jpeg("new"))
        assert await session.get(f"/A/{name}") == jpeg("new")
        await raises(NotEmpty, rmdir(session, "/A"))
        await session.utime(f"/A/{name}")
        assert r.names_in(album) == ["B.jpg"]
        assert len(await session.ls("/A")) == 2


# -- mkdir ---------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_mkdir_makes_an_album_of_the_whole_path(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        session = await r.session()
        await mkdir(session, "/Trips/2024")
        assert albums(r) == ["Trips/2024"]
        assert await folders(session) == ["/Trips", "/Trips/2024"]
        await raises(AlreadyExists, mkdir(session, "/Trips/2024"))
        await mkdir(session, "/Trips")
        assert albums(r) == ["Trips", "Trips/2024"]
        await raises(AlreadyExists, mkdir(session, "/Trips"))
        await mkdir(session, "/Trips/2024/a/b/c")
        assert albums(r) == ["Trips", "Trips/2024", "Trips/2024/a/b/c"]
        r.clock.advance(10)
        assert "/Trips/2024/a/b/c" in await folders(session)


@pytest.mark.parametrize("kind", ["stored", "twice"])
@pytest_twisted.ensureDeferred
async def test_a_new_folder_lies_where_it_was_made(tmp_path: Path, kind: str) -> None:
    async with rig(tmp_path) as r:
        parent = r.album("a\nb")
        if kind == "twice":
            parent = r.album("a\nb")
        session = await r.session()
        there = sorted(await session.ls("/"))[-1]
        await mkdir(session, f"/{there}/new")
        expected = "a\nb/new" if kind == "stored" else f"a␊b ~{parent.id[:8]}/new"
        assert expected in albums(r)
        for _ in range(2):
            assert list(await session.ls(f"/{there}")) == ["new"]
            session = await r.session(key=r.demo.add_key(r.alice))


@pytest_twisted.ensureDeferred
async def test_a_folder_of_another_spelling_is_the_same(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Cafe\u0301/1")
        session = await r.session()
        await mkdir(session, "/Café/2")
        assert albums(r) == ["Cafe\u0301/1", "Cafe\u0301/2"]
        assert sorted(await session.ls("/Cafe\u0301")) == sorted(await session.ls("/Café"))
        await raises(AlreadyExists, mkdir(session, "/Café/1"))


@pytest_twisted.ensureDeferred
async def test_what_no_album_can_be_called_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        session = await r.session()
        await raises(BadName, mkdir(session, "/a/b\n"))
        await raises(BadName, mkdir(session, "/a\n/b"))
        await raises(BadName, mkdir(session, "/" + "/".join(["x" * 250] * 15)))
        deep = "/" + "/".join(["x" * 250] * 13)
        await mkdir(session, deep)
        assert (await session.stat(deep))["permissions"] == stat.S_IFDIR | 0o755
        assert len(albums(r)) == 1


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_file_put_into_a_folder_that_is_no_album_makes_it_one(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Trips/Rome", r.asset("old.jpg"))
        session = await r.session()
        await raises(Denied, session.open("/Trips/notes.txt"))
        await raises(NotFound, session.sftp.openFile(b"/Trips/a.jpg", NO_TRUNC & ~8, {}))
        assert albums(r) == ["Trips/Rome"]
        one = Deferred.fromCoroutine(session.put("/Trips/a.jpg", jpeg("a"), TAKEN))
        two = Deferred.fromCoroutine(session.put("/Trips/b.jpg", jpeg("b"), TAKEN))
        await one
        await two
        assert albums(r) == ["Trips", "Trips/Rome"]
        assert r.names_in(r.demo.album("Trips")) == ["a.jpg", "b.jpg"]
        assert sorted(await session.ls("/Trips")) == ["Rome", "a.jpg", "b.jpg"]
        # A RENAME into one does the same.
        r.album("Other/Oslo")
        r.clock.advance(10)
        await session.mv("/Trips/Rome/old.jpg", "/Other/old.jpg")
        assert r.names_in(r.demo.album("Other")) == ["old.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_folder_whose_making_was_not_answered_is_not_made_twice(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        session = await r.session()
        await session.ls("/")
        r.demo.faults.add("lose-answer", method="POST", route="/albums")
        await raises(Unreachable, mkdir(session, "/Trips"))
        await raises(AlreadyExists, mkdir(session, "/Trips"))
        assert albums(r) == ["Trips"]


# -- rmdir ---------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_tree_is_removed_from_below(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Trips/2024/Rome", asset)
        r.album("Trips/2024/Rome/Night")
        session = await r.session()
        for path in ("/Trips", "/Trips/2024", "/Trips/2024/Rome"):
            await raises(NotEmpty, rmdir(session, path))
        await rmdir(session, "/Trips/2024/Rome/Night")
        await rmdir(session, "/Trips/2024/Rome")
        assert (asset.deleted, asset.albums) == (None, set())
        assert await session.ls("/") == {}
        # These are gone with the last album in them; a client removes each of them all the same.
        await rmdir(session, "/Trips/2024")
        await rmdir(session, "/Trips")
        await raises(NotFound, rmdir(session, "/Trips"))
        await raises(NotFound, rmdir(session, "/Never"))


@pytest_twisted.ensureDeferred
async def test_a_folder_vanished_long_ago_is_not_found(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Trips/Rome")
        session = await r.session()
        await rmdir(session, "/Trips/Rome")
        r.clock.advance(VANISHED_TIME)
        await raises(NotFound, rmdir(session, "/Trips"))


@pytest_twisted.ensureDeferred
async def test_an_upload_waiting_in_a_nested_album_keeps_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A/B")
        session = await r.session()
        await session.put("/A/B/a.jpg", jpeg("a"))
        await raises(NotEmpty, rmdir(session, "/A/B"))
        await session.utime("/A/B/a.jpg")
        await rmdir(session, "/A/B")
        assert albums(r) == []


# -- the separator -------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_another_separator_splits_and_joins(tmp_path: Path) -> None:
    async with rig(tmp_path, album_separator=" - ") as r:
        r.album("Trips - Rome", r.asset("a.jpg"))
        r.album("AC/DC")
        session = await r.session()
        assert await folders(session) == ["/AC∕DC", "/Trips", "/Trips/Rome"]
        await mkdir(session, "/Trips/Oslo/Day 1")
        assert "Trips - Oslo - Day 1" in albums(r)
        error = await raises(BadName, mkdir(session, "/Trips/a - b"))
        assert "' - '" in error.text
        await raises(BadName, session.mv("/Trips", "/a - b"))
        await raises(BadName, mkdir(session, "/Trips/a -/b"))
        await session.mv("/Trips", "/Reisen")
        assert albums(r) == ["AC/DC", "Reisen - Oslo - Day 1", "Reisen - Rome"]


@pytest_twisted.ensureDeferred
async def test_without_a_separator_folders_are_in_the_root_only(tmp_path: Path) -> None:
    async with rig(tmp_path, album_separator="") as r:
        r.album("Trips/Rome", r.asset("a.jpg"))
        session = await r.session()
        assert await folders(session) == ["/Trips∕Rome"]
        await raises(Denied, mkdir(session, "/Trips/Oslo"))
        await raises(Denied, mkdir(session, "/Trips∕Rome/Oslo"))
        await mkdir(session, "/Trips")
        await raises(Denied, session.mv("/Trips", "/Trips∕Rome/Trips"))
        await session.mv("/Trips", "/Tours")
        assert albums(r) == ["Tours", "Trips/Rome"]
        await rmdir(session, "/Trips∕Rome")
        assert albums(r) == ["Tours"]
