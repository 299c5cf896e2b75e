"""Just enough of JPEG and QuickTime to know a picture's date and size, a video's length, and pairs.

Immich extracts these some time after an upload.  Unreadable bytes are no error: they are an
asset about which nothing is known.  The two halves of a live photo name one content identifier:
the still in tag 0x0011 of Apple's maker note, the video under a QuickTime key.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from attrs import frozen

HEAD = 256 * 1024
"""Bytes of a file that are looked at; EXIF stands within the first 64 KiB."""

_DATE_TIME_ORIGINAL = 0x9003
_EXIF_IFD = 0x8769
_MAKER_NOTE = 0x927C
_APPLE = b"Apple iOS\0"
_APPLE_CONTENT_ID = 0x0011
_QUICKTIME_CONTENT_ID = b"com.apple.quicktime.content.identifier"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@frozen
class Facts:
    """What the bytes say of themselves; `taken` in ms since 1970, `duration` in ms.

    `content_id` is what the halves of a live photo have in common.
    """

    width: int | None = None
    height: int | None = None
    taken: int | None = None
    duration: int | None = None
    content_id: str | None = None


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
    width = height = None
    tags = _Tags()
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            tags = _exif(data[at + 10 : at + 2 + length])
        elif marker == 0xDA:
            break
        at += 2 + length
    return Facts(width=width, height=height, taken=tags.taken, content_id=tags.content_id)


@frozen
class _Tags:
    """What is taken from EXIF."""

    taken: int | None = None
    content_id: str | None = None


def _entries(tiff: bytes, order: str, offset: int) -> dict[int, tuple[int, int]]:
    """The tags of one directory: how many of its kind's units, and the value or where it is."""
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    found = {}
    for index in range(count):
        tag, _kind, size, value = struct.unpack_from(order + "HHII", tiff, offset + 2 + 12 * index)
        found[tag] = (size, value)
    return found


def _exif(tiff: bytes) -> _Tags:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return _Tags()
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    pointer = _entries(tiff, order, first).get(_EXIF_IFD)
    if pointer is None:
        return _Tags()
    entries = _entries(tiff, order, pointer[1])
    date, note = entries.get(_DATE_TIME_ORIGINAL), entries.get(_MAKER_NOTE)
    return _Tags(
        taken=None if date is None else _moment(tiff[date[1] : date[1] + 19]),
        content_id=None if note is None else _apple(tiff[note[1] : note[1] + note[0]]),
    )


def _moment(text: bytes) -> int:
    form = "%Y:%m:%d %H:%M:%S"
    moment = datetime.strptime(text.decode("ascii", "replace"), form).replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _apple(note: bytes) -> str | None:
    """The content identifier in a maker note of Apple's, whose places count from its start."""
    order = {b"II": "<", b"MM": ">"}.get(note[12:14])
    if not note.startswith(_APPLE) or order is None:
        return None
    found = _entries(note, order, 14).get(_APPLE_CONTENT_ID)
    if found is None:
        return None
    return note[found[1] : found[1] + found[0]].rstrip(b"\0").decode("ascii", "replace") or None


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
    return Facts(
        width=width or None,
        height=height or None,
        duration=duration,
        content_id=_quicktime(data, *inside[b"meta"]) if b"meta" in inside else None,
    )


def _quicktime(data: bytes, start: int, end: int) -> str | None:
    """The content identifier among QuickTime's keys and their values, which count from 1."""
    inside = _boxes(data, start, end)
    if b"keys" not in inside or b"ilst" not in inside:
        return None
    at, end = inside[b"keys"]
    number, at = 0, at + 8
    while at + 8 <= end:
        (size,) = struct.unpack_from(">I", data, at)
        if size < 8:
            return None
        number += 1
        if data[at + 8 : at + size] == _QUICKTIME_CONTENT_ID:
            break
        at += size
    else:
        return None
    item = _boxes(data, *inside[b"ilst"]).get(struct.pack(">I", number))
    value = None if item is None else _boxes(data, *item).get(b"data")
    if value is None:
        return None
    return data[value[0] + 8 : value[1]].decode("utf-8", "replace") or None
