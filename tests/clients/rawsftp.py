"""An SFTP client that sends what a test tells it to, packet by packet, over a real SSH connection.

For clients that cannot run here: what they send is known (and written beside each test), so the
tests send the same.  Requests can be sent without waiting for answers, and several in one piece.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Any

import paramiko
from attrs import define, field, frozen
from harness import CLIENT, Service, User

INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
EXTENDED = 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201

F_READ, F_WRITE, F_APPEND, F_CREAT, F_TRUNC, F_EXCL = 1, 2, 4, 8, 16, 32
NEW = F_WRITE | F_CREAT | F_TRUNC

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED = 8


def string(data: bytes | str) -> bytes:
    """A string as it goes on the wire."""
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("!L", len(data)) + data


def attrs(size: int | None = None, mode: int | None = None, mtime: float | None = None) -> bytes:
    """Attributes."""
    flags, body = 0, b""
    if size is not None:
        flags, body = flags | 1, body + struct.pack("!Q", size)
    if mode is not None:
        flags, body = flags | 4, body + struct.pack("!L", mode)
    if mtime is not None:
        flags, body = flags | 8, body + struct.pack("!LL", int(mtime), int(mtime))
    return struct.pack("!L", flags) + body


@frozen
class Reply:
    """One answer: its type and what comes after the id."""

    kind: int
    body: bytes

    @property
    def status(self) -> int:
        """The code of a STATUS, or -1."""
        return int(struct.unpack_from("!L", self.body)[0]) if self.kind == STATUS else -1

    @property
    def text(self) -> str:
        """The text of a STATUS."""
        (size,) = struct.unpack_from("!L", self.body, 4)
        return self.body[8 : 8 + size].decode()

    @property
    def string(self) -> bytes:
        """The string of a HANDLE or DATA."""
        (size,) = struct.unpack_from("!L", self.body)
        return self.body[4 : 4 + size]

    @property
    def size(self) -> int:
        """The size in ATTRS."""
        flags, size = struct.unpack_from("!LQ", self.body)
        assert flags & 1
        return int(size)

    @property
    def mtime(self) -> int:
        """The time in ATTRS, which all have all fields here."""
        flags, *_, mtime = struct.unpack_from("!LQLLLLL", self.body)
        assert flags & 15 == 15
        return int(mtime)


@define(eq=False)
class Raw:
    """One connection with one SFTP channel."""

    service: Service
    user: User
    _transport: Any = field(init=False)
    _channel: Any = field(init=False)
    _number: int = 0
    _answers: dict[int, Reply] = field(factory=dict)

    def __enter__(self) -> Raw:
        self._transport = paramiko.Transport(("127.0.0.1", self.service.port))
        self._transport.connect(username=self.user.email, password=self.user.password)
        self._channel = self._transport.open_session()
        self._channel.settimeout(CLIENT)
        self._channel.invoke_subsystem("sftp")
        self._channel.sendall(struct.pack("!LBL", 5, INIT, 3))
        kind, _ = self._packet()
        assert kind == 2
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._transport.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._channel.recv(size - len(data))
            assert piece, "the server closed the channel"
            data += piece
        return data

    def _packet(self) -> tuple[int, bytes]:
        (size,) = struct.unpack("!L", self._exactly(4))
        packet = self._exactly(size)
        return packet[0], packet[1:]

    def request(self, kind: int, *fields: bytes) -> tuple[int, bytes]:
        """A request that has not been sent: its id and its bytes."""
        self._number += 1
        body = b"".join(fields)
        head = struct.pack("!LBL", len(body) + 5, kind, self._number)
        return self._number, head + body

    def send(self, kind: int, *fields: bytes) -> int:
        """Send a request without waiting; its id."""
        number, data = self.request(kind, *fields)
        self._channel.sendall(data)
        return number

    def send_together(self, *requests: tuple[int, bytes]) -> list[int]:
        """Send requests in one piece; their ids."""
        self._channel.sendall(b"".join(data for _, data in requests))
        return [number for number, _ in requests]

    def answer(self, number: int) -> Reply:
        """The answer to a request, once it comes."""
        while number not in self._answers:
            kind, body = self._packet()
            (found,) = struct.unpack_from("!L", body)
            assert found not in self._answers, "a request was answered twice"
            self._answers[found] = Reply(kind, body[4:])
        return self._answers.pop(number)

    def ask(self, kind: int, *fields: bytes) -> Reply:
        """Send a request and wait."""
        return self.answer(self.send(kind, *fields))

    def done(self, kind: int, *fields: bytes) -> None:
        """A request that has to be answered OK."""
        reply = self.ask(kind, *fields)
        assert reply.kind == STATUS
        assert reply.status == OK, reply.text

    def open(self, path: str, flags: int = NEW, attributes: bytes = b"\0\0\0\0") -> bytes:
        """OPEN; the handle."""
        reply = self.ask(OPEN, string(path), struct.pack("!L", flags), attributes)
        assert reply.kind == HANDLE, reply.text
        return reply.string

    def opening(self, path: str, flags: int, attributes: bytes = b"\0\0\0\0") -> Reply:
        """OPEN; the answer."""
        return self.ask(OPEN, string(path), struct.pack("!L", flags), attributes)

    def writing(self, handle: bytes, offset: int, data: bytes) -> tuple[int, bytes]:
        """A WRITE that has not been sent."""
        return self.request(WRITE, string(handle), struct.pack("!Q", offset), string(data))

    def write(self, handle: bytes, data: bytes, size: int = 32768, offset: int = 0) -> None:
        """WRITEs without waiting for each, all of which have to be answered OK."""
        numbers: list[int] = []
        for at in range(0, len(data), size):
            numbers += self.send_together(self.writing(handle, offset + at, data[at : at + size]))
        for number in numbers:
            assert self.answer(number).status == OK

    def close(self, handle: bytes) -> Reply:
        """CLOSE; the answer."""
        return self.ask(CLOSE, string(handle))

    def put(self, path: str, data: bytes, flags: int = NEW) -> None:
        """OPEN, WRITE and CLOSE, as simple as can be."""
        handle = self.open(path, flags)
        self.write(handle, data)
        reply = self.close(handle)
        assert reply.status == OK, reply.text

    def read(self, path: str) -> bytes:
        """A whole file."""
        handle = self.open(path, F_READ)
        pieces: list[bytes] = []
        while True:
            offset = struct.pack("!QL", sum(map(len, pieces)), 32768)
            reply = self.ask(READ, string(handle), offset)
            if reply.kind == STATUS:
                assert reply.status == EOF
                break
            pieces.append(reply.string)
        assert self.close(handle).status == OK
        return b"".join(pieces)

    def names(self, path: str) -> list[str]:
        """The names in a folder."""
        reply = self.ask(OPENDIR, string(path))
        assert reply.kind == HANDLE, reply.text
        found = []
        while (page := self.ask(READDIR, string(reply.string))).kind == NAME:
            (count,) = struct.unpack_from("!L", page.body)
            at = 4
            for _ in range(count):
                texts = []
                for _ in range(2):
                    (size,) = struct.unpack_from("!L", page.body, at)
                    texts.append(page.body[at + 4 : at + 4 + size])
                    at += 4 + size
                found.append(texts[0].decode())
                (flags,) = struct.unpack_from("!L", page.body, at)
                assert flags == 15, "READDIR carries all attributes"
                at += 4 + 8 + 8 + 4 + 8
        assert page.status == EOF
        assert self.close(reply.string).status == OK
        return sorted(found)

    def posix_rename(self, old: str, new: str) -> Reply:
        """posix-rename@openssh.com."""
        return self.ask(EXTENDED, string("posix-rename@openssh.com"), string(old), string(new))
