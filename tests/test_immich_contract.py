"""What IImmich promises, held against every Immich there is: one suite, several servers.

It runs on the demo in memory as 2.5.6 and as 3.1.0, on the demo over the loopback, and on the
real server that IMMICH_CONCH_TEST_URL names; IMMICH_CONCH_TEST_ADMIN is then the `email:password`
of an administrator, whose only use is to make users, which are removed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from attrs import define, evolve, field
from immich_fakes import turns, until
from immich_servers import SERVERS, Target, opened

from immich_conch.errors import (
    BadCredentials,
    Denied,
    MissingPermission,
    NotFound,
    QuotaExceeded,
    Refused,
    SessionRevoked,
)
from immich_conch.immich import listing
from immich_conch.immich import session as session_module
from immich_conch.immich.client import ImmichServer
from immich_conch.immich.model import Album, NewAsset
from immich_conch.immich.session import Session

PASSWORD = "correct horse 1"
MODIFIED = 1_580_702_706.0
NOWHERE = "00000000-0000-4000-8000-000000000000"


@define(eq=False)
class Bytes:
    """An upload's body that is all there."""

    data: bytes
    size: int | None = None

    def read(self, size: int) -> bytes:
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@define(eq=False)
class World:
    """One server with its administrator, and the users a test has made."""

    target: Target
    admin: Session
    users: list[str] = field(factory=list)

    @property
    def server(self) -> ImmichServer:
        return self.target.server

    async def email(self, **more: Any) -> str:
        """A new user's e-mail; the password is PASSWORD."""
        email = f"conch-{uuid.uuid4().hex[:12]}@example.com"
        made = {"email": email, "password": PASSWORD, "name": "Conch", **more}
        self.users.append(await self.ask(self.admin, "POST", "/admin/users", made))
        return email

    async def user(self, **more: Any) -> Session:
        return await self.server.log_in(await self.email(**more), PASSWORD)

    async def ask(self, session: Session, method: str, path: str, data: Any) -> str:
        """A call that IImmich has no door for; the id it answers with."""
        headers = session.credential.headers
        got = await self.server.http.done(method, path, headers, data=data)
        answer = json.loads(got.body or b"{}")
        return str(answer.get("id", answer.get("secret", "")))

    async def key(self, session: Session, *permissions: str) -> str:
        return await self.ask(
            session, "POST", "/api-keys", {"name": "t", "permissions": list(permissions)}
        )

    async def share(self, album: Album, owner: Session, other: Session, role: str) -> None:
        users = {"albumUsers": [{"userId": other.user.id, "role": role}]}
        await self.ask(owner, "PUT", f"/albums/{album.id}/users", users)


@pytest_twisted.async_yield_fixture(params=SERVERS)
async def world(request: Any) -> AsyncIterator[World]:
    target = opened(request.param)
    made = World(target, await target.server.log_in(*target.admin))
    yield made
    if target.lasting:
        for user in made.users:
            await made.ask(made.admin, "DELETE", f"/admin/users/{user}", {"force": True})
    await made.admin.log_out()
    await target.close()


def picture(size: int = 1000) -> bytes:
    """Bytes that no Immich has seen."""
    return b"\xff\xd8\xff" + os.urandom(size - 3)


def new(data: bytes, name: str = "one.jpg", **more: Any) -> NewAsset:
    checksum = hashlib.sha1(data).digest()
    return evolve(NewAsset(name, MODIFIED, MODIFIED, len(data), checksum), **more)


async def put(session: Session, data: bytes, name: str = "one.jpg") -> str:
    return (await session.upload(Bytes(data, len(data)), new(data, name))).asset_id


async def fetched(session: Session, asset_id: str, offset: int = 0) -> bytes:
    pieces: list[bytes] = []
    ends: list[Any] = []
    download = await session.download(asset_id, offset)
    download.deliver(pieces.append, ends.append)
    await until(lambda: ends)
    assert ends == [None]
    return b"".join(pieces)


# Logging in


@pytest_twisted.ensureDeferred
async def test_the_email_is_taken_in_any_case_and_the_password_is_not(world: World) -> None:
    email = await world.email()
    session = await world.server.log_in(email.upper(), PASSWORD)
    assert session.user.email == email
    assert (await session.me()).id == session.user.id
    with pytest.raises(BadCredentials):
        await world.server.log_in(email, PASSWORD.upper())
    with pytest.raises(BadCredentials):
        await world.server.log_in("nobody", PASSWORD)


