"""What a mirror holds of each asset and album: small things with raw ids, values made on demand.

100,000 assets are to fit into 80 MB (benchmarks/mirror_memory.py), so an id is its 16 bytes, a
checksum its 20, and texts that many share are one text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from immich_conch.errors import BadAnswer
from immich_conch.immich.model import Album, Asset, Role, parse_checksum, parse_time
from immich_conch.library.change_log import ChangeLog

TRASHED, VIDEO, FAVORITE, EXTERNAL = 1, 2, 4, 8


def raw_id(text: Any) -> bytes:
    """The 16 bytes of an id; raises BadAnswer for what is no UUID."""
    if isinstance(text, str) and len(text) == 36:
        try:
            raw = bytes.fromhex(text.replace("-", ""))
        except ValueError:
            raw = b""
        if len(raw) == 16:
            return raw
    raise BadAnswer("Immich named an id that is none.")


@lru_cache(maxsize=1024)
def common_id(text: Any) -> bytes:
    """As `raw_id`, of an owner or an album, which thousands of lines name."""
    return raw_id(text)


def text_id(raw: bytes) -> str:
    """An id as Immich writes it."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class AssetRecord:
    """One asset.  `created` is None until it is known; 2.x's stream does not tell it."""

    __slots__ = (
        "albums",
        "checksum",
        "created",
        "description",
        "flags",
        "id",
        "live",
        "modified",
        "name",
        "owner",
        "rating",
        "size",
        "taken",
        "visibility",
    )

    def __init__(self, key: bytes) -> None:
        self.id = key
        #: The albums it is in; assets of the same albums share one tuple.
        self.albums: tuple[AlbumRecord, ...] = ()
        self.name = ""
        self.owner = b""
        self.modified = self.taken = 0.0
        self.created: float | None = None
        self.visibility = ""
        self.flags = 0
        self.size: int | None = None
        self.checksum: bytes | None = None
        self.live: bytes | None = None
        self.description = ""
        self.rating: int | None = None

    def told(self, data: Mapping[str, Any], owner: bytes) -> bool:
        """Take over what a line of the stream says; whether anything is new.  Raises BadAnswer."""
        external = data["libraryId"] is not None
        flags = (
            (TRASHED if data["deletedAt"] is not None else 0)
            | (VIDEO if data["type"] == "VIDEO" else 0)
            | (FAVORITE if data["isFavorite"] else 0)
            | (EXTERNAL if external else 0)
        )
        live = data["livePhotoVideoId"]
        modified = parse_time(data["fileModifiedAt"])
        if data["fileCreatedAt"] == data["fileModifiedAt"]:
            taken = modified
        else:
            taken = parse_time(data["fileCreatedAt"])
        told = (
            text(data, "originalFileName"),
            owner,
            modified,
            taken,
            sys.intern(text(data, "visibility")),
            flags,
            None if external else parse_checksum(text(data, "checksum")),
            None if live is None else raw_id(live),
        )
        if data.get("createdAt") is not None:
            self.created = parse_time(data["createdAt"])
        if told == self._told():
            return False
        (
            self.name,
            self.owner,
            self.modified,
            self.taken,
            self.visibility,
            self.flags,
            self.checksum,
            self.live,
        ) = told
        return True

    def _told(self) -> tuple[Any, ...]:
        return (
            self.name,
            self.owner,
            self.modified,
            self.taken,
            self.visibility,
            self.flags,
            self.checksum,
            self.live,
        )

    def measured(self, exif: tuple[int | None, str, int | None]) -> bool:
        """Take over size, description and rating; whether anything is new."""
        if exif == (self.size, self.description, self.rating):
            return False
        self.size, self.description, self.rating = exif
        return True

    @property
    def listed(self) -> bool:
        """Whether an album's folder shows it (Asset.listed)."""
        return not self.flags & TRASHED and self.visibility in ("timeline", "archive")

    def value(self) -> Asset:
        """The asset as the listings have it; `created` is 0 where it is not known."""
        flags = self.flags
        return Asset(
            id=text_id(self.id),
            name=self.name,
            owner_id=text_id(self.owner),
            modified=self.modified,
            taken=self.taken,
            created=self.created or 0.0,
            visibility=self.visibility,
            trashed=bool(flags & TRASHED),
            size=self.size,
            checksum=self.checksum,
            is_video=bool(flags & VIDEO),
            favorite=bool(flags & FAVORITE),
            external=bool(flags & EXTERNAL),
            live_photo_video_id=None if self.live is None else text_id(self.live),
            description=self.description,
            rating=self.rating,
        )


class AlbumRecord:
    """One album.  `revision` changes whenever anything its folder shows has changed.

    `listed` is how many of its members the folder lists.  `log` says what has changed since
    somebody looked first; until then nobody needs it.
    """

    __slots__ = (
        "created",
        "description",
        "id",
        "listed",
        "log",
        "members",
        "name",
        "owner",
        "revision",
        "updated",
        "users",
    )

    def __init__(self, key: bytes) -> None:
        self.id = key
        self.name = self.description = ""
        #: Named by 2.x; 3.x names it as the album user of role `owner`.
        self.owner: bytes | None = None
        self.created = self.updated = 0.0
        self.users: dict[bytes, str] = {}
        self.members: set[AssetRecord] = set()
        self.revision = 0
        self.listed = 0
        self.log: ChangeLog | None = None

    def told(self, data: Mapping[str, Any]) -> None:
        """Take over what a line of the stream says; raises BadAnswer."""
        self.name = text(data, "name")
        self.description = text(data, "description")
        self.created = parse_time(data["createdAt"])
        self.updated = parse_time(data["updatedAt"])
        if "ownerId" in data:
            self.owner = raw_id(data["ownerId"])

    def owner_id(self) -> bytes | None:
        """Whose album it is, or None as long as the stream has not told."""
        if self.owner is not None:
            return self.owner
        return next((user for user, role in self.users.items() if role == "owner"), None)

    def mark(self, revision: int) -> int:
        """From here on what changes is logged; `revision` is a new one, and stands for now."""
        if self.log is None:
            self.log = ChangeLog(revision)
        return revision

    def value(self, user: bytes) -> Album:
        """The album as `user` sees it in the listings, with a validator of one number."""
        owner = self.owner_id() or b"\0" * 16
        role: Role = "viewer"
        if owner == user:
            role = "owner"
        elif self.users.get(user) == "editor":
            role = "editor"
        return Album(
            id=text_id(self.id),
            name=self.name,
            description=self.description,
            owner_id=text_id(owner),
            role=role,
            created=self.created,
            updated=self.updated,
            asset_count=self.listed,
            validator=(self.revision,),
        )


def text(data: Mapping[str, Any], key: str) -> str:
    """A text of a line; raises BadAnswer where there is none."""
    value = data[key]
    if not isinstance(value, str):
        raise BadAnswer(f"Immich's sync stream has no text in {key}.")
    return value
