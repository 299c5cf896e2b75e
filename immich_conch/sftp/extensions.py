"""The `…@openssh.com` extensions (OpenSSH's PROTOCOL, section 4): what is announced and packed.

`limits@openssh.com` lets OpenSSH send 261,120-byte requests instead of 32,768.
"""

from __future__ import annotations

import struct

from immich_conch.errors import Malformed
from immich_conch.immich.model import Storage

POSIX_RENAME = b"posix-rename@openssh.com"
FSYNC = b"fsync@openssh.com"
STATVFS = b"statvfs@openssh.com"
LIMITS = b"limits@openssh.com"

#: Name -> version, as VERSION announces them.
ANNOUNCED = {POSIX_RENAME: b"1", STATVFS: b"2", FSYNC: b"1", LIMITS: b"1"}

#: Largest packet, READ and WRITE (bytes) and open handles, as OpenSSH's server says them.
MAX_PACKET = 262_144
MAX_TRANSFER = 261_120
#: Bytes a block of statvfs has.
BLOCK = 4096
#: Longest file name in bytes.
NAME_MAX = 255
_READ_ONLY, _NO_SUID = 1, 2


def pack_limits(handles: int) -> bytes:
    """The answer to `limits@openssh.com`."""
    return struct.pack("!QQQQ", MAX_PACKET, MAX_TRANSFER, MAX_TRANSFER, handles)


def pack_statvfs(storage: Storage, read_only: bool) -> bytes:
    """The answer to `statvfs@openssh.com`: sizes in blocks, no count of files."""
    blocks, free = storage.size // BLOCK, max(0, storage.available) // BLOCK
    flags = _NO_SUID | (_READ_ONLY if read_only else 0)
    return struct.pack("!11Q", BLOCK, BLOCK, blocks, free, free, 0, 0, 0, 0, flags, NAME_MAX)


def strings(data: bytes, count: int) -> list[bytes]:
    """Exactly `count` strings; raises Malformed."""
    found = []
    at = 0
    for _ in range(count):
        if len(data) - at < 4:
            raise Malformed
        (length,) = struct.unpack_from("!L", data, at)
        at += 4
        if len(data) - at < length:
            raise Malformed
        found.append(data[at : at + length])
        at += length
    if at != len(data):
        raise Malformed
    return found
