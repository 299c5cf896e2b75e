"""A session channel: windows in both directions, a subsystem or one line of refusal.

The subsystem's protocol is connected straight to the channel by a small transport.  The receive
window is opened again by what the protocol reports through `consumed` (trap 11); what waits for
the peer's window or for the TCP connection is counted in `buffered` (trap 10).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from attrs import define
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR
from twisted.conch.ssh.transport import DISCONNECT_BY_APPLICATION
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.ssh.wire import PacketError, Reader

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _Channel = Any
else:
    _Channel = SSHChannel

REFUSAL = b"This is an SFTP service; there is no shell here.\r\n"
"""What a shell or a command gets where the avatar has no line of its own."""

_MAX_WINDOW = 2**32 - 1  # RFC 4254, section 5.2

_Answer = tuple[bool, Callable[[], None] | None]


@define(eq=False)
class ChannelTransport:
    """What a subsystem's protocol has for a transport.

    A protocol with a true attribute `reports_consumed` calls `consumed` for the bytes it has
    dealt with; for any other, bytes count as dealt with when `dataReceived` returns.  One that has
    `pieceReceived` gets views of what was decrypted, which it may keep, instead of bytes.  One that
    provides IHalfCloseableProtocol learns of the client's EOF by `readConnectionLost` and calls
    `loseConnection` when it has said everything; any other is closed at once.
    """

    _channel: SessionChannel

    @property
    def buffered(self) -> int:
        """Bytes written that wait for the peer to take them."""
        return self._channel.buffered

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them until the peer takes them; dropped once it is closed."""
        self._channel.writeSequence((data,))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send pieces without joining them first."""
        self._channel.writeSequence(data)

    def consumed(self, size: int) -> None:
        """`size` more bytes of what was received are dealt with: the peer may send as many."""
        self._channel.consumed(size)

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever `buffered` has become smaller."""
        self._channel.drained = callback

    def loseConnection(self) -> None:
        """Send what is left, exit status 0, EOF and CLOSE."""
        self._channel.finish(0)

    def disconnect(self) -> None:
        """Send what is left, then end the whole SSH connection."""
        self._channel.ends_connection = True
        self._channel.finish(0)

    def getPeer(self) -> Any:
        """The client's address."""
        return self._channel.getPeer()

    def getHost(self) -> Any:
        """Our address."""
        return self._channel.getHost()


def _nothing() -> None:
    pass


def _drop(data: memoryview) -> None:
    pass


def _cut(chunks: deque[memoryview], most: int) -> tuple[list[bytes | memoryview], int]:
    """Take up to `most` bytes off the front; the pieces and their bytes together."""
    pieces: list[bytes | memoryview] = []
    room = most
    while room and chunks:
        chunk = chunks[0]
        if len(chunk) <= room:
            pieces.append(chunks.popleft())
            room -= len(chunk)
        else:
            pieces.append(chunk[:room])
            chunks[0] = chunk[room:]
            room = 0
    return pieces, most - room


