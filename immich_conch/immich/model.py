"""Immich's things as frozen values: users, albums, assets, versions.

`from_json` is strict on the fields this project uses and tolerant of all others, so that a new
Immich release with more fields changes nothing, and one with fewer fails loudly instead of
inventing an absence.  Times are POSIX seconds (float, UTC); sizes are bytes; checksums are the
20 raw bytes of a SHA-1.  Source of the shapes: the recordings of Immich 2.5.6 and 3.1.0.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from attrs import field, frozen

from immich_conch.errors import BadAnswer

Role = Literal["owner", "editor", "viewer"]


_CUT_OUT = re.compile(r"(^|/)encoded-video/.*-MP\.mp4$", re.IGNORECASE)


@frozen(order=True)
class Version:
    """An Immich server version as `GET /server/version` names it."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def from_json(cls, data: Any) -> Version:
        """Parse `{major, minor, patch}`; raises BadAnswer."""
        return cls(_int(data, "major"), _int(data, "minor"), _int(data, "patch"))


@frozen
class User:
    """The owner of a session: `GET /users/me`.  Quota figures are bytes; None is no quota.

    `updated` is when anything of the user changed, as Immich writes it, or empty.
    """

    id: str
    email: str
    name: str
    quota_size: int | None = None
    quota_used: int | None = None
    updated: str = ""

    @classmethod
    def from_json(cls, data: Any) -> User:
        """Parse a user answer; raises BadAnswer."""
        return cls(
            id=_str(data, "id"),
            email=_str(data, "email"),
            name=_str(data, "name"),
            quota_size=_opt_int(data, "quotaSizeInBytes"),
            quota_used=_opt_int(data, "quotaUsageInBytes"),
            updated=str(data.get("updatedAt") or ""),
        )


@frozen
class Album:
    """One album as a listing shows it.

    `role` is what the session's user is in it.  `validator` changes whenever the album's content
    may have changed (FACTS.md: removing an asset does not move `updatedAt`, so five fields
    together are the validator).
    """

    id: str
    name: str
    description: str
    owner_id: str
    role: Role
    created: float
    updated: float
    asset_count: int
    validator: tuple[object, ...]

    @classmethod
    def from_json(cls, data: Any, user_id: str) -> Album:
        """Parse an album of either dialect as `user_id` sees it; raises BadAnswer.

        3.x names the owner as the album user of role `owner`; 2.x has `ownerId` and lists only
        the others in `albumUsers`.
        """
        owner_id = data.get("ownerId") if isinstance(data, dict) else None
        role: Role = "viewer"
        for entry in _list(data, "albumUsers"):
            entry_role = _str(entry, "role")
            entry_user = _str(entry.get("user"), "id")
            if entry_role == "owner":
                owner_id = entry_user
            elif entry_user == user_id and entry_role == "editor":
                role = "editor"
        if not isinstance(owner_id, str):
            raise BadAnswer("Immich named no owner of an album.")
        if owner_id == user_id:
            role = "owner"
        updated = _str(data, "updatedAt")
        count = _int(data, "assetCount")
        return cls(
            id=_str(data, "id"),
            name=_str(data, "albumName"),
            description=_str(data, "description"),
            owner_id=owner_id,
            role=role,
            created=parse_time(_str(data, "createdAt")),
            updated=parse_time(updated),
            asset_count=count,
            validator=(
                updated,
                count,
                data.get("lastModifiedAssetTimestamp"),
                data.get("startDate"),
                data.get("endDate"),
            ),
        )


@frozen
class Asset:
    """One asset.

    `size` is None where Immich does not know it (no exif yet, or an external library); `checksum`
    is None for external-library assets, whose checksum is one of the path (FACTS.md).
    `modified` is `fileModifiedAt`, which Immich never changes; `created` is the time the asset
    row was made in Immich (`createdAt`), which decides who keeps a name; `taken` is
    `fileCreatedAt`, which moves to the EXIF date.
    """

    id: str
    name: str
    owner_id: str
    modified: float
    taken: float
    created: float
    visibility: str
    trashed: bool
    size: int | None
    checksum: bytes | None
    is_video: bool = False
    offline: bool = False
    favorite: bool = False
    external: bool = False
    live_photo_video_id: str | None = None
    #: Whether Immich itself cut it out of a motion photo (FACTS.md): it was never a file.
    cut_out: bool = False
    description: str = ""
    rating: int | None = None
    #: `localDateTime`, the wall clock where it was taken, as if that were UTC; only REST tells
    #: it, so it is no part of what makes two assets equal.
    local: float | None = field(default=None, eq=False)
    #: Ids of its tags; only `GET /assets/{id}` tells them, not a listing.
    tags: tuple[str, ...] = ()

    @property
    def listed(self) -> bool:
        """Whether an album's folder shows it: not trashed, not hidden, not locked."""
        return not self.trashed and self.visibility in ("timeline", "archive")

    @classmethod
    def from_json(cls, data: Any) -> Asset:
        """Parse an asset answer of either dialect; raises BadAnswer."""
        exif = data.get("exifInfo") if isinstance(data, dict) else None
        if not isinstance(exif, dict):
            exif = {}
        external = data.get("libraryId") is not None
        live = data.get("livePhotoVideoId")
        return cls(
            id=_str(data, "id"),
            name=_str(data, "originalFileName"),
            owner_id=_str(data, "ownerId"),
            modified=parse_time(_str(data, "fileModifiedAt")),
            taken=parse_time(_str(data, "fileCreatedAt")),
            created=parse_time(_str(data, "createdAt")),
            visibility=_str(data, "visibility"),
            trashed=_bool(data, "isTrashed"),
            size=_opt_int(exif, "fileSizeInByte"),
            checksum=None if external else parse_checksum(_str(data, "checksum")),
            is_video=data.get("type") == "VIDEO",
            offline=bool(data.get("isOffline")),
            favorite=bool(data.get("isFavorite")),
            external=external,
            live_photo_video_id=live if isinstance(live, str) else None,
            cut_out=_CUT_OUT.search(str(data.get("originalPath") or "")) is not None,
            description=str(exif.get("description") or ""),
            rating=_opt_int(exif, "rating"),
            local=parse_time(data["localDateTime"]) if data.get("localDateTime") else None,
            tags=tuple(_str(tag, "id") for tag in data.get("tags") or ()),
        )


