"""The SSH transport of one connection; `factory` makes it.

Conch's server transport with its traps closed: a deadline until the client has logged in, one log
line for a peer's nonsense, turns for who sends a lot, and a TCP buffer that pushes back.  What
packets look like and when keys are changed is in `kex`.  It knows services, not users or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.conch.ssh.connection import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
)
from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_MAC_ERROR,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    MSG_DISCONNECT,
    MSG_SERVICE_ACCEPT,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from immich_conch.ssh.admission import (
    EARLY_BUFFER_BYTES,
    MAX_EARLY_BYTES,
    MAX_EARLY_EXCHANGES,
    MAX_EARLY_UNSENT_BYTES,
    Visit,
)
from immich_conch.ssh.ciphers import BadMac, Piece
from immich_conch.ssh.kex import KeyExchange
from immich_conch.ssh.liveness import Liveness, keep_alive
from immich_conch.ssh.outlet import Outlet
from immich_conch.ssh.packets import AFTER_LOGIN_BYTES
from immich_conch.ssh.quiet import QuietLogger
from immich_conch.ssh.session import Connection
from immich_conch.ssh.wire import PacketError, Reader, string

LOGIN_DEADLINE = 60.0
"""Seconds from the TCP connection to a finished log-in; half of OpenSSH's LoginGraceTime."""

FAILURE_DELAY = 1.0
"""Seconds that every failed attempt to log in waits for its answer."""

LINGER = 5.0
"""Seconds a peer has to take our last words before the TCP connection is cut."""

TCP_BUFFER_BYTES = 2**18
"""What may wait in the TCP connection before the channels hold their data back."""

SEND_BYTES = 2**19
"""What the system is handed at once; Twisted's own limit is a quarter of it.  Sending is a third
of a download's CPU time, and fewer and larger pieces save a fifth of all of it."""

MAX_UNSENT_BYTES = 2**20
PACKET_COST_BYTES = 64
"""What may be said on top of a full TCP connection or inside a key exchange, and what a packet
counts besides its payload."""

PACKETS_A_TURN = 256
"""What one connection may have handled before the others have their turn.  A read of TCP holds
eight packets of 32 KiB, and seven thousand of the smallest."""

_FIRST_SERVICE_MESSAGE = 50  # RFC 4250, section 4.1.2
_ARE_YOU_THERE = string(b"keepalive@openssh.com") + b"\x01"  # OpenSSH's, with an answer wanted
_LAST_WORDS = (10, 11)
"""Reasons with which clients end a connection in peace: "connection lost", "by application"."""


