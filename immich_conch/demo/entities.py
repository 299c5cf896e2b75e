"""The rows of the demo's tables.

Times are milliseconds since 1970.  `seq` is a row's place in the one log of changes, which plays
the part of Immich's `updateId`; `create_seq` that of `createId`.  Fields marked `_derived` are
rebuilt from other rows after a start and never stored.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, define, field

_derived: dict[Any, Any] = {"derived": True}


def row(entity: Any) -> dict[str, Any]:
    """What of an entity is stored: plain JSON."""
    return asdict(entity, filter=lambda attribute, _value: not attribute.metadata)


@define(eq=False)
class User:
    """A user; `password` is a salted hash, `quota` and `usage` are bytes."""

    id: str
    email: str
    name: str
    password: str = field(repr=False)
    created: int
    updated: int
    seq: int
    quota: int | None = None
    usage: int = 0
    admin: bool = False


@define(eq=False)
class Session:
    """A log-in; `id` is the hash of its token.

    `checkpoints` is the last acknowledged `ack` of the sync stream by line type; `completed` the
    time at which a whole stream was last acknowledged; `reset` asks the client to start over.
    """

    id: str = field(repr=False)
    user_id: str
    created: int
    checkpoints: dict[str, str] = field(factory=dict)
    completed: int | None = None
    reset: bool = False


@define(eq=False)
class ApiKey:
    """An API key; `secret` is the hash of what the client sends."""

    id: str
    secret: str = field(repr=False)
    user_id: str
    name: str
    permissions: list[str]
    created: int


@define(eq=False)
class Member:
    """A user's part in an album: `owner`, `editor` or `viewer`."""

    role: str
    seq: int
    create_seq: int


@define(eq=False)
class Statistics:
    """What an album's listing says of its content; None in an empty album."""

    count: int
    start: int | None
    end: int | None
    modified: int | None


@define(eq=False)
class Album:
    """An album; `assets` maps an asset's id to its link's place in the log of changes."""

    id: str
    owner_id: str
    name: str
    description: str
    created: int
    updated: int
    seq: int
    thumbnail: str | None = None
    order: str = "desc"
    members: dict[str, Member] = field(factory=dict)
    assets: dict[str, int] = field(factory=dict, metadata=_derived)
    statistics: Statistics | None = field(default=None, metadata=_derived)


@define(eq=False)
class Note:
    """One key of an asset's own metadata."""

    value: dict[str, Any]
    updated: int
    seq: int


@define(eq=False)
class Asset:
    """An asset.

    `taken` is `fileCreatedAt`, `modified` is `fileModifiedAt`; `checksum` is base64 of the SHA-1;
    `size` is bytes, None where unknown (external library).  `synthetic` is the seed of content
    that is made up while it is read.  `status` is `active`, `trashed` or `deleted` (on its way
    out for good).
    """

    id: str
    owner_id: str
    name: str
    type: str
    checksum: str
    size: int | None
    modified: int
    taken: int
    created: int
    updated: int
    seq: int
    exif_seq: int
    path: str
    device_asset_id: str = ""
    device_id: str = ""
    visibility: str = "timeline"
    deleted: int | None = None
    status: str = "active"
    favorite: bool = False
    description: str = ""
    rating: int | None = None
    original_date: int | None = None
    modify_date: int | None = None
    width: int | None = None
    height: int | None = None
    duration: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    live_video: str | None = None
    content_id: str | None = None
    library_id: str | None = None
    offline: bool = False
    extracted: bool = False
    synthetic: str | None = None
    notes: dict[str, Note] = field(factory=dict)
    tags: list[str] = field(factory=list)
    people: list[str] = field(factory=list)
    albums: set[str] = field(factory=set, metadata=_derived)

    @property
    def listed(self) -> bool:
        """Whether an album counts it: not trashed, neither hidden nor locked."""
        return self.deleted is None and self.visibility in ("timeline", "archive")


@define(eq=False)
class Link:
    """An asset's place in an album, as it is stored."""

    id: str
    album_id: str
    asset_id: str
    seq: int


@define(eq=False)
class Gone:
    """One line of the log of deletions; `kind` says which of the ids are set."""

    id: str
    seq: int
    kind: str
    user_id: str = ""
    album_id: str = ""
    asset_id: str = ""
    key: str = ""


@define(eq=False)
class Tag:
    """A tag; `value` is the whole path (`Places/Rome`)."""

    id: str
    user_id: str
    value: str
    parent_id: str | None
    created: int
    updated: int


@define(eq=False)
class Person:
    """Somebody whose face was found; the assets say on which of them."""

    id: str
    user_id: str
    name: str
    created: int
    updated: int
    hidden: bool = False
