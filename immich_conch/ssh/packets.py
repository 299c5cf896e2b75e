"""Packets out of a stream of bytes: one pass, no copy but of a packet that lies across two reads.

Conch appends every read to one string and cuts each packet off its front, which takes time by the
square of what has come.  Lengths are checked before anything is kept; payloads are not looked at.
"""

from __future__ import annotations

from immich_conch.ssh.ciphers import Opener, Plain
from immich_conch.ssh.wire import PacketError

BEFORE_LOGIN_BYTES = 35_000
"""The largest packet of somebody unknown: what RFC 4253, section 6.1 asks for at least."""

AFTER_LOGIN_BYTES = 2**18 + 2**10
"""The largest packet of a user: OpenSSH's 256 KiB and a head."""

_LEAST_PADDING = 4


class PacketReader:
    """The packets of one peer.  `take` bytes, then call `next` until there is none.

    After `next` the payload is `plain[start:end]`.  `sequence` is the number of the next packet.
    """

    def __init__(self) -> None:
        self.limit = BEFORE_LOGIN_BYTES
        self.sequence = 0
        self.start = self.end = 0
        self._data = memoryview(b"")
        self._at = 0
        self._partial = bytearray()
        self._length = 0
        self._opener: Opener = Plain()
        self._need = self._opener.first

    @property
    def encrypted(self) -> bool:
        """Whether the peer's packets are protected."""
        return self._opener.encrypts

    def use(self, opener: Opener) -> None:
        """What comes from now on is protected by new keys."""
        self._opener = opener
        self._need = opener.first

    def take(self, data: bytes) -> None:
        """Bytes that have come; `next` is to be called until nothing is left of those before."""
        left = self._data[self._at :]
        self._data = memoryview(b"".join((left, data)) if left else data)
        self._at = 0

    def clear(self) -> None:
        """Forget what has come."""
        self._data = memoryview(b"")
        self._partial = bytearray()
        self._at = 0

    def next(self) -> bytes | None:
        """The next packet in the clear, or None; raises PacketError, after which it is over."""
        at, left = self._at, len(self._data) - self._at
        if not left:
            return None
        opener = self._opener
        if not self._length:
            if left >= self._need and not self._partial:
                length = opener.length(self._data[at:])
            else:
                head = self._front(self._need)
                if head is None:
                    return None
                with head:  # a bytearray grows only while nobody looks at it
                    length = opener.length(head)
            if length > self.limit:
                raise PacketError(f"a packet of {length} bytes")
            self._length = length
            self._need = 4 + length + opener.trailer
        if left >= self._need and not self._partial:
            data = self._data[at : at + self._need]
        else:
            front = self._front(self._need)
            if front is None:
                return None
            data = front
        plain = opener.open(self.sequence, data, self._length)
        if self._partial:
            self._partial = bytearray()  # a new one: the view of the old one forbids emptying it
        else:
            self._at += self._need
        self._length = 0
        self._need = opener.first
        self.sequence = (self.sequence + 1) & 0xFFFFFFFF
        start = opener.start
        padding = plain[start]
        self.start, self.end = start + 1, len(plain) - padding
        if padding < _LEAST_PADDING or self.end <= self.start:
            raise PacketError("an empty packet" if self.end == self.start else "bad padding")
        return plain

    def _front(self, need: int) -> memoryview | None:
        """The first bytes that were not dealt with, if there are as many."""
        partial = self._partial
        if not partial:
            end = self._at + need
            if end <= len(self._data):
                return self._data[self._at : end]
        piece = self._data[self._at : self._at + need - len(partial)]
        self._at += len(piece)
        partial += piece
        return memoryview(partial) if len(partial) == need else None
