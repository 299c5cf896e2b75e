"""What protects one direction of a connection: AES-GCM, or AES-CTR with an HMAC.

A sealer makes packets of payloads, an opener payloads of packets; a new pair comes with every
NEWKEYS.  Conch has neither GCM nor encrypt-then-MAC, and copies a packet five times over.  This
module knows keys and bytes, not messages.

`chacha20-poly1305@openssh.com` is left out: its key schedule needs three cipher contexts for each
packet (25 µs before the first byte, where GCM takes one) and a large packet takes three times as
long as with GCM, longer than CTR with HMAC-SHA-256 (`python -m benchmarks transport`).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from os import urandom
from typing import Protocol

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from immich_conch.ssh.wire import PacketError

Piece = bytes | bytearray | memoryview

LEAST_LENGTH = 6
"""Padding's length, one byte of payload, four of padding: RFC 4253, section 6."""

_LEAST_PADDING = 4
_PLAIN_BLOCK = 8
_AES_BLOCK = 16
_TAG_BYTES = 16
_BYTES = [bytes((number,)) for number in range(256)]
_UINT32 = struct.Struct("!L")


class BadMac(PacketError):
    """A packet is not what the peer's key has protected."""


class Sealer(Protocol):
    """Makes packets."""

    encrypts: bool

    def seal(self, sequence: int, size: int, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
        """The packet, in pieces, of a payload of `size` bytes in pieces."""


class Opener(Protocol):
    """Takes packets apart.  `length` and `open` are called in turn, once for each packet."""

    encrypts: bool
    #: Bytes that must be there before the length can be told.
    first: int
    #: Bytes after the packet's own.
    trailer: int
    #: Where in what `open` returns the padding's length is; the payload follows.
    start: int

    def length(self, data: memoryview) -> int:
        """The `packet_length` of what begins here; raises PacketError for an impossible one."""

    def open(self, sequence: int, data: memoryview, length: int) -> bytes:
        """The packet in the clear, with its padding; `data` is all of it.  Raises BadMac."""


def _padding(covered: int, block: int) -> int:
    """How much padding makes `covered` bytes, the padding's length among them, whole blocks."""
    padding = block - covered % block
    return padding if padding >= _LEAST_PADDING else padding + block


def _checked(length: int, uncovered: int, block: int) -> int:
    if length < LEAST_LENGTH or (length + uncovered) % block:
        raise PacketError(f"a packet of {length} bytes")
    return length


class Plain:
    """No protection, as the first key exchange begins.  Both a sealer and an opener."""

    encrypts = False
    first = 4
    trailer = 0
    start = 4

    def seal(self, sequence: int, size: int, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
        """A packet with padding of zeros."""
        padding = _padding(5 + size, _PLAIN_BLOCK)
        head = _UINT32.pack(1 + size + padding) + _BYTES[padding]
        return (b"".join((head, *pieces, bytes(padding))),)

    def length(self, data: memoryview) -> int:
        """As it stands there."""
        return _checked(_UINT32.unpack_from(data)[0], 4, _PLAIN_BLOCK)

    def open(self, sequence: int, data: memoryview, length: int) -> bytes:
        """What stands there."""
        return bytes(data)


class Gcm:
    """AES-GCM: RFC 5647, section 7, and OpenSSH's PROTOCOL, section 1.6.  One direction.

    The length is authenticated and not encrypted; the nonce counts packets of this key.
    """

    encrypts = True
    first = 4
    trailer = _TAG_BYTES
    start = 0

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        self._count = int.from_bytes(iv[4:12], "big")

    def _nonce(self) -> bytes:
        count = self._count
        self._count = (count + 1) & 0xFFFFFFFFFFFFFFFF
        return self._fixed + count.to_bytes(8, "big")

    def seal(self, sequence: int, size: int, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
        """The length, and in one call the rest."""
        padding = _padding(1 + size, _AES_BLOCK)
        head = _UINT32.pack(1 + size + padding)
        body = b"".join((_BYTES[padding], *pieces, urandom(padding)))
        return head, self._aead.encrypt(self._nonce(), body, head)

    def length(self, data: memoryview) -> int:
        """As it stands there: it is authenticated only with the rest."""
        length: int = _UINT32.unpack_from(data)[0]
        if length < LEAST_LENGTH or length % _AES_BLOCK:
            raise PacketError(f"a packet of {length} bytes")
        return length

    def open(self, sequence: int, data: memoryview, length: int) -> bytes:
        """Authenticate and decrypt in one call."""
        try:
            return self._aead.decrypt(self._nonce(), data[4:], data[:4])
        except InvalidTag:
            raise BadMac("bad MAC") from None


class _Mac:
    """HMAC over the sequence number and a packet: RFC 4253, section 6.4."""

    def __init__(self, key: bytes, digest: str) -> None:
        self._keyed = hmac.new(key, b"", digest)
        self.size = self._keyed.digest_size

    def of(self, sequence: int, packet: Piece, head: bytes = b"") -> bytes:
        """The MAC of a packet, which may have its head apart."""
        mac = self._keyed.copy()
        mac.update(_UINT32.pack(sequence) + head)
        mac.update(packet)
        return mac.digest()

    def check(self, sequence: int, mac: Piece, packet: Piece) -> None:
        """Raise BadMac unless it is the packet's."""
        if not hmac.compare_digest(self.of(sequence, packet), mac):
            raise BadMac("bad MAC")


def _ctr(key: bytes, iv: bytes) -> CipherContext:
    # Counter mode is its own inverse: an encryptor opens, too.
    return Cipher(AES(key), CTR(iv[:_AES_BLOCK])).encryptor()


class MacThenCtr:
    """AES-CTR with a MAC over what was encrypted: RFC 4344 and 4253.  One direction."""

    encrypts = True
    first = _AES_BLOCK
    start = 4

    def __init__(self, key: bytes, iv: bytes, mac: _Mac) -> None:
        self._cipher = _ctr(key, iv)
        self._mac = mac
        self.trailer = mac.size
        self._block = b""

    def seal(self, sequence: int, size: int, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
        """The encrypted packet and the MAC of the plain one."""
        padding = _padding(5 + size, _AES_BLOCK)
        head = _UINT32.pack(1 + size + padding) + _BYTES[padding]
        packet = b"".join((head, *pieces, urandom(padding)))
        return self._cipher.update(packet), self._mac.of(sequence, packet)

    def length(self, data: memoryview) -> int:
        """Decrypt the first block, which holds it."""
        self._block = self._cipher.update(data[:_AES_BLOCK])
        return _checked(_UINT32.unpack_from(self._block)[0], 4, _AES_BLOCK)

    def open(self, sequence: int, data: memoryview, length: int) -> bytes:
        """Decrypt the other blocks, then check."""
        end = 4 + length
        packet = self._block + self._cipher.update(data[_AES_BLOCK:end])
        self._mac.check(sequence, data[end:], packet)
        return packet


class CtrThenMac:
    """AES-CTR with a MAC over the encrypted: OpenSSH's PROTOCOL, section 1.5.  One direction."""

    encrypts = True
    first = 4
    start = 0

    def __init__(self, key: bytes, iv: bytes, mac: _Mac) -> None:
        self._cipher = _ctr(key, iv)
        self._mac = mac
        self.trailer = mac.size

    def seal(self, sequence: int, size: int, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
        """The length, the rest encrypted, and the MAC of both."""
        padding = _padding(1 + size, _AES_BLOCK)
        head = _UINT32.pack(1 + size + padding)
        body = self._cipher.update(b"".join((_BYTES[padding], *pieces, urandom(padding))))
        return head, body, self._mac.of(sequence, body, head)

    def length(self, data: memoryview) -> int:
        """As it stands there: it is authenticated only with the rest."""
        return _checked(_UINT32.unpack_from(data)[0], 0, _AES_BLOCK)

    def open(self, sequence: int, data: memoryview, length: int) -> bytes:
        """Check, then decrypt."""
        end = 4 + length
        self._mac.check(sequence, data[end:], data[:end])
        return self._cipher.update(data[4:end])


#: Name -> bytes of its key; the fastest first.  A packet of 32 KiB takes 16 µs with GCM and 30 µs
#: with CTR and HMAC-SHA-256, whatever the key's length.
GCM = {b"aes128-gcm@openssh.com": 16, b"aes256-gcm@openssh.com": 32}
CTR_KEYS = {b"aes128-ctr": 16, b"aes192-ctr": 24, b"aes256-ctr": 32}

#: Name -> digest, and whether it is over the encrypted packet; the best first.
MACS = {
    b"hmac-sha2-256-etm@openssh.com": ("sha256", True),
    b"hmac-sha2-512-etm@openssh.com": ("sha512", True),
    b"hmac-sha2-256": ("sha256", False),
    b"hmac-sha2-512": ("sha512", False),
}
QUICK_MACS = frozenset(name for name, (digest, _) in MACS.items() if digest == "sha256")
"""Processors have instructions for SHA-256; SHA-512 takes three times as long."""


@frozen
class Suite:
    """A cipher and a MAC by name, for one direction.  With GCM the MAC is not used."""

    cipher: bytes
    mac: bytes

    def keyed(self, iv: bytes, key: bytes, integrity: bytes) -> Gcm | MacThenCtr | CtrThenMac:
        """A sealer or an opener with keys of at least the length it needs."""
        if self.cipher in GCM:
            return Gcm(key[: GCM[self.cipher]], iv)
        digest, over_encrypted = MACS[self.mac]
        mac = _Mac(integrity[: hmac.new(b"", b"", digest).digest_size], digest)
        kind = CtrThenMac if over_encrypted else MacThenCtr
        return kind(key[: CTR_KEYS[self.cipher]], iv, mac)
