"""The extensions of SFTP v3: what is announced, and the fields of their requests and answers.

`…@openssh.com`, `copy-data` and `home-directory` are as OpenSSH's PROTOCOL, section 4, has them;
`limits@openssh.com` lets OpenSSH send 261,120-byte requests instead of 32,768.  `check-file` is of
draft-ietf-secsh-filexfer-extensions, which calls it `check-file-handle` and `check-file-name`;
paramiko sends it without a suffix, with a handle.  What they do is `extended`'s.
"""

from __future__ import annotations

import struct

from attrs import frozen

from immich_conch.errors import Malformed, Refused
from immich_conch.immich.model import Storage
from immich_conch.sftp.wire import string

POSIX_RENAME = b"posix-rename@openssh.com"
FSYNC = b"fsync@openssh.com"
STATVFS = b"statvfs@openssh.com"
LIMITS = b"limits@openssh.com"
FSTATVFS = b"fstatvfs@openssh.com"
HARDLINK = b"hardlink@openssh.com"
LSETSTAT = b"lsetstat@openssh.com"
EXPAND_PATH = b"expand-path@openssh.com"
COPY_DATA = b"copy-data"
HOME_DIRECTORY = b"home-directory"
USERS_GROUPS = b"users-groups-by-id@openssh.com"
CHECK_FILE = b"check-file"
CHECK_FILE_HANDLE = b"check-file-handle"
CHECK_FILE_NAME = b"check-file-name"

#: Name -> version, as VERSION announces them: OpenSSH's own ones in its order.
ANNOUNCED = {
    POSIX_RENAME: b"1",
    STATVFS: b"2",
    FSTATVFS: b"2",
    HARDLINK: b"1",
    FSYNC: b"1",
    LSETSTAT: b"1",
    LIMITS: b"1",
    EXPAND_PATH: b"1",
    COPY_DATA: b"1",
    HOME_DIRECTORY: b"1",
    USERS_GROUPS: b"1",
    CHECK_FILE: b"1",
    CHECK_FILE_HANDLE: b"1",
    CHECK_FILE_NAME: b"1",
}

#: Largest packet, READ and WRITE (bytes) and open handles, as OpenSSH's server says them.
MAX_PACKET = 262_144
MAX_TRANSFER = 261_120
#: Bytes a block of statvfs has.
BLOCK = 4096
#: Longest file name in bytes.
NAME_MAX = 255
#: Owners and groups asked for at once: the answer has to fit a packet.
MOST_IDS = 4096
#: Who owns everything: the id that attributes carry, and the name in long listings.
OWNER_ID, OWNER = 0, b"immich"
_READ_ONLY, _NO_SUID = 1, 2


@frozen
class Named:
    """An answer that is a path, as REALPATH's."""

    path: bytes


def pack_limits(handles: int) -> bytes:
    """The answer to `limits@openssh.com`."""
    return struct.pack("!QQQQ", MAX_PACKET, MAX_TRANSFER, MAX_TRANSFER, handles)


def pack_statvfs(storage: Storage, read_only: bool) -> bytes:
    """The answer to `statvfs@openssh.com`: sizes in blocks, no count of files."""
    blocks, free = storage.size // BLOCK, max(0, storage.available) // BLOCK
    flags = _NO_SUID | (_READ_ONLY if read_only else 0)
    return struct.pack("!11Q", BLOCK, BLOCK, blocks, free, free, 0, 0, 0, 0, flags, NAME_MAX)


def pack_names(data: bytes) -> bytes:
    """The answer to `users-groups-by-id@openssh.com`: a name for each id, empty for unknown ones.

    Raises Malformed, and Refused for more than MOST_IDS.
    """
    answer = b""
    for ids in strings(data, 2):
        if len(ids) % 4:
            raise Malformed
        if len(ids) // 4 > MOST_IDS:
            raise Refused(f"Names for {MOST_IDS} ids at most are told at once.")
        names = [OWNER if one == OWNER_ID else b"" for (one,) in struct.iter_unpack("!L", ids)]
        answer += string(b"".join(map(string, names)))
    return answer


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
