"""Links and copies within the server: no bytes move, and nothing is lost (BEHAVIOUR, section 8)."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import (
    ARRIVED,
    EDIT,
    READ,
    TAKEN,
    VERSIONS,
    Rig,
    Session,
    contents,
    jpeg,
    raises,
    rig,
    until,
)
from twisted.internet.defer import Deferred

from immich_conch.demo.entities import Album, Asset
from immich_conch.errors import (
    AlreadyExists,
    ConchError,
    Denied,
    Malformed,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from immich_conch.sftp import extensions
from immich_conch.sftp.wire import string

LINK = "PUT /albums/{id}/assets"
DOWNLOAD = "GET /assets/{id}/original"
UPLOAD = "POST /assets"


async def ln(session: Session, old: str, new: str) -> None:
    """hardlink@openssh.com."""
    data = string(old.encode()) + string(new.encode())
    assert await session.sftp.extendedRequest(extensions.HARDLINK, data) is None


async def copy_data(
    session: Session, source: Any, target: Any, start: int = 0, length: int = 0, at: int = 0
) -> None:
    """copy-data between two open files."""
    handles: Callable[[bytes], Any] = {b"1": source, b"2": target}.__getitem__
    data = string(b"1") + struct.pack("!QQ", start, length) + string(b"2") + struct.pack("!Q", at)
    assert await session.sftp.extendedRequest(extensions.COPY_DATA, data, handles) is None


async def cp(session: Session, old: str, new: str) -> None:
    """`cp` of OpenSSH's sftp."""
    source = await session.sftp.openFile(old.encode(), READ, {})
    target = await session.open(new)
    try:
        await copy_data(session, source, target)
    finally:
        source.close()
    await target.close()


def moved_bytes(r: Rig) -> int:
    """How many files were read from or uploaded to Immich."""
    return r.demo.requests[DOWNLOAD] + r.demo.requests[UPLOAD]


@asynccontextmanager
async def two_albums(
    tmp_path: Path, version: str = "3.1.0", **more: Any
) -> AsyncIterator[tuple[Rig, Asset, Album, Album, Session]]:
    async with rig(tmp_path, version, **more) as r:
        asset = r.asset("a.jpg", jpeg("a", 600_000))
        rome, best = r.album("Rome", asset), r.album("Best")
        yield r, asset, rome, best, await r.session()


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_link_puts_the_asset_into_the_other_album(tmp_path: Path, version: str) -> None:
    async with two_albums(tmp_path, version) as (r, asset, rome, best, session):
        await ln(session, "/Rome/a.jpg", "/Best/b.jpg")
        assert asset.albums == {rome.id, best.id}
        here, there = await session.stat("/Rome/a.jpg"), await session.stat("/Best/b.jpg")
        assert here == there
        assert list(await session.ls("/Best")) == ["b.jpg"]
        assert await session.get("/Best/b.jpg") == jpeg("a", 600_000)
        assert r.demo.requests[UPLOAD] == 0
        # By the delete rule each of the two goes by itself.
        await session.rm("/Rome/a.jpg")
        assert (asset.albums, asset.deleted) == ({best.id}, None)
        assert list(await session.ls("/Best")) == ["b.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_link_within_its_album_is_a_second_name(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (_r, asset, rome, _, session):
        await session.utime("/Rome/a.jpg", TAKEN + 7)
        await ln(session, "/Rome/a.jpg", "/Rome/b.jpg")
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "b.jpg"]
        assert (await session.stat("/Rome/b.jpg"))["mtime"] == TAKEN + 7
        assert asset.albums == {rome.id}
        await session.rm("/Rome/a.jpg")
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        assert asset.deleted is None


