"""A service without SSH: SFTP servers over the demo Immich, driven as a client's requests would.

The Immich client is the real one, over the demo in memory or, where an upload has to be streamed,
over the loopback.  Settling and retrying run on a `task.Clock` that a test moves on by hand;
HTTP runs on the reactor.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import Factory, define
from treq.testing import RequestTraversalAgent
from twisted.conch.ssh.filetransfer import (
    FXF_APPEND,
    FXF_CREAT,
    FXF_EXCL,
    FXF_READ,
    FXF_TRUNC,
    FXF_WRITE,
)
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, LoopingCall, deferLater

from immich_conch.accounts import PASSWORD, Accounts, key_credential
from immich_conch.counters import Counters
from immich_conch.demo import DemoImmich
from immich_conch.demo.entities import Album, Asset, User
from immich_conch.errors import ConchError
from immich_conch.immich.client import ImmichServer, connect
from immich_conch.settings import Settings
from immich_conch.sftp.handles import UploadHandle
from immich_conch.sftp.server import SFTPServer
from immich_conch.sftp.wire import Reader
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.spool import Limits, Spool

VERSIONS = ("2.5.6", "3.1.0")
#: A time that a client sets, and the time of arrival (POSIX seconds).
TAKEN, ARRIVED = 1_500_000_000, 1_700_000_000

WRITE = FXF_WRITE | FXF_CREAT | FXF_TRUNC
NO_TRUNC = FXF_WRITE | FXF_CREAT
NEW = FXF_WRITE | FXF_CREAT | FXF_EXCL
EDIT = FXF_READ | FXF_WRITE
APPEND = FXF_WRITE | FXF_APPEND
READ = FXF_READ


def jpeg(text: str = "", size: int = 0) -> bytes:
    """Bytes that nothing else has."""
    return (b"\xff\xd8" + text.encode()).ljust(size, b".")


@define(eq=False)
class Session:
    """One SFTP channel of a user."""

    sftp: SFTPServer
    lease: Lease

    async def put(
        self, path: str, data: bytes, mtime: int | None = None, flags: int = WRITE
    ) -> None:
        """Upload as OpenSSH does: with `mtime` as `put -p`."""
        handle = await self.open(path, flags)
        handle.writeChunk(0, data)
        if mtime is not None:
            handle.setAttrs({"atime": mtime, "mtime": mtime})
        await handle.close()

    async def open(self, path: str, flags: int = WRITE, **attrs: int) -> UploadHandle:
        """OPEN for writing."""
        handle = await self.sftp.openFile(path.encode(), flags, attrs)
        assert isinstance(handle, UploadHandle)
        return handle

    async def get(self, path: str) -> bytes:
        """Read a whole file."""
        handle = await self.sftp.openFile(path.encode(), READ, {})
        data = b""
        while piece := await whole(handle.readChunk(len(data), 32_768)):
            data += piece
        handle.close()
        return data

    async def ls(self, path: str = "/") -> dict[str, dict[str, Any]]:
        """Names and attributes of a folder."""
        folder = await self.sftp.openDirectory(path.encode())
        entries: dict[str, dict[str, Any]] = {}
        while batch := await folder.next_batch():
            for name, _, attrs in map(unpacked, batch):
                assert name.decode() not in entries, "a name twice in one listing"
                entries[name.decode()] = attrs
        folder.close()
        return entries

    async def stat(self, path: str) -> dict[str, Any]:
        return await self.sftp.getAttrs(path.encode(), True)

    async def setstat(self, path: str, **attrs: int) -> None:
        await self.sftp.setAttrs(path.encode(), attrs)

    async def utime(self, path: str, mtime: int = TAKEN) -> None:
        await self.setstat(path, atime=mtime, mtime=mtime)

    async def rm(self, path: str) -> None:
        await self.sftp.removeFile(path.encode())

    async def mv(self, old: str, new: str) -> None:
        await self.sftp.renameFile(old.encode(), new.encode())

    async def posix_mv(self, old: str, new: str) -> None:
        """posix-rename@openssh.com."""
        data = b"".join(len(x.encode()).to_bytes(4, "big") + x.encode() for x in (old, new))
        await self.sftp.extendedRequest(b"posix-rename@openssh.com", data)

    def hang_up(self) -> None:
        """The channel and its connection end."""
        self.sftp.ended()
        self.lease.release()


@define(eq=False)
class Rig:
    """Accounts over a demo Immich, and what a test looks at."""

    demo: DemoImmich
    server: ImmichServer
    accounts: Accounts
    clock: Clock
    spool: Path
    alice: User
    counters: Counters
    settings: Settings
    sessions: list[Session] = Factory(list)

    async def session(
        self,
        email: str = "alice@example.com",
        password: str = "correct horse",
        key: str = "",
    ) -> Session:
        """Log in and open a channel."""
        if key:
            lease = self.accounts.enter(await self.server.use_key(key), key_credential(key))
        else:
            lease = self.accounts.enter(await self.server.log_in(email, password), PASSWORD)
        sftp = SFTPServer(
            lease=lease,
            tree=self.accounts.tree(lease),
            uploads=self.accounts.uploads(lease),
            clock=reactor,  # type: ignore[arg-type]
            now=lambda: ARRIVED,
            in_thread=at_once,
        )
        session = Session(sftp, lease)
        self.sessions.append(session)
        return session

    def restart(self) -> None:
        """The process died, and another one starts over what its spool directory holds.

        Nothing may be under way: what the old one still waits for never happens.
        """
        old = self.accounts.spool
        old.close()
        for file in old.files.values():
            os.close(file.fd)
        self.clock = Hand()
        self.sessions.clear()
        self.accounts = _accounts(self.settings, self.spool, self.clock, self.counters, old.limits)
        self.accounts.recover()

    def asset(self, name: str, data: bytes = b"", **fields: Any) -> Asset:
        """An asset of Alice's; without bytes it has such as nothing else has."""
        return self.demo.add_asset(self.alice, name, data or jpeg(name), TAKEN, **fields)

    def album(self, name: str, *assets: Asset, **more: Any) -> Album:
        """An album of Alice's."""
        return self.demo.add_album(self.alice, name, assets, **more)

    def names_in(self, album: Album) -> list[str]:
        """What Immich itself shows in an album, by the assets' own names."""
        return sorted(a.name for a in self.demo.assets_of(album) if a.deleted is None)

    def in_spool(self) -> list[str]:
        """The endings of the files in the spool directory."""
        return sorted(path.suffix for path in self.spooled())

    def spooled(self) -> list[Path]:
        """The files in the spool directory, without its lock."""
        return [path for path in self.spool.iterdir() if not path.name.startswith(".")]

    def journal(self) -> list[dict[str, Any]]:
        """The journal's entries."""
        return [json.loads(path.read_text()) for path in self.spool.glob("*.json")]

    async def pass_time(self, seconds: float) -> None:
        """Let seconds pass for uploads that settle or wait for another try."""
        self.clock.advance(seconds)
        await quiet()

    async def settled(self) -> None:
        """Let the settle time pass, and what it started end."""
        self.clock.advance(5.0)
        await until(lambda: not self.clock.getDelayedCalls())
        await until(lambda: not any(self.busy()))

    def busy(self) -> list[object]:
        """What is being done with uploads just now."""
        return [
            key
            for account in self.accounts._accounts.values()
            for key in account.uploads.locks._locks
        ]


