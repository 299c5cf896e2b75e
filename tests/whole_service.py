"""The whole service in this process, from its options to its port, before a demo on the loopback.

For tests that look at the process itself: what it opens, what it logs, what its objects show.  The
client is paramiko in a thread, and its requests may be any bytes.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import paramiko
from attrs import define
from paramiko.sftp import CMD_CLOSE, CMD_HANDLE
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread

from immich_conch.demo import DemoImmich
from immich_conch.demo.entities import User
from immich_conch.tap import Options, makeService

T = TypeVar("T")

#: Seconds for one step of the client.
CLIENT = 30.0
EMAIL = "alice@example.com"


@define(eq=False)
class Served:
    """A running service, its demo and the one user there."""

    port: int
    demo: DemoImmich
    alice: User
    service: Any

    async def thread(self, work: Callable[[], T]) -> T:
        """Run what blocks in a thread."""
        return await deferToThread(work)  # type: ignore[no-any-return]

    @contextmanager
    def transport(self) -> Iterator[paramiko.Transport]:
        """A connection that nobody has logged in on; blocks."""
        made = paramiko.Transport(("127.0.0.1", self.port))
        made.banner_timeout = made.auth_timeout = made.channel_timeout = CLIENT
        try:
            made.start_client(timeout=CLIENT)
            yield made
        finally:
            made.close()

    @contextmanager
    def client(self, user: str, password: str) -> Iterator[Client]:
        """A log-in and an SFTP channel; blocks."""
        with self.transport() as transport:
            transport.auth_password(user, password, fallback=False)
            yield Client(transport, paramiko.SFTPClient.from_transport(transport))


@define(eq=False)
class Client:
    """Requests of one SFTP channel that may be any bytes."""

    transport: paramiko.Transport
    sftp: Any

    def ask(self, kind: int, *fields: Any) -> bytes:
        """One request; the handle that it was answered with, else nothing.  All errors will do."""
        try:
            answered, message = self.sftp._request(kind, *fields)
        except OSError:
            return b""
        return bytes(message.get_binary()) if answered == CMD_HANDLE else b""

    def close(self, handle: bytes) -> None:
        """CLOSE, if there is anything to close."""
        if handle:
            self.ask(CMD_CLOSE, handle)

    def run(self, command: bytes) -> None:
        """A command, to its end, whether it is taken or not."""
        with self.transport.open_session(timeout=CLIENT) as channel:
            channel.settimeout(CLIENT)
            try:
                channel.exec_command(command)
            except paramiko.SSHException:
                return
            while channel.recv(65_536):
                pass


def string(data: bytes) -> bytes:
    """A string as it goes on the wire, for the inside of an extension's data."""
    return struct.pack("!L", len(data)) + data


@asynccontextmanager
async def serving(
    tmp_path: Path, *options: str, password: str = "correct horse"
) -> AsyncIterator[Served]:
    """The service on `tmp_path`'s `keys`, `spool` and `demo`; it is stopped at the end."""
    demo = DemoImmich(directory=tmp_path / "demo")
    alice = demo.add_user(EMAIL, password, "Alice")
    web: Any = reactor.listenTCP(0, demo.site(), interface="127.0.0.1")  # type: ignore[attr-defined]
    parsed = Options({})
    parsed.parseOptions(
        [
            *("--immich-host", f"http://127.0.0.1:{web.getHost().port}"),
            *("--host-key-dir", str(tmp_path / "keys"), "--spool-dir", str(tmp_path / "spool")),
            *("--endpoint", "tcp:0:interface=127.0.0.1", "--login-delay", "0", *options),
        ]
    )
    service = makeService(parsed, reactor)
    service.privilegedStartService()
    service.startService()
    [listener] = (one for one in service if hasattr(one, "endpoint"))  # type: ignore[attr-defined]
    served = Served(listener._waitingForPort.result.getHost().port, demo, alice, service)
    try:
        yield served
    finally:
        demo.faults.clear()
        await maybeDeferred(service.stopService)
        await maybeDeferred(web.stopListening)
        demo.close()