class SessionChannel(_Channel):
    """One session.  Made by `Connection`; `request` and the `…Received` are its inputs.

    Of the avatar it uses `subsystemLookup` (name -> factory `(data, avatar) -> protocol`), and
    where they are there `exec_refusal` (one line for whoever asks for a shell) and
    `run_command(command, out, err)`, which answers with the command's exit status, or None to
    refuse it; or an awaitable of either.  `out` and `err` take what it prints, a piece at a time.
    """

    name = b"session"
    remoteWindowLeft: int
    _log = Logger()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.buffered = 0
        self.drained: Callable[[], None] = _nothing
        self.ends_connection = False
        self._chunks: deque[memoryview] = deque()
        self._errors: deque[memoryview] = deque()
        self._unacked = 0
        self._protocol: Any = None
        self._hand_over: Callable[[memoryview], None] = _drop
        self._taken = False
        self._reports = False
        self._status: int | None = None
        self._command: Deferred[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether a command runs or the subsystem says that it is `busy`."""
        if self._command is not None:
            return self._status is None
        return bool(getattr(self._protocol, "busy", False))

    # -- requests

    def request(self, kind: bytes, data: bytes) -> _Answer:
        """Whether a channel request is accepted, and what to do once that has been said."""
        if kind == b"subsystem":
            return self._subsystem(Reader(data).string(), data)
        if kind == b"exec":
            command = Reader(data).string()
            return self._take(lambda: self._run(command))
        if kind == b"shell":
            return self._take(self._refuse)
        # A terminal costs nothing, and refusing it makes OpenSSH complain before our line.
        return kind == b"pty-req", None

    def _take(self, then: Callable[[], None]) -> _Answer:
        """A session runs one thing only (RFC 4254, section 6.5)."""
        if self._taken or self.localClosed:
            return False, None
        self._taken = True
        return True, then

    def _subsystem(self, name: bytes, data: bytes) -> _Answer:
        factory = getattr(self.avatar, "subsystemLookup", {}).get(name)
        if factory is None:
            return False, None
        return self._take(lambda: self._connect(factory(data, self.avatar)))

    def _connect(self, protocol: Any) -> None:
        self._protocol = protocol
        self._reports = bool(getattr(protocol, "reports_consumed", False))
        take = getattr(protocol, "pieceReceived", None)
        self._hand_over = take or (lambda data: protocol.dataReceived(bytes(data)))
        protocol.makeConnection(ChannelTransport(self))

    def _run(self, command: bytes) -> None:
        run = getattr(self.avatar, "run_command", None)
        if run is None:
            self._refuse()
            return
        self._command = Deferred.fromCoroutine(self._await(run, command))
        self._command.addErrback(self._command_failed)

    async def _await(self, run: Callable[..., Any], command: bytes) -> None:
        status = run(command, self.write, self.write_error)
        if isawaitable(status):
            status = await status
        if status is None:
            self._refuse()
        else:
            self.finish(status)

    def _command_failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("A command failed", failure=failure)
            self._refuse()

    def _refuse(self) -> None:
        line = getattr(self.avatar, "exec_refusal", REFUSAL)
        # On stderr: rclone and old scp read answers of a command from stdout.  Nobody is kept
        # waiting for it who leaves no room for it.
        if len(line) <= self.remoteWindowLeft:
            self.write_error(line)
        self.finish(1)

    # -- data in

    def dataReceived(self, data: bytes) -> None:
        """Hand data to the subsystem."""
        self.pieceReceived(memoryview(data))

    def pieceReceived(self, data: memoryview) -> None:
        """Hand data to the subsystem; what nobody wants is dealt with by dropping it."""
        if self._protocol is None or self._status is not None:
            self.consumed(len(data))
            return
        try:
            self._hand_over(data)
        except PacketError:
            raise
        except Exception:
            # A fault of the subsystem's must not take the connection's other channels along.
            self._log.failure("A subsystem failed; its channel is closed")
            self.abort()
            return
        if not self._reports:
            self.consumed(len(data))

    def extReceived(self, dataType: int, data: bytes) -> None:
        """A client has no use for stderr; it is dropped."""
        self.consumed(len(data))

    def consumed(self, size: int) -> None:
        """Open the window again by what has been dealt with, a sixteenth of it at a time.

        What is not said yet the client cannot use: on a long wire that is speed lost.
        """
        self._unacked += size
        if self._unacked >= self.localWindowSize >> 4 and not self.localClosed:
            size, self._unacked = self._unacked, 0
            self.conn.adjustWindow(self, size)

    def eofReceived(self) -> None:
        """The client has said everything: let the subsystem finish its answers, then close."""
        if self._protocol is None:
            if self._command is None:
                self.finish(0)
        elif IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        else:
            self.finish(0)

    # -- data out

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Queue pieces and send as much as the windows allow."""
        if self.localClosed or self._status is not None:
            return
        if not self.buffered and self.conn.can_write:
            # Mostly nothing waits and there is room: then it goes as it is.
            data = [piece for piece in data if piece]
            size = sum(map(len, data))
            if size and size <= self.remoteWindowLeft and size <= self.remoteMaxPacket:
                self.remoteWindowLeft -= size
                self.conn.sendData(self, data)
                return
        for piece in data:
            if piece:
                self._chunks.append(memoryview(piece))
                self.buffered += len(piece)
        self._send()

    def write(self, data: bytes) -> None:
        """Queue one piece."""
        self.writeSequence((data,))

    def write_error(self, data: bytes) -> None:
        """Queue one piece for stderr, which shares the window (RFC 4254, section 5.2)."""
        if data and not self.localClosed and self._status is None:
            self._errors.append(memoryview(data))
            self.buffered += len(data)
            self._send()

    def addWindowBytes(self, data: int) -> None:
        """The peer takes `data` more bytes."""
        self.remoteWindowLeft = min(self.remoteWindowLeft + data, _MAX_WINDOW)
        if self.buffered:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it goes, and tell the subsystem."""
        before = self.buffered
        self._send()
        if self.buffered < before and self._status is None:
            self.drained()

    def _send(self) -> None:
        conn = self.conn
        while self.buffered and self.remoteWindowLeft and conn.can_write:
            most = min(self.remoteWindowLeft, self.remoteMaxPacket)
            of_errors = bool(self._errors)
            pieces, size = _cut(self._errors or self._chunks, most)
            self.buffered -= size
            self.remoteWindowLeft -= size
            if of_errors:
                conn.sendExtendedData(self, EXTENDED_DATA_STDERR, b"".join(pieces))
            else:
                conn.sendData(self, pieces)
        if self._status is not None and not self.buffered:
            self._say_goodbye(self._status)

    # -- the end

    def finish(self, status: int) -> None:
        """Send what is left, then the exit status, EOF and CLOSE.

        Without the status OpenSSH's sftp waits for ever when it quits.
        """
        if self._status is None:
            self._status = status
            self._send()

    def loseConnection(self) -> None:
        """Close in good order."""
        self.finish(0)

    def abort(self) -> None:
        """Close now, whatever waits."""
        self._drop_output()
        self._status = 1 if self._status is None else self._status
        self.conn.sendClose(self)
        self._end_protocol(ConnectionLost("the channel was aborted"))

    def closeReceived(self) -> None:
        """The client takes nothing any more: what waits for its window would wait for ever."""
        self.remoteClosed = True
        self._drop_output()
        if self.localClosed:
            self.conn.channelClosed(self)
        else:
            self.conn.sendClose(self)

    def closed(self) -> None:
        """The channel is gone, by itself or with its connection."""
        self._drop_output()
        if self._command is not None:
            self._command.cancel()
        self._end_protocol(ConnectionDone("the channel was closed"))

    def _say_goodbye(self, status: int) -> None:
        if self.localClosed:
            return
        self.conn.sendRequest(self, b"exit-status", status.to_bytes(4, "big"))
        self.conn.sendEOF(self)
        self.conn.sendClose(self)
        self._end_protocol(ConnectionDone("the subsystem has ended"))
        if self.ends_connection:
            self.conn.transport.sendDisconnect(DISCONNECT_BY_APPLICATION, b"the session has ended")

    def _drop_output(self) -> None:
        self._chunks.clear()
        self._errors.clear()
        self.buffered = 0

    def _end_protocol(self, error: Exception) -> None:
        # These belong to the protocol, which refers to this channel.
        self.drained, self._hand_over = _nothing, _drop
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(error))
