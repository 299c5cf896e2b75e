"""What Immich cannot hold, as one value in an asset's own metadata (section 6).

Immich keeps one name and one time an asset and changes neither.  Other names, second names and
other times stand under the key `immich-conch`; `docs/metadata.rst` describes the value for other
programs.  Everything here is pure.  A value of a version that is not known is ignored and never
written over; what else somebody put there that makes no sense is passed over entry by entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from immich_conch.errors import Refused
from immich_conch.immich.model import Asset
from immich_conch.library import names

KEY = "immich-conch"
"""The key of the asset's metadata."""

VERSION = 1
"""The version that is written here, and the only one that is understood."""

MAX_TIME = 0xFFFF_FFFF
"""POSIX seconds: the latest time that SFTP v3 can say."""

MAX_VALUE_BYTES = 65_536
"""UTF-8 bytes of a whole value: hundreds of names an asset, and a bound for what Immich stores."""

Value = Mapping[str, Any]


@frozen
class Link:
    """One place of an asset in an album: the name it wants there, and its time in whole seconds."""

    name: str
    time: int

    @property
    def key(self) -> str:
        """What makes it the same link: its name in any Unicode form."""
        return names.fold(self.name)


def own_link(asset: Asset) -> Link:
    """How an asset is shown where nothing is noted."""
    return Link(asset.name, whole(asset.modified))


def whole(seconds: float) -> int:
    """A time in whole seconds, as SFTP v3 can say it."""
    return min(max(int(seconds // 1), 0), MAX_TIME)


def understood(value: Value | None) -> bool:
    """Whether a value may be written over: there is none, or it is of our version."""
    if value is None:
        return True
    if not isinstance(value, Mapping):
        return False
    version = value.get("v")
    return isinstance(version, int) and not isinstance(version, bool) and version == VERSION


def links(value: Value | None, album_id: str, asset: Asset) -> tuple[Link, ...]:
    """The links of an asset in an album that holds it; always one at least, each name once."""
    found: dict[str, Link] = {}
    for entry in _entries(value, album_id):
        link = _link(entry, asset)
        if link is not None:
            found.setdefault(link.key, link)
    return tuple(found.values()) or (own_link(asset),)


def noted(value: Value | None, album_id: str) -> bool:
    """Whether a value says anything of an album."""
    return value is not None and understood(value) and album_id in _albums(value)


def with_links(
    value: Value | None, album_id: str, asset: Asset, wanted: Iterable[Link]
) -> Value | None:
    """The value with these links in an album, or None where nothing is left to note.

    Without `wanted` the album is taken out.  Entries of other albums stay as they are, whatever
    they hold.  A value that is not understood comes back as it is where nothing is to be noted.
    Raises Refused for more than fits.
    """
    own = own_link(asset)
    entries = [_entry(link, own) for link in wanted]
    if entries == [{}]:
        entries = []
    if not understood(value):
        if not entries:
            return value
        return {"v": VERSION, "albums": {album_id: entries}}
    albums = dict(_albums(value))
    albums.pop(album_id, None)
    if entries:
        albums[album_id] = entries
    rest = {} if value is None else {k: v for k, v in value.items() if k not in ("v", "albums")}
    if not albums and not rest:
        return None
    result = {"v": VERSION, "albums": albums, **rest}
    if entries and _size(result) > max(MAX_VALUE_BYTES, _size(value)):
        raise Refused("These bytes have too many names in Immich; no more can be kept.")
    return result


def added(before: Iterable[Link], link: Link) -> tuple[Link, ...]:
    """The links with one more; one of the same name is replaced by it, in its place."""
    result = {old.key: old for old in before}
    result[link.key] = link
    return tuple(result.values())


def removed(before: Iterable[Link], name: str) -> tuple[Link, ...]:
    """The links without that of a name."""
    return tuple(link for link in before if link.key != names.fold(name))


def renamed(before: Iterable[Link], name: str, new: Link) -> tuple[Link, ...]:
    """The links with that of a name replaced by another, which takes the place of its like."""
    result: dict[str, Link] = {}
    for link in before:
        here = new if link.key == names.fold(name) else link
        if here is new or here.key != new.key:
            result[here.key] = here
    return tuple(result.values())


def find(among: Iterable[Link], name: str) -> Link | None:
    """The link of a name."""
    return next((link for link in among if link.key == names.fold(name)), None)


def _albums(value: Value | None) -> Mapping[str, Any]:
    albums = value.get("albums") if isinstance(value, Mapping) else None
    return albums if isinstance(albums, Mapping) else {}


def _entries(value: Value | None, album_id: str) -> list[Any]:
    if value is None or not understood(value):
        return []
    entries = _albums(value).get(album_id)
    return entries if isinstance(entries, list) else []


def _link(entry: Any, asset: Asset) -> Link | None:
    if not isinstance(entry, Mapping):
        return None
    own = own_link(asset)
    name, time = entry.get("name", own.name), entry.get("time", own.time)
    if not isinstance(name, str) or not name:
        return None
    if isinstance(time, bool) or not isinstance(time, int) or not 0 <= time <= MAX_TIME:
        time = own.time
    return Link(name, time)


def _entry(link: Link, own: Link) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if link.name != own.name:
        entry["name"] = link.name
    if link.time != own.time:
        entry["time"] = link.time
    return entry


def _size(value: Value | None) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
