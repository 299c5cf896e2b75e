"""Everything one user sees of Immich, as the sync stream tells it, line by line.

The stream gives assets before albums, albums before their links, and exif after both; a row that
Immich wrote while it was sending may miss its partner until the next delta, which `incomplete`
tells.  The lines are those of `sync.json` and `sync_shared.json`; one that is not understood
raises BadAnswer, and then the tables are worth nothing any more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from immich_conch.errors import BadAnswer, MirrorTooLarge
from immich_conch.library.motion import HIDDEN_LOOKS, LEFT_LOOKS
from immich_conch.library.records import (
    TRASHED,
    VIDEO,
    AlbumRecord,
    AssetRecord,
    common_id,
    raw_id,
    text,
)

#: Our key in the assets' own metadata (BEHAVIOUR, section 6).
METADATA_KEY = "immich-conch"

Exif = tuple[int | None, str, int | None]
"""Size in bytes, description, rating."""


class Tables:
    """Albums, assets, links and notes.  `revisions` goes on counting when tables are replaced."""

    def __init__(self, user: bytes, max_assets: int, revisions: count[int]) -> None:
        self.user = user
        self.albums: dict[bytes, AlbumRecord] = {}
        self.assets: dict[bytes, AssetRecord] = {}
        self.notes: dict[bytes, Mapping[str, Any]] = {}
        self._max_assets = max_assets
        self._revisions = revisions
        #: Motion part -> its stills.
        self._stills: dict[bytes, tuple[AssetRecord, ...]] = {}
        #: What was told before the thing it belongs to.
        self._loose_links: set[tuple[bytes, bytes]] = set()
        self._loose_users: dict[bytes, dict[bytes, str]] = {}
        self._loose_exif: dict[bytes, Exif] = {}
        #: Videos that may just be becoming motion parts, and how many deltas more are to tell.
        self.parting: dict[AssetRecord, int] = {}
        #: Others' assets that may be in no album any more.
        self._maybe_gone: set[AssetRecord] = set()
        self._shared_tuples: dict[tuple[AlbumRecord, ...], tuple[AlbumRecord, ...]] = {}
        self._lines = self._handlers()

    def _handlers(self) -> dict[str, Callable[[Mapping[str, Any]], None]]:
        lines: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "SyncAckV1": lambda data: None,
            "AssetDeleteV1": self._asset_gone,
            "AssetExifV1": self._exif,
            "AssetMetadataV1": self._note,
            "AssetMetadataDeleteV1": self._note_gone,
            "AlbumDeleteV1": self._album_gone,
            "AlbumUserV1": self._user,
            "AlbumUserBackfillV1": self._user,
            "AlbumUserDeleteV1": self._user_gone,
            "AlbumToAssetV1": self._link,
            "AlbumToAssetBackfillV1": self._link,
            "AlbumToAssetDeleteV1": self._unlink,
        }
        for version in ("V1", "V2"):
            lines[f"Asset{version}"] = self._asset
            lines[f"Album{version}"] = self._album
            for form in ("Create", "Update", "Backfill"):
                lines[f"AlbumAsset{form}{version}"] = self._album_asset
                lines[f"AlbumAssetExif{form}{version}"] = self._album_exif
        return lines

    def apply(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Enter lines; raises BadAnswer and MirrorTooLarge, after which these tables are void."""
        for line in lines:
            kind = line["type"]
            handler = self._lines.get(kind)
            if handler is None:
                raise BadAnswer(f"Immich sent a line of an unknown type, {kind[:40]}.")
            try:
                handler(line["data"])
            except (KeyError, TypeError, ValueError) as error:
                raise BadAnswer(f"Immich sent a line that was not understood, {kind}.") from error

    def finish(self) -> None:
        """A stream has ended: what came too early finds its partner, what nobody sees goes."""
        for album_id, asset_id in list(self._loose_links):
            if album_id in self.albums and asset_id in self.assets:
                self._loose_links.discard((album_id, asset_id))
                self.link(self.albums[album_id], self.assets[asset_id])
        awaited = {asset_id for _, asset_id in self._loose_links}
        for record in self._maybe_gone:
            alone = not record.albums and record.owner != self.user
            if alone and record.id in self.assets and record.id not in awaited:
                self._drop(record)
        self._maybe_gone.clear()
        for record, looks in list(self.parting.items()):
            there = self.assets.get(record.id) is record and not record.flags & TRASHED
            if looks > 1 and there and record.id not in self._stills:
                self.parting[record] = looks - 1
            else:
                del self.parting[record]
        self._shared_tuples.clear()

    @property
    def incomplete(self) -> bool:
        """Whether something is linked that has not been told, or an album has no owner."""
        return bool(self._loose_links) or any(
            album.owner_id() is None for album in self.albums.values()
        )

    def touch(self, album: AlbumRecord, record: AssetRecord | None = None) -> None:
        """Something that the album's folder shows has changed; with `record`, of that member."""
        album.revision = next(self._revisions)
        if record is not None and album.log is not None:
            album.log.enter(record.id, album.revision)

    def touch_asset(self, record: AssetRecord) -> None:
        """Something that is shown of an asset has changed; of a motion part, beside its still."""
        for album in record.albums:
            self.touch(album, record)
        for still in self._stills.get(record.id, ()):
            for album in still.albums:
                self.touch(album, still)

    def log(self, record: AssetRecord) -> None:
        """More has become known of an asset, which is no reason to look at its albums again.

        Who looks for another reason is told.
        """
        for album in record.albums:
            if album.log is not None:
                album.log.enter(record.id, next(self._revisions))

    def stills(self, part: bytes) -> tuple[AssetRecord, ...]:
        """The live photos that a video is the motion part of."""
        return self._stills.get(part, ())

    # -- assets ---------------------------------------------------------------------------------

    def _asset(self, data: Mapping[str, Any]) -> None:
        key, owner = raw_id(data["id"]), common_id(data["ownerId"])
        record = self.assets.get(key)
        new = record is None
        if record is None:
            if len(self.assets) >= self._max_assets:
                raise MirrorTooLarge
            record = AssetRecord(key)
        live, listed = record.live, record.listed
        changed = record.told(data, self._same(owner))
        if new:
            self.assets[key] = record
            if key in self._loose_exif:
                record.measured(self._loose_exif.pop(key))
            if owner != self.user:
                self._maybe_gone.add(record)
        if record.live != live:
            self._forget_still(live, record)
            if record.live is not None:
                stills = self._stills.get(record.live, ())
                self._stills[record.live] = (*stills, record)
        if listed and record.flags & VIDEO and record.visibility == "hidden":
            self.parting[record] = HIDDEN_LOOKS + 1
        if record.listed != listed:
            for album in record.albums:
                album.listed += record.listed - listed
        if changed:
            self.touch_asset(record)

    def _album_asset(self, data: Mapping[str, Any]) -> None:
        """An asset because of an album; the user's own come by lines of their own, too.

        Those come first, in the same stream and in the same state, and are most of a library: it
        is loaded a sixth quicker if the second ones are not taken apart.
        """
        if common_id(data["ownerId"]) != self.user or raw_id(data["id"]) not in self.assets:
            self._asset(data)

    def _same(self, owner: bytes) -> bytes:
        """One object for the user's own id, which is what nearly all assets have."""
        return self.user if owner == self.user else owner

    def _forget_still(self, part: bytes | None, record: AssetRecord) -> None:
        if part is None:
            return
        left = tuple(one for one in self._stills.get(part, ()) if one is not record)
        if left:
            self._stills[part] = left
        else:
            self._stills.pop(part, None)

    def _asset_gone(self, data: Mapping[str, Any]) -> None:
        record = self.assets.get(raw_id(data["assetId"]))
        if record is not None:
            self._drop(record)

    def _drop(self, record: AssetRecord) -> None:
        self.touch_asset(record)
        for album in record.albums:
            album.members.discard(record)
            album.listed -= record.listed
        record.albums = ()
        self._forget_still(record.live, record)
        self.notes.pop(record.id, None)
        del self.assets[record.id]

    def _exif(self, data: Mapping[str, Any]) -> None:
        key = raw_id(data["assetId"])
        size, rating = data["fileSizeInByte"], data["rating"]
        told: Exif = (
            None if size is None else int(size),
            sys.intern(str(data["description"] or "")),
            None if rating is None else int(rating),
        )
        record = self.assets.get(key)
        if record is None:
            self._loose_exif[key] = told
        elif record.measured(told):
            self.touch_asset(record)

    def _album_exif(self, data: Mapping[str, Any]) -> None:
        """As `_album_asset`, of an asset whose size has come."""
        record = self.assets.get(raw_id(data["assetId"]))
        if record is None or record.size is None or record.owner != self.user:
            self._exif(data)

    # -- notes ----------------------------------------------------------------------------------

    def _note(self, data: Mapping[str, Any]) -> None:
        key, value = raw_id(data["assetId"]), data["value"]
        if data["key"] == METADATA_KEY and self.notes.get(key) != value:
            if not isinstance(value, Mapping):
                raise BadAnswer("Immich sent metadata that is no object.")
            self.notes[key] = value
            if key in self.assets:
                self.touch_asset(self.assets[key])

    def _note_gone(self, data: Mapping[str, Any]) -> None:
        key = raw_id(data["assetId"])
        if data["key"] != METADATA_KEY or self.notes.pop(key, None) is None:
            return
        if key in self.assets:
            self.touch_asset(self.assets[key])

    # -- albums ---------------------------------------------------------------------------------

    def _album(self, data: Mapping[str, Any]) -> None:
        key = raw_id(data["id"])
        album = self.albums.get(key)
        if album is None:
            album = AlbumRecord(key)
            album.users = self._loose_users.pop(key, {})
            self.albums[key] = album
        album.told(data)
        self.touch(album)

    def _album_gone(self, data: Mapping[str, Any]) -> None:
        key = raw_id(data["albumId"])
        self._loose_users.pop(key, None)
        self._loose_links = {link for link in self._loose_links if link[0] != key}
        album = self.albums.pop(key, None)
        for record in () if album is None else list(album.members):
            self._part(album, record)  # type: ignore[arg-type]

    def _user(self, data: Mapping[str, Any]) -> None:
        key = raw_id(data["albumId"])
        album = self.albums.get(key)
        users = self._loose_users.setdefault(key, {}) if album is None else album.users
        users[self._same(raw_id(data["userId"]))] = sys.intern(text(data, "role"))
        if album is not None:
            self.touch(album)

    def _user_gone(self, data: Mapping[str, Any]) -> None:
        key, user = raw_id(data["albumId"]), raw_id(data["userId"])
        album = self.albums.get(key)
        users = self._loose_users.get(key, {}) if album is None else album.users
        if users.pop(user, None) is not None and album is not None:
            self.touch(album)

    # -- links ----------------------------------------------------------------------------------

    def _link(self, data: Mapping[str, Any]) -> None:
        album_id, asset_id = common_id(data["albumId"]), raw_id(data["assetId"])
        album, record = self.albums.get(album_id), self.assets.get(asset_id)
        if album is None or record is None:
            self._loose_links.add((album_id, asset_id))
        else:
            self.link(album, record)

    def link(self, album: AlbumRecord, record: AssetRecord) -> None:
        """Put an asset into an album."""
        if record not in album.members:
            album.members.add(record)
            album.listed += record.listed
            self._set_albums(record, (*record.albums, album))
            self.touch(album, record)

    def _unlink(self, data: Mapping[str, Any]) -> None:
        album_id, asset_id = common_id(data["albumId"]), raw_id(data["assetId"])
        self._loose_links.discard((album_id, asset_id))
        album, record = self.albums.get(album_id), self.assets.get(asset_id)
        if album is not None and record is not None and record in album.members:
            self._part(album, record)
            if record.flags & VIDEO:
                self.parting.setdefault(record, LEFT_LOOKS + 1)

    def _part(self, album: AlbumRecord, record: AssetRecord) -> None:
        album.members.discard(record)
        album.listed -= record.listed
        self._set_albums(record, tuple(one for one in record.albums if one is not album))
        self.touch(album, record)
        if record.owner != self.user:
            self._maybe_gone.add(record)

    def _set_albums(self, record: AssetRecord, albums: tuple[AlbumRecord, ...]) -> None:
        record.albums = self._shared_tuples.setdefault(albums, albums)
