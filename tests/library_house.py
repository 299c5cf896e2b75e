"""One user's library seen in three ways: by the live mirror, by listings, and by an API key.

A `House` is a server with two users who have another client each, and services before it, each
with catalogs of its own.  It is the demo in memory, or the real server that `immich_servers`
names, whose users are removed again.  Only the age of what a catalog knows is pretended: each
service measures it on a clock that is moved on by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import Factory, define
from immich_servers import ADMIN, URL, real
from rig import TAKEN, Hand, Rig, Session, _accounts, rig
from twisted.internet.defer import Deferred

from immich_conch.counters import Counters
from immich_conch.demo import DemoImmich
from immich_conch.immich.client import ImmichServer
from immich_conch.immich.model import Album, NewAsset
from immich_conch.immich.session import Session as ImmichSession
from immich_conch.settings import Settings
from immich_conch.transfer.spool import Limits

SERVERS = ["2.5.6", "3.1.0", *(["real"] if URL and ADMIN else [])]
#: What a catalog asks: the sync stream, listings by password, listings by an API key.
SOURCES = ["mirror", "listings", "key"]
PASSWORD = "correct horse 1"
#: Under what the service notes something with an asset.
KEY = "immich-conch"
#: Seconds after which a change from outside has to be seen, `--freshness` being 1 (README).
BOUND = 2.0

Tree = dict[str, dict[str, Any]]
"""Attributes by path; `/` is one of them."""


@define(eq=False)
class Bytes:
    """An upload's body that is all there."""

    data: bytes
    size: int

    def read(self, size: int) -> bytes:
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@define(eq=False)
class Person:
    """A user; `web` is another client of theirs, which tells the services nothing."""

    email: str
    web: ImmichSession

    async def upload(self, name: str, modified: float = TAKEN, data: bytes = b"") -> str:
        """An asset of their own with bytes that nothing else has, unless some are given."""
        data = data or b"\xff\xd8\xff" + name.encode() + os.urandom(8)
        digest = hashlib.sha1(data, usedforsecurity=False).digest()
        new = NewAsset(name, modified, modified, len(data), digest)
        return (await self.web.upload(Bytes(data, len(data)), new)).asset_id

    async def album(self, name: str, *assets: str) -> Album:
        """An album with assets."""
        album = await self.web.create_album(name)
        await self.add(album, *assets)
        return album

    async def add(self, album: Album, *assets: str) -> None:
        """Put assets into an album."""
        if assets:
            answer = await self.web.add_to_album(album.id, list(assets))
            assert not any(answer.values()), answer

    async def remove(self, album: Album, *assets: str) -> None:
        """Take assets out of an album."""
        answer = await self.web.remove_from_album(album.id, list(assets))
        assert not any(answer.values()), answer

    async def describe(self, album: Album, text: str) -> None:
        """Give an album a description."""
        await self.web._done("PATCH", f"/albums/{album.id}", data={"description": text})

    async def share(self, album: Album, other: Person, role: str) -> None:
        """Share an album with somebody."""
        users = {"albumUsers": [{"userId": other.web.user.id, "role": role}]}
        await self.web._done("PUT", f"/albums/{album.id}/users", data=users)

    async def give_role(self, album: Album, other: Person, role: str) -> None:
        """Give somebody another role in an album."""
        path = f"/albums/{album.id}/user/{other.web.user.id}"
        await self.web._done("PUT", path, data={"role": role})

    async def unshare(self, album: Album, other: Person) -> None:
        """Share an album with somebody no more."""
        await self.web._done("DELETE", f"/albums/{album.id}/user/{other.web.user.id}")

    async def key(self, *permissions: str) -> str:
        """A new API key, for everything unless told otherwise."""
        data = {"name": "t", "permissions": list(permissions or ["all"])}
        answer = await self.web._answer("POST", "/api-keys", data=data)
        return str(json.loads(answer.body)["secret"])