@pytest_twisted.ensureDeferred
async def test_a_session_that_was_logged_out_is_revoked(world: World) -> None:
    session = await world.user()
    await session.log_out()
    with pytest.raises(SessionRevoked):
        await session.albums()
    await session.log_out()


@pytest_twisted.ensureDeferred
async def test_a_key_works_as_far_as_it_may_and_names_what_it_lacks(world: World) -> None:
    session = await world.user()
    key = await world.key(session, "user.read", "album.read")
    by_key = await world.server.use_key(key)
    assert by_key.is_key
    assert by_key.user.id == session.user.id
    assert by_key.allowed("album.read")
    assert not by_key.allowed("album.create")
    assert await by_key.albums() == []
    with pytest.raises(MissingPermission) as caught:
        await by_key.create_album("x")
    assert caught.value.permission == "album.create"
    with pytest.raises(BadCredentials):
        await world.server.use_key("x" * 43)
    everything = await world.server.use_key(await world.key(session, "all"))
    assert everything.allowed("asset.delete")


# Albums


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["Trip", "a/b: «ünï»", "", "x" * 3000, "‮\t"])
async def test_an_album_may_have_any_name(world: World, name: str) -> None:
    session = await world.user()
    made = await session.create_album(name)
    assert (made.name, made.role, made.asset_count) == (name, "owner", 0)
    assert [one.name for one in await session.albums()] == [name]


@pytest_twisted.ensureDeferred
async def test_an_album_is_renamed_and_deleted_and_then_gone(world: World) -> None:
    session = await world.user()
    made = await session.create_album("Trip")
    asset_id = await put(session, picture())
    await session.add_to_album(made.id, [asset_id])
    renamed = await session.rename_album(made.id, "Journey")
    assert (renamed.id, renamed.name) == (made.id, "Journey")
    assert (await session.album(made.id)).name == "Journey"
    await session.delete_album(made.id)
    assert await session.albums() == []
    assert not (await session.asset(asset_id)).trashed
    for call in (
        session.album(made.id),
        session.delete_album(made.id),
        session.rename_album(made.id, "x"),
        session.add_to_album(made.id, [asset_id]),
    ):
        with pytest.raises(NotFound):
            await call


@pytest_twisted.ensureDeferred
async def test_a_shared_album_is_listed_once_with_the_role_in_it(world: World) -> None:
    ann, bob = await world.user(), await world.user()
    made = await ann.create_album("Shared")
    await world.share(made, ann, bob, "viewer")
    assert [(one.id, one.role) for one in await ann.albums()] == [(made.id, "owner")]
    assert [(one.id, one.role) for one in await bob.albums()] == [(made.id, "viewer")]
    assert (await bob.album(made.id)).owner_id == ann.user.id


@pytest_twisted.ensureDeferred
async def test_a_viewer_reads_and_may_do_nothing_else(world: World) -> None:
    ann, bob = await world.user(), await world.user()
    made = await ann.create_album("Shared")
    data = picture()
    asset_id = await put(ann, data)
    await ann.update_asset(asset_id, visibility="archive")
    await ann.add_to_album(made.id, [asset_id])
    await world.share(made, ann, bob, "viewer")
    [listed] = await bob.assets(await bob.album(made.id))
    assert (listed.id, listed.owner_id) == (asset_id, ann.user.id)
    assert listed.listed
    assert await fetched(bob, asset_id) == data
    own = await put(bob, picture())
    for call in (
        bob.add_to_album(made.id, [own]),
        bob.rename_album(made.id, "x"),
        bob.delete_album(made.id),
        bob.trash([asset_id]),
        bob.set_metadata(asset_id, "immich-conch", {"v": 1}),
    ):
        with pytest.raises(Denied):
            await call
    await bob.leave_album(made.id)
    assert await bob.albums() == []
    assert len(await ann.assets(await ann.album(made.id))) == 1


@pytest_twisted.ensureDeferred
async def test_an_editor_adds_and_removes_own_assets_only(world: World) -> None:
    ann, bob = await world.user(), await world.user()
    made = await ann.create_album("Shared")
    anns, bobs = await put(ann, picture()), await put(bob, picture())
    await ann.add_to_album(made.id, [anns])
    await world.share(made, ann, bob, "editor")
    assert await bob.add_to_album(made.id, [bobs]) == {bobs: None}
    assert len(await bob.assets(await bob.album(made.id))) == 2
    told = await bob.remove_from_album(made.id, [anns, bobs])
    assert told == {anns: "no_permission", bobs: None}
    assert [one.id for one in await ann.assets(await ann.album(made.id))] == [anns]
    with pytest.raises(Denied):
        await bob.delete_album(made.id)


