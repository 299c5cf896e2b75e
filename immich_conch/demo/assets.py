"""What can be done to assets, and who may.

An upload's EXIF data is read some time later, as in Immich; that moves `fileCreatedAt`, never
`fileModifiedAt`.  Deleting for good is done a little later, too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from immich_conch.demo import exif
from immich_conch.demo.albums import Albums
from immich_conch.demo.entities import Asset, Note, User
from immich_conch.demo.refusals import Refusal, no_access
from immich_conch.demo.state import State

EXTRACTION_DELAY = 0.5
"""Seconds from an upload to its EXIF data."""

DELETION_DELAY = 0.2
"""Seconds until a final deletion is done."""

CUT_OUT = re.compile(r"/encoded-video/.*-MP\.mp4$", re.IGNORECASE)
"""The path of a motion part that Immich itself cut out of a motion photo."""

VISIBILITIES = ("archive", "timeline", "hidden", "locked")


def normal_checksum(text: str) -> str | None:
    """Base64 of a SHA-1 given in hex or base64; None if it is neither."""
    try:
        raw = bytes.fromhex(text) if len(text) == 40 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return base64.b64encode(raw).decode() if len(raw) == 20 else None


class Assets:
    """Assets in a State."""

    def __init__(self, state: State, albums: Albums) -> None:
        self._state = state
        self._albums = albums
        #: Whether the halves of a live photo are linked as soon as they have been read.
        self.links_halves = True

    def find(self, user: User, asset_id: str, permission: str) -> Asset:
        """The asset, if `user` may do what the permission names; raises Refusal.

        Others see it while it is in an album they share, unless it is in the trash; a motion part
        while its still is.
        """
        asset = self._state.assets.get(asset_id)
        if asset is None:
            raise no_access(permission)
        if asset.owner_id != user.id:
            may = permission in ("asset.read", "asset.download", "asset.view")
            shown = asset.visibility != "locked" and self._shared(user, asset)
            if not may or not (shown or any(self._shared(user, s) for s in self.stills(asset))):
                raise no_access(permission)
        return asset

    def _shared(self, user: User, asset: Asset) -> bool:
        seen = self._state.albums_of_user[user.id]
        return asset.deleted is None and any(album_id in seen for album_id in asset.albums)

    def stills(self, video: Asset) -> list[Asset]:
        """The live photos that a video is the motion part of, trashed ones included."""
        if video.type != "VIDEO":
            return []
        owned = self._state.by_owner[video.owner_id].values()
        return [asset for asset in owned if asset.live_video == video.id]

    def find_all(self, user: User, ids: Sequence[str], permission: str) -> list[Asset]:
        """All of them or a Refusal."""
        return [self.find(user, asset_id, permission) for asset_id in ids]

    def known(self, user: User, checksum: str) -> Asset | None:
        """The user's asset with these bytes."""
        return self._state.by_checksum.get((user.id, checksum))

    def touch(self, asset: Asset) -> None:
        """The asset's row changed."""
        asset.updated, asset.seq = self._state.now(), self._state.next_seq()
        self._dates_changed(asset)

    def _dates_changed(self, asset: Asset) -> None:
        for album_id in asset.albums:
            self._state.albums[album_id].statistics = None
        self._state.save("asset", asset.id, asset)

    def _touch_exif(self, asset: Asset) -> None:
        asset.exif_seq = self._state.next_seq()
        self._state.save("asset", asset.id, asset)

    def require_quota(self, user: User, size: int) -> None:
        """Raise a Refusal if these bytes do not fit any more."""
        if user.quota is not None and user.usage + size > user.quota:
            raise Refusal(400, "Quota has been exceeded!")

    def create(self, owner: User, asset: Asset) -> None:
        """Put a new asset into the tables; its bytes are in the storage."""
        self._state.index_asset(asset)
        if asset.library_id is None:
            owner.usage += asset.size or 0
            self._state.touch_user(owner)
        if asset.live_video is not None:
            self.hide_motion_part(asset.live_video)
        self._state.save("asset", asset.id, asset)

    def extract_later(self, asset: Asset) -> None:
        """Read the asset's own dates and sizes after a while."""
        self._state.later(EXTRACTION_DELAY, self._extract_if_there, asset.id)

    def _extract_if_there(self, asset_id: str) -> None:
        asset = self._state.assets.get(asset_id)
        if asset is not None:
            self.extract(asset)
            self._state.flush()

    def extract(self, asset: Asset) -> None:
        """Read the asset's own dates and sizes now."""
        facts = exif.read(self._state.storage.head(asset, exif.HEAD))
        asset.width, asset.height, asset.duration = facts.width, facts.height, facts.duration
        if facts.taken is not None and asset.original_date is None:
            asset.taken = facts.taken
        asset.original_date = asset.taken if asset.original_date is None else asset.original_date
        asset.modify_date = asset.modified
        asset.content_id = facts.content_id
        asset.extracted = True
        self.touch(asset)
        self._touch_exif(asset)
        if self.links_halves:
            self.link_half(asset)

    def link_half(self, asset: Asset) -> None:
        """Link an asset to the other half of its live photo, if that is here.

        Trashed and hidden assets count as any, and of several it is the one the database finds.
        """
        if asset.content_id is None:
            return
        other = next(
            (
                one
                for one in self._state.by_owner[asset.owner_id].values()
                if one.content_id == asset.content_id and one.type != asset.type
            ),
            None,
        )
        if other is not None:
            still, video = (asset, other) if asset.type == "IMAGE" else (other, asset)
            self.refer(still, video)
            self.hide(video)
            self.leave_albums(video)

    # The three updates of a link, which Immich makes side by side.

    def refer(self, still: Asset, video: Asset) -> None:
        """The still names its motion part."""
        still.live_video = video.id
        self.touch(still)

    def hide(self, video: Asset) -> None:
        """The motion part is shown on its own no more."""
        video.visibility = "hidden"
        self.touch(video)

    def leave_albums(self, video: Asset) -> None:
        """The motion part leaves every album."""
        for album_id in sorted(video.albums):
            self._albums.unlink(self._state.albums[album_id], video.id)

    def written_to(self, asset: Asset) -> None:
        """Immich wrote to the asset's sidecar and read it again (a tag was set)."""
        self.touch(asset)
        self._touch_exif(asset)

    def hide_motion_part(self, asset_id: str) -> None:
        """Make a video the hidden part of a live photo."""
        video = self._state.assets[asset_id]
        if video.visibility == "timeline":
            video.visibility = "hidden"
            self.touch(video)

    def update(self, asset: Asset, changes: dict[str, Any]) -> None:
        """Change what Immich lets one change; other fields are ignored without a word."""
        asset.favorite = changes.get("isFavorite", asset.favorite)
        if "visibility" in changes:
            asset.visibility = changes["visibility"]
            if asset.visibility == "locked":
                for album_id in sorted(asset.albums):
                    self._albums.unlink(self._state.albums[album_id], asset.id)
        if "livePhotoVideoId" in changes:
            self._change_part(asset, changes["livePhotoVideoId"])
        in_exif = {"description", "rating", "latitude", "longitude", "dateTimeOriginal"}
        if in_exif & changes.keys():
            asset.description = changes.get("description", asset.description)
            asset.rating = changes.get("rating", asset.rating)
            asset.latitude = changes.get("latitude", asset.latitude)
            asset.longitude = changes.get("longitude", asset.longitude)
            if "dateTimeOriginal" in changes:
                asset.original_date = asset.taken = changes["dateTimeOriginal"]
            self._touch_exif(asset)
        self.touch(asset)

    def _change_part(self, asset: Asset, video_id: str | None) -> None:
        before = None if asset.live_video is None else self._state.assets.get(asset.live_video)
        asset.live_video = video_id
        if video_id is not None:
            self.hide_motion_part(video_id)
        elif before is not None:
            before.visibility = asset.visibility
            self.touch(before)

    # The trash

    def delete(self, assets: Sequence[Asset], force: bool) -> None:
        """Move assets to the trash; with `force`, or where there is no trash, for good."""
        final = force or not self._state.trash_enabled
        now = self._state.now()
        for asset in assets:
            asset.deleted = now
            asset.status = "deleted" if final else "trashed"
            self._state.stale_thumbnails |= asset.albums
            self.touch(asset)
        if final:
            ids = [asset.id for asset in assets]
            self._state.later(DELETION_DELAY, self._remove_all, ids)

    def _remove_all(self, ids: Sequence[str]) -> None:
        for asset_id in ids:
            asset = self._state.assets.get(asset_id)
            if asset is not None and asset.status == "deleted":
                self._remove(asset)
        self._state.flush()

    def finish_deletions(self) -> None:
        """Remove what a process that has ended left half deleted."""
        self._remove_all([a.id for a in self._state.assets.values() if a.status == "deleted"])

    def _remove(self, asset: Asset) -> None:
        part = None if asset.live_video is None else self._state.assets.get(asset.live_video)
        for album_id in sorted(asset.albums):
            self._albums.unlink(self._state.albums[album_id], asset.id)
        for still in self._state.by_owner[asset.owner_id].values():
            if still.live_video == asset.id:
                still.live_video = None
                self.touch(still)
        del self._state.assets[asset.id]
        del self._state.by_owner[asset.owner_id][asset.id]
        if asset.library_id is None:
            del self._state.by_checksum[asset.owner_id, asset.checksum]
            owner = self._state.users[asset.owner_id]
            owner.usage -= asset.size or 0
            self._state.touch_user(owner)
        self._state.storage.remove(asset.id)
        self._state.record("asset", asset_id=asset.id, user_id=asset.owner_id)
        self._state.save("asset", asset.id, None)
        if part is not None and not self.stills(part):
            self._remove(part)

    def restore(self, assets: Sequence[Asset]) -> None:
        """Take assets out of the trash."""
        for asset in assets:
            if asset.status == "trashed":
                asset.deleted, asset.status = None, "active"
                self._state.stale_thumbnails |= asset.albums
                self.touch(asset)

    def in_trash(self, user: User) -> list[Asset]:
        """What the user has in the trash."""
        return [a for a in self._state.by_owner[user.id].values() if a.status == "trashed"]

    # Metadata of an asset's own

    def set_note(self, asset: Asset, key: str, value: dict[str, Any]) -> Note:
        """Replace one key's value whole; moves neither the asset's nor an album's time."""
        note = Note(value, self._state.now(), self._state.next_seq())
        asset.notes[key] = note
        self._state.save("asset", asset.id, asset)
        return note

    def drop_note(self, asset: Asset, key: str) -> None:
        """Remove one key, if it is there."""
        if asset.notes.pop(key, None) is not None:
            self._state.save("asset", asset.id, asset)
            self._state.record("metadata", asset_id=asset.id, user_id=asset.owner_id, key=key)
