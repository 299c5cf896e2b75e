"""What differs between Immich 2.x and 3.x, in one table, chosen by the server's version.

Source: FACTS.md, where both versions were recorded.  Code that asks "which version?" anywhere
else is a mistake: it asks the `Dialect` for the one property it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from immich_conch.errors import BadAnswer, TooOld
from immich_conch.immich.model import Version

OLDEST = Version(2, 0, 0)


class Misfit(BadAnswer):
    """An answer of another dialect than the one the question was asked in."""


@frozen
class Dialect:
    """One row of the table."""

    name: str
    shared_apart: bool
    """`GET /albums` gives owned albums only; the shared ones come with `?shared=true`."""
    content_in_album: bool
    """`GET /albums/{id}` carries the assets (and `?withoutAssets=true` leaves them out); else they
    come from `POST /search/metadata`, which on 2.x leaves out others' and archived assets."""
    device_fields: bool
    """`POST /assets` needs `deviceAssetId` and `deviceId`."""
    searches: tuple[Mapping[str, Any], ...]
    """What a search of the whole library is asked with in turn: 2.x leaves out what is archived
    unless it is asked for nothing else."""
    sync_types: tuple[str, ...]
    """What to ask the sync stream for."""
    owner_apart: bool | None
    """An album names its owner in `ownerId`; else as the album user of role `owner`.  None: do
    not look, the version has just been asked for."""

    def check(self, album: Any) -> Any:
        """The album of an answer, or Misfit if it is of another dialect.

        A server that was exchanged under us answers in the other one, and its answers can look
        whole without being so: 3.x's way of listing gives a 2.x server's shared albums as empty.
        """
        if self.owner_apart is None or not isinstance(album, Mapping):
            return album
        if ("ownerId" in album) != self.owner_apart:
            raise Misfit
        return album


def _sync_types(version: str) -> tuple[str, ...]:
    """3.x refuses V1 of three types (or starts and never ends), 2.5 knows no V2 of them."""
    return (
        f"Assets{version}",
        "AssetExifsV1",
        "AssetMetadataV1",
        f"Albums{version}",
        "AlbumUsersV1",
        "AlbumToAssetsV1",
        f"AlbumAssets{version}",
        "AlbumAssetExifsV1",
    )


V2 = Dialect(
    name="2.x",
    shared_apart=True,
    content_in_album=True,
    device_fields=True,
    searches=({}, {"visibility": "archive"}),
    sync_types=_sync_types("V1"),
    owner_apart=True,
)
V3 = Dialect(
    name="3.x",
    shared_apart=False,
    content_in_album=False,
    device_fields=False,
    searches=({},),
    sync_types=_sync_types("V2"),
    owner_apart=False,
)


def dialect_of(version: Version) -> Dialect:
    """The dialect a version speaks; 2.0 to 2.4 as 2.5, newer majors as 3.  Raises TooOld."""
    if version < OLDEST:
        raise TooOld(f"Immich {version} is too old; 2.0 or newer is needed.")
    return V2 if version.major == 2 else V3
