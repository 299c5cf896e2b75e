"""The SFTP v3 session: packets in, one answer each out, in bounded memory.

It replaces what Conch's FileTransferServer does with bytes (CONCH.md, traps 1 to 9): an own packet
reader, handles with numbers of their own, exactly one answer to every request, an order among
requests that belong together, and caps on everything a client can make us hold.  What a request
says is in `requests`, who waits for whom in `ordering`, what an error becomes in `status`.

READ, WRITE and STAT are the hot path: a result given at once is answered without a Deferred, a
Request or a log line.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from twisted.conch.ssh.filetransfer import (
    FX_EOF,
    FXP_INIT,
    FXP_LSTAT,
    FXP_READ,
    FXP_STAT,
    FXP_VERSION,
    FXP_WRITE,
    SFTPError,
)
from twisted.conch.ssh.filetransfer import FileTransferServer as _ConchServer
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from immich_conch.errors import Malformed, Unsupported
from immich_conch.sftp import wire
from immich_conch.sftp.engine import HANDLE_BYTES, READ_MARK_BYTES, Engine
from immich_conch.sftp.holdings import Holdings
from immich_conch.sftp.input import Input, Pieces
from immich_conch.sftp.ordering import Answer, Handle, Request
from immich_conch.sftp.requests import BUILDERS, file_of, no_such_handle, ok

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _Server = Any
else:
    _Server = _ConchServer

VERSION = 3

MAX_PACKET_BYTES = 2**18 + 2**10
"""The largest packet taken: 256 KiB of data and its head, as OpenSSH's server."""

MAX_READ_BYTES = 261_120
"""The most one READ gives: with its head it fits the 256 KiB that OpenSSH's client takes."""

_FLUSH_BYTES = 2**18  # answers are collected up to this size before they go to the channel

_UINT32 = struct.Struct("!L")
_READ = struct.Struct("!LL8sQL")
_WRITE = struct.Struct("!LL8sQL")
_STAT = struct.Struct("!LL")
_STATS = (FXP_STAT, FXP_LSTAT)
_LEAST_BYTES = 5  # a type and an id
_HEAD_BYTES = 5 + _WRITE.size  # what of a packet is joined before it is looked at


