"""API keys with README's least permissions can do what README says, and with one less they cannot.

A key's session goes through the library as an SFTP session does, on the demo, which asks for the
permissions that Immich's API document names for each route.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from test_docs import permissions
from twisted.internet import reactor

from immich_conch.accounts import Accounts, key_credential
from immich_conch.counters import Counters
from immich_conch.demo import DemoImmich
from immich_conch.errors import MissingPermission
from immich_conch.immich.client import ImmichServer, connect
from immich_conch.library.nodes import FileNode
from immich_conch.library.paths import parse
from immich_conch.library.tree import Tree
from immich_conch.settings import Settings
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.spool import Spool

MODIFIED = 1_580_702_706.0


@define(eq=False)
class World:
    """A demo with a user whose API keys are tried, and somebody who shares an album."""

    demo: DemoImmich
    server: ImmichServer
    spool: Path
    user: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.user = self.demo.add_user("alice@example.com", "correct horse 1", "Alice")
        friend = self.demo.add_user("bob@example.com", "correct horse 1", "Bob")
        old = self.demo.add_asset(self.user, "old.jpg", b"old bytes", MODIFIED)
        self.demo.add_album(self.user, "Rome", [old])
        theirs = self.demo.add_asset(friend, "theirs.jpg", b"their bytes", MODIFIED)
        self.demo.add_album(friend, "Shared", [theirs], shared={self.user.email: "viewer"})

    async def enter(self, allowed: set[str]) -> Session:
        """A session by a new key."""
        key = self.demo.add_key(self.user, sorted(allowed))
        immich = await self.server.use_key(key)

        async def here(work: Callable[[], Any]) -> Any:
            return work()

        accounts = Accounts(
            settings=Settings(immich_host="http://immich"),
            spool=Spool.make(str(self.spool), sync=False),
            clock=reactor,
            now=time.time,
            in_thread=here,
            counters=Counters(),
        )
        lease = accounts.enter(immich, key_credential(key))
        return Session(accounts, lease, accounts.tree(lease))


@define(eq=False)
class Session:
    """What an SFTP session does, by what a user would call it."""

    accounts: Accounts
    lease: Lease
    tree: Tree

    async def look(self) -> None:
        """List, and read a file."""
        names = {name for name, _ in await self.tree.list(parse(b"/"))}
        assert {"Rome", "Shared"} <= names
        node = await self.tree.resolve(parse(b"/Rome/old.jpg"))
        assert isinstance(node, FileNode)
        download = await self.lease.immich.download(node.file.asset.id)
        download.abort()

    async def put(self, path: bytes, data: bytes) -> None:
        """Upload with a time, so that CLOSE brings it into Immich."""
        place = parse(path)
        album = await self.tree.album_for_writing(place)
        uploads = self.accounts.uploads(self.lease)
        upload = uploads.open(self.lease, album, place.name, None, session=self)
        upload.time = MODIFIED
        upload.write(0, data)
        await uploads.close(upload)

    async def work(self) -> None:
        """Everything else that README's table has."""
        tree = self.tree
        await tree.mkdir(parse(b"/Trip"))
        await self.put(b"/Trip/new.jpg", b"new bytes")
        described = await tree.resolve(parse(b"/Trip/new.jpg"))
        assert isinstance(described, FileNode)
        await self.lease.immich.update_asset(described.file.asset.id, description="a day out")
        await self.put(b"/Trip/new.jpg", b"newer bytes")
        await tree.rename(parse(b"/Trip/new.jpg"), parse(b"/Rome/new.jpg"))
        await tree.remove(parse(b"/Rome/new.jpg"))
        await self.put(b"/Trip/new.jpg", b"newer bytes")
        await tree.rename(parse(b"/Trip"), parse(b"/Journey"))
        assert [name for name, _ in await tree.list(parse(b"/Journey"))] == ["new.jpg"]
        await tree.rmdir(parse(b"/Journey"))
        await tree.rmdir(parse(b"/Shared"))


@pytest_twisted.async_yield_fixture(params=["2.5.6", "3.1.0"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async for made in _world(request.param, tmp_path):
        yield made


@pytest_twisted.async_yield_fixture
async def modern(tmp_path: Path) -> AsyncIterator[World]:
    async for made in _world("3.1.0", tmp_path):
        yield made


async def _world(version: str, spool: Path) -> AsyncIterator[World]:
    demo = DemoImmich(version)
    port = reactor.listenTCP(0, demo.site(), interface="127.0.0.1")
    server = connect(reactor, f"http://127.0.0.1:{port.getHost().port}")
    try:
        yield World(demo, server, spool)
    finally:
        await server.http.agent._pool.closeCachedConnections()
        await port.stopListening()
        demo.close()


@pytest_twisted.ensureDeferred
async def test_a_read_only_key_can_look(world: World) -> None:
    session = await world.enter(permissions()["read"])
    await session.look()


@pytest_twisted.ensureDeferred
async def test_a_key_for_full_use_can_do_everything(world: World) -> None:
    session = await world.enter(permissions()["full"])
    await session.look()
    await session.work()


async def _refused(world: World, allowed: set[str], *steps: str) -> str:
    """The permission that was missing on the way."""
    with pytest.raises(MissingPermission) as refused:
        session = await world.enter(allowed)
        for step in steps:
            work: Callable[[], Awaitable[None]] = getattr(session, step)
            await work()
    return refused.value.permission


@pytest.mark.parametrize("permission", sorted(permissions()["read"]))
@pytest_twisted.ensureDeferred
async def test_a_read_only_key_needs_each_of_its_permissions(
    modern: World, permission: str
) -> None:
    allowed = permissions()["read"] - {permission}
    assert await _refused(modern, allowed, "look") == permission


@pytest.mark.parametrize("permission", sorted(permissions()["full"] - permissions()["read"]))
@pytest_twisted.ensureDeferred
async def test_a_key_for_full_use_needs_each_of_its_permissions(
    modern: World, permission: str
) -> None:
    allowed = permissions()["full"] - {permission}
    assert await _refused(modern, allowed, "look", "work") == permission
