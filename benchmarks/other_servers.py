"""Other SFTP servers in Python, each in a process of its own.

    python -m benchmarks.other_servers conch --port 2222 --file clip.mp4:1G
    python -m benchmarks.other_servers asyncssh --port 2222 --root DIR

`conch` is Conch unmodified, a `FileTransferServer` over files of `content.Content` in memory;
what is written is dropped.  `asyncssh` serves a local directory by its own `SFTPServer`.  The user
and the password are those of `peers`, host keys are made anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser, ISFTPFile, ISFTPServer
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.filetransfer import FXF_READ, FileTransferServer
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor as _reactor
from twisted.python.components import registerAdapter
from zope.interface import implementer

from benchmarks.bulk_immich import size_of
from benchmarks.content import Content
from benchmarks.peers import PASSWORD, USER

reactor: Any = _reactor


@implementer(ISFTPFile)
@define(eq=False)
class MemoryFile:
    """A file that reads from memory, and drops what is written."""

    content: Content

    def readChunk(self, offset: int, length: int) -> bytes:
        """READ; an end is EOFError."""
        data = self.content.read(offset, length)
        if not data:
            raise EOFError
        return data

    def writeChunk(self, offset: int, data: bytes) -> None:
        """WRITE."""

    def getAttrs(self) -> dict[str, int]:
        """FSTAT."""
        return {"permissions": 0o100644, "size": self.content.size}

    def setAttrs(self, attrs: Mapping[str, int]) -> None:
        """FSETSTAT."""

    def close(self) -> None:
        """CLOSE."""


class MemoryServer:
    """The files by path: as much of ISFTPServer as a transfer needs."""

    def __init__(self, avatar: ConchAvatar) -> None:
        self._files = avatar.files

    def _file(self, path: bytes) -> MemoryFile:
        name = path.decode().lstrip("/")
        if name not in self._files:
            raise FileNotFoundError(2, "no such file", name)
        return MemoryFile(Content(name, self._files[name]))

    def gotVersion(self, version: int, extensions: object) -> dict[bytes, bytes]:
        """No extensions."""
        return {}

    def openFile(self, filename: bytes, flags: int, attrs: object) -> MemoryFile:
        """OPEN."""
        if flags & FXF_READ:
            return self._file(filename)
        return MemoryFile(Content("sink", 0))

    def getAttrs(self, path: bytes, followLinks: bool) -> dict[str, int]:
        """STAT."""
        if path in (b"/", b"."):
            return {"permissions": 0o40755, "size": 0}
        return self._file(path).getAttrs()

    def setAttrs(self, path: bytes, attrs: object) -> None:
        """SETSTAT."""

    def realPath(self, path: bytes) -> bytes:
        """REALPATH."""
        return b"/" + path.strip(b"/.")


class ConchAvatar(ConchUser):
    """Anybody who has the password."""

    def __init__(self, files: Mapping[str, int]) -> None:
        ConchUser.__init__(self)
        self.files = files
        self.channelLookup[b"session"] = SSHSession
        self.subsystemLookup[b"sftp"] = FileTransferServer


@implementer(IRealm)
@define(eq=False)
class ConchRealm:
    """Makes avatars."""

    files: Mapping[str, int]

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: object) -> Any:
        """The avatar and its log-out."""
        return IConchUser, ConchAvatar(self.files), lambda: None


class ConchFactory(SSHFactory):
    """Conch's factory with its own services."""

    services = {  # noqa: RUF012 -- SSHFactory reads it so
        b"ssh-userauth": SSHUserAuthServer,
        b"ssh-connection": SSHConnection,
    }

    def __init__(self, files: Mapping[str, int]) -> None:
        key = Key(Ed25519PrivateKey.generate())
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        checker.addUser(USER.encode(), PASSWORD.encode())
        self.portal = Portal(ConchRealm(files), [checker])


def serve_conch(port: int, files: Mapping[str, int]) -> None:
    """Conch as it is."""
    registerAdapter(MemoryServer, ConchAvatar, ISFTPServer)
    reactor.listenTCP(port, ConchFactory(files), interface="127.0.0.1")
    reactor.run()


def serve_asyncssh(port: int, root: Path) -> None:
    """asyncssh's server on a local directory."""
    import asyncssh

    class Login(asyncssh.SSHServer):
        """One user with a password."""

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USER, PASSWORD)

    async def serve() -> None:
        await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=Login,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(root)),
        )
        await asyncio.Event().wait()

    asyncio.run(serve())


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.other_servers")
    parser.add_argument("which", choices=("conch", "asyncssh"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", action="append", default=[], metavar="NAME:SIZE")
    parser.add_argument("--root", type=Path, help="directory that asyncssh serves")
    options = parser.parse_args(arguments)
    if options.which == "asyncssh":
        serve_asyncssh(options.port, options.root)
    else:
        named = (text.rpartition(":") for text in options.file)
        serve_conch(options.port, {name: size_of(size) for name, _, size in named})


if __name__ == "__main__":
    main()
