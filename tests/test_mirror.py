"""The live mirror against the listings of the same server, after any sequence of changes.

The demo Immich of both dialects is behind the real client; nothing is pretended but time.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import pytest_twisted
from attrs import Factory, define
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall, deferLater

from immich_conch.demo import DemoImmich
from immich_conch.demo.entities import User
from immich_conch.errors import (
    ConchError,
    Unreachable,
)
from immich_conch.immich.client import ImmichServer
from immich_conch.immich.session import Session
from immich_conch.library.mirror import Mirror
from immich_conch.library.tables import METADATA_KEY

VERSIONS = ["2.5.6", "3.1.0"]
#: Seconds that make any answer too old, and an own change one that the next delta must know.
LATER = 1.1


@define(eq=False)
class Person:
    """A user with a session for changes, and a mirror with one of its own."""

    user: User
    session: Session
    mirror: Mirror
    following: list[Session] = Factory(list)


@define(eq=False)
class World:
    """A demo Immich, its users, and the mirrors' time."""

    demo: DemoImmich
    server: ImmichServer
    clock: Clock
    people: dict[str, Person] = Factory(dict)

    async def enter(self, name: str, **options: Any) -> Person:
        """A user who logs in; `options` are the mirror's."""
        email = f"{name}@example.com"
        user = self.demo.add_user(email, "correct horse", name)
        following: list[Session] = []

        async def lend(revoked: Any) -> Session:
            if not following or following[-1] is revoked:
                following.append(await self.server.log_in(email, "correct horse"))
            return following[-1]

        mirror = Mirror(user.id, lend, self.clock, **options)
        session = await self.server.log_in(email, "correct horse")
        self.people[name] = Person(user, session, mirror, following)
        return self.people[name]

    def later(self) -> None:
        """Let what the mirrors know grow too old."""
        self.clock.advance(LATER)

    async def photo(self, person: Person, name: str, **fields: Any) -> str:
        """An asset of somebody's."""
        data = name.encode() + random.randbytes(8)
        return self.demo.add_asset(person.user, name, data, 1_500_000_000, **fields).id


@asynccontextmanager
async def world(version: str) -> AsyncIterator[World]:
    """A World without a socket."""
    demo = DemoImmich(version)
    agent = RequestTraversalAgent(demo.resource())
    pump = LoopingCall(agent.flush)
    pump.start(0.0005, now=False)
    server = ImmichServer("http://immich.invalid", agent, reactor, jitter=lambda: 0.0)
    try:
        yield World(demo, server, Clock())
    finally:
        pump.stop()
        demo.close()


def plain(asset: Any, modern: bool) -> Any:
    """An asset without what the two ways tell differently and no folder shows."""
    created = asset.created if modern else 0.0
    return attrs.evolve(asset, created=created, favorite=False, offline=False)


async def agree(w: World, person: Person) -> None:
    """The mirror says what the listings say."""
    w.later()
    listed = {album.id: album for album in await person.session.albums()}
    mirrored = {album.id: album for album in await person.mirror.albums()}
    assert {key: attrs.evolve(album, validator=()) for key, album in mirrored.items()} == {
        key: attrs.evolve(album, validator=()) for key, album in listed.items()
    }
    modern = w.demo.state.modern
    for album in listed.values():
        one = {a.id: plain(a, modern) for a in await person.session.assets(album) if a.listed}
        two = {a.id: plain(a, modern) for a in await person.mirror.assets(album) if a.listed}
        assert two == one
        notes = await person.mirror.notes(list(one))
        for asset in one.values():
            if asset.owner_id == person.user.id:
                metadata = await person.session.get_metadata(asset.id)
                assert notes.get(asset.id) == metadata.get(METADATA_KEY)


def started(work: Awaitable[Any]) -> Deferred[Any]:
    """Some work set off."""

    async def run() -> Any:
        return await work

    return Deferred.fromCoroutine(run())


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor turn until something is so; pytest's time limit ends a wait in vain."""
    while not condition():
        await deferLater(reactor, 0.001)


async def raises(kind: type[BaseException], work: Awaitable[Any]) -> None:
    with pytest.raises(kind) as caught:
        await work
    assert type(caught.value) is kind


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_library_is_shown_as_the_listings_show_it(version: str) -> None:
    async with world(version) as w:
        alice, bob = await w.enter("alice"), await w.enter("bob")
        one, two = await w.photo(alice, "one.jpg"), await w.photo(alice, "two.jpg")
        album = await alice.session.create_album("Rome")
        await alice.session.add_to_album(album.id, [one, two])
        await alice.session.set_metadata(one, METADATA_KEY, {"version": 1, "albums": {}})
        await alice.session.set_metadata(one, "somebody-else", {"a": 1})
        for person in (alice, bob):
            await agree(w, person)
        assert len(await alice.mirror.albums()) == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(5))