@pytest_twisted.ensureDeferred
async def test_a_link_never_replaces(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (_r, asset, rome, _best, session):
        await session.put("/Best/taken.jpg", jpeg("taken"), TAKEN)
        handle = await session.open("/Best/open.jpg")
        for name in ("/Best/taken.jpg", "/Best/open.jpg", "/Rome/a.jpg", "/Best"):
            await raises(
                Denied if name == "/Best" else AlreadyExists, ln(session, "/Rome/a.jpg", name)
            )
        assert asset.albums == {rome.id}
        handle.abort()


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_linked_says_so(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, _, __, ___, session):
        r.album("Secret", r.asset("s.jpg"), description="#nosync")
        await raises(NotFound, ln(session, "/Rome/none.jpg", "/Best/b.jpg"))
        await raises(NotFound, ln(session, "/Rome/a.jpg", "/None/b.jpg"))
        await raises(Denied, ln(session, "/Rome/a.jpg", "/Secret/b.jpg"))
        await raises(Denied, ln(session, "/Secret/s.jpg", "/Best/b.jpg"))
        await raises(Denied, ln(session, "/Rome", "/Best/b.jpg"))
        await raises(Denied, ln(session, "/Rome/a.jpg", "/b.jpg"))
        await session.put("/Rome/b.jpg.part", jpeg("parked"))
        await raises(Refused, ln(session, "/Rome/b.jpg.part", "/Best/b.jpg"))
        assert await session.ls("/Best") == {}


@pytest_twisted.ensureDeferred
async def test_a_file_that_waits_for_its_time_is_in_immich_before_it_is_linked(
    tmp_path: Path,
) -> None:
    async with two_albums(tmp_path) as (r, _, rome, best, session):
        await session.put("/Rome/new.jpg", jpeg("new"))
        assert r.names_in(rome) == ["a.jpg"]
        await ln(session, "/Rome/new.jpg", "/Best/new.jpg")
        assert (r.names_in(rome), r.names_in(best)) == (["a.jpg", "new.jpg"], ["new.jpg"])
        # The time may come still.
        await session.utime("/Rome/new.jpg", TAKEN)
        assert (await session.stat("/Rome/new.jpg"))["mtime"] == TAKEN
        assert (await session.stat("/Best/new.jpg"))["mtime"] == ARRIVED
        await r.settled()
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_file_that_immich_does_not_take_now_is_not_linked_and_not_lost(
    tmp_path: Path,
) -> None:
    async with two_albums(tmp_path) as (r, _, rome, best, session):
        await session.put("/Rome/new.jpg", jpeg("new"))
        r.demo.faults.add("status", method="POST", route="/assets", count=None)
        await raises(Unreachable, ln(session, "/Rome/new.jpg", "/Best/new.jpg"))
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "new.jpg"]
        r.demo.faults.clear()
        await r.pass_time(60)
        await until(lambda: r.names_in(rome) == ["a.jpg", "new.jpg"])
        assert r.names_in(best) == []


@pytest_twisted.ensureDeferred
async def test_a_link_that_fails_leaves_no_name_behind(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, asset, rome, best, session):
        r.demo.faults.add("status", method="PUT", route="/albums/{id}/assets", count=None)
        await raises(Unreachable, ln(session, "/Rome/a.jpg", "/Best/b.jpg"))
        r.demo.faults.clear()
        assert asset.albums == {rome.id}
        # Put there by hand, in Immich, it goes by its own name.
        await ln(session, "/Rome/a.jpg", "/Best/a.jpg")
        assert list(await session.ls("/Best")) == ["a.jpg"]
        assert r.names_in(best) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_file_trashed_by_somebody_else_is_not_linked_into_thin_air(tmp_path: Path) -> None:
    async with two_albums(tmp_path, freshness=60.0) as (_r, asset, _, _best, session):
        await session.ls("/Rome")
        await session.lease.immich.trash([asset.id])
        await raises(NotFound, ln(session, "/Rome/a.jpg", "/Best/a.jpg"))
        assert await session.ls("/Best") == {}


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_somebody_elses_file_is_not_linked_where_immich_says_no(
    tmp_path: Path, version: str
) -> None:
    async with two_albums(tmp_path, version) as (r, _, __, best, session):
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN)
        r.demo.add_album(bob, "Shared", [theirs], shared={"alice@example.com": "viewer"})
        await raises(Denied, ln(session, "/Shared/theirs.jpg", "/Best/theirs.jpg"))
        # Another name of it could not be kept anyway.
        await raises(Unsupported, ln(session, "/Shared/theirs.jpg", "/Best/mine.jpg"))
        await raises(Denied, ln(session, "/Rome/a.jpg", "/Shared/a.jpg"))
        assert r.names_in(best) == []


