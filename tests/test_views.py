"""Views: folders that show the library by something else than albums (README, "Views")."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from rig import NEW, NO_TRUNC, TAKEN, VERSIONS, Rig, jpeg, raises, rig
from test_copying import cp, ln

from immich_conch.demo.entities import Person, Tag
from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotEmpty,
    NotFound,
    Refused,
    SettingsError,
    Unreachable,
    Unsupported,
)
from immich_conch.immich.model import Asset
from immich_conch.library import relations
from immich_conch.library.views import _belongs, _criteria
from immich_conch.parsing import VIEWS
from immich_conch.settings import load

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


@pytest_twisted.ensureDeferred
async def test_nested_albums_named_like_views_are_folders_like_others(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        inner, trip = r.album("@Trash/Rome", r.asset("a.jpg")), r.album("Trips/Rome")
        session = await r.session()
        assert set(await session.ls("/")) == {"＠Trash", "Trips", *ALL}
        assert list(await session.ls("/＠Trash/Rome")) == ["a.jpg"]
        # A folder that is no album itself is no more renamed into a view than an album is.
        for target in ("/@Trips", "/@Trash/Trips", "/@Tags/Trips"):
            for source in ("/Trips", "/Trips/Rome"):
                await raises(Unsupported, session.mv(source, target))
        await raises(Unsupported, session.mv("/@Timeline", "/Years"))
        assert trip.name == "Trips/Rome"
        await session.sftp.makeDirectory("/＠Trash/Milan".encode(), {})
        await session.mv("/＠Trash", "/Old")
        assert inner.name == "Old/Rome"
        assert set(await session.ls("/Old")) == {"Rome", "Milan"}


@pytest_twisted.ensureDeferred
async def test_views_go_with_another_separator(tmp_path: Path) -> None:
    async with viewed(tmp_path, album_separator=" - ") as r:
        asset = r.asset("a.jpg")
        album = r.album("@Mine - 2024/25", asset)
        session = await r.session()
        assert set(await session.ls("/")) == {"＠Mine", *ALL}
        assert list(await session.ls("/＠Mine/2024∕25")) == ["a.jpg"]
        await ln(session, "/＠Mine/2024∕25/a.jpg", "/@Favorites/a.jpg")
        assert asset.favorite
        await session.mv("/＠Mine", "/Years")
        assert album.name == "Years - 2024/25"
        await session.sftp.makeDirectory(b"/@Tags/Mine - 2024", {})
        assert list(await session.ls("/@Tags")) == ["Mine - 2024"]


@both
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_asked_is_an_error_and_not_absent(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        person(r, "Anna", asset)
        tag(r, "Mine", asset)
        session = await r.session()
        for route, folder, path in (
            ("/people", "/@People", "/@People/Anna/a.jpg"),
            ("/tags", "/@Tags", "/@Tags/Mine/a.jpg"),
            ("/timeline/buckets", "/@Timeline", "/@Timeline/2017/2017-07/a.jpg"),
            ("/search/metadata", "/@Unsorted", "/@Unsorted/a.jpg"),
        ):
            r.demo.faults.add("status", route=route, count=None)
            await raises(Unreachable, session.ls(folder))
            await raises(Unreachable, session.stat(path))
            r.demo.faults.clear()
            assert (await session.stat(path))["size"] == len(jpeg("a.jpg"))


@both
@pytest_twisted.ensureDeferred
async def test_what_others_do_is_seen_after_the_freshness_bound(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        session = await r.session()
        assert await session.ls("/@Tags") == await session.ls("/@Unsorted") == {}
        asset = r.asset("a.jpg")
        tag(r, "Mine", asset)
        assert await session.ls("/@Tags") == await session.ls("/@Unsorted") == {}
        r.clock.advance(2)
        assert list(await session.ls("/@Tags")) == ["Mine"]
        assert list(await session.ls("/@Unsorted")) == ["a.jpg"]
        r.album("Rome", asset)
        r.clock.advance(2)
        assert await session.ls("/@Unsorted") == {}


def test_a_month_is_told_by_the_wall_clock() -> None:
    def taken(local: float) -> Asset:
        return Asset(
            id="1",
            name="a.jpg",
            owner_id="me",
            modified=0,
            taken=local - 10 * 3600,
            local=local,
            created=0,
            visibility="timeline",
            trashed=False,
            size=1,
            checksum=None,
        )

    june = 1_590_969_600.0
    for local, months in ((june - 1, ["2020-05"]), (june, ["2020-06"]), (june + 1, ["2020-06"])):
        found = [m for m in ("2020-05", "2020-06") if _belongs(f"@Timeline/{m}", taken(local))]
        assert found == months
    assert _criteria("@Timeline/2020-12") == {
        "takenAfter": "2020-11-30T00:00:00.000Z",
        "takenBefore": "2021-01-02T00:00:00.000Z",
    }


def test_the_setting_takes_names_of_views_or_all() -> None:
    def views(text: str) -> tuple[str, ...]:
        return load({"immich_host": "http://immich", "views": text}, {}).views

    assert views("") == ()
    assert views("trash, Tags trash") == ("trash", "tags")
    assert views("all") == VIEWS == tuple(relations.VIEWS)
    with pytest.raises(SettingsError, match=r"--views: knows no view 'albums'; there are archive"):
        views("trash,albums")


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


# -- uploading ------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_an_upload_gets_what_its_view_stands_for(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        rome = tag(r, "Places/Rome")
        session = await r.session()
        for path in ("/@Favorites/a.jpg", "/@Tags/Places/Rome/b.jpg", "/@Unsorted/c.jpg"):
            await session.put(path, jpeg(path), TAKEN)
            assert (await session.stat(path))["mtime"] == TAKEN
            assert await session.get(path) == jpeg(path)
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert [made[name].favorite for name in ("a.jpg", "b.jpg", "c.jpg")] == [True, False, False]
        assert [made[name].tags for name in ("a.jpg", "b.jpg", "c.jpg")] == [[], [rome.id], []]
        assert not any(asset.albums for asset in made.values())
        assert sorted(await session.ls("/@Unsorted")) == ["a.jpg", "b.jpg", "c.jpg"]
        assert sorted(await session.ls("/@Timeline/2017/2017-07")) == ["a.jpg", "b.jpg", "c.jpg"]
        assert not r.in_spool()


@both
@pytest_twisted.ensureDeferred
async def test_an_upload_without_a_time_and_by_a_rename_gets_there_too(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        session = await r.session()
        await session.put("/@Favorites/late.jpg", jpeg("late"))
        assert (await session.stat("/@Favorites/late.jpg"))["size"] == len(jpeg("late"))
        assert list(await session.ls("/@Favorites")) == ["late.jpg"]
        await session.put("/@Favorites/x.jpg.partial", jpeg("x"), TAKEN)
        await session.mv("/@Favorites/x.jpg.partial", "/@Favorites/x.jpg")
        await r.settled()
        found = {asset.name: asset.favorite for asset in r.demo.state.assets.values()}
        assert found == {"late.jpg": True, "x.jpg": True}
        assert sorted(await session.ls("/@Favorites")) == ["late.jpg", "x.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_known_bytes_get_what_the_view_stands_for_and_no_second_asset(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("a.jpg"), TAKEN)
        assert asset.favorite
        assert len(r.demo.state.assets) == 1
        assert r.names_in(album) == ["a.jpg"]
        await session.put("/@Favorites/a.jpg", jpeg("a.jpg"), TAKEN + 5)
        assert (await session.stat("/@Favorites/a.jpg"))["mtime"] == TAKEN
        assert not asset.notes


@both
@pytest_twisted.ensureDeferred
async def test_what_a_view_could_not_show_is_refused_at_close(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Rome", asset)
        session = await r.session()
        with pytest.raises(Unsupported, match=r"'a\.jpg'"):
            await session.put("/@Favorites/other.jpg", jpeg("a.jpg"), TAKEN)
        with pytest.raises(Refused, match="'Rome'"):
            await session.put("/@Unsorted/a.jpg", jpeg("a.jpg"), TAKEN)
        assert not asset.favorite
        assert not r.in_spool()
        assert await session.ls("/@Unsorted") == {}


@pytest_twisted.ensureDeferred
async def test_trashed_bytes_come_back_without_their_albums(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome", asset)
        await trashed(r, asset)
        session = await r.session()
        await session.put("/@Unsorted/a.jpg", jpeg("a.jpg"), TAKEN)
        assert asset.deleted is None
        assert r.demo.assets_of(album) == []
        assert list(await session.ls("/@Unsorted")) == ["a.jpg"]
        assert await session.ls("/@Trash") == {}


@both
@pytest_twisted.ensureDeferred
async def test_overwriting_in_a_view_hands_on_what_it_stands_for(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        old = r.asset("a.jpg", favorite=True)
        album = r.album("Rome", old)
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("new"), TAKEN)
        new = next(asset for asset in r.demo.state.assets.values() if asset is not old)
        assert (new.favorite, old.favorite, old.deleted) == (True, False, None)
        assert r.demo.assets_of(album) == [old]
        assert await session.get("/@Favorites/a.jpg") == jpeg("new")
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await session.put("/@Unsorted/a.jpg", jpeg("newer"), TAKEN)
        assert await session.get("/@Unsorted/a.jpg") == jpeg("newer")
        assert new.deleted is not None
        newest = next(asset for asset in r.demo.state.assets.values() if asset not in (old, new))
        assert newest.favorite


@pytest_twisted.ensureDeferred
async def test_a_sealed_upload_finds_its_view_after_a_restart_without_views(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        rome, paris = tag(r, "Rome"), tag(r, "Paris")
        session = await r.session()
        await session.put("/@Favorites/a.jpg", jpeg("a"))
        await session.put("/@Tags/Rome/b.jpg", jpeg("b"))
        await session.put("/@Tags/Paris/c.jpg", jpeg("c"))
        await session.put("/@Unsorted/d.jpg", jpeg("d"))
        del r.demo.state.tags[paris.id]
        session.hang_up()
        r.settings = attrs.evolve(r.settings, views=())
        r.restart()
        session = await r.session()
        await r.settled()
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert sorted(made) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert made["a.jpg"].favorite
        assert made["b.jpg"].tags == [rome.id]
        assert not r.in_spool()


@pytest.mark.parametrize(
    "path",
    [
        "/@Trash/x.jpg",
        "/@Archive/x.jpg",
        "/@People/Anna/x.jpg",
        "/@People/x.jpg",
        "/@Tags/x.jpg",
        "/@Timeline/2017/2017-07/x.jpg",
        "/@Timeline/x.jpg",
        "/@Favorites",
    ],
)
@pytest_twisted.ensureDeferred
async def test_where_files_cannot_be_put_the_open_is_refused(tmp_path: Path, path: str) -> None:
    async with viewed(tmp_path) as r:
        person(r, "Anna", r.asset("a.jpg"))
        session = await r.session()
        await raises(Denied, session.open(path))
        assert not r.in_spool()


@pytest_twisted.ensureDeferred
async def test_a_file_on_its_way_can_be_moved_into_a_view_and_out_of_it(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        album = r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg", jpeg("a"))
        await session.mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        await session.put("/@Favorites/b.jpg", jpeg("b"))
        await session.mv("/@Favorites/b.jpg", "/Rome/b.jpg")
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        await r.settled()
        made = {asset.name: asset for asset in r.demo.state.assets.values()}
        assert {name: asset.favorite for name, asset in made.items()} == {
            "a.jpg": True,
            "b.jpg": False,
        }
        assert r.names_in(album) == ["b.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_overwriting_by_remove_and_rename_hands_the_favourite_on(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        old = r.asset("a.jpg", favorite=True, description="mine")
        session = await r.session()
        await session.put("/@Favorites/a.jpg.filepart", jpeg("new"))
        await session.rm("/@Favorites/a.jpg")
        assert list(await session.ls("/@Favorites")) == ["a.jpg.filepart"]
        await session.mv("/@Favorites/a.jpg.filepart", "/@Favorites/a.jpg")
        await session.utime("/@Favorites/a.jpg")
        new = next(asset for asset in r.demo.state.assets.values() if asset is not old)
        assert (new.favorite, new.description, old.favorite) == (True, "mine", False)
        assert await session.get("/@Favorites/a.jpg") == jpeg("new")
        await r.settled()
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_an_upload_that_was_cut_off_is_resumed_in_its_view(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        session = await r.session()
        handle = await session.open("/@Favorites/a.jpg")
        handle.writeChunk(0, jpeg("a")[:2])
        handle.abort()
        assert await session.ls("/@Favorites") == {}
        assert (await session.stat("/@Favorites/a.jpg"))["size"] == 2
        handle = await session.open("/@Favorites/a.jpg", NO_TRUNC)
        handle.writeChunk(2, jpeg("a")[2:])
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await handle.close()
        assert await session.get("/@Favorites/a.jpg") == jpeg("a")


# -- removing -------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_removing_undoes_just_what_the_view_stands_for(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg", favorite=True, visibility="archive")
        album = r.album("Rome", asset)
        tag(r, "Places/Rome", asset)
        other = tag(r, "Other", asset)
        session = await r.session()
        for path in ("/@Favorites/a.jpg", "/@Archive/a.jpg", "/@Tags/Places/a.jpg"):
            await session.rm(path)
            await raises(NotFound, session.stat(path))
            assert "a.jpg" not in await session.ls(path.rpartition("/")[0])
        assert (asset.favorite, asset.visibility, asset.tags) == (False, "timeline", [other.id])
        assert asset.deleted is None
        assert r.names_in(album) == ["a.jpg"]
        assert list(await session.ls("/@Tags/Places")) == ["Rome"]
        assert await session.ls("/@Tags/Places/Rome") == {}


@both
@pytest_twisted.ensureDeferred
async def test_removing_from_unsorted_and_timeline_is_the_trash(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        loose, kept = r.asset("loose.jpg"), r.asset("kept.jpg")
        r.album("Rome", kept)
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["kept.jpg"]
        await session.rm("/@Unsorted/loose.jpg")
        await session.rm("/@Timeline/2017/2017-07/kept.jpg")
        assert loose.deleted is not None
        assert kept.deleted is not None
        assert await session.ls("/Rome") == {}
        assert sorted(await session.ls("/@Trash")) == ["kept.jpg", "loose.jpg"]


@pytest_twisted.ensureDeferred
async def test_removing_where_there_is_no_trash_is_refused_but_relations_can_go(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        r.demo.trash_enabled = False
        asset = r.asset("a.jpg", favorite=True)
        session = await r.session()
        await raises(Denied, session.rm("/@Unsorted/a.jpg"))
        await raises(Denied, session.rm("/@Timeline/2017/2017-07/a.jpg"))
        await session.rm("/@Favorites/a.jpg")
        assert (asset.favorite, asset.deleted) == (False, None)


@both
@pytest_twisted.ensureDeferred
async def test_the_trash_gives_nothing_up_without_final_deletion(
    tmp_path: Path, version: str
) -> None:
    for final in (False, True):
        async with viewed(tmp_path / str(final), version, final_delete=final) as r:
            asset = r.asset("a.jpg")
            await trashed(r, asset)
            session = await r.session()
            if not final:
                with pytest.raises(Denied, match="--final-delete"):
                    await session.rm("/@Trash/a.jpg")
                assert asset.status == "trashed"
                continue
            await session.rm("/@Trash/a.jpg")
            assert asset.status == "deleted"
            assert await session.ls("/@Trash") == {}


@pytest_twisted.ensureDeferred
async def test_people_are_left_alone(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        anna = person(r, "Anna", asset)
        session = await r.session()
        await raises(Denied, session.rm("/@People/Anna/a.jpg"))
        await raises(Denied, session.sftp.removeDirectory(b"/@People/Anna"))
        await raises(Denied, session.sftp.makeDirectory(b"/@People/Bob", {}))
        await raises(Unsupported, session.mv("/@People/Anna", "/@People/Bob"))
        assert asset.people == [anna.id]


@both
@pytest_twisted.ensureDeferred
async def test_tags_are_made_and_removed_while_nothing_has_them(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        session = await r.session()
        await session.sftp.makeDirectory(b"/@Tags/Places", {})
        await session.sftp.makeDirectory(b"/@Tags/Places/Rome", {})
        await raises(AlreadyExists, session.sftp.makeDirectory(b"/@Tags/Places/Rome", {}))
        await raises(NotFound, session.sftp.makeDirectory(b"/@Tags/No/Where", {}))
        assert sorted(t.value for t in r.demo.state.tags.values()) == ["Places", "Places/Rome"]
        await session.put("/@Tags/Places/Rome/a.jpg", jpeg("a"), TAKEN)
        await raises(NotEmpty, session.sftp.removeDirectory(b"/@Tags/Places"))
        await raises(NotEmpty, session.sftp.removeDirectory(b"/@Tags/Places/Rome"))
        await session.rm("/@Tags/Places/Rome/a.jpg")
        await session.sftp.removeDirectory(b"/@Tags/Places/Rome")
        await session.sftp.removeDirectory(b"/@Tags/Places")
        assert await session.ls("/@Tags") == {}
        assert r.demo.state.tags == {}
        await raises(Denied, session.sftp.removeDirectory(b"/@Tags"))
        await raises(NotFound, session.sftp.removeDirectory(b"/@Tags/Places"))


# -- moving ---------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_moving_out_of_the_trash_restores_into_that_album_alone(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        rome, paris = r.album("Rome", asset), r.album("Paris")
        hidden = r.album("Hidden", asset, description="#nosync")
        await trashed(r, asset)
        session = await r.session()
        await session.mv("/@Trash/a.jpg", "/Paris/b.jpg")
        assert asset.deleted is None
        assert r.demo.assets_of(rome) == []
        assert r.demo.assets_of(paris) == r.demo.assets_of(hidden) == [asset]
        assert await session.ls("/@Trash") == {}
        assert await session.get("/Paris/b.jpg") == jpeg("a.jpg")


@both
@pytest.mark.parametrize("mirrored", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_moving_between_views_and_albums_follows_what_they_stand_for(
    tmp_path: Path, version: str, mirrored: int
) -> None:
    async with viewed(tmp_path, version, mirror_max_assets=mirrored, mirror_keep=0.0) as r:
        asset = r.asset("a.jpg")
        album = r.album("Rome")
        mine = tag(r, "Mine")
        session = await r.session()

        async def state() -> tuple[bool, list[str], list[str]]:
            shown = [p for p in ("Rome", "@Favorites", "@Tags/Mine") if await session.ls(f"/{p}")]
            assert await session.ls("/@Unsorted") == ({} if asset.albums else {**here})
            return asset.favorite, asset.tags, shown

        here = await session.ls("/@Unsorted")
        await session.mv("/@Unsorted/a.jpg", "/Rome/a.jpg")
        assert await state() == (False, [], ["Rome"])
        await session.mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        assert await state() == (True, [], ["@Favorites"])
        await session.mv("/@Favorites/a.jpg", "/@Tags/Mine/a.jpg")
        assert await state() == (False, [mine.id], ["@Tags/Mine"])
        await session.mv("/@Tags/Mine/a.jpg", "/Rome/b.jpg")
        assert await state() == (False, [], ["Rome"])
        assert list(await session.ls("/Rome")) == ["b.jpg"]
        await raises(Unsupported, session.mv("/Rome/b.jpg", "/@Unsorted/b.jpg"))
        await session.mv("/Rome/b.jpg", "/@Unsorted/a.jpg")
        assert await state() == (False, [], [])
        assert r.names_in(album) == []
        assert asset.deleted is None


@pytest_twisted.ensureDeferred
async def test_moving_out_of_the_timeline_and_people_only_adds(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg")
        person(r, "Anna", asset)
        rome, paris = r.album("Rome"), r.album("Paris")
        session = await r.session()
        await session.mv("/@Timeline/2017/2017-07/a.jpg", "/Rome/a.jpg")
        await session.mv("/@People/Anna/a.jpg", "/Paris/a.jpg")
        assert r.names_in(rome) == r.names_in(paris) == ["a.jpg"]
        assert list(await session.ls("/@Timeline/2017/2017-07")) == ["a.jpg"]
        assert list(await session.ls("/@People/Anna")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_moves_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset = r.asset("a.jpg", favorite=True)
        album = r.album("Rome", asset)
        r.album("Paris", asset)
        session = await r.session()
        await raises(Unsupported, session.mv("/@Favorites/a.jpg", "/@Favorites/b.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Trash/a.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Timeline/2017/2017-07/a.jpg"))
        await raises(Denied, session.mv("/Rome/a.jpg", "/@Archive/a.jpg"))
        await raises(AlreadyExists, session.mv("/Rome/a.jpg", "/@Favorites/a.jpg"))
        await raises(Refused, session.mv("/Rome/a.jpg", "/@Unsorted/a.jpg"))
        await raises(Unsupported, session.mv("/Rome", "/@Tags/Rome"))
        await session.posix_mv("/Rome/a.jpg", "/@Favorites/a.jpg")
        assert r.names_in(album) == []
        await session.mv("/Paris/a.jpg", "/Paris/b.jpg")
        await session.put("/Paris/a.jpg", jpeg("a.jpg"), TAKEN)
        assert sorted(await session.ls("/Paris")) == ["a.jpg", "b.jpg"]
        await raises(Refused, session.mv("/Paris/a.jpg", "/@Unsorted/a.jpg"))
        assert asset.favorite


@pytest_twisted.ensureDeferred
async def test_a_link_into_a_view_makes_its_relation_and_keeps_the_place(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        asset, gone = r.asset("a.jpg"), r.asset("gone.jpg")
        album = r.album("Rome", asset)
        await trashed(r, gone)
        mine = tag(r, "Mine")
        session = await r.session()
        await ln(session, "/Rome/a.jpg", "/@Favorites/a.jpg")
        await ln(session, "/@Favorites/a.jpg", "/@Tags/Mine/a.jpg")
        assert (asset.favorite, asset.tags) == (True, [mine.id])
        assert r.names_in(album) == ["a.jpg"]
        assert not asset.notes
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await raises(Unsupported, ln(session, "/@Favorites/a.jpg", "/@Favorites/b.jpg"))
        await raises(Unsupported, ln(session, "/Rome/a.jpg", "/@Unsorted/a.jpg"))
        await raises(Unsupported, ln(session, "/@Trash/gone.jpg", "/Rome/gone.jpg"))
        await raises(Denied, ln(session, "/Rome/a.jpg", "/@Archive/a.jpg"))
        await session.put("/Rome/late.jpg", jpeg("late"))
        await raises(Unsupported, ln(session, "/Rome/late.jpg", "/@Favorites/other.jpg"))
        assert sorted(r.names_in(album)) == ["a.jpg", "late.jpg"]
        await ln(session, "/@Timeline/2017/2017-07/a.jpg", "/Rome/b.jpg")
        assert sorted(await session.ls("/Rome")) == ["a.jpg", "b.jpg", "late.jpg"]


@both
@pytest_twisted.ensureDeferred
async def test_a_copy_into_a_view_is_held_to_what_the_view_can_show(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        asset = r.asset("IMG_7.heic", live_video=part.id)
        album = r.album("Rome", asset)
        tag(r, "Mine")
        session = await r.session()
        for old, new, kind in (
            ("/Rome/IMG_7.heic", "/@Favorites/other.heic", Unsupported),
            ("/Rome/IMG_7.heic", "/@Unsorted/IMG_7.heic", Refused),
            ("/Rome/IMG_7.mov", "/@Favorites/IMG_7.mov", Refused),
            ("/Rome/IMG_7.mov", "/@Tags/Mine/IMG_7.mov", Refused),
        ):
            await raises(kind, cp(session, old, new))
            assert await session.ls(new.rpartition("/")[0]) == {}
        assert (asset.favorite, asset.tags, asset.albums) == (False, [], {album.id})
        await cp(session, "/Rome/IMG_7.heic", "/@Favorites/IMG_7.heic")
        assert asset.favorite
        assert r.names_in(album) == ["IMG_7.heic"]


@both
@pytest_twisted.ensureDeferred
async def test_no_view_takes_the_motion_part_of_a_live_photo(tmp_path: Path, version: str) -> None:
    async with viewed(tmp_path, version) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        still = r.asset("IMG_7.heic", live_video=part.id)
        session = await r.session()
        assert list(await session.ls("/@Unsorted")) == ["IMG_7.heic"]
        with pytest.raises(Refused, match="motion part"):
            await session.put("/@Favorites/IMG_7.mov", jpeg("part"), TAKEN)
        await session.rm("/@Unsorted/IMG_7.heic")
        assert still.deleted is not None
        await session.sftp.makeDirectory(b"/Rome", {})
        await session.mv("/@Trash/IMG_7.heic", "/Rome/IMG_7.heic")
        assert sorted(await session.ls("/Rome")) == ["IMG_7.heic", "IMG_7.mov"]


@pytest_twisted.ensureDeferred
async def test_a_part_whose_still_was_moved_into_a_view_can_be_removed_and_moved(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        still = r.asset("IMG_7.heic", live_video=part.id)
        r.album("Live", still)
        r.album("Films")
        session = await r.session()
        await session.ls("/Live")
        await session.mv("/Live/IMG_7.heic", "/@Favorites/IMG_7.heic")
        await session.rm("/Live/IMG_7.mov")
        assert (part.deleted, still.live_video) == (None, part.id)
        await session.mv("/Live/IMG_7.mov", "/Films/IMG_7.mov")
        assert list(await session.ls("/Films")) == ["IMG_7.mov"]
        assert list(await session.ls("/@Favorites")) == ["IMG_7.heic"]


@pytest_twisted.ensureDeferred
async def test_overwriting_a_still_that_is_in_no_album_hands_its_motion_part_on(
    tmp_path: Path,
) -> None:
    async with viewed(tmp_path) as r:
        part = r.asset("IMG_7.mov", jpeg("part"), visibility="hidden")
        old = r.asset("IMG_7.heic", live_video=part.id)
        session = await r.session()
        await session.put("/@Unsorted/IMG_7.heic", jpeg("edited"), TAKEN)
        new = next(a for a in r.demo.state.assets.values() if a not in (part, old))
        assert old.deleted is not None
        assert new.live_video == part.id
        assert part.deleted is None


# -- who may --------------------------------------------------------------------------------------


@both
@pytest_twisted.ensureDeferred
async def test_a_key_without_a_permission_sees_the_view_and_cannot_open_it(
    tmp_path: Path, version: str
) -> None:
    async with viewed(tmp_path, version) as r:
        asset = r.asset("a.jpg", favorite=True)
        tag(r, "Mine", asset)
        session = await r.session(
            key=r.demo.add_key(r.alice, ("user.read", "album.read", "asset.read"))
        )
        assert set(await session.ls("/")) == ALL
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        for path, permission in (("/@People", "person.read"), ("/@Tags", "tag.read")):
            with pytest.raises(MissingPermission, match=permission):
                await session.ls(path)
        with pytest.raises(MissingPermission, match=r"asset\.update"):
            await session.rm("/@Favorites/a.jpg")
        assert asset.favorite


@pytest_twisted.ensureDeferred
async def test_a_key_that_could_not_finish_an_upload_hears_it_at_the_open(tmp_path: Path) -> None:
    async with viewed(tmp_path) as r:
        tag(r, "Mine")
        granted = ("user.read", "album.read", "asset.read", "asset.upload", "albumAsset.create")
        session = await r.session(key=r.demo.add_key(r.alice, (*granted, "tag.read")))
        for path, permission in (
            ("/@Favorites/a.jpg", "asset.update"),
            ("/@Tags/Mine/a.jpg", "tag.asset"),
        ):
            assert (await raises(MissingPermission, session.open(path))).permission == permission
        with pytest.raises(MissingPermission, match=r"tag\.create"):
            await session.sftp.makeDirectory(b"/@Tags/New", {})
        with pytest.raises(MissingPermission, match=r"tag\.delete"):
            await session.sftp.removeDirectory(b"/@Tags/Mine")
        await session.put("/@Unsorted/a.jpg", jpeg("a"), TAKEN)
        assert list(await session.ls("/@Unsorted")) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_read_only_keeps_everything_as_it_is(tmp_path: Path) -> None:
    async with viewed(tmp_path, read_only=True) as r:
        asset = r.asset("a.jpg", favorite=True)
        r.album("Rome")
        session = await r.session()
        assert list(await session.ls("/@Favorites")) == ["a.jpg"]
        await raises(Denied, session.rm("/@Favorites/a.jpg"))
        await raises(Denied, session.open("/@Favorites/b.jpg", NEW))
        await raises(Denied, session.mv("/@Favorites/a.jpg", "/Rome/a.jpg"))
        await raises(Denied, session.sftp.makeDirectory(b"/@Tags/x", {}))
        await raises(Denied, session.sftp.removeDirectory(b"/@Tags/x"))
        assert asset.favorite