@pytest_twisted.ensureDeferred
async def test_adding_twice_and_removing_twice_are_fine_and_unknown_ids_are_told(
    world: World,
) -> None:
    session = await world.user()
    made = await session.create_album("Trip")
    asset_id = await put(session, picture())
    assert await session.add_to_album(made.id, [asset_id]) == {asset_id: None}
    told = await session.add_to_album(made.id, [asset_id, NOWHERE])
    assert told[asset_id] is None
    assert told[NOWHERE] in ("no_permission", "not_found")
    assert [one.id for one in await session.albums_of(asset_id)] == [made.id]
    for _ in range(2):
        assert await session.remove_from_album(made.id, [asset_id]) == {asset_id: None}
    assert await session.albums_of(asset_id) == []


@pytest_twisted.ensureDeferred
async def test_every_change_of_an_albums_content_moves_its_validator(world: World) -> None:
    session = await world.user()
    made = await session.create_album("Trip")
    asset_id = await put(session, picture())
    seen = [(await session.album(made.id)).validator]
    await session.add_to_album(made.id, [asset_id])
    seen.append((await session.album(made.id)).validator)
    await session.remove_from_album(made.id, [asset_id])
    seen.append((await session.album(made.id)).validator)
    assert len(set(seen)) == 3


@pytest_twisted.ensureDeferred
async def test_a_listing_of_many_pages_holds_each_asset_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    monkeypatch.setattr(session_module, "PAGE", 2)
    session = await world.user()
    made = await session.create_album("Trip")
    ids = [await put(session, picture(), f"{n}.jpg") for n in range(7)]
    await session.add_to_album(made.id, ids)
    found = await session.assets(await session.album(made.id))
    assert sorted(one.id for one in found) == sorted(ids)
    # With an album from before the assets came, more pages are there than were promised.
    assert sorted(one.id for one in await session.assets(made)) == sorted(ids)


# Assets


@pytest_twisted.ensureDeferred
async def test_an_upload_keeps_name_time_size_and_bytes(world: World) -> None:
    session = await world.user()
    data = picture(300_000)
    item = {"key": "immich-conch", "value": {"v": 1, "names": ["ä"]}}
    told = new(data, "Ünï «1».JPG", modified=MODIFIED + 0.25, metadata=(item,))
    uploaded = await session.upload(Bytes(data, len(data)), told)
    assert not uploaded.duplicate
    one = await session.asset(uploaded.asset_id)
    assert one.name == "Ünï «1».JPG"
    assert one.modified == pytest.approx(MODIFIED + 0.25)
    assert (one.size, one.checksum) == (len(data), told.checksum)
    assert one.listed
    assert await session.get_metadata(one.id) == {"immich-conch": item["value"]}
    assert await fetched(session, one.id) == data
    again = await session.upload(Bytes(data, len(data)), told)
    assert (again.asset_id, again.duplicate) == (one.id, True)


@pytest_twisted.ensureDeferred
async def test_an_upload_may_name_itself_after_its_bytes(world: World) -> None:
    session = await world.user()
    data = picture(700_000)

    async def at_last() -> NewAsset:
        return new(data, "late «1».jpg")

    uploaded = await session.upload(Bytes(data), at_last, ".jpg")
    one = await session.asset(uploaded.asset_id)
    assert (one.name, one.modified, one.size) == ("late «1».jpg", MODIFIED, len(data))
    again = await session.upload(Bytes(data), at_last, ".jpg")
    assert (again.asset_id, again.duplicate) == (one.id, True)


@pytest_twisted.ensureDeferred
async def test_a_large_duplicate_is_told_however_early_immich_answers(world: World) -> None:
    session = await world.user()
    data = picture(20_000_000)
    first = await put(session, data)
    again = await session.upload(Bytes(data, len(data)), new(data))
    assert (again.asset_id, again.duplicate) == (first, True)


@pytest_twisted.ensureDeferred
async def test_what_immich_does_not_take_is_refused(world: World) -> None:
    session = await world.user()
    data = picture()
    with pytest.raises(Refused) as caught:
        await put(session, data, "notes.txt")
    assert "Unsupported file type" in caught.value.text
    small = await world.user(quotaSizeInBytes=10)
    with pytest.raises(QuotaExceeded):
        await put(small, data)
    assert (await small.me()).quota_size == 10


