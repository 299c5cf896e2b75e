"""Our service with the bytes of files in memory: what the SSH side can do without an Immich.

    python -m benchmarks.memory_service --immich URL --port 2222 --place DIR

It is the service as `twistd immich-sftp` makes it, with its defaults, in a process of its own, and
`--immich` is a `bulk_immich`, which is asked for everything small.  What differs:

- a file opened for reading is answered out of `content.Content` of its name and size, below our
  packets and above our HTTP client;
- an upload goes the whole way, spool, SHA-1, sync and checks, but what would be sent to Immich is
  answered at once as if it were there, and forgotten.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.conch.interfaces import ISFTPFile
from twisted.cred.portal import Portal
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThreadPool
from twisted.python import log
from zope.interface import implementer

from benchmarks.content import Content
from immich_conch.auth import Avatar, ImmichChecker, Realm
from immich_conch.counters import Counters
from immich_conch.errors import Denied
from immich_conch.guard.throttle import Throttle
from immich_conch.immich.client import connect
from immich_conch.immich.model import Asset, Known, NewAsset, Uploaded
from immich_conch.logins import Logins
from immich_conch.process import prepare
from immich_conch.service import SFTPService
from immich_conch.settings import Settings
from immich_conch.sftp.handles import AssetHandle, Attrs
from immich_conch.ssh.factory import Factory
from immich_conch.ssh.hostkeys import load_host_keys
from immich_conch.tap import accounts_of

reactor: Any = _reactor
T = TypeVar("T")


@implementer(ISFTPFile)
@define(eq=False)
class MemoryHandle:
    """A file opened for reading, out of memory."""

    handle: AssetHandle
    content: Content

    def readChunk(self, offset: int, length: int) -> bytes:
        """READ; `b""` is the end."""
        return self.content.read(offset, length)

    def writeChunk(self, offset: int, data: bytes) -> None:
        """WRITE to a file that was opened for reading."""
        raise Denied("The file was opened for reading only.")

    def getAttrs(self) -> Attrs:
        """FSTAT."""
        return self.handle.getAttrs()

    async def setAttrs(self, attrs: Attrs) -> None:
        """FSETSTAT."""
        await self.handle.setAttrs(attrs)

    def close(self) -> None:
        """CLOSE."""
        self.handle.close()

    abort = close


@define(eq=False)
class Files:
    """An `SFTPServer` whose files read from memory."""

    server: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)

    async def openFile(self, filename: bytes, flags: int, attrs: Attrs) -> Any:
        """OPEN."""
        handle = await self.server.openFile(filename, flags, attrs)
        if isinstance(handle, AssetHandle):
            return MemoryHandle(handle, Content(handle.asset.name, handle.asset.size or 0))
        return handle


class MemoryRealm(Realm):
    """Makes avatars whose files read from memory."""

    def _server(self, avatar: Avatar) -> Any:
        return Files(super()._server(avatar))


@define(eq=False)
class Session:
    """A session at Immich that says of every upload that it is in."""

    inner: Any
    _made: dict[str, Asset] = field(factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def check(self, checksums: Sequence[bytes]) -> list[Known | None]:
        """Immich has none of them."""
        return [None] * len(checksums)

    async def upload(
        self,
        body: Any,
        new: NewAsset | Callable[[], Awaitable[NewAsset]],
        extension: str = "",
    ) -> Uploaded:
        """As soon as the name is known it is there; the bytes are not even read."""
        known = new if isinstance(new, NewAsset) else await new()
        asset_id = f"00000000-0000-4000-8000-{len(self._made):012x}"
        self._made[asset_id] = Asset(
            id=asset_id,
            name=known.name,
            owner_id=self.inner.user.id,
            modified=known.modified,
            taken=known.created,
            created=time.time(),
            visibility="timeline",
            trashed=False,
            size=known.size,
            checksum=known.checksum,
            is_video=True,
        )
        return Uploaded(asset_id, False)

    async def asset(self, asset_id: str) -> Asset:
        """What was uploaded, or Immich's."""
        made = self._made.get(asset_id)
        return await self.inner.asset(asset_id) if made is None else made

    async def add_to_album(
        self, album_id: str, asset_ids: Sequence[str]
    ) -> Mapping[str, str | None]:
        """What was uploaded is in any album."""
        if all(asset_id in self._made for asset_id in asset_ids):
            return dict.fromkeys(asset_ids)
        answer: Mapping[str, str | None] = await self.inner.add_to_album(album_id, asset_ids)
        return answer


@define(eq=False)
class Server:
    """Logs in to Immich."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def log_in(self, email: str, password: str) -> Session:
        """A session of a user."""
        return Session(await self.inner.log_in(email, password))


def _in_thread(work: Callable[[], T]) -> Awaitable[T]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), work)


def main() -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_service")
    parser.add_argument("--immich", required=True, help="a bulk_immich")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--place", type=Path, required=True, help="for host keys and spool")
    options = parser.parse_args()
    settings = Settings(
        immich_host=options.immich,
        host_key_dir=str(options.place / "keys"),
        spool_dir=str(options.place / "spool"),
    )
    log.startLogging(sys.stderr, setStdout=False)
    prepare()
    server: Any = Server(connect(reactor, settings.immich_host))
    counters = Counters()
    accounts = accounts_of(settings, reactor, _in_thread, counters)
    realm = MemoryRealm(accounts, reactor, time.time, _in_thread)
    throttle = Throttle(settings.login_rate, reactor)
    logins = Logins(accounts, throttle, reactor, settings.login_memory)
    service = SFTPService(server, accounts, reactor)
    factory = Factory(
        Portal(realm, [ImmichChecker(server, counters, logins)]),
        load_host_keys(settings.host_key_dir),
        reactor,
        connection_opened=service.connection_opened,
        connection_closed=service.connection_closed,
    )
    service.startService()
    reactor.listenTCP(options.port, factory, interface="127.0.0.1")
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
