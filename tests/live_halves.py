"""The two halves of a live photo, as small as Immich still recognises them.

An iPhone writes one content identifier into both: into the still as tag 0x0011 of Apple's maker
note, into the video as the QuickTime key `com.apple.quicktime.content.identifier`.
"""

from __future__ import annotations

import struct


def still(identifier: str, text: str = "") -> bytes:
    """A JPEG with a content identifier; `text` makes its bytes its own."""
    value = identifier.encode() + b"\0"
    note = b"Apple iOS\0\0\x01MM"
    note += struct.pack(">H", 1) + struct.pack(">HHII", 0x11, 2, len(value), 14 + 2 + 12 + 4)
    note += bytes(4) + value
    first = struct.pack(">H", 1) + struct.pack(">HHII", 0x8769, 4, 1, 26) + bytes(4)
    exif = struct.pack(">H", 1) + struct.pack(">HHII", 0x927C, 7, len(note), 44) + bytes(4)
    tiff = b"MM\0*" + struct.pack(">I", 8) + first + exif + note
    app1 = b"Exif\0\0" + tiff
    comment = text.encode()
    return (
        b"\xff\xd8\xff\xe1"
        + struct.pack(">H", 2 + len(app1))
        + app1
        + b"\xff\xfe"
        + struct.pack(">H", 2 + len(comment))
        + comment
        + b"\xff\xd9"
    )


def motion(identifier: str, text: str = "") -> bytes:
    """A QuickTime video with a content identifier; `text` makes its bytes its own."""
    key = b"com.apple.quicktime.content.identifier"
    handler = _box(b"hdlr", bytes(8) + b"mdta" + bytes(13))
    keys = _box(b"keys", struct.pack(">II", 0, 1) + _box(b"mdta", key))
    value = _box(b"data", struct.pack(">II", 1, 0) + identifier.encode())
    items = _box(b"ilst", struct.pack(">II", 8 + len(value), 1) + value)
    header = _box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 2000) + bytes(80))
    return (
        _box(b"ftyp", b"qt  \0\0\0\0qt  ")
        + _box(b"moov", header + _box(b"meta", handler + keys + items))
        + _box(b"free", text.encode())
    )


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