@frozen
class Tag:
    """A tag; `value` is its whole path (`Places/Rome`), `created` POSIX seconds."""

    id: str
    value: str
    created: float

    @classmethod
    def from_json(cls, data: Any) -> Tag:
        """Parse a tag; raises BadAnswer."""
        return cls(_str(data, "id"), _str(data, "value"), parse_time(_str(data, "createdAt")))


@frozen
class Person:
    """Somebody whose face Immich found; the name is empty until a user gives one."""

    id: str
    name: str

    @classmethod
    def from_json(cls, data: Any) -> Person:
        """Parse a person; raises BadAnswer."""
        return cls(_str(data, "id"), _str(data, "name"))


@frozen
class Known:
    """What `bulk-upload-check` says of a checksum that Immich has."""

    asset_id: str
    trashed: bool


@frozen
class Storage:
    """The server's disk, in bytes (`GET /server/storage`)."""

    size: int
    used: int
    available: int


@frozen
class MediaTypes:
    """Extensions Immich takes, lower case with their dot (`GET /server/media-types`)."""

    image: frozenset[str]
    video: frozenset[str]
    sidecar: frozenset[str]

    @classmethod
    def from_json(cls, data: Any) -> MediaTypes:
        """Parse the three lists; raises BadAnswer."""
        return cls(
            *(
                frozenset(str(extension).lower() for extension in _list(data, key))
                for key in ("image", "video", "sidecar")
            )
        )

    def takes(self, extension: str) -> bool:
        """Whether a file with this extension (`.jpg`, any case) can become an asset."""
        return extension.lower() in self.image or extension.lower() in self.video


@frozen
class NewAsset:
    """What an upload tells Immich besides the bytes.  Times are POSIX seconds.

    `metadata` are items of the asset's own metadata, stored with the upload.
    """

    name: str
    modified: float
    created: float
    size: int
    checksum: bytes
    metadata: tuple[Mapping[str, Any], ...] = ()


@frozen
class Uploaded:
    """Immich's answer to an upload: the asset, and whether it had these bytes already."""

    asset_id: str
    duplicate: bool


def parse_time(text: str) -> float:
    """POSIX seconds of an ISO 8601 time with `Z` or an offset; raises BadAnswer.

    A naive time is taken as UTC, as Immich means it.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadAnswer(f"Immich named a time that is none: {text[:40]!r}.") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def parse_checksum(text: str) -> bytes:
    """The 20 bytes of a SHA-1 in base64; raises BadAnswer."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadAnswer("Immich named a checksum that is none.") from error
    if len(raw) != 20:
        raise BadAnswer("Immich named a checksum that is no SHA-1.")
    return raw


def _field(data: Any, key: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise BadAnswer(f"Immich's answer lacks {key}.")
    return data[key]


def _str(data: Any, key: str) -> str:
    value = _field(data, key)
    if not isinstance(value, str):
        raise BadAnswer(f"Immich's answer has no text in {key}.")
    return value


def _int(data: Any, key: str) -> int:
    value = _field(data, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadAnswer(f"Immich's answer has no number in {key}.")
    return value


def _bool(data: Any, key: str) -> bool:
    value = _field(data, key)
    if not isinstance(value, bool):
        raise BadAnswer(f"Immich's answer has no truth value in {key}.")
    return value


def _opt_int(data: Any, key: str) -> int | None:
    value = data.get(key) if isinstance(data, dict) else None
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _list(data: Any, key: str) -> list[Any]:
    value = _field(data, key)
    if not isinstance(value, list):
        raise BadAnswer(f"Immich's answer has no list in {key}.")
    return value
