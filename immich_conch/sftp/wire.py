"""The fields of SFTP v3 packets: reading them, and writing names, attributes and statuses.

draft-ietf-secsh-filexfer-02.  Attributes are dictionaries with Conch's keys: `size`, `uid` and
`gid`, `permissions`, `atime` and `mtime`, `ext_…`.  Nothing here knows what a request means.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from twisted.conch.ssh.filetransfer import (
    FILEXFER_ATTR_ACMODTIME,
    FILEXFER_ATTR_EXTENDED,
    FILEXFER_ATTR_OWNERGROUP,
    FILEXFER_ATTR_PERMISSIONS,
    FILEXFER_ATTR_SIZE,
    FXP_ATTRS,
    FXP_DATA,
    FXP_EXTENDED_REPLY,
    FXP_HANDLE,
    FXP_NAME,
    FXP_STATUS,
)

from immich_conch.errors import Malformed

Attrs = dict[str, Any]

_UINT32 = struct.Struct("!L")
_UINT64 = struct.Struct("!Q")
_PAIR = struct.Struct("!LL")
_HEAD = struct.Struct("!LBL")  # length, type, request id
_DATA_HEAD = struct.Struct("!LBLL")  # the same, and the length of the data
_STATUS_HEAD = struct.Struct("!LBLLL")  # the same, the code and the length of the text
_FULL_ATTRS = struct.Struct("!LQLLLLL")

_STAT = struct.Struct("!LBLLQLLLLL")  # a head, and as _FULL_ATTRS
_STAT_NO_SIZE = struct.Struct("!LBLLLLLLL")
_LISTED_NO_SIZE = struct.Struct("!LLLLLL")

_MAX32 = 2**32 - 1
_MAX64 = 2**64 - 1
_FULL_FLAGS = (
    FILEXFER_ATTR_SIZE
    | FILEXFER_ATTR_OWNERGROUP
    | FILEXFER_ATTR_PERMISSIONS
    | FILEXFER_ATTR_ACMODTIME
)
_KNOWN_FLAGS = _FULL_FLAGS | FILEXFER_ATTR_EXTENDED


class Reader:
    """The fields of a request's body, in order; a field that is not there raises Malformed.

    Bytes behind the last field are ignored, as OpenSSH's server does: rclone's SFTP library sends
    the last WRITE of a file as a full packet of which only the beginning is data.
    """

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def _number(self, layout: struct.Struct) -> int:
        at = self._at
        if at + layout.size > len(self._body):
            raise Malformed("The request is too short.")
        self._at = at + layout.size
        return int(layout.unpack_from(self._body, at)[0])

    def uint32(self) -> int:
        """Four bytes as a number."""
        return self._number(_UINT32)

    def uint64(self) -> int:
        """Eight bytes as a number."""
        return self._number(_UINT64)

    def string(self) -> bytes:
        """A string."""
        size = self.uint32()
        at = self._at
        if at + size > len(self._body):
            raise Malformed("A string in the request is longer than the request.")
        self._at = at + size
        return self._body[at : self._at]

    def attrs(self) -> Attrs:
        """Attributes; flags that version 3 does not have hide what follows, so they are refused."""
        flags = self.uint32()
        if flags & ~_KNOWN_FLAGS:
            raise Malformed("The request has attributes that SFTP version 3 does not know.")
        attrs: Attrs = {}
        if flags & FILEXFER_ATTR_SIZE:
            attrs["size"] = self.uint64()
        if flags & FILEXFER_ATTR_OWNERGROUP:
            attrs["uid"], attrs["gid"] = self.uint32(), self.uint32()
        if flags & FILEXFER_ATTR_PERMISSIONS:
            attrs["permissions"] = self.uint32()
        if flags & FILEXFER_ATTR_ACMODTIME:
            attrs["atime"], attrs["mtime"] = self.uint32(), self.uint32()
        if flags & FILEXFER_ATTR_EXTENDED:
            for _ in range(self.uint32()):
                name = self.string().decode("utf-8", "replace")
                attrs["ext_" + name] = self.string()
        return attrs

    def pairs(self) -> dict[bytes, bytes]:
        """The rest as pairs of strings."""
        found = {}
        while self._at < len(self._body):
            name = self.string()
            found[name] = self.string()
        return found

    def rest(self) -> bytes:
        """Whatever is left."""
        at, self._at = self._at, len(self._body)
        return self._body[at:]


def string(data: bytes) -> bytes:
    """A string as it goes on the wire."""
    return _UINT32.pack(len(data)) + data


def pack_attrs(attrs: Mapping[str, Any]) -> bytes:
    """Attributes as they go on the wire; numbers are clamped to what version 3 can say."""
    get = attrs.get
    size, uid, gid, mode = get("size"), get("uid"), get("gid"), get("permissions")
    mtime = get("mtime", get("atime"))
    atime = get("atime", mtime)
    extended = [
        (key[4:].encode("utf-8", "replace"), value)
        for key, value in attrs.items()
        if key.startswith("ext_")
    ]
    if None not in (size, uid, gid, mode, mtime) and not extended:
        return _FULL_ATTRS.pack(
            _FULL_FLAGS,
            _clamp(size, _MAX64),
            *(_clamp(value, _MAX32) for value in (uid, gid, mode, atime, mtime)),
        )
    flags = 0
    fields = []
    if size is not None:
        flags |= FILEXFER_ATTR_SIZE
        fields.append(_UINT64.pack(_clamp(size, _MAX64)))
    if uid is not None and gid is not None:
        flags |= FILEXFER_ATTR_OWNERGROUP
        fields.append(_PAIR.pack(_clamp(uid, _MAX32), _clamp(gid, _MAX32)))
    if mode is not None:
        flags |= FILEXFER_ATTR_PERMISSIONS
        fields.append(_UINT32.pack(_clamp(mode, _MAX32)))
    if mtime is not None:
        flags |= FILEXFER_ATTR_ACMODTIME
        fields.append(_PAIR.pack(_clamp(atime, _MAX32), _clamp(mtime, _MAX32)))
    if extended:
        flags |= FILEXFER_ATTR_EXTENDED
        fields.append(_UINT32.pack(len(extended)))
        fields += [string(name) + string(value) for name, value in extended]
    return _UINT32.pack(flags) + b"".join(fields)


def _clamp(value: Any, largest: int) -> int:
    return min(max(int(value), 0), largest)


def pack_entry(name: bytes, longname: bytes, attrs: Mapping[str, Any]) -> bytes:
    """One name of a NAME answer."""
    return b"".join(
        (
            _UINT32.pack(len(name)),
            name,
            _UINT32.pack(len(longname)),
            longname,
            pack_attrs(attrs),
        )
    )


def pack_listed(name: bytes, longname: bytes, size: int | None, mode: int, mtime: int) -> bytes:
    """As `pack_entry` for what a folder lists, of which there may be ten thousand.

    Owner and group are 0, the access time is the modification time; an unknown size is left out.
    The numbers have to fit: 64 bits for the size, 32 for the others.
    """
    lengths = _UINT32.pack(len(name)), _UINT32.pack(len(longname))
    if size is None:
        attrs = _LISTED_NO_SIZE.pack(_FULL_FLAGS & ~FILEXFER_ATTR_SIZE, 0, 0, mode, mtime, mtime)
    else:
        attrs = _FULL_ATTRS.pack(_FULL_FLAGS, size, 0, 0, mode, mtime, mtime)
    return b"".join((lengths[0], name, lengths[1], longname, attrs))


def stat_answer(request_id: int, size: int | None, mode: int, mtime: int) -> bytes:
    """As `attributes` for what a STAT tells; the numbers have to fit, as for `pack_listed`."""
    if size is None:
        flags = _FULL_FLAGS & ~FILEXFER_ATTR_SIZE
        return _STAT_NO_SIZE.pack(29, FXP_ATTRS, request_id, flags, 0, 0, mode, mtime, mtime)
    return _STAT.pack(37, FXP_ATTRS, request_id, _FULL_FLAGS, size, 0, 0, mode, mtime, mtime)


def data_head(request_id: int, size: int) -> bytes:
    """What goes before the bytes of a DATA answer."""
    return _DATA_HEAD.pack(size + 9, FXP_DATA, request_id, size)


def status(request_id: int, code: int, text: bytes) -> bytes:
    """A STATUS answer; its language tag is empty, as OpenSSH's."""
    head = _STATUS_HEAD.pack(len(text) + 17, FXP_STATUS, request_id, code, len(text))
    return head + text + b"\x00\x00\x00\x00"


def _answer(kind: int, request_id: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body) + 5, kind, request_id) + body


def handle(request_id: int, handle_id: bytes) -> bytes:
    """A HANDLE answer."""
    return _answer(FXP_HANDLE, request_id, string(handle_id))


def attributes(request_id: int, attrs: Mapping[str, Any]) -> bytes:
    """An ATTRS answer."""
    return _answer(FXP_ATTRS, request_id, pack_attrs(attrs))


def names(request_id: int, entries: list[bytes]) -> bytes:
    """A NAME answer of packed entries."""
    return _answer(FXP_NAME, request_id, _UINT32.pack(len(entries)) + b"".join(entries))


def extended_reply(request_id: int, body: bytes) -> bytes:
    """An EXTENDED_REPLY."""
    return _answer(FXP_EXTENDED_REPLY, request_id, body)