@define(eq=False)
class House:
    """`source` is what the service under test asks; `demo` is None for a real server."""

    server: ImmichServer
    source: str
    directory: Path
    demo: DemoImmich | None
    alice: Person
    bob: Person
    services: list[Rig] = Factory(list)
    _keys: dict[str, str] = Factory(dict)

    def service(self, **settings: Any) -> Rig:
        """Another service, which has seen nothing yet; it mirrors unless told otherwise."""
        chosen = Settings(
            immich_host="http://immich.invalid",
            **{"mirror_max_assets": 1000, "freshness": 1.0, **settings},
        )
        clock, counters = Hand(), Counters()
        spool = self.directory / f"spool-{len(self.services)}"
        accounts = _accounts(chosen, spool, clock, counters, Limits())
        made = Rig(
            self.demo,  # type: ignore[arg-type]  # not looked at by what is used here
            self.server,
            accounts,
            clock,
            spool,
            None,  # type: ignore[arg-type]
            counters,
            chosen,
        )
        self.services.append(made)
        return made

    async def enter(
        self, service: Rig | None = None, source: str = "", person: Person | None = None
    ) -> Session:
        """A session at a service, or at one of its own that has seen nothing yet."""
        source, person = source or self.source, person or self.alice
        if service is None:
            service = self.service(**({} if source == "mirror" else {"mirror_max_assets": 0}))
        if source != "key":
            return await service.session(person.email, PASSWORD)
        if person.email not in self._keys:
            self._keys[person.email] = await person.key()
        return await service.session(key=self._keys[person.email])

    def later(self, seconds: float = BOUND) -> None:
        """Let time pass for all services."""
        for service in self.services:
            service.clock.advance(seconds)

    async def alike(self, *sessions: Session, person: Person | None = None) -> Tree:
        """Now and by whatever way, everybody is shown the same, entry by entry; what that is.

        Each source is asked by a service that has seen nothing yet; `sessions` are of services
        that have.
        """
        # Asked for albums, Immich gives them other thumbnails, which moves their time.
        await (await self.enter(source="listings", person=person)).ls()
        self.later()
        expected = await tree(await self.enter(source="listings", person=person))
        for source in SOURCES:
            new = await tree(await self.enter(source=source, person=person))
            assert new == expected, f"{source}: {differences(new, expected)}"
        for session in sessions:
            known = await tree(session)
            assert known == expected, f"{self.source}: {differences(known, expected)}"
        return expected

    async def close(self) -> None:
        """Log everybody out."""
        for service in self.services:
            for session in service.sessions:
                session.hang_up()
            await service.accounts.stop()
            service.accounts.spool.close()


async def tree(session: Session) -> Tree:
    """All that a session is shown; STAT must say what the listings say."""
    found = {"/": await session.stat("/")}
    folders = ["/"]
    while folders:
        folder = folders.pop()
        for name, attrs in (await session.ls(folder)).items():
            path = f"{folder.rstrip('/')}/{name}"
            found[path] = attrs
            if stat.S_ISDIR(attrs["permissions"]):
                folders.append(path)
    for path, attrs in found.items():
        assert await session.stat(path) == attrs, path
    return found


async def seen(h: House, session: Session) -> Tree:
    """What a session is shown once the freshness bound has passed."""
    h.later()
    return await tree(session)


def differences(one: Tree, other: Tree) -> str:
    """What two trees do not agree on, a line an entry."""
    paths = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    return "".join(f"\n{path}: {one.get(path)} and not {other.get(path)}" for path in paths)


def files(shown: Tree) -> set[str]:
    """The paths of all files."""
    return {path for path, attrs in shown.items() if not stat.S_ISDIR(attrs["permissions"])}


def folders(shown: Tree) -> set[str]:
    """The paths of all folders but `/`."""
    return shown.keys() - files(shown) - {"/"}


def started(work: Awaitable[Any]) -> Deferred[Any]:
    """Some work set off."""

    async def run() -> Any:
        return await work

    return Deferred.fromCoroutine(run())


@asynccontextmanager
async def house(directory: Path, server: str, source: str) -> AsyncIterator[House]:
    """A House; at the end everybody has left."""
    if server == "real":
        async with _real_house(directory, source) as made:
            yield made
        return
    async with rig(directory, server) as r:

        async def person(name: str) -> Person:
            r.demo.add_user(f"{name}@house.example", PASSWORD, name)
            return await _person(r.server, f"{name}@house.example")

        made = House(
            r.server, source, directory, r.demo, await person("alice"), await person("bob")
        )
        try:
            yield made
        finally:
            r.demo.faults.clear()
            await made.close()


@asynccontextmanager
async def _real_house(directory: Path, source: str) -> AsyncIterator[House]:
    target = real()
    admin = await target.server.log_in(*target.admin)
    ids = []

    async def person(name: str) -> Person:
        email = f"{name}-{uuid.uuid4().hex[:12]}@example.com"
        data = {"email": email, "password": PASSWORD, "name": name}
        answer = await admin._answer("POST", "/admin/users", data=data)
        ids.append(json.loads(answer.body)["id"])
        return await _person(target.server, email)

    try:
        made = House(
            target.server, source, directory, None, await person("alice"), await person("bob")
        )
        try:
            yield made
        finally:
            await made.close()
    finally:
        for user_id in ids:
            await admin._done("DELETE", f"/admin/users/{user_id}", data={"force": True})
        await admin.log_out()
        await target.close()


async def _person(server: ImmichServer, email: str) -> Person:
    session = await server.log_in(email, PASSWORD)
    assert isinstance(session, ImmichSession)
    return Person(email, session)


@pytest.fixture(params=SERVERS)
def server(request: Any) -> str:
    """Each server in turn."""
    return str(request.param)


@pytest_twisted.async_yield_fixture(params=SOURCES)
async def h(request: Any, server: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house on each server, whose sessions see the library in each way in turn."""
    async with house(tmp_path, server, request.param) as made:
        yield made


async def first(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what Immich does in the background; pytest's time limit ends a wait in vain."""
    while not await condition():
        pass
