"""A stretch of a file in memory: pieces are added at its end and dropped from its front.

Pure and without limits of its own: `download` says what is kept.  The pieces stay as they came;
a read that lies in one of them costs one slice, another one join, for this is where every byte
of a download passes.
"""

from __future__ import annotations

from bisect import bisect_right

MERGE_BELOW = 4_096
"""A last piece of fewer bytes is joined with the next, so that a drip does not make a long list."""


class Window:
    """The bytes of a file from `start` to `end` (offsets; `end` is the first that is not here)."""

    __slots__ = ("_pieces", "_starts", "end")

    def __init__(self, offset: int) -> None:
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self.end = offset

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def start(self) -> int:
        """Offset of the first byte that is here; `end` if there is none."""
        return self._starts[0] if self._starts else self.end

    def append(self, piece: bytes) -> None:
        """Add what follows `end`."""
        if not piece:
            return
        if self._pieces and len(self._pieces[-1]) < MERGE_BELOW:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
            self._starts.append(self.end)
        self.end += len(piece)

    def get(self, offset: int, end: int) -> bytes:
        """The bytes from `offset` to `end`, all of which are here and at least one."""
        at = bisect_right(self._starts, offset) - 1
        first = self._pieces[at]
        skip = offset - self._starts[at]
        if skip + end - offset <= len(first):
            return first[skip : skip + end - offset]
        parts = [memoryview(first)[skip:]]
        missing = end - offset - len(parts[0])
        while missing > 0:
            at += 1
            parts.append(memoryview(self._pieces[at])[:missing])
            missing -= len(parts[-1])
        return b"".join(parts)

    def trim(self, keep: int) -> None:
        """Drop the pieces that lie wholly before the offset `keep`; at `end`, everything."""
        if not self._starts or self._starts[0] + len(self._pieces[0]) > keep:
            return
        gone = bisect_right(self._starts, keep) - 1 if keep < self.end else len(self._starts)
        del self._pieces[:gone]
        del self._starts[:gone]
