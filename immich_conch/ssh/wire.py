"""Reading the fields of an SSH packet, with an error of its own for what a peer got wrong.

Conch unpacks with `struct` and lets whatever comes of it escape: a short packet becomes a
`struct.error`, a `TypeError` or silently shorter data.  Everything in this package reads through
here instead, so that a peer's mistake (PacketError) can be told from one of ours.
"""

from __future__ import annotations

import struct

_UINT32 = struct.Struct("!L")


class PacketError(Exception):
    """The peer sent a packet that breaks the protocol; the text says how."""


class Reader:
    """The fields of one packet, in order.  RFC 4251, section 5."""

    __slots__ = ("_at", "_packet")

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._at = 0

    def uint32(self) -> int:
        """The next four bytes as a number; raises PacketError."""
        at = self._at
        if at + 4 > len(self._packet):
            raise PacketError("a packet ends inside a number")
        self._at = at + 4
        return int(_UINT32.unpack_from(self._packet, at)[0])

    def boolean(self) -> bool:
        """The next byte as a truth value; raises PacketError."""
        at = self._at
        if at >= len(self._packet):
            raise PacketError("a packet ends before a truth value")
        self._at = at + 1
        return self._packet[at] != 0

    def string(self) -> bytes:
        """The next string, of exactly its announced length; raises PacketError."""
        length = self.uint32()
        at = self._at
        if at + length > len(self._packet):
            raise PacketError("a packet ends inside a string")
        self._at = at + length
        return self._packet[at : self._at]

    def skip(self, size: int) -> None:
        """Pass over bytes; raises PacketError if there are fewer."""
        if self._at + size > len(self._packet):
            raise PacketError("a packet is too short")
        self._at += size

    def rest(self) -> bytes:
        """Whatever is left."""
        return self._packet[self._at :]


def string(data: bytes) -> bytes:
    """A string as it goes on the wire."""
    return _UINT32.pack(len(data)) + data