def contents(r: Rig, album: Album) -> dict[str, bytes]:
    """Name and bytes of what Immich shows in an album."""
    shown = [a for a in r.demo.assets_of(album) if a.deleted is None]
    found = {asset.name: r.demo.content(asset) for asset in shown}
    assert len(found) == len(shown)
    return found


async def whole(result: Any) -> Any:
    """A plain value, or what is awaited."""
    return await result if hasattr(result, "__await__") else result


async def at_once(work: Callable[[], Any]) -> Any:
    """A thread that is none, but takes a turn of the reactor."""
    await deferLater(reactor, 0)
    return work()


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor turn until something is so; pytest's time limit ends a wait in vain."""
    while not condition():
        await deferLater(reactor, 0.001)


async def quiet(turns: int = 30) -> None:
    """Let the reactor turn a while, for what must not happen."""
    for _ in range(turns):
        await deferLater(reactor, 0.001)


async def raises(kind: type[ConchError], work: Awaitable[object]) -> ConchError:
    """The error of some work, which must be of exactly this kind."""
    with pytest.raises(kind) as caught:
        await work
    assert type(caught.value) is kind
    return caught.value


@asynccontextmanager
async def rig(
    tmp_path: Path,
    version: str = "3.1.0",
    loopback: bool = False,
    quota: int | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A Rig with one user, alice@example.com; at the end nothing may be left behind."""
    demo = DemoImmich(version)
    alice = demo.add_user("alice@example.com", "correct horse", "Alice", quota)
    if loopback:
        port = reactor.listenTCP(0, demo.site(), interface="127.0.0.1")  # type: ignore[attr-defined]
        server = connect(reactor, f"http://127.0.0.1:{port.getHost().port}")

        async def close() -> None:
            await server.http.agent._pool.closeCachedConnections()  # type: ignore[attr-defined]
            await maybeDeferred(port.stopListening)
    else:
        agent = RequestTraversalAgent(demo.resource())
        pump = LoopingCall(agent.flush)
        pump.start(0.001, now=False)
        # The retries of HTTP itself need not be waited for.
        server = ImmichServer("http://immich.invalid", agent, _Hasty(), jitter=lambda: 0.0)

        async def close() -> None:
            pump.stop()

    clock = Hand()
    counters = Counters()
    spool = tmp_path / "spool"
    # Listings unless a test asks for the mirror, whose session outlives the last connection.
    settings = {"mirror_max_assets": 0, "freshness": 1.0, **settings}
    chosen = Settings(immich_host="http://immich.invalid", **settings)
    accounts = _accounts(chosen, spool, clock, counters, limits or Limits())
    accounts.recover()
    made = Rig(demo, server, accounts, clock, spool, alice, counters, chosen)
    try:
        yield made
        await until(lambda: not any(made.busy()))
    finally:
        made.accounts.spool.close()
        await close()
        demo.close()


def _accounts(
    settings: Settings, spool: Path, clock: Clock, counters: Counters, limits: Limits
) -> Accounts:
    return Accounts(
        settings=settings,
        spool=Spool.make(os.fspath(spool), limits=limits),
        clock=clock,
        now=lambda: ARRIVED + clock.seconds(),
        in_thread=at_once,
        counters=counters,
    )


class Hand(Clock):
    """A clock moved on by hand; what is to happen at once happens in the reactor's next turn."""

    def callLater(self, when: float, what: Callable[..., object], *a: Any, **kw: Any) -> Any:
        if when == 0:
            return _time().callLater(0, what, *a, **kw)
        return super().callLater(when, what, *a, **kw)


class _Hasty:
    """The reactor's time, with pauses a hundredth as long."""

    def seconds(self) -> float:
        return reactor.seconds()  # type: ignore[attr-defined, no-any-return]

    def callLater(self, delay: float, call: Any, *args: Any, **kwargs: Any) -> Any:
        return _time().callLater(delay / 100, call, *args, **kwargs)

    def getDelayedCalls(self) -> Any:
        return _time().getDelayedCalls()


def _time() -> IReactorTime:
    return reactor  # type: ignore[return-value]


def unpacked(entry: bytes) -> tuple[bytes, bytes, dict[str, Any]]:
    """Name, longname and attributes of a listed entry."""
    fields = Reader(entry)
    return fields.string(), fields.string(), fields.attrs()


def sha1(data: bytes) -> bytes:
    """SHA-1 of some bytes."""
    return hashlib.sha1(data, usedforsecurity=False).digest()
