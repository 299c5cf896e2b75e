"""Views: folders that show the library by something else than albums (README, "Views")."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import NEW, TAKEN, VERSIONS, Rig, Session, jpeg, raises, rig

from immich_conch.demo.entities import Person, Tag
from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotEmpty,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from immich_conch.settings import VIEWS

ALL = {f"@{word.capitalize()}" for word in VIEWS}

both = pytest.mark.parametrize("version", VERSIONS)


@asynccontextmanager
async def viewed(
    tmp_path: Path, version: str = "3.1.0", views: tuple[str, ...] = VIEWS, **more: Any
) -> AsyncIterator[Rig]:
    """A rig with all views on."""
    async with rig(tmp_path, version, views=views, **more) as r:
        yield r


def tag(r: Rig, value: str, *assets: Any) -> Tag:
    """A tag of Alice's, with what is above it, on some assets."""
    state, parent = r.demo.state, None
    parts = value.split("/")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        made = next((t for t in state.tags.values() if t.value == path), None)
        if made is None:
            made = Tag(state.new_id(), r.alice.id, path, parent, state.now(), state.now())
            state.tags[made.id] = made
        parent = made.id
    for asset in assets:
        asset.tags.append(made.id)
    return made


def person(r: Rig, name: str, *assets: Any, hidden: bool = False) -> Person:
    """Somebody on some assets."""
    state = r.demo.state
    made = Person(state.new_id(), r.alice.id, name, state.now(), state.now(), hidden)
    state.people[made.id] = made
    for asset in assets:
        asset.people.append(made.id)
    return made


async def trashed(r: Rig, *assets: Any) -> None:
    """Somebody moved assets to the trash elsewhere."""
    immich = await r.server.log_in("alice@example.com", "correct horse")
    await immich.trash([asset.id for asset in assets])


# -- reading --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_views_are_off_unless_asked_for(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("@Mine", r.asset("a.jpg"))
        session = await r.session()
        assert sorted(await session.ls("/")) == ["@Mine"]
        assert sorted(await session.ls("/@Mine")) == ["a.jpg"]
        await raises(NotFound, session.ls("/@Favorites"))


@pytest_twisted.ensureDeferred
async def test_only_the_views_that_were_asked_for_are_there(tmp_path: Path) -> None:
    async with viewed(tmp_path, views=("trash", "tags")) as r:
        session = await r.session()
        assert sorted(await session.ls("/")) == ["@Tags", "@Trash"]
        await raises(NotFound, session.ls("/@Favorites"))
        await raises(NotFound, session.stat("/@Timeline/2017"))