@pytest_twisted.ensureDeferred
async def test_check_tells_known_trashed_and_unknown_bytes_apart(world: World) -> None:
    session = await world.user()
    kept, trashed = picture(), picture()
    kept_id, trashed_id = await put(session, kept), await put(session, trashed)
    await session.trash([trashed_id])
    sums = [hashlib.sha1(data).digest() for data in (trashed, picture(), kept)]
    gone, unknown, known = await session.check(sums)
    assert unknown is None
    assert gone is not None
    assert known is not None
    assert (gone.asset_id, gone.trashed) == (trashed_id, True)
    assert (known.asset_id, known.trashed) == (kept_id, False)


@pytest_twisted.ensureDeferred
async def test_the_trash_hides_an_asset_until_it_is_restored(world: World) -> None:
    session = await world.user()
    made = await session.create_album("Trip")
    data = picture()
    asset_id = await put(session, data)
    await session.add_to_album(made.id, [asset_id])
    await session.trash([asset_id])
    assert [one for one in await session.assets(await session.album(made.id)) if one.listed] == []
    assert (await session.asset(asset_id)).trashed
    assert [one.id for one in await session.albums_of(asset_id)] == [made.id]
    assert await fetched(session, asset_id) == data
    await session.restore([asset_id])
    assert [one.id for one in await session.assets(await session.album(made.id))] == [asset_id]


@pytest_twisted.ensureDeferred
async def test_removing_what_is_not_there_removes_nothing(world: World) -> None:
    session = await world.user()
    asset_id = await put(session, picture())
    with pytest.raises(NotFound):
        await session.trash([asset_id, NOWHERE])
    assert not (await session.asset(asset_id)).trashed
    with pytest.raises(NotFound):
        await session.asset(NOWHERE)
    with pytest.raises(NotFound):
        await session.update_asset(NOWHERE, isFavorite=True)


@pytest_twisted.ensureDeferred
async def test_a_final_removal_is_final(world: World) -> None:
    session = await world.user()
    asset_id = await put(session, picture())
    await session.trash([asset_id], final=True)
    gone: list[bool] = []
    while not gone:
        try:
            await session.asset(asset_id)
        except NotFound:
            gone.append(True)
        await turns()


@pytest_twisted.ensureDeferred
async def test_favourite_goes_over_to_a_replacement_and_albums_stay(world: World) -> None:
    session = await world.user()
    old, fresh = await put(session, picture()), await put(session, picture())
    made = await session.create_album("Trip")
    await session.add_to_album(made.id, [old])
    await session.update_asset(old, isFavorite=True)
    await session.copy_relations(old, fresh)
    assert (await session.asset(fresh)).favorite
    assert await session.albums_of(fresh) == []


@pytest_twisted.ensureDeferred
async def test_metadata_is_replaced_whole_and_removed(world: World) -> None:
    session = await world.user()
    asset_id = await put(session, picture())
    await session.set_metadata(asset_id, "immich-conch", {"v": 1, "a": [1, 2]})
    await session.set_metadata(asset_id, "immich-conch", {"v": 2})
    assert await session.get_metadata(asset_id) == {"immich-conch": {"v": 2}}
    for _ in range(2):
        await session.delete_metadata(asset_id, "immich-conch")
    assert await session.get_metadata(asset_id) == {}


# Downloads


@pytest_twisted.ensureDeferred
async def test_a_download_begins_anywhere_in_the_file(world: World) -> None:
    session = await world.user()
    data = picture(3_000_000)
    asset_id = await put(session, data)
    assert await session.size(asset_id) == len(data)
    for offset in (0, 1, 1_999_999, len(data) - 1):
        assert await fetched(session, asset_id, offset) == data[offset:]
    download = await session.download(asset_id)
    assert download.total == len(data)
    assert download.etag
    download.abort()
    with pytest.raises(Refused):
        await session.download(asset_id, 5, etag='W/"another"')
    again = await session.download(asset_id, 5, etag=download.etag)
    assert (again.total, again.offset) == (len(data), 5)
    again.abort()


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_not_there_cannot_be_opened(world: World) -> None:
    session = await world.user()
    with pytest.raises(NotFound):
        await session.download(NOWHERE)
    assert await session.size(NOWHERE) is None


# The server


@pytest_twisted.ensureDeferred
async def test_the_server_says_what_it_takes_and_what_it_has(world: World) -> None:
    assert (await world.server.version()).major in (2, 3)
    types = await world.server.media_types()
    assert types.takes(".JPG")
    assert types.takes(".mov")
    assert not types.takes(".txt")
    assert await world.server.trash_enabled() is True
    disk = await world.admin.storage()
    assert 0 < disk.available <= disk.size
