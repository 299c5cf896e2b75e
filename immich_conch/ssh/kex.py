"""Key exchanges and packets of one connection: who may say what when, and under which keys.

Conch's methods of key exchange are used as they are.  What is around them is not: Conch takes
messages of a key exchange at any time, changes the keys of both directions at the client's
NEWKEYS though its own was sent before, knows no strict key exchange, and never asks for new keys.
What the packets say above the transport layer is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import urandom
from typing import TYPE_CHECKING, Any

from twisted.conch.ssh.transport import (
    DISCONNECT_KEY_EXCHANGE_FAILED,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
    MSG_DISCONNECT,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
    SSHServerTransport,
)
from twisted.internet.interfaces import IDelayedCall

from immich_conch.ssh.algorithms import (
    STRICT_CLIENT,
    STRICT_SERVER,
    Agreement,
    Algorithms,
    Offer,
    speaks_first,
)
from immich_conch.ssh.ciphers import Piece, Plain, Sealer
from immich_conch.ssh.packets import PacketReader
from immich_conch.ssh.publickey import SIGNATURES
from immich_conch.ssh.wire import PacketError, string

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _ServerTransport = Any
else:
    _ServerTransport = SSHServerTransport

REKEY_BYTES = 2**36
REKEY_SECONDS = 3600.0
"""When we ask for new keys, whichever comes first in either direction: RFC 4344, section 3.2 (its
2^32 blocks of 16 bytes are the 64 GiB) and RFC 4253, section 9.  The 2^31 packets of RFC 4344,
section 3.1 are more than 64 GiB: with length, padding and MAC no packet is below 36 bytes."""

_OVERHEAD_BYTES = 32  # what a packet has besides its payload, at least

REKEY_DEADLINE = 600.0
"""Seconds for a key exchange asked for by us.  Megabytes may be on a slow way before the answer."""

KEXINIT_PATIENCE = 3.0
"""Seconds that a client's KEXINIT is waited for before ours is sent all the same."""

MAX_IDENTIFICATION = 255
"""RFC 4253, section 4.2, with the end of the line."""

# RFC 4250, section 4.1.2: what may be said while keys are changed (RFC 4253, section 7.1).
_FIRST_KEX_METHOD_MESSAGE = 30
_FIRST_SERVICE_MESSAGE = 50
_NOT_IN_KEX = (5, 6, 7)
_NUMBERS = [bytes((number,)) for number in range(256)]
_GEX = b"group-exchange"
_EXT_INFO_CLIENT, _EXT_INFO_SERVER = b"ext-info-c", b"ext-info-s"


