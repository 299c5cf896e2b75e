"""Views: folders that show the library by something else than albums (README, "Views")."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import pytest_twisted
from rig import TAKEN, jpeg, raises, rig
from test_copying import ln
from viewing import ALL, both, many, person, tag, trashed, viewed

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    Refused,
    SettingsError,
    Unreachable,
    Unsupported,
)
from immich_conch.immich.model import Asset
from immich_conch.library import relations
from immich_conch.library.views import _belongs, _criteria
from immich_conch.loading import load
from immich_conch.parsing import VIEWS

# -- reading -------------------------------------------------------------------------------------


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


# -- large views ---------------------------------------------------------------------------------


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
