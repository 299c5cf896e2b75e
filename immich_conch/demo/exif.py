"""Just enough of JPEG and QuickTime to know a picture's date, its size and a video's length.

Immich extracts these some time after an upload.  Unreadable bytes are no error: they are an
asset about which nothing is known.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from attrs import frozen

HEAD = 256 * 1024
"""Bytes of a file that are looked at; EXIF stands within the first 64 KiB."""

_DATE_TIME_ORIGINAL = 0x9003
_EXIF_IFD = 0x8769
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@frozen
class Facts:
    """What the bytes say of themselves; `taken` in ms since 1970, `duration` in ms."""

    width: int | None = None
    height: int | None = None
    taken: int | None = None
    duration: int | None = None


def read(head: bytes) -> Facts:
    """The facts in the first bytes of a file."""
    try:
        if head[:2] == b"\xff\xd8":
            return _jpeg(head)
        if head[4:8] in (b"ftyp", b"moov"):
            return _movie(head)
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return Facts()
    return Facts()


def _jpeg(data: bytes) -> Facts:
    width = height = taken = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            taken = _exif_date(data[at + 10 : at + 2 + length])
        elif marker == 0xDA:
            break
        at += 2 + length
    return Facts(width=width, height=height, taken=taken)


def _exif_date(tiff: bytes) -> int | None:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None

    def entries(offset: int) -> dict[int, tuple[int, int]]:
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        found = {}
        for index in range(count):
            tag, _kind, size, value = struct.unpack_from(
                order + "HHII", tiff, offset + 2 + 12 * index
            )
            found[tag] = (size, value)
        return found

    (first,) = struct.unpack_from(order + "I", tiff, 4)
    pointer = entries(first).get(_EXIF_IFD)
    if pointer is None:
        return None
    date = entries(pointer[1]).get(_DATE_TIME_ORIGINAL)
    if date is None:
        return None
    text = tiff[date[1] : date[1] + 19].decode("ascii", "replace")
    moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _boxes(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The content ranges of the boxes between two offsets, the first of each kind."""
    found: dict[bytes, tuple[int, int]] = {}
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            break
        found.setdefault(kind, (start + 8, min(start + size, end)))
        start += size
    return found


def _movie(data: bytes) -> Facts:
    moov = _boxes(data, 0, len(data)).get(b"moov")
    if moov is None:
        return Facts()
    inside = _boxes(data, *moov)
    duration = width = height = None
    if b"mvhd" in inside:
        at = inside[b"mvhd"][0]
        form = ">II" if data[at] == 0 else ">IQ"
        scale, length = struct.unpack_from(form, data, at + (12 if data[at] == 0 else 20))
        duration = round(1000 * length / scale)
    if b"trak" in inside:
        track = _boxes(data, *inside[b"trak"])
        if b"tkhd" in track:
            width, height = (
                side >> 16 for side in struct.unpack_from(">II", data, track[b"tkhd"][1] - 8)
            )
    return Facts(width=width or None, height=height or None, duration=duration)
