"""What an SFTP client has sent and nobody has dealt with yet, in the pieces in which it came.

A WRITE of 256 KiB comes in eight or more pieces.  Put together and cut out again its bytes would
be copied three times on their way to the disk; here they stay where the transport has decrypted
them.  Only what lies across two pieces and is not the data of a WRITE is joined.
"""

from __future__ import annotations

from collections import deque

Pieces = list[memoryview]

MERGE_BELOW = 4096
"""Pieces smaller than this are joined as they come: a drip must not hold a packet for each byte."""


class Input:
    """Bytes in order.  `size` of them are there; they begin at `data[at]`."""

    __slots__ = ("_more", "at", "data", "size")

    def __init__(self) -> None:
        self.data = memoryview(b"")
        self.at = 0
        self.size = 0
        self._more: deque[memoryview] = deque()

    def feed(self, piece: bytes | memoryview) -> None:
        """Add what has come."""
        if not piece:
            return
        if self.at == len(self.data) and not self._more:
            self.data, self.at = memoryview(piece), 0
        elif self._more and len(piece) < MERGE_BELOW and len(self._more[-1]) < MERGE_BELOW:
            self._more[-1] = memoryview(b"".join((self._more[-1], piece)))
        else:
            self._more.append(memoryview(piece))
        self.size += len(piece)

    def gather(self, count: int) -> None:
        """Make the next `count` bytes, or all that are there, lie in one piece."""
        there = len(self.data) - self.at
        if there >= count or not self._more:
            return
        parts = [self.data[self.at :]]
        while there < count and self._more:
            parts.append(self._more.popleft())
            there += len(parts[-1])
        self.data, self.at = memoryview(b"".join(parts)), 0

    def skip(self, count: int) -> None:
        """Leave out the next `count` bytes, all of which are in this piece."""
        self.at += count
        self.size -= count
        if self.at == len(self.data) and self._more:
            self.data, self.at = self._more.popleft(), 0

    def take(self, count: int) -> Pieces:
        """The next `count` bytes, all of which are there, where they lie."""
        pieces: Pieces = []
        while count:
            piece = self.data[self.at : self.at + count]
            self.skip(len(piece))
            count -= len(piece)
            pieces.append(piece)
        return pieces

    def clear(self) -> None:
        """Forget everything."""
        self.data, self.at, self.size = memoryview(b""), 0, 0
        self._more.clear()
