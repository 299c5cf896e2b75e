"""What Immich does with live photos, on the demo and, where one is named, on a real server."""

from __future__ import annotations

import os

import pytest_twisted
from live_halves import motion, still
from test_immich_contract import World, fetched, put, world  # noqa: F401
from twisted.internet import reactor
from twisted.internet.task import deferLater

from immich_conch.errors import NotFound
from immich_conch.immich.model import Album, Asset
from immich_conch.immich.session import Session

#: Seconds between looks, and for how many looks Immich may take to read and link two uploads.
PAUSE, LOOKS = 0.25, 160


async def pause() -> None:
    """Let Immich do something."""
    await deferLater(reactor, PAUSE)  # type: ignore[arg-type]


async def linked(session: Session) -> tuple[Album, Asset, Asset, str]:
    """Two halves in an album, once Immich has linked them: album, still, part and identifier."""
    name = os.urandom(6).hex()
    one = await put(session, still(name, name), f"{name}.jpg")
    two = await put(session, motion(name, name), f"{name}.mov")
    album = await session.create_album("Live")
    await session.add_to_album(album.id, [one, two])
    for _ in range(LOOKS):
        photo, part = await session.asset(one), await session.asset(two)
        if photo.live_photo_video_id and not await session.albums_of(two):
            break
        await pause()
    assert photo.live_photo_video_id == two
    assert part.visibility == "hidden"
    return album, photo, await session.asset(two), name


@pytest_twisted.ensureDeferred
async def test_two_halves_are_linked_and_the_video_leaves_its_albums(world: World) -> None:  # noqa: F811
    session = await world.user()
    album, photo, part, name = await linked(session)
    assert [one.id for one in await session.assets(album) if one.listed] == [photo.id]
    assert not part.cut_out
    assert [one.id for one in await session.stills_of(part)] == [photo.id]
    await session.update_asset(photo.id, visibility="archive")
    assert [one.id for one in await session.stills_of(part)] == [photo.id]
    # The same bytes are known, and hidden.
    assert await put(session, motion(name, name), f"{name}.mov") == part.id


@pytest_twisted.ensureDeferred
async def test_who_sees_the_still_may_read_the_part(world: World) -> None:  # noqa: F811
    owner, viewer = await world.user(), await world.user()
    album, photo, part, name = await linked(owner)
    await world.share(album, owner, viewer, "viewer")
    assert (await viewer.asset(part.id)).name == part.name
    assert await fetched(viewer, part.id) == motion(name, name)
    await owner.trash([photo.id])
    try:
        await viewer.asset(part.id)
    except NotFound:
        pass
    else:
        raise AssertionError("the part of a trashed still can be read")


@pytest_twisted.ensureDeferred
async def test_trashing_and_restoring_the_still_leaves_the_pair(world: World) -> None:  # noqa: F811
    session = await world.user()
    album, photo, part, _ = await linked(session)
    await session.trash([photo.id])
    assert not (await session.asset(part.id)).trashed
    assert [one.trashed for one in await session.stills_of(part)] == [True]
    await session.restore([photo.id])
    assert (await session.asset(photo.id)).live_photo_video_id == part.id
    assert [one.id for one in await session.albums_of(photo.id)] == [album.id]


@pytest_twisted.ensureDeferred
async def test_unlinking_shows_the_part_as_the_still_is_shown(world: World) -> None:  # noqa: F811
    session = await world.user()
    _, photo, part, _ = await linked(session)
    await session.trash([part.id])
    await session.update_asset(photo.id, livePhotoVideoId=None)
    alone = await session.asset(part.id)
    assert alone.trashed
    assert alone.visibility == "timeline"
    await session.restore([part.id])
    await session.update_asset(photo.id, livePhotoVideoId=part.id)
    assert (await session.asset(part.id)).visibility == "hidden"
    await session.update_asset(part.id, visibility="timeline")
    assert (await session.asset(part.id)).visibility == "timeline"


@pytest_twisted.ensureDeferred
async def test_a_part_goes_for_good_with_its_last_still(world: World) -> None:  # noqa: F811
    session = await world.user()
    _, photo, part, name = await linked(session)
    second = await put(session, still("", f"{name} once more"), f"{name}b.jpg")
    await session.update_asset(second, livePhotoVideoId=part.id)
    await session.trash([photo.id], final=True)
    await gone(session, photo.id)
    assert (await session.asset(part.id)).visibility == "hidden"
    await session.trash([second], final=True)
    await gone(session, part.id)


async def gone(session: Session, asset_id: str) -> None:
    """Wait until Immich has deleted an asset."""
    for _ in range(LOOKS):
        try:
            await session.asset(asset_id)
        except NotFound:
            return
        await pause()
    raise AssertionError("it is still there")