@implementer(IHalfCloseableProtocol)
class FileTransferServer(Engine, _Server):
    """One SFTP session over a `ssh.channel.ChannelTransport`.

    `client` provides ISFTPServer with async members; files provide ISFTPFile and a plain
    `abort()` that is called in place of `close()` when the client goes away before its CLOSE.
    `holdings` are the user's over all sessions.
    """

    reports_consumed = True
    _log = Logger()

    def __init__(
        self, data: bytes | None, avatar: Any, client: Any, holdings: Holdings | None = None
    ) -> None:
        # Conch's own would look for an adapter from the avatar to ISFTPServer.
        Engine.__init__(self, holdings)
        self.avatar = avatar
        self.client = client
        self._input = Input()
        #: How much must be there before there is anything to do.
        self._due = 0
        self._greeted = False
        self._busy = False
        self._input_ended = False

    # -- the session's life

    def connectionMade(self) -> None:
        """Learn of room for answers."""
        self.transport.on_drain(self._advance)

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Take bytes of the channel; they count as consumed once their request is dealt with."""
        if self._closing or self._lost:
            self.transport.consumed(len(data))
            return
        self._input.feed(data)
        if self._input.size >= self._due:
            self._advance()

    #: The channel hands over what it has decrypted, without a copy.
    pieceReceived = dataReceived

    def readConnectionLost(self) -> None:
        """The client sends no more: close when everything is answered."""
        self._input_ended = True
        self._advance()

    def writeConnectionLost(self) -> None:
        """Half-closing from our side does not happen."""

    def connectionLost(self, reason: Failure) -> None:
        """The channel is gone.  A file whose CLOSE never came is aborted, not closed (trap 1)."""
        if self._lost:
            return
        self._lost = True
        self._input.clear()
        self._ready.extend(self._held)
        self._held.clear()
        self._out.clear()
        handles = list(self._handles.values())
        self._handles.clear()
        for handle in handles:
            self._give_back(handle)
            self.let_go(handle.target, handle.is_directory)
        self._advance()

    def _close_channel(self, reason: str) -> None:
        """Give up on a client that does not speak the protocol."""
        if not self._closing:
            self._closing = True
            self._log.info("Closing an SFTP channel: {reason}", reason=reason)
            self._flush()
            self.transport.loseConnection()

    # -- the engine

    def _advance(self) -> None:
        """Do everything that can be done now, then hand the answers over."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._start_ready() or self._start_held() or self._parse():
                pass
        finally:
            self._busy = False
        self._flush()
        if self._input_ended and not self._lost and not self._closing and self._is_done():
            self._closing = True
            self.transport.loseConnection()

    def _is_done(self) -> bool:
        """Whether every whole packet that came has its answer."""
        return self._order.idle and self._has_room()

    def _parse(self) -> bool:
        """Take the next packet if it is there whole and there is room for it."""
        source = self._input
        if source.size < 4 or self._closing or self._lost:
            return False
        source.gather(_HEAD_BYTES)
        data, at = source.data, source.at
        (length,) = _UINT32.unpack_from(data, at)
        if length < _LEAST_BYTES or length > MAX_PACKET_BYTES:
            self._close_channel(f"a packet of {length} bytes")
            return False
        self._due = 4 + length
        if source.size < 4 + length or not self._has_room():
            return False
        self._due = 0
        self._consumed += 4 + length
        kind = data[at + 4]
        if kind == FXP_WRITE and length > _WRITE.size and self._greeted:
            self._write(length)
        else:
            source.gather(4 + length)
            data, at = source.data, source.at + 5
            end = at + length - 1
            source.skip(4 + length)
            if not self._greeted:
                self._greet(kind, bytes(data[at:end]))
            elif kind == FXP_READ and length > _READ.size:
                self._read(*_READ.unpack_from(data, at))
            elif kind not in _STATS or not self._stat(data, at, end):
                self._take(kind, bytes(data[at:end]))
        if self._out_bytes >= _FLUSH_BYTES:
            self._flush()
        return True

    # -- requests

    def _greet(self, kind: int, body: bytes) -> None:
        """INIT, which has no id and comes first (draft-ietf-secsh-filexfer-02, section 4)."""
        fields = wire.Reader(body)
        if kind != FXP_INIT:
            self._close_channel("a request before INIT")
            return
        try:
            version, extensions = fields.uint32(), fields.pairs()
        except Malformed:
            self._close_channel("a malformed INIT")
            return
        ours = self.client.gotVersion(version, extensions)
        pairs = b"".join(wire.string(name) + wire.string(value) for name, value in ours.items())
        head = struct.pack("!LBL", 5 + len(pairs), FXP_VERSION, VERSION)
        self._greeted = True
        self._send(head + pairs)

    def _take(self, kind: int, body: bytes) -> None:
        """Any request but a plain READ or WRITE."""
        if kind == FXP_INIT:
            self._close_channel("a second INIT")
            return
        number = _UINT32.unpack_from(body)[0]
        try:
            build = BUILDERS.get(kind)
            if build is None:
                raise Unsupported()
            request = build(self, number, wire.Reader(body[4:]))
        except Exception as error:
            # Malformed, an unknown handle or a fault of ours: one answer in any case.
            self._send_error(number, error)
            return
        self._submit(request)

    def _stat(self, data: memoryview, at: int, end: int) -> bool:
        """Answer a STAT or LSTAT of what is known, where nothing before it is still under way."""
        glance = getattr(self.client, "glance", None)
        if glance is None or not self._order.idle or end - at < _STAT.size:
            return False
        number, size = _STAT.unpack_from(data, at)
        start = at + _STAT.size
        if start + size > end:
            return False
        info = glance(bytes(data[start : start + size]))
        if info is None:
            return False
        self._send(wire.stat_answer(number, info.size, info.mode, info.modified))
        return True

    def _read(self, number: int, size: int, handle_id: bytes, offset: int, length: int) -> None:
        handle = self._handles.get(handle_id) if size == HANDLE_BYTES else None
        if handle is None or handle.closing or handle.is_directory:
            self._send_error(number, _why_not(handle))
            return
        length = min(length, MAX_READ_BYTES)
        at_once = (
            handle.alone is None and not self._held and self._waiting_bytes() <= READ_MARK_BYTES
        )
        if at_once:
            try:
                result = handle.target.readChunk(offset, length)
            except Exception as error:
                self._send_error(number, error)
                return
            if type(result) is bytes:
                self._send(_data_answer(number, result))
                return
        request = Request(
            number,
            lambda: handle.target.readChunk(offset, length),
            lambda result: _data_answer(number, result),
            handles=(handle,),
            shares=True,
            is_read=True,
            is_data=True,
            size=length,
        )
        if at_once:
            self._take_result(request, result)
        else:
            self._submit(request)

    def _write(self, packet: int) -> None:
        """Take a WRITE of `packet` bytes, of which the fields before the data lie in one piece."""
        source = self._input
        number, size, handle_id, offset, length = _WRITE.unpack_from(source.data, source.at + 5)
        left = packet - 1 - _WRITE.size
        if size != HANDLE_BYTES or length > left:
            source.skip(5)
            self._take(FXP_WRITE, b"".join(source.take(packet - 1)))
            return
        source.skip(5 + _WRITE.size)
        content = source.take(length)
        if length < left:
            source.take(left - length)
        handle = self._handles.get(handle_id)
        if handle is None or handle.closing or handle.is_directory:
            self._send_error(number, _why_not(handle))
            return
        target = handle.target
        idle = handle.idle
        if idle:
            try:
                result = _put(target, offset, content)
            except Exception as error:
                self._send_error(number, error)
                return
            if result is None:
                self._send(ok(number))
                return
        # The window stays closed by as much as is not written yet (trap 11).
        cost = packet + 4
        self._consumed -= cost
        request = Request(
            number,
            lambda: _put(target, offset, content),
            lambda _: ok(number),
            handles=(handle,),
            is_data=True,
            size=length,
            cost=cost,
        )
        if idle:
            self._take_result(request, result)
        else:
            self._submit(request)


def _why_not(handle: Handle | None) -> SFTPError:
    """Why a READ or WRITE on this handle cannot be."""
    if handle is None or handle.closing:
        return no_such_handle()
    try:
        file_of(handle)
    except SFTPError as error:
        return error
    raise AssertionError("nothing is wrong with this handle")


def _put(target: Any, offset: int, content: Pieces) -> Any:
    """Write pieces that follow each other; only our own files know how to take them as they are."""
    write = getattr(target, "writePieces", None)
    if write is not None:
        return write(offset, content)
    return target.writeChunk(offset, b"".join(content))


def _data_answer(number: int, data: bytes) -> Answer:
    if not data:
        return wire.status(number, FX_EOF, b"end of file")
    return wire.data_head(number, len(data)), data
