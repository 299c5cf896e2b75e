"""What IImmich promises of searches, tags, people and months, on every Immich there is.

It runs where `test_immich_contract` does: on the demo as 2.5.6 and as 3.1.0, in memory and over
the loopback, and on the real server that IMMICH_CONCH_TEST_URL names.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from test_immich_contract import MODIFIED, NOWHERE, Bytes, World, new, picture, put, world

from immich_conch.errors import MissingPermission, NotFound
from immich_conch.immich import views
from immich_conch.immich.session import Session

__all__ = ["world"]


async def taken(session: Session, name: str, when: float) -> str:
    """Upload a photo without a date of its own, taken at some time."""
    data = picture()
    asset = evolve(new(data, name), modified=when, created=when)
    return (await session.upload(Bytes(data, len(data)), asset)).asset_id


async def found(session: Session, **criteria: Any) -> list[str]:
    """The ids of all that match, as they come."""
    ids: list[str] = []
    step: str | None = ""
    while step is not None:
        assets, step = await session.search({"visibility": "timeline", **criteria}, step)
        ids += [asset.id for asset in assets]
    return ids


@pytest_twisted.ensureDeferred
async def test_a_search_gives_all_in_the_order_they_were_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PAGE", 2)
    session = await world.user()
    times = (50, 10, 30, 30, 30, 30, 30, 20, 40)
    made = [await taken(session, f"{n}.jpg", MODIFIED + when) for n, when in enumerate(times)]
    ids = list(dict.fromkeys(await found(session)))
    assert sorted(ids) == sorted(made)
    assert [times[made.index(one)] for one in ids] == sorted(times)
    sizes, _ = await session.search({"visibility": "timeline"})
    assert {asset.size for asset in sizes} == {1000}
    assert all(asset.local == asset.taken for asset in sizes)


@pytest_twisted.ensureDeferred
async def test_what_is_removed_while_a_search_is_read_makes_nothing_slip(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PAGE", 3)
    session = await world.user()
    made = [await taken(session, f"{n}.jpg", MODIFIED + n) for n in range(8)]
    seen, step = await session.search({"visibility": "timeline"})
    await session.trash([asset.id for asset in seen])
    ids = [asset.id for asset in seen]
    while step is not None:
        assets, step = await session.search({"visibility": "timeline"}, step)
        ids += [asset.id for asset in assets]
    assert list(dict.fromkeys(ids)) == made


@pytest_twisted.ensureDeferred
async def test_searches_for_what_the_views_show(world: World) -> None:
    session = await world.user()
    liked, old, gone, sorted_in, loose = [
        await taken(session, f"{n}.jpg", MODIFIED + n) for n in range(5)
    ]
    await session.update_asset(liked, isFavorite=True)
    await session.update_asset(old, visibility="archive")
    await session.trash([gone])
    album = await session.create_album("Rome")
    await session.add_to_album(album.id, [sorted_in])
    assert await found(session, isFavorite=True) == [liked]
    assert await found(session, visibility="archive") == [old]
    assert await found(session, isNotInAlbum=True) == [liked, loose]
    trash = {"withDeleted": True, "trashedAfter": "1970-01-01T00:00:00.000Z"}
    assert await found(session, **trash) == [gone]
    await session.trash([gone], final=True)


@pytest_twisted.ensureDeferred
async def test_months_are_those_of_the_timeline(world: World) -> None:
    session = await world.user()
    for name, when in (("a.jpg", 1_590_969_599.0), ("b.jpg", 1_590_969_600.0)):
        await taken(session, name, when)
    await session.update_asset(await taken(session, "c.jpg", MODIFIED), visibility="archive")
    assert sorted(await session.months()) == ["2020-05", "2020-06"]


@pytest_twisted.ensureDeferred
async def test_a_tag_shows_what_has_one_below_it(world: World) -> None:
    session = await world.user()
    asset_id = await put(session, picture())
    rome = await session.make_tag("Places/Rome")
    assert rome.value == "Places/Rome"
    assert await session.make_tag("Places/Rome") == rome
    tags = {tag.value: tag.id for tag in await session.tags()}
    assert sorted(tags) == ["Places", "Places/Rome"]
    await session.tag(rome.id, asset_id)
    await session.tag(rome.id, asset_id)
    assert await found(session, tagIds=[tags["Places"]]) == [asset_id]
    assert await found(session, tagIds=[rome.id]) == [asset_id]
    await session.untag(tags["Places"], asset_id)
    assert await found(session, tagIds=[tags["Places"]]) == [asset_id]
    await session.untag(rome.id, asset_id)
    assert await found(session, tagIds=[tags["Places"]]) == []
    await session.delete_tag(tags["Places"])
    assert await session.tags() == []
    for work in (
        session.delete_tag(rome.id),
        session.tag(rome.id, asset_id),
        session.untag(NOWHERE, asset_id),
    ):
        with pytest.raises(NotFound):
            await work


@pytest_twisted.ensureDeferred
async def test_people_are_those_with_faces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await world.user()
    asset_id = await put(session, picture())
    made = []
    for name in ("Anna", "Bob", "Nobody"):
        made.append(await world.ask(session, "POST", "/people", {"name": name}))
    for person_id in made[:2]:
        box = dict.fromkeys(("imageWidth", "imageHeight", "x", "y", "width", "height"), 5)
        face = {"assetId": asset_id, "personId": person_id, **box}
        headers = session.credential.headers
        await session.server.http.done("POST", "/faces", headers, data=face)
    monkeypatch.setattr(views, "PAGE", 1)
    assert {person.id: person.name for person in await session.people()} == {
        made[0]: "Anna",
        made[1]: "Bob",
    }
    assert await found(session, personIds=[made[0]]) == [asset_id]
    assert await found(session, personIds=[NOWHERE]) == []


@pytest_twisted.ensureDeferred
async def test_a_key_hears_which_permission_a_view_needs(world: World) -> None:
    owner = await world.user()
    tag = await owner.make_tag("One")
    asset_id = await put(owner, picture())
    key = await world.server.use_key(await world.key(owner, "user.read", "asset.read"))
    assert await found(key) == [asset_id]
    assert len(await key.months()) == 1
    for work, permission in (
        (key.people(), "person.read"),
        (key.tags(), "tag.read"),
        (key.make_tag("Two"), "tag.create"),
        (key.delete_tag(tag.id), "tag.delete"),
        (key.tag(tag.id, asset_id), "tag.asset"),
        (key.untag(tag.id, asset_id), "tag.asset"),
    ):
        with pytest.raises(MissingPermission) as caught:
            await work
        assert caught.value.permission == permission
