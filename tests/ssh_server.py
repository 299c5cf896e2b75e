"""An SSH server on the loopback with an avatar in memory, and ways to run clients against it."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from attrs import define, field
from sftp_peer import Folder, Memory
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from zope.interface import implementer

from immich_conch.errors import NotFound
from immich_conch.sftp.packets import FileTransferServer
from immich_conch.ssh.factory import Factory
from immich_conch.ssh.hostkeys import load_host_keys

PASSWORD = "correct horse"
CLIENT_SECONDS = 60


class Files(Memory):
    """The file system of `sftp_peer`, with a root that real clients can look at."""

    async def getAttrs(self, path: bytes, follow: bool) -> dict[str, Any]:
        if path == b"/":
            return {"permissions": 0o40755, "size": 0}
        if path not in self.files:
            raise NotFound()
        return {"permissions": 0o100644, "size": len(self.files[path])}

    async def extendedRequest(
        self, name: bytes, data: bytes, handle_of: Callable[[bytes], Any]
    ) -> bytes | None:
        if name == b"limits@openssh.com":
            return struct.pack("!4Q", 2**18, 261120, 261120, 256)
        return await super().extendedRequest(name, data, handle_of)

    async def openDirectory(self, path: bytes) -> Folder:
        return Folder(
            self,
            [
                [
                    (name[1:], b"-rw-r--r-- 1 a a 5 Jan  1 00:00 " + name[1:], {"size": len(data)})
                    for name, data in self.files.items()
                ]
            ],
        )


class Avatar(ConchUser):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.subsystemLookup = {
            b"sftp": lambda data, avatar: FileTransferServer(data, avatar, world.files),
            **world.subsystems,
        }
        if world.run_command is not None:
            self.run_command = world.run_command


@implementer(IRealm, ICredentialsChecker)
@define(eq=False)
class World:
    """Realm and checker in one, and what they have seen."""

    files: Files = field(factory=Files)
    subsystems: dict[bytes, Any] = field(factory=dict)
    run_command: Callable[..., Any] | None = None
    check: Callable[[bytes], Any] | None = None
    tried: list[bytes] = field(factory=list)
    opened: list[Any] = field(factory=list)
    closed: list[Any] = field(factory=list)
    logouts: int = 0
    credentialInterfaces = (IUsernamePassword,)

    async def requestAvatarId(self, credentials: Any) -> bytes:
        self.tried.append(credentials.password)
        if self.check is not None:
            await self.check(credentials.password)
        if credentials.password != PASSWORD.encode():
            raise UnauthorizedLogin("wrong password")
        return bytes(credentials.username)

    def requestAvatar(self, avatarId: bytes, mind: Any, *interfaces: Any) -> Any:
        return IConchUser, Avatar(self), self._log_out

    def _log_out(self) -> None:
        self.logouts += 1

    def factory(self, keys: Any, clock: Any = reactor, **options: Any) -> Factory:
        return Factory(
            Portal(self, [self]),
            keys,
            clock,
            connection_opened=self.opened.append,
            connection_closed=self.closed.append,
            **options,
        )


@pytest.fixture(scope="session")
def host_keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_host_keys(tmp_path_factory.mktemp("keys"))


def asyncssh_at(port: int, **options: Any) -> Any:
    """A connection of asyncssh as Ann, which knows nothing of the machine's own configuration."""
    return asyncssh.connect(
        "127.0.0.1",
        port,
        username="ann",
        password=PASSWORD,
        known_hosts=None,
        client_keys=None,
        config=None,
        **options,
    )


@define(eq=False)
class Clients:
    """Programs and libraries that connect to a port on the loopback."""

    port: int
    place: Path

    async def run(self, *arguments: str, password: str = PASSWORD) -> tuple[bytes, bytes, int]:
        """Run an OpenSSH program to its end; its output, its errors, its exit status."""
        program = shutil.which(arguments[0])
        if program is None:
            pytest.skip(f"{arguments[0]} is not installed")
        ask = self.place / "askpass"
        ask.write_text('#!/bin/sh\necho "$PASSWORD_FOR_TEST"\n')
        ask.chmod(0o700)
        options = [
            "-F/dev/null",
            "-oStrictHostKeyChecking=no",
            "-oUserKnownHostsFile=/dev/null",
            "-oPubkeyAuthentication=no",
            "-oNumberOfPasswordPrompts=20",
            f"-oPort={self.port}",
        ]
        result: tuple[bytes, bytes, int] = await getProcessOutputAndValue(
            shutil.which("timeout"),
            [str(CLIENT_SECONDS), program, *options, *arguments[1:]],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "SSH_ASKPASS": str(ask),
                "SSH_ASKPASS_REQUIRE": "force",
                "PASSWORD_FOR_TEST": password,
            },
        )
        return result

    async def sftp(self, *commands: str) -> tuple[bytes, bytes, int]:
        """Run commands of OpenSSH's sftp."""
        batch = self.place / "batch"
        batch.write_text("\n".join(commands) + "\n")
        # -b forbids prompts unless told otherwise.
        return await self.run("sftp", "-oBatchMode=no", "-b", str(batch), "ann@127.0.0.1")

    async def thread(self, call: Callable[[int], Any]) -> Any:
        """Run blocking code with the port in a thread."""
        return await deferToThread(call, self.port)