@implementer(IPushProducer)
class Transport(KeyExchange):
    """One client's connection.

    `attempts` counts failed log-ins over the whole connection; `peer` is the address as text.
    """

    ourVersionString = b"SSH-2.0-immich-conch"  # no version numbers for the curious
    _log = QuietLogger()

    factory: Any
    service: Any

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0
        self.peer = "unknown"
        self.client: IAddress | None = None
        self.visit = Visit()
        self._ended = False
        self._counted = False
        self._tcp_full = False
        self._unsent = 0
        self._max_unsent = MAX_EARLY_UNSENT_BYTES
        self._early_bytes: int | None = 0
        self._early_exchanges = 0
        self._timer: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self.heard = False
        self._liveness: Liveness | None = None

    # -- the connection's life

    def connectionMade(self) -> None:
        """Start the deadline at once: Conch's own starts only with ssh-userauth (trap 13)."""
        tcp = self.transport
        # A proxy may stand at the other end; the factory knows better.
        self.peer = _address_text(tcp.getPeer() if self.client is None else self.client)
        if ITCPTransport.providedBy(tcp):
            tcp.setTcpNoDelay(True)
            keep_alive(tcp)
        self._outlet = Outlet(tcp)
        tcp.bufferSize = EARLY_BUFFER_BYTES
        tcp.registerProducer(self, True)
        self._timer = self.factory.clock.callLater(self.factory.login_deadline, self._too_late)
        tcp.write(self.ourVersionString + b"\r\n")
        self._counted = True
        self.factory.connection_opened(self)

    def authenticated(self) -> None:
        """The client has logged in: the deadline no longer counts, packets may be larger."""
        self._stop_timer()
        self._reader.limit = AFTER_LOGIN_BYTES
        self._early_bytes = None
        self._max_unsent = MAX_UNSENT_BYTES
        self.transport.bufferSize = TCP_BUFFER_BYTES
        self.transport.SEND_LIMIT = SEND_BYTES
        factory = self.factory
        self._liveness = Liveness(self, factory.clock, factory.keepalive, factory.idle_timeout)
        self._liveness.start()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service, log the avatar out, tell whoever counts."""
        self._end_reading()
        if self.service is not None:
            self.service.serviceStopped()
            self.service = None
        logout = self.__dict__.pop("logoutFunction", None)
        if logout is not None:
            logout()
        if self._counted:
            self._counted = False
            self.visit.left()
            self.factory.connection_closed(self)

    def _too_late(self) -> None:
        self._timer = None
        self._end(DISCONNECT_BY_APPLICATION, b"no log-in in time")

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _end_reading(self) -> None:
        """Nothing of the peer is read from now on, and no timer runs."""
        self._ended = True
        self._reader.clear()
        self._stop_timer()
        self._stop_kex_timer()
        if self._liveness is not None:
            self._liveness.stop()
            self._liveness = None
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()

    # -- ending it

    @property
    def ended(self) -> bool:
        """Whether nothing more is read from or written to the peer."""
        return self._ended

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Say why and close; a peer that does not take the last words is cut off after LINGER."""
        self._end(reason, desc.encode("utf-8") if isinstance(desc, str) else desc)

    def loseConnection(self) -> None:
        """End the connection from our side."""
        self._end(DISCONNECT_BY_APPLICATION, b"the server ends the connection")

    def _end(self, reason: int, text: bytes) -> None:
        if self._ended:
            return
        self._log.info(
            "{peer}: disconnecting: {text}", peer=self.peer, text=text.decode("utf-8", "replace")
        )
        # A disconnect may be sent in the middle of a key exchange (RFC 4253, section 7.1).
        self.sendPacket(
            MSG_DISCONNECT, reason.to_bytes(4, "big") + string(text[:1024]) + string(b"")
        )
        self._close()

    def _close(self) -> None:
        """Flush what is written and close the TCP connection, by force if need be."""
        self._end_reading()
        self._outlet.release()
        # Twisted does not close a connection while somebody still promises to produce for it.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._timer = self.factory.clock.callLater(LINGER, self.transport.abortConnection)

    # -- is anybody there?

    def ask_for_life(self) -> None:
        """Ask the client for any answer; while keys are changed it is the client's turn anyway."""
        if not self.changing_keys:
            self.sendPacket(MSG_GLOBAL_REQUEST, _ARE_YOU_THERE)

    def give_up(self) -> None:
        """The client is gone; no last words, for nobody takes them."""
        self._log.info("{peer}: gives no sign of life any more, cutting it off", peer=self.peer)
        self._end_reading()
        self.transport.abortConnection()

    def too_idle(self) -> None:
        """The client is there and has wanted nothing for longer than the administrator allows."""
        self._end(DISCONNECT_BY_APPLICATION, b"idle for too long")

    # -- packets

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, unless the connection is on its way out."""
        if not self._ended and not self.gotVersion:
            data = self._identify(data)
        if not self._ended and self._early_bytes is not None:
            self._early_bytes += len(data)
            if self._early_bytes > MAX_EARLY_BYTES:
                self._end(DISCONNECT_PROTOCOL_ERROR, b"too much before the log-in")
        if not self._ended and data:
            self.heard = True
            self._bytes_in += len(data)
            self._reader.take(data)
            if self._turn is None:
                self._read()

    def _read(self) -> None:
        """Handle the packets that are there, as many as make a turn."""
        reader = self._reader
        self._outlet.hold()
        try:
            for _ in range(PACKETS_A_TURN):
                plain = reader.next()
                if plain is None:
                    self._rekey_if_due()
                    return
                start, end = reader.start, reader.end
                number = plain[start]
                if number == MSG_CHANNEL_DATA and isinstance(self.service, Connection):
                    self.service.channel_data(plain, start + 1, end)
                elif number == MSG_CHANNEL_WINDOW_ADJUST and isinstance(self.service, Connection):
                    self.service.window_adjusted(plain, start + 1, end)
                else:
                    self.dispatchMessage(number, plain[start + 1 : end])
                if self._ended:
                    return
        except BadMac as error:
            self._end(DISCONNECT_MAC_ERROR, str(error).encode("utf-8"))
        except PacketError as error:
            self._end(DISCONNECT_PROTOCOL_ERROR, str(error).encode("utf-8"))
        else:
            self.transport.pauseProducing()
            self._turn = self.factory.clock.callLater(0, self._next_turn)
        finally:
            self._outlet.release()

    def _next_turn(self) -> None:
        self._turn = None
        self.transport.resumeProducing()
        try:
            self._read()
        except Exception:
            # The reactor does as much for what escapes from dataReceived itself.
            self._log.failure("{peer}: reading failed, cutting it off", peer=self.peer)
            self._end_reading()
            self.transport.abortConnection()

    def send_pieces(self, number: int, pieces: Sequence[Piece]) -> None:
        """Send a message; after a disconnect nothing is sent any more.

        Channels hold their data back while nothing leaves, so what is sent then are answers to
        small messages; a peer that asks on and never listens is cut off.
        """
        if self._ended:
            return
        if self._tcp_full or self._blockedByKeyExchange is not None:
            self._unsent += sum(map(len, pieces)) + PACKET_COST_BYTES
            if self._unsent > self._max_unsent:
                self._log.info("{peer}: takes no answers, cutting it off", peer=self.peer)
                self._end_reading()
                self.transport.abortConnection()
                return
        super().send_pieces(number, pieces)

    def _write(self, sealed: tuple[bytes, ...]) -> None:
        self._outlet.write(sealed)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand a message on; whatever is wrong with it ends the connection with one line."""
        if self._ended:
            return
        try:
            super().dispatchMessage(messageNum, payload)
        except Exception as error:
            if messageNum >= _FIRST_SERVICE_MESSAGE and not isinstance(error, PacketError):
                raise
            # Below the services there is only Conch's code and the peer's bytes, and Conch
            # reports bad bytes by whatever exception they run into.
            text = str(error) if isinstance(error, PacketError) else type(error).__name__
            self._end(DISCONNECT_PROTOCOL_ERROR, f"bad message {messageNum}: {text}".encode())

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """A key exchange; somebody unknown may have only so many, for each takes time."""
        self._early_exchanges += self._early_bytes is not None
        if self._early_exchanges > MAX_EARLY_EXCHANGES:
            raise PacketError("too many key exchanges before the log-in")
        super().ssh_KEXINIT(packet)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Start ssh-userauth, once (trap 13): asking again resets nothing."""
        name = Reader(packet).string()
        if not self.isEncrypted("both") or name != b"ssh-userauth" or hasattr(self, "avatar"):
            self._end(DISCONNECT_SERVICE_NOT_AVAILABLE, b"this service is not available")
            return
        self.sendPacket(MSG_SERVICE_ACCEPT, string(name))
        if self.service is None:
            self.setService(self.factory.getService(self, name)())

    def ssh_DISCONNECT(self, packet: bytes) -> None:
        """The peer ends the connection; one line unless it does so in peace."""
        fields = Reader(packet)
        reason, text = fields.uint32(), fields.string()
        if reason not in _LAST_WORDS:
            self._log.info(
                "{peer}: the client disconnects, reason {reason}: {text}",
                peer=self.peer,
                reason=reason,
                # Whatever somebody unknown says, it stays one line of what can be read.
                text=ascii(text[:200].decode("utf-8", "replace")),
            )
        self._close()

    def ssh_UNIMPLEMENTED(self, packet: bytes) -> None:
        """The peer does not know one of our messages; nothing depends on it."""

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """What the client can do besides; nothing here asks.

        Conch takes it apart in a time that grows with the square of its size.
        """

    def ssh_DEBUG(self, packet: bytes) -> None:
        """The peer's debugging text is not for our log."""

    # -- back-pressure

    @property
    def can_write(self) -> bool:
        """Whether channel data would leave now: the TCP buffer has room, no keys are changed."""
        return not self._tcp_full and not self._ended and self._blockedByKeyExchange is None

    def pauseProducing(self) -> None:
        """The TCP buffer is full: channels hold their data back from now on."""
        self._tcp_full = True

    def resumeProducing(self) -> None:
        """The TCP buffer has emptied."""
        self._tcp_full = False
        self._resume_writing()

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost follows."""

    def _resume_writing(self) -> None:
        if self.can_write:
            self._unsent = 0
            if isinstance(self.service, Connection):
                self.service.resume_writing()


def _address_text(address: Any) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return f"{host} port {port}" if host is not None else str(address)