class KeyExchange(_ServerTransport):
    """The lower half of a connection; `transport.Transport` is the upper.

    `_due` are the messages that the key exchange under way goes on with, none if there is none.
    """

    algorithms: Algorithms
    sessionID: bytes | None
    outgoingPacketSequence: int
    _ended: bool

    def __init__(self) -> None:
        self._reader = PacketReader()
        self._sealer: Sealer = Plain()
        self._greeting = b""
        self._strict = False
        self._secured = False
        self._due: frozenset[int] = frozenset()
        self._agreed: Agreement
        self._bytes_in = self._bytes_out = 0
        self._kex_timer: IDelayedCall | None = None
        # Nothing but key exchange goes out before the first one is over.
        self._blockedByKeyExchange: list[tuple[int, tuple[Piece, ...]]] | None = []

    # -- the identification

    def _identify(self, data: bytes) -> bytes:
        """Read the client's first line; what follows it."""
        line, end, rest = (self._greeting + data).partition(b"\n")
        if not end and len(line) <= MAX_IDENTIFICATION:
            self._greeting = line
            if not b"SSH-".startswith(line[:4]):
                self._end(DISCONNECT_PROTOCOL_ERROR, b"this is no SSH client")
            return b""
        if not line.startswith(b"SSH-") or len(line) > MAX_IDENTIFICATION:
            self._end(DISCONNECT_PROTOCOL_ERROR, b"this is no SSH client")
            return b""
        self.otherVersionString = line.removesuffix(b"\r")
        if line.split(b"-")[1] not in self.supportedVersions:
            self._end(DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED, b"only SSH 2.0 is spoken here")
            return b""
        self.gotVersion = True
        self._greeting = b""
        if speaks_first(line):
            self._wait_for(KEXINIT_PATIENCE, self._patience_ends)
        else:
            self.sendKexInit()
        return rest

    def _patience_ends(self) -> None:
        self._kex_timer = None
        self.sendKexInit()

    def _wait_for(self, seconds: float, call: Any) -> None:
        self._stop_kex_timer()
        self._kex_timer = self.factory.clock.callLater(seconds, call)

    def _stop_kex_timer(self) -> None:
        timer, self._kex_timer = self._kex_timer, None
        if timer is not None and timer.active():
            timer.cancel()

    # -- packets out

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message, or keep it until keys have been changed."""
        self.send_pieces(messageType, (payload,))

    def send_pieces(self, number: int, pieces: Sequence[Piece]) -> None:
        """Send a message whose payload is in pieces, without joining them first."""
        blocked = self._blockedByKeyExchange
        if blocked is not None and (number >= _FIRST_SERVICE_MESSAGE or number in _NOT_IN_KEX):
            blocked.append((number, tuple(pieces)))
            return
        self._seal(number, pieces)
        if self._bytes_out > self.factory.rekey_bytes:
            self.rekey()

    def _seal(self, number: int, pieces: Sequence[Piece]) -> None:
        size = 1
        for piece in pieces:
            size += len(piece)
        sequence = self.outgoingPacketSequence
        self.outgoingPacketSequence = (sequence + 1) & 0xFFFFFFFF
        self._bytes_out += size + _OVERHEAD_BYTES
        self._write(self._sealer.seal(sequence, size, (_NUMBERS[number], *pieces)))

    def _write(self, sealed: tuple[bytes, ...]) -> None:
        """Hand a packet to the TCP connection."""
        raise NotImplementedError

    def sendUnimplemented(self) -> None:
        """Say that the message just read is not known, by its number (RFC 4253, section 11.4)."""
        number = (self._reader.sequence - 1) & 0xFFFFFFFF
        self.sendPacket(MSG_UNIMPLEMENTED, number.to_bytes(4, "big"))

    # -- the state

    @property
    def changing_keys(self) -> bool:
        """Whether a key exchange has begun and is not over for both sides."""
        return bool(self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    def isEncrypted(self, direction: str = "out") -> bool:
        """Whether a direction, or `both`, is protected."""
        into, out = self._reader.encrypted, self._sealer.encrypts
        return {"in": into, "out": out, "both": into and out}[direction]

    def isVerified(self, direction: str = "out") -> bool:
        """There is no cipher without authentication here."""
        return self.isEncrypted(direction)

    def rekey(self) -> None:
        """Ask for new keys, unless they are being made."""
        if self._ended or self.changing_keys or not self._secured:
            return
        self.sendKexInit()

    def _rekey_if_due(self) -> None:
        """By what has come in; what goes out is counted where it goes."""
        if self._bytes_in > self.factory.rekey_bytes:
            self.rekey()

    def _too_slow(self) -> None:
        self._kex_timer = None
        self._end(DISCONNECT_KEY_EXCHANGE_FAILED, b"no new keys in time")

    # -- a key exchange

    def sendKexInit(self) -> None:
        """Begin a key exchange, or answer that the client has begun one."""
        if self.changing_keys:
            raise RuntimeError("keys are being changed")
        names = [*self.algorithms.key_exchanges, _EXT_INFO_SERVER]
        if self.sessionID is None:
            names.append(STRICT_SERVER)
        ours = self.algorithms
        lists = (
            names,
            ours.host_keys,
            *(ours.ciphers, ours.ciphers),
            *(ours.macs, ours.macs),
            *(ours.compressions, ours.compressions),
            *((), ()),
        )
        body = urandom(16) + b"".join(string(b",".join(names)) for names in lists) + bytes(5)
        self.ourKexInitPayload = bytes((MSG_KEXINIT,)) + body
        self._keyExchangeState = self._KEY_EXCHANGE_REQUESTED
        if self._blockedByKeyExchange is None:
            self._blockedByKeyExchange = []
        if self._secured:
            self._wait_for(REKEY_DEADLINE, self._too_slow)
        else:
            self._stop_kex_timer()  # the deadline of the log-in counts
        self._seal(MSG_KEXINIT, (body,))

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """The client begins a key exchange, or answers; one inside another is refused."""
        if self._due:
            raise PacketError("a key exchange inside a key exchange")
        offer = Offer.parse(packet)
        self.otherKexInitPayload = bytes((MSG_KEXINIT,)) + packet
        if self.sessionID is None and STRICT_CLIENT in offer.key_exchanges:
            self._strict = True
            if self._reader.sequence != 1:
                raise PacketError("a message before the key exchange")
        if not self.changing_keys:
            self.algorithms = self.factory.algorithms.suited(offer)
            self.sendKexInit()
        self._keyExchangeState = self._KEY_EXCHANGE_PROGRESSING
        agreed = self.algorithms.agree(offer)
        if agreed is None:
            self._end(DISCONNECT_KEY_EXCHANGE_FAILED, b"couldn't match all kex parts")
            return
        self._agreed = agreed
        self.kexAlg, self.keyAlg = agreed.key_exchange, agreed.host_key
        self.ignoreNextPacket = agreed.wrong_guess
        self._peerSupportsExtensions = _EXT_INFO_CLIENT in offer.key_exchanges
        self._due = frozenset((30, 34)) if _GEX in agreed.key_exchange else frozenset((30,))

    def _kex_message(self, number: int, payload: bytes) -> None:
        """A message of a method of key exchange; raises PacketError if it may not come now."""
        if not self._due or MSG_NEWKEYS in self._due:
            raise PacketError("a key exchange message out of place")
        if self.ignoreNextPacket:
            self.ignoreNextPacket = False
            return
        if number not in self._due:
            raise PacketError("a key exchange message out of place")
        if _GEX in self.kexAlg:
            self._due = frozenset((32,))
        super().dispatchMessage(number, payload)

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        """The secret is there: say NEWKEYS, and use them from there on (RFC 4253, section 7.3)."""
        first = self.sessionID is None
        if first:
            self.sessionID = exchangeHash
        keys = {
            letter: self._getKey(bytes((letter,)), sharedSecret, exchangeHash)
            for letter in b"ABCDEF"
        }
        iv_in, iv_out, key_in, key_out, mac_in, mac_out = (keys[letter] for letter in b"ABCDEF")
        self._opener = self._agreed.suite_in.keyed(iv_in, key_in, mac_in)
        self._due = frozenset((MSG_NEWKEYS,))
        self._seal(MSG_NEWKEYS, ())
        self._sealer = self._agreed.suite_out.keyed(iv_out, key_out, mac_out)
        self._bytes_out = 0
        if self._strict:
            self.outgoingPacketSequence = 0
        blocked, self._blockedByKeyExchange = self._blockedByKeyExchange, None
        if first:
            # RFC 8308, section 2.4: right after our first NEWKEYS.
            self.sendExtInfo([(b"server-sig-algs", b",".join(SIGNATURES))])
        for number, pieces in blocked or ():
            self.send_pieces(number, pieces)
        self._resume_writing()

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """The client uses the new keys; without an exchange before it there are none."""
        if MSG_NEWKEYS not in self._due:
            raise PacketError("NEWKEYS without a key exchange")
        if packet:
            raise PacketError("NEWKEYS takes no data")
        self._due = frozenset()
        self._reader.use(self._opener)
        self._bytes_in = 0
        if self._strict:
            self._reader.sequence = 0
        self._keyExchangeState = self._KEY_EXCHANGE_NONE
        self._secured = True
        self._wait_for(self.factory.rekey_seconds, self.rekey)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand on a message below the services; raises PacketError for one out of place."""
        if self._strict and not self._secured and messageNum not in (MSG_DISCONNECT, *self._due):
            raise PacketError(f"message {messageNum} inside a strict key exchange")
        if _FIRST_KEX_METHOD_MESSAGE <= messageNum < _FIRST_SERVICE_MESSAGE:
            self._kex_message(messageNum, payload)
        else:
            super().dispatchMessage(messageNum, payload)