@pytest_twisted.ensureDeferred
async def test_an_own_file_is_linked_into_an_album_one_may_edit(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, asset, rome, _, session):
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        shared = r.demo.add_album(bob, "Shared", [], shared={"alice@example.com": "editor"})
        await ln(session, "/Rome/a.jpg", "/Shared/a.jpg")
        assert asset.albums == {rome.id, shared.id}
        assert list(await session.ls("/Shared")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_nothing_is_linked_by_a_service_that_changes_nothing(tmp_path: Path) -> None:
    async with two_albums(tmp_path, read_only=True) as (_, __, ___, ____, session):
        await raises(Denied, ln(session, "/Rome/a.jpg", "/Best/a.jpg"))


# -- copy-data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_whole_file_copied_to_a_new_one_becomes_a_link(
    tmp_path: Path, version: str
) -> None:
    async with two_albums(tmp_path, version) as (r, asset, rome, best, session):
        await cp(session, "/Rome/a.jpg", "/Best/b.jpg")
        assert asset.albums == {rome.id, best.id}
        assert moved_bytes(r) == 0
        assert await session.get("/Best/b.jpg") == jpeg("a", 600_000)
        # In the same album too, and a time set afterwards is the copy's alone.
        await cp(session, "/Rome/a.jpg", "/Rome/c.jpg")
        await session.utime("/Rome/c.jpg", TAKEN + 99)
        listed = await session.ls("/Rome")
        assert {name: entry["mtime"] for name, entry in listed.items()} == {
            "a.jpg": TAKEN,
            "c.jpg": TAKEN + 99,
        }
        await r.settled()
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_copy_is_there_before_its_close_with_its_size_and_bytes(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, _asset, _, __, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        await copy_data(session, source, target, length=600_000)
        source.close()
        assert (await session.stat("/Best/b.jpg"))["size"] == 600_000
        assert await session.get("/Best/b.jpg") == jpeg("a", 600_000)
        assert target.getAttrs()["size"] == 600_000
        await session.mv("/Best/b.jpg", "/Best/c.jpg")
        target.setAttrs({"atime": TAKEN + 5, "mtime": TAKEN + 5})
        await target.close()
        assert {k: v["mtime"] for k, v in (await session.ls("/Best")).items()} == {
            "c.jpg": TAKEN + 5
        }
        assert r.demo.requests[UPLOAD] == 0


@pytest_twisted.ensureDeferred
async def test_a_copy_over_an_existing_file_replaces_it(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, asset, _, best, session):
        old = r.asset("b.jpg", jpeg("old"))
        await session.lease.immich.add_to_album(best.id, [old.id])
        session.lease.catalog.stale()
        await cp(session, "/Rome/a.jpg", "/Best/b.jpg")
        assert (old.deleted is not None, asset.deleted) == (True, None)
        assert list(await session.ls("/Best")) == ["b.jpg"]
        assert await session.get("/Best/b.jpg") == jpeg("a", 600_000)
        # Onto itself nothing happens.
        await cp(session, "/Best/b.jpg", "/Best/b.jpg")
        assert (list(await session.ls("/Best")), asset.deleted) == (["b.jpg"], None)


@pytest_twisted.ensureDeferred
async def test_a_copy_that_is_written_on_is_a_file_of_its_own(tmp_path: Path) -> None:
    async with two_albums(tmp_path, loopback=True) as (r, _asset, rome, best, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        await copy_data(session, source, target)
        source.close()
        target.writeChunk(600_000, b"more")
        target.setAttrs({"mtime": TAKEN})
        await target.close()
        assert contents(r, best) == {"b.jpg": jpeg("a", 600_000) + b"more"}
        assert contents(r, rome) == {"a.jpg": jpeg("a", 600_000)}


@pytest_twisted.ensureDeferred
async def test_a_copy_under_a_temporary_name_is_there_until_it_is_renamed(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, asset, rome, best, session):
        await cp(session, "/Rome/a.jpg", "/Best/b.jpg.part")
        assert (await session.stat("/Best/b.jpg.part"))["size"] == 600_000
        await session.utime("/Best/b.jpg.part")
        await session.posix_mv("/Best/b.jpg.part", "/Best/b.jpg")
        assert asset.albums == {rome.id, best.id}
        assert list(await session.ls("/Best")) == ["b.jpg"]
        assert r.demo.requests[UPLOAD] == 0


@pytest.mark.parametrize(
    ("start", "length", "at", "result"),
    [
        (0, 4, 0, b"0123"),
        (4, 0, 0, b"456789"),
        (2, 3, 2, b"\0\x00234"),
        (8, 50, 0, b"89"),
        (50, 0, 0, b""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_part_of_a_file_is_copied_through_the_spool(
    tmp_path: Path, start: int, length: int, at: int, result: bytes
) -> None:
    async with two_albums(tmp_path) as (r, _, __, best, session):
        await session.put("/Rome/n.jpg", b"0123456789", TAKEN)
        source = await session.sftp.openFile(b"/Rome/n.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        await copy_data(session, source, target, start, length, at)
        source.close()
        target.setAttrs({"mtime": TAKEN})
        await target.close()
        assert (await session.get("/Best/b.jpg") if result else b"") == result
        await r.settled()
        assert contents(r, best) == ({"b.jpg": result} if result else {})
        session.hang_up()


@pytest_twisted.ensureDeferred
async def test_files_on_their_way_are_copied_byte_by_byte(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, _, __, best, session):
        await session.put("/Rome/n.jpg", jpeg("sealed"))
        await cp(session, "/Rome/n.jpg", "/Best/n.jpg")
        await session.put("/Rome/p.jpg.part", jpeg("parked"))
        await cp(session, "/Rome/p.jpg.part", "/Best/p.jpg")
        await r.settled()
        assert contents(r, best) == {"n.jpg": jpeg("sealed"), "p.jpg": jpeg("parked")}


@pytest_twisted.ensureDeferred
async def test_somebody_elses_file_is_copied_as_an_upload(tmp_path: Path) -> None:
    async with two_albums(tmp_path, loopback=True) as (r, _, __, best, session):
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN)
        r.demo.add_album(bob, "Shared", [theirs], shared={"alice@example.com": "viewer"})
        await cp(session, "/Shared/theirs.jpg", "/Best/mine.jpg")
        await r.settled()
        assert contents(r, best) == {"mine.jpg": jpeg("theirs")}
        (asset,) = r.demo.assets_of(best)
        assert asset.owner_id == r.alice.id


@pytest_twisted.ensureDeferred
async def test_a_copy_whose_source_breaks_off_keeps_nothing(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, _, __, _best, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        r.demo.faults.add("status", method="GET", route="/assets/{id}/original", status=404)
        await raises(NotFound, copy_data(session, source, target, start=1))
        source.close()
        await raises(NotFound, target.close())
        assert await session.ls("/Best") == {}
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_source_deleted_before_the_close_fails_it(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, asset, rome, best, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        await copy_data(session, source, target)
        source.close()
        await session.lease.immich.trash([asset.id], final=True)
        await until(lambda: r.demo.assets_of(rome) == [])
        with pytest.raises(ConchError):
            await target.close()
        assert r.demo.assets_of(best) == []
        assert await session.ls("/Best") == {}
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_the_session_goes_on_while_a_file_is_copied_and_ends_the_copy_with_it(
    tmp_path: Path,
) -> None:
    async with two_albums(tmp_path) as (r, _, __, _best, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        r.demo.faults.add("hang", method="GET", route="/assets/{id}/original")
        copying = Deferred.fromCoroutine(copy_data(session, source, target, start=1))
        assert (await session.stat("/Rome/a.jpg"))["size"] == 600_000
        assert not copying.called
        source.abort()
        target.abort()
        session.hang_up()
        await raises(NotFound, copying)
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_a_crash_leaves_no_copy_with_holes(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (r, _, __, _best, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        target = await session.open("/Best/b.jpg")
        await copy_data(session, source, target)
        target.writeChunk(600_000, b"more")
        source.close()
        r.restart()
        again = await r.session()
        await raises(NotFound, again.stat("/Best/b.jpg"))
        assert r.in_spool() == []


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_copied_says_so(tmp_path: Path) -> None:
    async with two_albums(tmp_path) as (_r, _, __, ___, session):
        source = await session.sftp.openFile(b"/Rome/a.jpg", READ, {})
        folder = await session.sftp.openDirectory(b"/Rome")
        target = await session.open("/Best/b.jpg")
        edited = await session.open("/Rome/a.jpg", EDIT)
        await raises(Refused, copy_data(session, source, source))
        await raises(Refused, copy_data(session, folder, target))
        await raises(Refused, copy_data(session, target, folder))
        await raises(Refused, copy_data(session, target, target))
        await raises(Refused, copy_data(session, edited, edited))
        with pytest.raises(Malformed):
            await session.sftp.extendedRequest(
                extensions.COPY_DATA, string(b"1"), lambda handle_id: target
            )
        for handle in (source, target, edited):
            handle.abort()
