"""What a catalog shows of an Immich that fails, is away, or has no stream: an error, or all.

Asked in each of the ways in which a catalog may be asked, as `test_catalog_contract` does.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from library_house import KEY, SERVERS, SOURCES, Tree, files, folders, house, seen, tree
from rig import TAKEN, jpeg, raises, until

from immich_conch.errors import Unreachable
from immich_conch.immich.session import Session as ImmichSession
from immich_conch.library.follower import MAX_BACK_OFF, REFUSAL_KEPT

#: How many bad days a source is given, one after the other.
BAD_DAYS = 20

demos = pytest.mark.parametrize("server", [one for one in SERVERS if one != "real"])


# -- bad days ------------------------------------------------------------------------------------


ROUTES = [
    "*",
    "/albums",
    "/albums/{id}",
    "/search/metadata",
    "/sync/stream",
    "/sync/ack",
    "/assets/{id}/metadata",
    "/assets/{id}",
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("source", SOURCES)
@demos
@pytest_twisted.ensureDeferred
async def test_an_immich_that_fails_gives_an_error_or_the_right_tree(
    tmp_path: Path, server: str, source: str, seed: int
) -> None:
    chance = random.Random(f"{server} {source} {seed}")
    async with house(tmp_path, server, source) as h:
        assert h.demo is not None
        session, errors = await h.enter(), 0
        albums = {name: await h.alice.album(name) for name in ("Rome", "Oslo")}
        shared = await h.bob.album("Shared")
        await h.bob.share(shared, h.alice, "viewer")
        #: By asset: where it is, and its size, which no other has.
        mine: dict[str, tuple[str, int]] = {}
        bobs: set[tuple[str, int]] = set()
        if chance.random() < 0.5:
            await tree(session)
        for number in range(BAD_DAYS):
            album = chance.choice(sorted(albums))
            # Two of a name, so that Immich is asked for their age, too.
            name = f"{number // 2}.jpg"
            asset = await h.alice.upload(name, data=jpeg(name, 1000 + number))
            await h.alice.add(albums[album], asset)
            mine[asset] = f"/{album}", 1000 + number
            await h.bob.add(shared, await h.bob.upload(name, data=jpeg(name, 2000 + number)))
            bobs.add(("/Shared", 2000 + number))
            if number % 5 == 4:
                gone = chance.choice(sorted(mine))
                await h.alice.web.trash([gone])
                del mine[gone]
            h.demo.faults.add(
                chance.choice(["status", "cut-response", "refuse", "lose-answer"]),
                route=chance.choice(ROUTES),
                count=chance.choice([1, 3, 10, None]),
                probability=chance.choice([0.3, 1.0]),
                status=chance.choice([500, 502, 503]),
                after=chance.choice([0, 1, 300, 2000, 20_000]),
            )
            try:
                shown = await seen(h, session)
            except Unreachable:
                errors += 1
            else:
                assert folders(shown) == {"/Rome", "/Oslo", "/Shared"}
                assert _sizes(shown) == {*mine.values(), *bobs}
            h.demo.faults.clear()
        assert 0 < errors < BAD_DAYS
        # What failed is tried again after a pause, at most a minute.
        h.later(MAX_BACK_OFF)
        assert _sizes(await seen(h, session)) == {*mine.values(), *bobs}
        # Who of two came first depends on who could look: names are as the newcomers have them.
        assert _sizes(await h.alike()) == {*mine.values(), *bobs}


def _sizes(shown: Tree) -> set[tuple[str, int]]:
    """Folder and size of all files."""
    sizes = [(path.rpartition("/")[0], shown[path]["size"]) for path in files(shown)]
    assert len(set(sizes)) == len(sizes)
    return set(sizes)


@demos
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seen_before", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_immich_that_is_away_shows_nothing_at_all(
    tmp_path: Path, server: str, source: str, seen_before: bool
) -> None:
    async with house(tmp_path, server, source) as h:
        assert h.demo is not None
        await h.alice.album("Rome", await h.alice.upload("a.jpg"))
        session = await h.enter()
        if seen_before:
            assert len(files(await tree(session))) == 1
        h.later()
        h.demo.faults.add("status", route="*", status=502, count=None)
        for path in ("/", "/Rome", "/Nothing"):
            await raises(Unreachable, session.ls(path))
            await raises(Unreachable, session.stat(path + "/x"))
        h.demo.faults.clear()
        assert len(files(await h.alike(session))) == 1


# -- where there is no mirror --------------------------------------------------------------------


STREAM = {"method": "POST", "route": "/sync/stream"}
STREAMED, LISTED = "POST /sync/stream", "GET /albums"


@demos
@pytest.mark.parametrize("status", [404, 403, 400, 501])
@pytest_twisted.ensureDeferred
async def test_a_server_without_the_stream_is_listed_until_it_has_one(
    tmp_path: Path, server: str, status: int
) -> None:
    async with house(tmp_path, server, "mirror") as h:
        assert h.demo is not None
        album = await h.alice.album("Rome", await h.alice.upload("a.jpg"))
        session = await h.enter()
        if status == 404:
            # It had one when we came.
            await tree(session)
        h.demo.faults.add("status", status=status, count=None, **STREAM)
        for number in range(3):
            await h.alice.add(album, await h.alice.upload(f"{number}.jpg"))
            assert len(files(await seen(h, session))) == number + 2
        await session.put("/Rome/own.jpg", jpeg("own"), TAKEN)
        await session.mv("/Rome/own.jpg", "/Rome/renamed.jpg")
        listed = await seen(h, session)
        assert len(files(listed)) == 5
        assert await seen(h, session) == listed
        h.demo.faults.clear()
        asked = h.demo.requests[STREAMED]
        await seen(h, session)
        assert h.demo.requests[STREAMED] == asked
        h.later(REFUSAL_KEPT)
        before = h.demo.requests[LISTED]
        assert await tree(session) == listed
        await h.alice.add(album, await h.alice.upload("last.jpg"))
        assert len(files(await seen(h, session))) == 6
        assert h.demo.requests[STREAMED] > asked and h.demo.requests[LISTED] == before
        await h.alike(session)


@demos
@pytest_twisted.ensureDeferred
async def test_a_name_that_the_mirror_told_stays_when_listings_take_over_again(
    tmp_path: Path, server: str
) -> None:
    async with house(tmp_path, server, "mirror") as h:
        assert h.demo is not None
        asset = await h.alice.upload("a.jpg")
        album = await h.alice.album("Rome", asset)
        session = await h.enter()
        h.demo.faults.add("status", status=404, count=None, **STREAM)
        assert files(await tree(session)) == {"/Rome/a.jpg"}
        h.demo.faults.clear()
        h.later(REFUSAL_KEPT)
        await tree(session)
        value = {"v": 1, "albums": {album.id: [{"name": "sea.jpg"}]}}
        await h.alice.web.set_metadata(asset, KEY, value)
        assert files(await seen(h, session)) == {"/Rome/sea.jpg"}
        h.demo.faults.add("status", status=404, count=None, **STREAM)
        assert files(await seen(h, session)) == {"/Rome/sea.jpg"}
        h.demo.faults.clear()


@demos
@pytest_twisted.ensureDeferred
async def test_a_library_that_grows_too_large_is_listed_until_it_has_shrunk(
    tmp_path: Path, server: str
) -> None:
    async with house(tmp_path, server, "mirror") as h:
        assert h.demo is not None
        ids = [await h.alice.upload(f"{number}.jpg") for number in range(4)]
        album = await h.alice.album("Rome", *ids)
        session = await h.enter(h.service(mirror_max_assets=4))
        assert len(files(await tree(session))) == 4
        assert not h.demo.requests[LISTED]
        await h.alice.add(album, await h.alice.upload("more.jpg"))
        assert len(files(await seen(h, session))) == 5
        assert h.demo.requests[LISTED]
        await h.alice.web.trash(ids, final=True)

        await until(lambda: not set(ids) & h.demo.state.assets.keys())
        assert files(await seen(h, session)) == {"/Rome/more.jpg"}
        h.later(REFUSAL_KEPT)
        before = h.demo.requests[LISTED]
        assert files(await tree(session)) == {"/Rome/more.jpg"}
        assert h.demo.requests[LISTED] == before
        await h.alike(session)


@demos
@pytest_twisted.ensureDeferred
async def test_a_stream_that_speaks_of_unknown_things_is_left_for_listings(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, server, "mirror") as h:
        assert h.demo is not None
        album = await h.alice.album("Rome", await h.alice.upload("a.jpg"))
        session = await h.enter()
        await tree(session)
        real_stream, odd = ImmichSession.sync_stream, [1]

        async def stream(immich: ImmichSession, take: Any, *args: Any, **more: Any) -> None:
            if odd:
                take([{"type": "AlbumFoldersV9", "data": {}, "ack": "AlbumFoldersV9|1"}])
            await real_stream(immich, take, *args, **more)

        monkeypatch.setattr(ImmichSession, "sync_stream", stream)
        await h.alice.add(album, await h.alice.upload("b.jpg"))
        assert files(await seen(h, session)) == {"/Rome/a.jpg", "/Rome/b.jpg"}
        assert h.demo.requests[LISTED]
        await h.alice.remove(album, *[a.id for a in await h.alice.web.assets(album)][:1])
        assert len(files(await seen(h, session))) == 1
        odd.clear()
        h.later(REFUSAL_KEPT)
        before = h.demo.requests[LISTED]
        assert len(files(await tree(session))) == 1
        assert h.demo.requests[LISTED] == before
        await h.alike(session)


@demos
@pytest.mark.parametrize("why", ["reset", "revoked"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_starts_over_is_not_noticed(
    tmp_path: Path, server: str, why: str
) -> None:
    async with house(tmp_path, server, "mirror") as h:
        assert h.demo is not None
        album = await h.alice.album("Rome", await h.alice.upload("a.jpg"))
        session = await h.enter()
        stays = await h.enter(h.services[-1])
        for one in (session, stays):
            await tree(one)
        for number in range(3):
            await session.put(f"/Rome/{number}.jpg", jpeg(f"{number}"), TAKEN)
            await h.alice.add(album, await h.alice.upload(f"web {number}.jpg"))
            if why == "reset":
                h.demo.reset_sync(h.demo.user(h.alice.email))
            elif number == 1:
                mirrored = stays.lease.immich
                h.demo.revoke(mirrored.credential.secret)  # type: ignore[attr-defined]
                stays = await h.enter(h.services[0])
            assert len(files(await seen(h, stays))) == 2 * number + 3
        assert not h.demo.requests[LISTED]
        await h.alike(stays)
