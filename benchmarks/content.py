"""Made-up files that every process of a benchmark makes alike, and that cost no disk.

A file is one block of noise over and over, so that nothing on the way can be compressed and a read
from a wrong place is noticed: the block's length is no multiple of a page, and each name begins
elsewhere in it.  It is larger than a cache of a processor, as a real file is.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attrs import frozen

MIB = 2**20
PERIOD = 64 * MIB + 4099
STEP = MIB


@cache
def noise() -> bytes:
    """The block; made once in a process, in less than a second."""
    return random.Random(22).randbytes(PERIOD)


@frozen
class Content:
    """What a file of a name and size is made of."""

    name: str
    size: int

    @property
    def shift(self) -> int:
        """Where in the noise it begins."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") % PERIOD

    def read(self, offset: int, count: int) -> bytes:
        """At most so many bytes, at most a block of noise; empty at and after the end."""
        count = min(count, self.size - offset, PERIOD)
        if count <= 0:
            return b""
        at = (self.shift + offset) % PERIOD
        first = noise()[at : at + count]
        return first if len(first) == count else first + noise()[: count - len(first)]

    def pieces(self) -> Iterator[bytes]:
        """All of it, a MiB at a time."""
        for offset in range(0, self.size, STEP):
            yield self.read(offset, STEP)

    def sha256(self) -> str:
        """What its bytes come to, in hexadecimal."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Make a real file of it."""
        with path.open("wb") as file:
            for piece in self.pieces():
                file.write(piece)
