"""What can be done to albums, and who may.

Rules from FACTS.md and the recordings: adding moves an album's `updatedAt`, removing does not;
a thumbnail that left its album is replaced at the next look, which does move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from immich_conch.demo.entities import Album, Asset, Link, Member, Statistics, User
from immich_conch.demo.refusals import Refusal, no_access
from immich_conch.demo.state import State

ROLES = ("editor", "viewer")


class Albums:
    """Albums in a State."""

    def __init__(self, state: State) -> None:
        self._state = state

    def of_user(self, user: User) -> Iterable[Album]:
        """Every album the user sees, own and shared with them."""
        return self._state.albums_of_user[user.id].values()

    def find(self, user: User, album_id: str, permission: str) -> Album:
        """The album, if `user` may do what the permission names; raises Refusal."""
        album = self._state.albums.get(album_id)
        member = album.members.get(user.id) if album is not None else None
        if album is None or member is None or not self._may(member.role, permission):
            raise no_access(permission)
        return album

    def _may(self, role: str, permission: str) -> bool:
        if role == "owner" or permission == "album.read":
            return True
        if role != "editor":
            return False
        return permission in ("albumAsset.create", "albumAsset.delete") or (
            self._state.modern and permission == "album.update"
        )

    def _touch(self, album: Album) -> None:
        album.updated, album.seq = self._state.now(), self._state.next_seq()
        self._save(album)

    def _save(self, album: Album) -> None:
        self._state.save("album", album.id, album)

    def create(
        self,
        owner: User,
        name: str,
        description: str = "",
        assets: Sequence[Asset] = (),
        shared: Sequence[tuple[User, str]] = (),
    ) -> Album:
        """Make an album; the assets must be ones the owner may put there."""
        now = self._state.now()
        album = Album(
            self._state.new_id(), owner.id, name, description, now, now, self._state.next_seq()
        )
        self._state.albums[album.id] = album
        self._join(album, owner, "owner")
        for user, role in shared:
            self._join(album, user, role)
        for asset in assets:
            self._link(album, asset)
        # Which of several it is, is the database's choice in Immich; it was never the first.
        album.thumbnail = assets[-1].id if assets else None
        self._save(album)
        return album

    def update(self, album: Album, changes: dict[str, Any]) -> None:
        """Rename, describe, reorder or give another thumbnail."""
        album.name = changes.get("albumName", album.name)
        album.description = changes.get("description", album.description)
        album.order = changes.get("order", album.order)
        album.thumbnail = changes.get("albumThumbnailAssetId", album.thumbnail)
        self._touch(album)

    def delete(self, album: Album) -> None:
        """Delete an album, never its assets."""
        for asset_id in list(album.assets):
            self._state.assets[asset_id].albums.discard(album.id)
            self._state.save("link", f"{album.id}/{asset_id}", None)
        for user_id in album.members:
            del self._state.albums_of_user[user_id][album.id]
            self._state.record("album", album_id=album.id, user_id=user_id)
        del self._state.albums[album.id]
        self._state.stale_thumbnails.discard(album.id)
        self._state.save("album", album.id, None)

    # Users

    def _join(self, album: Album, user: User, role: str) -> None:
        seq = self._state.next_seq()
        album.members[user.id] = Member(role, seq, seq)
        self._state.albums_of_user[user.id][album.id] = album

    def share(self, album: Album, entries: Sequence[tuple[str, str]]) -> None:
        """Add users by id and role; raises Refusal."""
        for user_id, _role in entries:
            if user_id not in self._state.users:
                raise Refusal(400, "User not found")
            if user_id in album.members:
                owner = album.owner_id == user_id
                raise Refusal(400, "Cannot be shared with owner" if owner else "User already added")
        for user_id, role in entries:
            self._join(album, self._state.users[user_id], role)
        self._touch(album)

    def set_role(self, album: Album, user_id: str, role: str) -> None:
        """Make a user editor or viewer."""
        if user_id not in album.members:
            raise Refusal(400, "Album not shared with user")
        album.members[user_id].role = role
        album.members[user_id].seq = self._state.next_seq()
        self._save(album)

    def unshare(self, album: Album, user_id: str) -> None:
        """Take a user out; raises Refusal for the owner and for strangers."""
        if user_id == album.owner_id:
            raise Refusal(400, "Cannot remove album owner")
        if user_id not in album.members:
            raise Refusal(400, "Album not shared with user")
        del album.members[user_id]
        del self._state.albums_of_user[user_id][album.id]
        self._state.record("album", album_id=album.id, user_id=user_id)
        self._state.record("albumUser", album_id=album.id, user_id=user_id)
        self._save(album)

    # Assets

    def _link(self, album: Album, asset: Asset) -> None:
        seq = self._state.next_seq()
        album.assets[asset.id] = seq
        asset.albums.add(album.id)
        album.statistics = None
        self._state.stale_thumbnails.add(album.id)
        key = f"{album.id}/{asset.id}"
        self._state.save("link", key, Link(key, album.id, asset.id, seq))

    def unlink(self, album: Album, asset_id: str) -> None:
        """Take one asset out, without any question."""
        del album.assets[asset_id]
        self._state.assets[asset_id].albums.discard(album.id)
        album.statistics = None
        self._state.stale_thumbnails.add(album.id)
        self._state.save("link", f"{album.id}/{asset_id}", None)
        self._state.record("albumToAsset", album_id=album.id, asset_id=asset_id)

    def carry_over(self, source: Asset, target: Asset) -> None:
        """Put `target` into every album of `source`; unlike `add`, no `updatedAt` moves."""
        for album_id in sorted(source.albums - target.albums):
            self._link(self._state.albums[album_id], target)

    def add(self, user: User, album: Album, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Add assets, one answer an id."""
        results: list[dict[str, Any]] = []
        added: list[str] = []
        for asset_id in ids:
            asset = self._state.assets.get(asset_id)
            if asset_id in album.assets:
                results.append({"id": asset_id, "success": False, "error": "duplicate"})
            elif asset is None or asset.owner_id != user.id or asset.visibility == "locked":
                results.append({"id": asset_id, "success": False, "error": "no_permission"})
            else:
                self._link(album, asset)
                added.append(asset_id)
                results.append({"id": asset_id, "success": True})
        if added:
            album.thumbnail = album.thumbnail or added[0]
            self._touch(album)
        return results

    def remove(self, user: User, album: Album, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Remove assets, one answer an id; others' only as the album's owner."""
        results: list[dict[str, Any]] = []
        for asset_id in ids:
            asset = self._state.assets.get(asset_id)
            if asset is None or asset_id not in album.assets:
                results.append({"id": asset_id, "success": False, "error": "not_found"})
            elif user.id not in (album.owner_id, asset.owner_id):
                results.append({"id": asset_id, "success": False, "error": "no_permission"})
            else:
                self.unlink(album, asset_id)
                results.append({"id": asset_id, "success": True})
        if album.thumbnail is not None and album.thumbnail not in album.assets:
            self.refresh_thumbnails()
        return results

    def refresh_thumbnails(self) -> None:
        """Replace thumbnails that left their album or went to the trash; moves `updatedAt`."""
        stale = [self._state.albums[album_id] for album_id in self._state.stale_thumbnails]
        self._state.stale_thumbnails.clear()
        for album in sorted(stale, key=lambda album: album.created):
            here = [self._state.assets[asset_id] for asset_id in album.assets]
            alive = [asset for asset in here if asset.deleted is None]
            if any(asset.id == album.thumbnail for asset in alive):
                continue
            newest = max(alive, key=lambda asset: asset.taken, default=None)
            if album.thumbnail is None and newest is None:
                continue
            album.thumbnail = None if newest is None else newest.id
            self._touch(album)

    def statistics(self, album: Album) -> Statistics:
        """Count and dates of what the album lists; kept until something in it changes."""
        if album.statistics is None:
            listed = [
                asset
                for asset in (self._state.assets[asset_id] for asset_id in album.assets)
                if asset.listed
            ]
            album.statistics = Statistics(
                count=len(listed),
                start=min((asset.taken for asset in listed), default=None),
                end=max((asset.taken for asset in listed), default=None),
                modified=max((asset.updated for asset in listed), default=None),
            )
        return album.statistics