@both
@pytest_twisted.ensureDeferred
async def test_each_view_shows_what_it_is_named_for(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        liked = r.asset("liked.jpg", favorite=True)
        old = r.asset("old.jpg", visibility="archive")
        gone, loose = r.asset("gone.jpg"), r.asset("loose.jpg")
        r.asset("part.mov", visibility="hidden")
        r.asset("secret.jpg", visibility="locked")
        r.album("Rome", liked, old, gone)
        await trashed(r, gone)
        tag(r, "Places/Rome", liked)
        tag(r, "Places", loose)
        person(r, "Anna", liked, old)
        session = await r.session()
        assert set(await session.ls("/")) == {"Rome", *ALL}

        async def names(path: str) -> list[str]:
            return sorted(await session.ls(path))

        assert await names("/@Favorites") == ["liked.jpg"]
        assert await names("/@Archive") == ["old.jpg"]
        assert await names("/@Trash") == ["gone.jpg"]
        assert await names("/@Unsorted") == ["loose.jpg"]
        assert await names("/@People") == ["Anna"]
        assert await names("/@People/Anna") == ["liked.jpg", "old.jpg"]
        assert await names("/@Tags") == ["Places"]
        assert await names("/@Tags/Places") == ["Rome", "liked.jpg", "loose.jpg"]
        assert await names("/@Tags/Places/Rome") == ["liked.jpg"]
        assert await names("/@Timeline") == ["2017"]
        assert await names("/@Timeline/2017") == ["2017-07"]
        assert await names("/@Timeline/2017/2017-07") == ["liked.jpg", "loose.jpg"]
        assert await session.get("/@Trash/gone.jpg") == jpeg("gone.jpg")
        found = await session.stat("/@Tags/Places/Rome/liked.jpg")
        assert (found["size"], found["mtime"]) == (len(jpeg("liked.jpg")), TAKEN)
        assert found["permissions"] == stat.S_IFREG | 0o644
        assert (await session.stat("/@Tags/Places/Rome"))["permissions"] == stat.S_IFDIR | 0o755
        await raises(NotFound, session.stat("/@Favorites/old.jpg"))
        await raises(NotFound, session.ls("/@People/Nobody"))
        await raises(Refused, session.ls("/@Favorites/liked.jpg"))


@both
@pytest_twisted.ensureDeferred
async def test_a_month_is_the_one_on_the_clock_of_immich(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        for name, created in (("last.jpg", 1_590_969_599.0), ("first.jpg", 1_590_969_600.0)):
            r.asset(name, created=created)
        session = await r.session()
        assert sorted(await session.ls("/@Timeline/2020")) == ["2020-05", "2020-06"]
        assert list(await session.ls("/@Timeline/2020/2020-05")) == ["last.jpg"]
        assert list(await session.ls("/@Timeline/2020/2020-06")) == ["first.jpg"]
        await raises(NotFound, session.ls("/@Timeline/2020/2020-07"))
        await raises(NotFound, session.ls("/@Timeline/2021"))


@pytest_twisted.ensureDeferred
async def test_people_without_a_name_have_no_folder_and_namesakes_have_two(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        a, b = r.asset("a.jpg"), r.asset("b.jpg")
        person(r, "", a, b)
        person(r, "Hidden", a, hidden=True)
        first, second = sorted((person(r, "Anna", a), person(r, "Anna", b)), key=lambda p: p.id)
        session = await r.session()
        assert set(await session.ls("/@People")) == {"Anna", f"Anna ~{second.id[:8]}"}
        shown = {first.id: "/@People/Anna", second.id: f"/@People/Anna ~{second.id[:8]}"}
        for asset in (a, b):
            assert list(await session.ls(shown[asset.people[-1]])) == [asset.name]


@pytest_twisted.ensureDeferred
async def test_other_peoples_photos_are_in_no_view(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        bob = r.demo.add_user("bob@example.com", "correct horse", "Bob")
        theirs = r.demo.add_asset(bob, "theirs.jpg", jpeg("theirs"), TAKEN, favorite=True)
        r.demo.add_album(bob, "Shared", [theirs], shared={"alice@example.com": "editor"})
        session = await r.session()
        assert sorted(await session.ls("/Shared")) == ["theirs.jpg"]
        assert await session.ls("/@Favorites") == {}
        assert await session.ls("/@Timeline") == {}


@both
@pytest_twisted.ensureDeferred
async def test_what_was_taken_first_keeps_the_name_and_others_get_a_mark(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        late = r.asset("IMG.jpg", jpeg("late"), created=TAKEN + 10)
        r.asset("IMG.jpg", jpeg("early"), created=TAKEN - 10)
        session = await r.session()
        marked = f"IMG ~{late.id[:8]}.jpg"
        assert set(await session.ls("/@Unsorted")) == {"IMG.jpg", marked}
        assert await session.get("/@Unsorted/IMG.jpg") == jpeg("early")
        assert await session.get(f"/@Unsorted/{marked}") == jpeg("late")


@pytest_twisted.ensureDeferred
async def test_a_name_once_shown_stays_when_an_older_namesake_comes(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        r.asset("IMG.jpg", jpeg("late"), created=TAKEN + 10)
        session = await r.session()
        assert await session.get("/@Unsorted/IMG.jpg") == jpeg("late")
        early = r.asset("IMG.jpg", jpeg("early"), created=TAKEN - 10)
        r.clock.advance(60)
        assert set(await session.ls("/@Unsorted")) == {"IMG.jpg", f"IMG ~{early.id[:8]}.jpg"}
        assert await session.get("/@Unsorted/IMG.jpg") == jpeg("late")


@pytest_twisted.ensureDeferred
async def test_a_file_called_like_a_tag_below_gets_a_mark(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("x.jpg")
        tag(r, "a", asset)
        tag(r, "a/x.jpg")
        session = await r.session()
        entries = await session.ls("/@Tags/a")
        assert set(entries) == {f"x ~{asset.id[:8]}.jpg", "x.jpg"}
        assert stat.S_ISDIR(entries["x.jpg"]["permissions"])


@pytest_twisted.ensureDeferred
async def test_an_album_named_like_a_view_gets_a_look_alike(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        album = r.album("@Trash", r.asset("mine.jpg"))
        session = await r.session()
        assert set(await session.ls("/")) == {"＠Trash", *ALL}
        assert sorted(await session.ls("/＠Trash")) == ["mine.jpg"]
        await session.put("/＠Trash/new.jpg", jpeg("new"), TAKEN)
        assert r.names_in(album) == ["mine.jpg", "new.jpg"]
        await raises(Denied, session.sftp.makeDirectory(b"/@Mine", {}))
        await raises(AlreadyExists, session.sftp.makeDirectory(b"/@Trash", {}))
        await raises(Unsupported, session.mv("/＠Trash", "/@Mine"))
        assert album.name == "@Trash"


# -- large views ----------------------------------------------------------------------------------


def many(r: Rig, count: int, **more: Any) -> None:
    """So many assets without an album, the first ones of one name."""
    names = [f"{number % 1500:05}.jpg" for number in range(count)]
    r.demo.add_assets(r.alice, names, TAKEN, **more)


@both
@pytest_twisted.ensureDeferred
async def test_a_large_view_answers_with_its_first_entries(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version, loopback=True) as r:
        many(r, 2500)
        session = await r.session()
        folder = await session.sftp.openDirectory(b"/@Unsorted")
        assert r.demo.requests["POST /search/metadata"] <= 4
        first = await folder.next_batch()
        assert first
        rest = await session.ls("/@Unsorted")
        assert len(rest) == 2500
        marks = [name for name in rest if "~" in name]
        assert len(marks) == 1000
        for name in ("00000.jpg", "01499.jpg", marks[0], marks[-1]):
            assert (await session.stat(f"/@Unsorted/{name}"))["size"] == 1000
        assert sorted(await session.ls("/@Unsorted")) == sorted(rest)


@pytest_twisted.ensureDeferred
async def test_a_page_that_fails_is_an_error_and_never_the_end(tmp_path: Path) -> None:
    async with viewed(tmp_path, loopback=True) as r:
        many(r, 3500)
        session = await r.session()
        folder = await session.sftp.openDirectory(b"/@Unsorted")
        r.demo.faults.add("status", route="/search/metadata", count=None)
        count = 0
        with pytest.raises(Unreachable):
            while batch := await folder.next_batch():
                count += len(batch)
        assert 0 < count < 3500
        await raises(Unreachable, folder.next_batch())
        r.demo.faults.clear()
        assert len(await session.ls("/@Unsorted")) == 3500


@both
@pytest_twisted.ensureDeferred
async def test_thousands_of_photos_of_one_moment_are_all_there(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        many(r, 2300)
        for asset in r.demo.state.assets.values():
            asset.taken = TAKEN * 1000
        session = await r.session()
        assert len(await session.ls("/@Unsorted")) == 2300


@pytest_twisted.ensureDeferred
async def test_stats_after_a_listing_do_not_list_again(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        many(r, 1200)
        session = await r.session()
        names = list(await session.ls("/@Unsorted"))
        asked = r.demo.requests["POST /search/metadata"]
        for name in names[:200]:
            await session.stat(f"/@Unsorted/{name}")
        assert r.demo.requests["POST /search/metadata"] == asked
