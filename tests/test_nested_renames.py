"""Renaming a folder with albums below: all of them, or none (BEHAVIOUR, sections 3 and 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from nesting import EVERY_VERSION, albums, folders, rmdir
from rig import Rig, jpeg, raises, rig
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotEmpty,
    NotFound,
    Refused,
    Unreachable,
)


@asynccontextmanager
async def logged() -> AsyncIterator[list[str]]:
    """The lines that are logged as errors."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.error:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


def trip(r: Rig, count: int = 4) -> list[str]:
    """A folder that is no album, with albums below; their names."""
    names = ["Trips/2024", "Trips/2024/Rome", "Trips/2023/Oslo", "Trips/Z"][:count]
    for name in names:
        r.album(name, r.asset(f"{name.replace('/', ' ')}.jpg"))
    return sorted(names)


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_rename_of_a_folder_takes_everything_below_along(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        names = trip(r)
        session, other = await r.session(), await r.session(key=r.demo.add_key(r.alice))
        await other.ls("/")
        await session.mv("/Trips", "/Reisen/alle")
        assert albums(r) == sorted(name.replace("Trips", "Reisen/alle") for name in names)
        for one in (session, other):
            assert await folders(one) == [
                "/Reisen",
                "/Reisen/alle",
                "/Reisen/alle/2023",
                "/Reisen/alle/2023/Oslo",
                "/Reisen/alle/2024",
                "/Reisen/alle/2024/Rome",
                "/Reisen/alle/Z",
            ]
            await raises(NotFound, one.stat("/Trips"))
        path = "/Reisen/alle/2024/Rome/Trips 2024 Rome.jpg"
        assert await session.get(path) == jpeg("Trips 2024 Rome.jpg")
        # An album with albums in it, back up.
        await session.mv("/Reisen/alle/2024", "/2024")
        assert {"2024", "2024/Rome"} <= set(albums(r))
        # What was only there for what is gone may be removed once.
        await session.mv("/Reisen/alle", "/Trips")
        await rmdir(session, "/Reisen")
        await raises(NotFound, rmdir(session, "/Reisen"))


@pytest_twisted.ensureDeferred
async def test_a_folder_is_not_renamed_onto_another_or_into_itself(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        r.album("Mine", r.asset("mine.jpg"))
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Mine", "/Trips"))
        await raises(AlreadyExists, session.mv("/Mine", "/Trips/2024"))
        await raises(AlreadyExists, session.mv("/Trips/2024", "/Mine"))
        await raises(AlreadyExists, session.mv("/Trips/2024/Rome", "/Trips/2024"))
        for path in ("/Trips/new", "/Trips/2024/new", "/Trips/2024"):
            await raises(Refused, session.mv("/Trips", path))
            await raises(Refused, session.posix_mv("/Trips", path))
        # posix-rename replaces an empty album only.
        for path in ("/Trips", "/Trips/2024", "/Trips/2023"):
            await raises(AlreadyExists, session.posix_mv("/Mine", path))
        await raises(AlreadyExists, session.posix_mv("/Trips", "/Mine"))
        await session.mv("/Mine", "/Mine")
        assert albums(r) == sorted([*names, "Mine"])


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_posix_rename_replaces_an_empty_album(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        names = trip(r)
        empty = r.album("New/Place")
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Trips", "/New/Place"))
        handle = await session.open("/New/Place/a.jpg")
        await raises(NotEmpty, session.posix_mv("/Trips", "/New/Place"))
        handle.abort()
        await session.posix_mv("/Trips", "/New/Place")
        assert empty.id not in r.demo.state.albums
        assert albums(r) == sorted(name.replace("Trips", "New/Place") for name in names)
        assert "2024" in await session.ls("/New/Place")


@pytest.mark.parametrize("ignore_case", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_folder_may_be_spelt_anew(tmp_path: Path, ignore_case: bool) -> None:
    async with rig(tmp_path, ignore_case=ignore_case) as r:
        r.album("café", r.asset("a.jpg"))
        r.album("café/one")
        r.album("cafe\u0301/two")
        session = await r.session()
        target = "CAFÉ" if ignore_case else "cafe\u0301"
        await session.mv("/café", f"/{target}")
        assert albums(r) == sorted([target, f"{target}/one", f"{target}/two"])
        for _ in range(2):
            assert list(await session.ls("/")) == [target]
            assert sorted(await session.ls(f"/{target}")) == ["a.jpg", "one", "two"]
            r.clock.advance(10)


@pytest.mark.parametrize("way", ["mirror", "listings"])
@pytest_twisted.ensureDeferred
async def test_live_photos_and_removals_that_wait_go_along_with_the_folder(
    tmp_path: Path, way: str
) -> None:
    more = {"mirror_max_assets": 1000} if way == "mirror" else {}
    async with rig(tmp_path, **more) as r:
        parts = [r.asset(f"IMG_{n}.MOV", visibility="hidden") for n in (1, 2)]
        stills = [
            r.asset(f"IMG_{n}.HEIC", live_video=part.id) for n, part in enumerate(parts, start=1)
        ]
        inner, other = r.album("Trips/Rome", *stills), r.album("Other")
        session = await r.session()
        await session.put("/Trips/Rome/new.jpg", jpeg("new"))  # without a time: it waits
        await session.rm("/Trips/Rome/IMG_1.HEIC")  # held back for that
        await session.rm("/Trips/Rome/IMG_1.MOV")
        await session.mv("/Trips", "/Old")
        assert inner.name == "Old/Rome"
        assert stills[0].deleted is not None
        assert sorted(await session.ls("/Old/Rome")) == ["IMG_2.HEIC", "IMG_2.MOV", "new.jpg"]
        await raises(NotFound, session.ls("/Trips"))
        await session.utime("/Old/Rome/new.jpg")
        assert r.names_in(inner) == ["IMG_2.HEIC", "new.jpg"]
        # And out of the nested album, both halves, under other names.
        await session.mv("/Old/Rome/IMG_2.MOV", "/Old/Rome/Film.MOV")
        await session.mv("/Old/Rome/IMG_2.HEIC", "/Other/Photo.HEIC")
        for _ in range(2):
            assert list(await session.ls("/Old/Rome")) == ["new.jpg"]
            assert sorted(await session.ls("/Other")) == ["Film.MOV", "Photo.HEIC"]
            r.clock.advance(3.0)
        assert (stills[1].albums, parts[1].deleted) == ({other.id}, None)


@pytest_twisted.ensureDeferred
async def test_uploads_on_their_way_go_along_with_the_folder(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        inner = r.album("A/B")
        session = await r.session()
        await session.put("/A/B/sealed.jpg", jpeg("sealed"))
        handle = await session.open("/A/B/open.jpg")
        handle.writeChunk(0, jpeg("open"))
        await session.mv("/A", "/C")
        assert sorted(await session.ls("/C/B")) == ["open.jpg", "sealed.jpg"]
        await handle.close()
        await session.utime("/C/B/open.jpg")
        await session.utime("/C/B/sealed.jpg")
        assert r.names_in(inner) == ["open.jpg", "sealed.jpg"]


@pytest_twisted.ensureDeferred
async def test_hidden_albums_below_go_along_with_the_folder(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A")
        r.album("A/Secret", description="#nosync")
        session = await r.session()
        await session.mv("/A", "/B")
        assert albums(r) == ["B", "B/Secret"]


@EVERY_VERSION
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("mirror", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_a_rename_that_fails_half_way_is_undone(
    tmp_path: Path, version: str, position: int, mirror: int
) -> None:
    async with rig(tmp_path, version, mirror_max_assets=mirror, mirror_keep=0.0) as r:
        names = trip(r)
        session = await r.session()
        before = await folders(session)
        # In the order they are renamed in: by the time they were made.
        victim = list(r.demo.state.albums.values())[position]
        r.demo.faults.add(
            "status", method="PATCH", route=f"/albums/{victim.id}", status=403, count=None
        )
        patched = r.demo.requests["PATCH /albums/{id}"]
        with pytest.raises(Denied):
            await session.mv("/Trips", "/Reisen")
        assert r.demo.requests["PATCH /albums/{id}"] - patched == 2 * position + 1
        assert albums(r) == names
        assert await folders(session) == before
        r.demo.faults.clear()
        await session.mv("/Trips", "/Reisen")
        assert albums(r) == sorted(name.replace("Trips", "Reisen") for name in names)


@pytest.mark.parametrize("position", range(4))
@pytest_twisted.ensureDeferred
async def test_a_rename_whose_answers_stay_away_is_undone_too(
    tmp_path: Path, position: int
) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        session = await r.session()
        before = await folders(session)
        victim = list(r.demo.state.albums.values())[position]
        rename, asked = type(session.lease.immich).rename_album, []

        async def lost(immich: object, album_id: str, name: str) -> object:
            answer = await rename(immich, album_id, name)  # type: ignore[arg-type]
            asked.append(name)
            if album_id == victim.id and len(asked) == position + 1:
                raise Unreachable
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session.lease.immich), "rename_album", lost)
            await raises(Unreachable, session.mv("/Trips", "/Reisen"))
        # The one without an answer was renamed, and is given its name back with the others.
        assert len(asked) == 2 * (position + 1)
        assert albums(r) == names
        assert await folders(session) == before


@pytest.mark.parametrize("position", range(1, 4))
@pytest_twisted.ensureDeferred
async def test_a_rename_that_cannot_be_undone_tells_what_is_where(
    tmp_path: Path, position: int
) -> None:
    async with rig(tmp_path) as r, logged() as lines:
        trip(r)
        session = await r.session()
        await folders(session)
        made = list(r.demo.state.albums.values())
        first, victim = made[0], made[position]
        rename, asked = type(session.lease.immich).rename_album, []

        async def broken(immich: object, album_id: str, name: str) -> object:
            asked.append((album_id, name))
            if album_id == victim.id or (album_id == first.id and name.startswith("Trips")):
                raise Refused("Immich has a bad day.")
            return await rename(immich, album_id, name)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session.lease.immich), "rename_album", broken)
            error = await raises(Refused, session.mv("/Trips", "/Reisen"))
        assert "bad day" in error.text
        assert "'Trips/2024' is called 'Reisen/2024' now" in error.text
        assert any("Reisen/2024" in line for line in lines)
        # All others have their names back, and the listing tells the truth.
        assert sorted(a.name for a in made if a is not first and a.name.startswith("Trips")) == (
            sorted(a.name for a in made if a is not first)
        )
        assert {"/Reisen", "/Reisen/2024"} <= set(await folders(session))


@pytest.mark.parametrize("fails", ["rename", "delete"])
@pytest_twisted.ensureDeferred
async def test_a_replaced_album_is_there_again_when_the_rename_fails(
    tmp_path: Path, fails: str
) -> None:
    async with rig(tmp_path) as r:
        names = trip(r, 2)
        empty = r.album("New", description="kept")
        session = await r.session()
        before = await folders(session)
        if fails == "rename":
            route = f"/albums/{list(r.demo.state.albums.values())[1].id}"
            r.demo.faults.add("status", method="PATCH", route=route, status=403, count=None)
        else:
            route = f"/albums/{empty.id}"
            r.demo.faults.add("status", method="DELETE", route=route, status=403, count=None)
        with pytest.raises(Denied):
            await session.posix_mv("/Trips", "/New")
        assert albums(r) == sorted([*names, "New"])
        assert r.demo.album("New") is empty
        assert await folders(session) == before


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_not_rename_changes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        session = await r.session(
            key=r.demo.add_key(r.alice, ["user.read", "album.read", "asset.read"])
        )
        await raises(MissingPermission, session.mv("/Trips", "/Reisen"))
        assert albums(r) == names


@pytest_twisted.ensureDeferred
async def test_two_renames_of_one_folder_at_once_do_not_mix(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        one, two = await r.session(), await r.session()
        await folders(one)
        first = Deferred.fromCoroutine(one.mv("/Trips", "/One"))
        second = Deferred.fromCoroutine(two.mv("/Trips", "/Two"))
        await first
        await raises(NotFound, second)
        assert albums(r) == sorted(name.replace("Trips", "One") for name in names)
