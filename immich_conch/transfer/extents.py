"""Which bytes of a file were written, as a sorted set of ranges.  Pure."""

from __future__ import annotations

from attrs import frozen

from immich_conch.errors import Refused

#: Ranges kept apart at most; clients that write out of order keep some 64 requests under way.
MAX_RANGES = 4096


@frozen
class Extents:
    """Sorted, disjoint, non-adjacent byte ranges `[start, end)`; what of a file was written."""

    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def reach(self) -> int:
        """Where the first hole begins: all before it was written."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    def add(self, start: int, end: int) -> Extents:
        """With one more range; raises Refused beyond MAX_RANGES of them."""
        if start >= end:
            return self
        if self.ranges:
            last_start, last_end = self.ranges[-1]
            # In order, as nearly every client writes: no search.
            if last_start <= start <= last_end:
                if end <= last_end:
                    return self
                return Extents((*self.ranges[:-1], (last_start, end)))
        kept = []
        for low, high in self.ranges:
            if high < start or low > end:
                kept.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        kept.append((start, end))
        if len(kept) > MAX_RANGES:
            raise Refused("The file is written in too many pieces out of order.")
        kept.sort()
        return Extents(tuple(kept))

    def cut(self, size: int) -> Extents:
        """Without what lies at or beyond `size`."""
        return Extents(tuple((low, min(high, size)) for low, high in self.ranges if low < size))

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """The ranges of `[0, size)` that were not written."""
        gaps, at = [], 0
        for low, high in self.ranges:
            if at >= size:
                break
            if low > at:
                gaps.append((at, min(low, size)))
            at = high
        if at < size:
            gaps.append((at, size))
        return gaps