@pytest_twisted.ensureDeferred
async def test_whatever_happens_the_mirror_agrees_with_the_listings(
    version: str, seed: int
) -> None:
    async with world(version) as w:
        changes = Changes(w, random.Random(seed))
        await changes.begin()
        for _ in range(80):
            await changes.one()
            if changes.random.random() < 0.25:
                await agree(w, changes.alice)
                await agree(w, changes.bob)
        await agree(w, changes.alice)
        await agree(w, changes.bob)


@define(eq=False)
class Changes:
    """Random changes by two users who share albums."""

    w: World
    random: random.Random
    names: int = 0
    log: list[str] = Factory(list)

    @property
    def alice(self) -> Person:
        return self.w.people["alice"]

    @property
    def bob(self) -> Person:
        return self.w.people["bob"]

    async def begin(self) -> None:
        for name in ("alice", "bob"):
            await self.w.enter(name)
        for person in (self.alice, self.bob):
            for _ in range(6):
                await self.upload(person)
            for _ in range(2):
                await self.create(person)
            for album in await person.session.albums():
                ids = sorted({self.own(person) for _ in range(3)})
                await person.session.add_to_album(album.id, ids)
        for person in (self.alice, self.bob):
            await self.share(person)

    async def one(self) -> None:
        person = self.random.choice([self.alice, self.bob])
        change = self.random.choice(CHANGES)
        self.log.append(f"{person.user.name} {change.__name__}")
        try:
            await change(self, person)
        except (ConchError, IndexError) as error:
            # What a role does not allow changes nothing.
            assert not isinstance(error, Unreachable)

    def name(self) -> str:
        self.names += 1
        return f"{self.random.choice(['a', 'b', 'ä'])}{self.names}.jpg"

    def own(self, person: Person) -> str:
        return self.random.choice(
            sorted(a.id for a in self.w.demo.state.by_owner[person.user.id].values())
        )

    async def album(self, person: Person) -> Any:
        albums = sorted(await person.session.albums(), key=lambda album: album.id)
        return self.random.choice(albums)

    async def own_album(self, person: Person) -> Any:
        albums = [album for album in await person.session.albums() if album.role == "owner"]
        return self.random.choice(sorted(albums, key=lambda album: album.id))

    async def upload(self, person: Person) -> None:
        await self.w.photo(person, self.name())

    async def create(self, person: Person) -> None:
        await person.session.create_album(self.name())

    async def rename(self, person: Person) -> None:
        await person.session.rename_album((await self.album(person)).id, self.name())

    async def delete(self, person: Person) -> None:
        await person.session.delete_album((await self.album(person)).id)

    async def add(self, person: Person) -> None:
        ids = sorted({self.own(person) for _ in range(3)})
        await person.session.add_to_album((await self.album(person)).id, ids)

    async def remove(self, person: Person) -> None:
        album = await self.album(person)
        assets = sorted(a.id for a in await person.session.assets(album))
        await person.session.remove_from_album(album.id, [self.random.choice(assets)])

    async def trash(self, person: Person) -> None:
        await person.session.trash([self.own(person)])

    async def restore(self, person: Person) -> None:
        await person.session.restore([self.own(person)])

    async def look(self, person: Person) -> None:
        visibility = self.random.choice(["archive", "timeline", "hidden", "locked"])
        await person.session.update_asset(self.own(person), visibility=visibility)

    async def describe(self, person: Person) -> None:
        await person.session.update_asset(self.own(person), description=self.name(), rating=3)

    async def note(self, person: Person) -> None:
        await person.session.set_metadata(self.own(person), METADATA_KEY, {"v": self.name()})

    async def forget(self, person: Person) -> None:
        await person.session.delete_metadata(self.own(person), METADATA_KEY)

    async def share(self, person: Person) -> None:
        album = await self.own_album(person)
        other = self.bob if person is self.alice else self.alice
        entry = {"userId": other.user.id, "role": self.random.choice(["viewer", "editor"])}
        await person.session._done("PUT", f"/albums/{album.id}/users", data={"albumUsers": [entry]})

    async def role(self, person: Person) -> None:
        album = await self.own_album(person)
        other = self.bob if person is self.alice else self.alice
        path = f"/albums/{album.id}/user/{other.user.id}"
        await person.session._done("PUT", path, data={"role": "editor"})

    async def unshare(self, person: Person) -> None:
        album = await self.own_album(person)
        other = self.bob if person is self.alice else self.alice
        await person.session._done("DELETE", f"/albums/{album.id}/user/{other.user.id}")

    async def leave(self, person: Person) -> None:
        shared = [album for album in await person.session.albums() if album.role != "owner"]
        await person.session.leave_album(self.random.choice(shared).id)

    async def reset(self, person: Person) -> None:
        self.w.demo.reset_sync(person.user)


CHANGES: list[Callable[[Changes, Person], Awaitable[None]]] = [
    *[Changes.upload, Changes.add, Changes.share] * 3,
    Changes.create,
    Changes.rename,
    Changes.delete,
    Changes.remove,
    Changes.remove,
    Changes.trash,
    Changes.restore,
    Changes.look,
    Changes.describe,
    Changes.note,
    Changes.forget,
    Changes.role,
    Changes.unshare,
    Changes.leave,
    Changes.reset,
]
