"""A raw SFTP client over a fake channel, and a small file system in memory behind the server.

The file system's members are async like the real one's.  A test can make any of them wait: what
`memory.hold` names stays unfinished until `memory.release` fires it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from immich_conch.errors import NotFound, Unsupported
from immich_conch.sftp.holdings import Holdings
from immich_conch.sftp.packets import FileTransferServer

INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
READLINK, SYMLINK, EXTENDED = 19, 20, 200
VERSION, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201

NO_ATTRS = b"\x00\x00\x00\x00"


def ns(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


@define(eq=False)
class Channel:
    """The transport that `ssh.channel` gives a subsystem, without SSH."""

    written: bytearray = field(factory=bytearray)
    buffered: int = 0
    taken: int = 0
    closed: bool = False
    disconnected: bool = False
    drained: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        self.writeSequence([data])

    def writeSequence(self, data: Any) -> None:
        for piece in data:
            self.written += piece

    def consumed(self, size: int) -> None:
        self.taken += size

    def on_drain(self, callback: Callable[[], None]) -> None:
        self.drained = callback

    def loseConnection(self) -> None:
        self.closed = True

    def disconnect(self) -> None:
        self.closed = self.disconnected = True

    def drain(self, buffered: int = 0) -> None:
        self.buffered = buffered
        assert self.drained is not None
        self.drained()


@define(eq=False)
class Memory:
    """An ISFTPServer in memory that notes what was called, in order."""

    files: dict[bytes, bytearray] = field(factory=dict)
    folders: dict[bytes, list[list[Any]]] = field(factory=dict)
    calls: list[tuple[Any, ...]] = field(factory=list)
    errors: dict[str, BaseException] = field(factory=dict)
    read_data: Callable[[int, int], Any] | None = None
    entries: int = 0
    _held: set[str] = field(factory=set)
    _waiting: dict[str, list[Deferred[Any]]] = field(factory=dict)

    def hold(self, *names: str) -> None:
        self._held.update(names)

    def release(self, name: str) -> None:
        """Let the first one that waits under this name go on."""
        self._waiting[name].pop(0).callback(None)

    def release_all(self) -> None:
        """Let everything go on, also what starts meanwhile."""
        self._held.clear()
        while any(self._waiting.values()):
            for name, waiting in list(self._waiting.items()):
                if waiting:
                    self.release(name)

    def waiting(self, name: str) -> int:
        return len(self._waiting.get(name, ()))

    def called(self) -> list[str]:
        return [call[0] for call in self.calls]

    def enter(self, name: str, *arguments: Any) -> Deferred[Any] | None:
        self.calls.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]
        if name not in self._held:
            return None
        deferred: Deferred[Any] = Deferred()
        self._waiting.setdefault(name, []).append(deferred)
        return deferred

    async def step(self, name: str, *arguments: Any) -> None:
        waiting = self.enter(name, *arguments)
        if waiting is not None:
            await waiting

    def gotVersion(self, version: int, extensions: dict[bytes, bytes]) -> dict[bytes, bytes]:
        self.calls.append(("gotVersion", version, extensions))
        return {b"limits@openssh.com": b"1"}

    async def openFile(self, path: bytes, flags: int, attrs: dict[str, Any]) -> File:
        await self.step("open", path, flags, attrs)
        if path not in self.files and not flags & 8:
            raise NotFound()
        return File(self, path, self.files.setdefault(path, bytearray()))

    async def openDirectory(self, path: bytes) -> Folder:
        await self.step("opendir", path)
        return Folder(self, list(self.folders.get(path, [])), range(self.entries))

    async def getAttrs(self, path: bytes, follow: bool) -> dict[str, Any]:
        await self.step("stat" if follow else "lstat", path)
        if path not in self.files:
            raise NotFound()
        return {"size": len(self.files[path])}

    async def setAttrs(self, path: bytes, attrs: dict[str, Any]) -> None:
        await self.step("setstat", path, attrs)

    async def removeFile(self, path: bytes) -> None:
        await self.step("remove", path)

    async def renameFile(self, old: bytes, new: bytes) -> None:
        await self.step("rename", old, new)

    async def makeDirectory(self, path: bytes, attrs: dict[str, Any]) -> None:
        await self.step("mkdir", path, attrs)

    async def removeDirectory(self, path: bytes) -> None:
        await self.step("rmdir", path)

    async def realPath(self, path: bytes) -> bytes:
        await self.step("realpath", path)
        return b"/" + path.strip(b"/.")

    async def readLink(self, path: bytes) -> bytes:
        raise Unsupported()

    async def makeLink(self, link: bytes, target: bytes) -> None:
        raise Unsupported()

    async def extendedRequest(
        self, name: bytes, data: bytes, handle_of: Callable[[bytes], Any]
    ) -> bytes | None:
        if name == b"fsync@openssh.com":
            file = handle_of(data[4:])
            await self.step("fsync", file.path)
            return None
        if name == b"posix-rename@openssh.com":
            await self.step("posix-rename")
            return None
        if name == b"echo":
            return data
        raise Unsupported()


@define(eq=False)
class File:
    memory: Memory
    path: bytes
    content: bytearray

    def readChunk(self, offset: int, length: int) -> Any:
        waiting = self.memory.enter("read", offset, length)
        if self.memory.read_data is not None:
            return self.memory.read_data(offset, length)
        data = bytes(self.content[offset : offset + length])
        if waiting is None:
            return data
        return waiting.addCallback(lambda _: data)

    def writeChunk(self, offset: int, data: bytes) -> Any:
        waiting = self.memory.enter("write", offset, len(data))
        if offset <= len(self.content):  # no test needs holes, and an invented offset may be huge
            self.content[offset : offset + len(data)] = data
        return waiting

    def getAttrs(self) -> Any:
        return self._attrs()

    async def _attrs(self) -> dict[str, Any]:
        await self.memory.step("fstat", self.path)
        return {"size": len(self.content)}

    def setAttrs(self, attrs: dict[str, Any]) -> Any:
        return self.memory.enter("fsetstat", attrs)

    def close(self) -> Any:
        return self.memory.enter("close", self.path)

    def abort(self) -> None:
        self.memory.enter("abort", self.path)


@define(eq=False)
class Folder:
    memory: Memory
    batches: list[list[Any]]
    #: What it keeps in memory, as far as anybody counts it.
    entries: Any = ()

    async def next_batch(self) -> list[Any]:
        await self.memory.step("readdir")
        return self.batches.pop(0) if self.batches else []

    def close(self) -> Any:
        return self.memory.enter("closedir")


@define
class Answer:
    kind: int
    id: int
    body: bytes

    @property
    def code(self) -> int:
        assert self.kind == STATUS, self
        return int(struct.unpack("!L", self.body[:4])[0])

    @property
    def text(self) -> bytes:
        assert self.kind == STATUS, self
        (size,) = struct.unpack("!L", self.body[4:8])
        return self.body[8 : 8 + size]

    @property
    def string(self) -> bytes:
        (size,) = struct.unpack("!L", self.body[:4])
        assert self.kind in (HANDLE, DATA) and size + 4 == len(self.body), self
        return self.body[4:]


@define(eq=False)
class Peer:
    """A client that sends what it is told, broken packets too."""

    memory: Memory = field(factory=Memory)
    channel: Channel = field(factory=Channel)
    holdings: Holdings | None = None
    server: Any = None
    sent: int = 0
    _next: int = 0

    def __attrs_post_init__(self) -> None:
        self.server = FileTransferServer(b"", None, self.memory, self.holdings)
        self.server.makeConnection(self.channel)

    @classmethod
    def greeted(cls, holdings: Holdings | None = None, **files: bytes) -> Peer:
        """A peer past INIT; `photo=b"…"` is the file `/photo`."""
        peer = cls(holdings=holdings)
        peer.memory.files.update((b"/" + k.encode(), bytearray(v)) for k, v in files.items())
        peer.raw(packet(INIT, struct.pack("!L", 3)))
        del peer.channel.written[:]
        peer.memory.calls.clear()
        return peer

    def raw(self, data: bytes) -> None:
        self.sent += len(data)
        self.server.dataReceived(data)

    def send(self, kind: int, *fields: bytes | int) -> int:
        """Send a request; numbers are uint32, bytes go as they are.  Its id."""
        self._next += 1
        body = struct.pack("!L", self._next)
        for value in fields:
            body += struct.pack("!L", value) if isinstance(value, int) else value
        self.raw(packet(kind, body))
        return self._next

    def ask(self, kind: int, *fields: bytes | int) -> Answer:
        """Send a request that is answered at once; its answer."""
        number = self.send(kind, *fields)
        (answer,) = self.answers()
        assert answer.id == number
        return answer

    def answers(self) -> list[Answer]:
        """The answers that have come since the last call."""
        data = bytes(self.channel.written)
        del self.channel.written[:]
        found = []
        while data:
            length, kind, number = struct.unpack("!LBL", data[:9])
            found.append(Answer(kind, number, data[9 : 4 + length]))
            data = data[4 + length :]
        return found

    def open(self, path: bytes = b"/photo", flags: int = 0x1A) -> bytes:
        return self.ask(OPEN, ns(path), flags, NO_ATTRS).string

    def read(self, handle: bytes, offset: int, length: int) -> int:
        return self.send(READ, ns(handle), struct.pack("!QL", offset, length))

    def write(self, handle: bytes, offset: int, data: bytes) -> int:
        return self.send(WRITE, ns(handle), struct.pack("!Q", offset), ns(data))

    def drop(self) -> None:
        self.server.connectionLost(Failure(ConnectionLost()))


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack("!LB", len(body) + 1, kind) + body
