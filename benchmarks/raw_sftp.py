"""SFTP clients that do what no decent client does, over asyncssh: slow readers, and closed windows.

asyncssh does SSH; of SFTP there is no more here than the packets that are sent.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import asyncssh
from attrs import define, field

from benchmarks.peers import CannotMeasure, Login

INIT, OPEN, READ, OPENDIR = 1, 3, 5, 11
VERSION, STATUS, HANDLE, DATA = 2, 101, 102, 103
FOR_READING = 1
#: Seconds that a log-in, and an answer that is not held up by the client itself, may take.
PATIENCE = 60.0
#: What OpenSSH's client asks for: bytes a request, and requests at once.
REQUEST, AT_ONCE = 261_120, 64
#: The receive window of a usual client, and of one that takes a few handles and no more.
USUAL_WINDOW, CLOSED_WINDOW = 2 * 2**20, 4096


async def connect(login: Login) -> asyncssh.SSHClientConnection:
    """A connection that is logged in by password."""
    return await asyncio.wait_for(
        asyncssh.connect(
            "127.0.0.1",
            login.port,
            username=login.user,
            password=login.password,
            known_hosts=None,
            client_keys=None,
            agent_path=None,
            config=None,
        ),
        PATIENCE,
    )


def packet(kind: int, number: int, *fields: bytes | int) -> bytes:
    """A request: strings as bytes, 32-bit numbers as int."""
    body = struct.pack("!BL", kind, number)
    for one in fields:
        body += struct.pack("!L", one if isinstance(one, int) else len(one))
        body += b"" if isinstance(one, int) else one
    return struct.pack("!L", len(body)) + body


def read_request(number: int, handle: bytes, offset: int, size: int) -> bytes:
    """READ, with its offset of 64 bits."""
    return packet(READ, number, handle, offset >> 32, offset & 0xFFFFFFFF, size)


@define(eq=False)
class Channel(asyncssh.SSHClientSession[bytes]):
    """An SFTP channel: answers without their data are kept, data is counted."""

    #: Bytes a second that are taken; 0 takes what comes.
    rate: float = 0.0
    #: Whether a pause stops reading the socket, not the channel.
    of_socket: bool = False
    received: int = 0
    answers: list[tuple[int, bytes]] = field(factory=list)
    ended: bool = False
    _buffer: bytearray = field(factory=bytearray)
    _data_left: int = 0
    _began: float = 0.0
    _chan: Any = None
    _news: asyncio.Event = field(factory=asyncio.Event)

    def connection_made(self, chan: Any) -> None:
        """The channel is there."""
        self._chan = chan

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone."""
        self.ended = True
        self._news.set()

    def data_received(self, data: bytes, datatype: Any) -> None:
        """Take answers apart, and pause where that was too quick."""
        self._buffer += data
        while self._take():
            pass
        self._news.set()
        if self.rate and self._began:
            self._hold_back()

    def _take(self) -> bool:
        buffer = self._buffer
        if self._data_left:
            size = min(self._data_left, len(buffer))
            del buffer[:size]
            self._data_left -= size
            self.received += size
            return size > 0
        if len(buffer) < 5:
            return False
        size = int.from_bytes(buffer[:4], "big")
        if buffer[4] == DATA:
            if len(buffer) < 13:
                return False
            self._data_left = size - 9
            self.answers.append((DATA, bytes(buffer[9:13])))
            del buffer[:13]
            return True
        if len(buffer) < 4 + size:
            return False
        self.answers.append((buffer[4], bytes(buffer[5 : 4 + size])))
        del buffer[: 4 + size]
        return True

    def _hold_back(self) -> None:
        loop = asyncio.get_running_loop()
        ahead = self.received / self.rate - (loop.time() - self._began)
        if ahead <= 0:
            return
        # The connection's own transport is not public; a client that does not call recv is.
        paused = self._chan.get_connection()._transport if self.of_socket else self._chan
        if paused is not None:
            paused.pause_reading()
            loop.call_later(ahead, self._go_on, paused)

    def _go_on(self, paused: Any) -> None:
        if not self.ended:
            paused.resume_reading()

    def pause(self) -> None:
        """Take nothing any more: the window stays as it is."""
        self._chan.pause_reading()

    def send(self, data: bytes) -> None:
        """Requests."""
        self._chan.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """The next answer; raises CannotMeasure at the end."""
        while not self.answers:
            if self.ended:
                raise CannotMeasure("the server has closed the channel")
            self._news.clear()
            await self._news.wait()
        return self.answers.pop(0)

    async def handle(self, kind: int, path: str, *more: int) -> bytes:
        """Open something; its handle."""
        self.send(packet(kind, 1, path.encode(), *more))
        found, body = await asyncio.wait_for(self.answer(), PATIENCE)
        if found != HANDLE:
            raise CannotMeasure(f"{path} cannot be opened: {body[4:]!r}")
        return body[8:]

    async def download(self, path: str, size: int) -> None:
        """Read a file as OpenSSH's client does, at this client's pace."""
        handle = await self.handle(OPEN, path, FOR_READING, 0)
        self._began = asyncio.get_running_loop().time()
        asked, out = 0, 0
        while asked < size or out:
            while asked < size and out < AT_ONCE:
                count = min(REQUEST, size - asked)
                self.send(read_request(out, handle, asked, count))
                asked += count
                out += 1
            kind, body = await self.answer()
            if kind != DATA:
                raise CannotMeasure(f"{path}: {body[4:]!r}")
            out -= 1

    async def ask_for_everything(self, paths: Sequence[str], size: int) -> None:
        """Open all, close the window, ask for every byte of them."""
        handles = [await self.handle(OPEN, path, FOR_READING, 0) for path in paths]
        self.pause()
        number = 0
        for offset in range(0, size, REQUEST):
            for handle in handles:
                number += 1
                self.send(read_request(number, handle, offset, REQUEST))
            # Let the server take what it likes.
            await asyncio.sleep(0)


async def channel(
    connection: asyncssh.SSHClientConnection, window: int = USUAL_WINDOW, **more: Any
) -> Channel:
    """An SFTP channel that has said hello."""
    _, session = await connection.create_session(
        lambda: Channel(**more), subsystem="sftp", encoding=None, window=window
    )
    session.send(struct.pack("!LBL", 5, INIT, 3))
    kind, _ = await asyncio.wait_for(session.answer(), PATIENCE)
    if kind != VERSION:
        raise CannotMeasure("the server does not say hello")
    return session
