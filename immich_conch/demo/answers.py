"""The JSON of users, albums and assets in both dialects, key by key as recorded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from immich_conch.demo.dates import day, js, optional_js, optional_pg, pg
from immich_conch.demo.entities import Album, ApiKey, Asset, Tag, User
from immich_conch.demo.media import mime_type
from immich_conch.demo.state import State

_COLOURS = (
    "primary",
    "pink",
    "red",
    "yellow",
    "blue",
    "green",
    "purple",
    "orange",
    "gray",
    "amber",
)


def avatar_colour(user: User) -> str:
    """Immich picks a colour by the address's characters."""
    return _COLOURS[sum(map(ord, user.email)) % len(_COLOURS)]


def user_me(user: User) -> dict[str, Any]:
    """`GET /users/me`."""
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "profileImagePath": "",
        "avatarColor": avatar_colour(user),
        "profileChangedAt": js(user.created),
        "storageLabel": None,
        "shouldChangePassword": True,
        "isAdmin": user.admin,
        "createdAt": js(user.created),
        "deletedAt": None,
        "updatedAt": js(user.updated),
        "oauthId": "",
        "quotaSizeInBytes": user.quota,
        "quotaUsageInBytes": user.usage,
        "status": "active",
        "license": None,
    }


def user_brief(user: User, stamp: Callable[[int], str] = pg) -> dict[str, Any]:
    """A user inside another answer."""
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "profileImagePath": "",
        "avatarColor": avatar_colour(user),
        "profileChangedAt": stamp(user.created),
    }


def api_key(key: ApiKey) -> dict[str, Any]:
    """An API key without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "createdAt": js(key.created),
        "updatedAt": js(key.created),
        "permissions": key.permissions,
    }


def tag(entry: Tag) -> dict[str, Any]:
    """A tag."""
    body = {
        "id": entry.id,
        "name": entry.value.rpartition("/")[2],
        "value": entry.value,
        "createdAt": js(entry.created),
        "updatedAt": js(entry.updated),
    }
    if entry.parent_id is not None:
        body["parentId"] = entry.parent_id
    return body


def thumbhash(asset: Asset) -> str | None:
    """A stand-in of the right shape: nothing here makes thumbnails."""
    if not asset.extracted or asset.width is None or asset.type != "IMAGE":
        return None
    return base64.b64encode(hashlib.sha256(asset.checksum.encode()).digest()[:21]).decode()


def duration(asset: Asset, modern: bool, in_stream: bool = False) -> int | str | None:
    """Milliseconds in 3.x, `00:00:01.000` in 2.x, whose REST answers give stills a zero."""
    if asset.duration is None:
        return None if modern or in_stream else "0:00:00.00000"
    if modern:
        return asset.duration
    seconds, ms = divmod(asset.duration, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"


def exif_info(asset: Asset) -> dict[str, Any]:
    """`exifInfo` of the REST answers."""
    video = asset.type == "VIDEO" and asset.width is not None
    return {
        "make": None,
        "model": None,
        "exifImageWidth": asset.width,
        "exifImageHeight": asset.height,
        "fileSizeInByte": asset.size,
        "orientation": "1" if video else None,
        "dateTimeOriginal": optional_pg(asset.original_date),
        "modifyDate": optional_pg(asset.modify_date),
        "timeZone": "UTC" if video else None,
        "lensModel": None,
        "fNumber": None,
        "focalLength": None,
        "iso": None,
        "exposureTime": None,
        "latitude": asset.latitude,
        "longitude": asset.longitude,
        "city": None,
        "state": None,
        "country": None,
        "description": asset.description,
        "projectionType": None,
        "rating": asset.rating,
    }


class Answers:
    """Albums and assets as a State's version words them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._modern = state.modern

    def asset(
        self, asset: Asset, with_exif: bool = True, stamp: Callable[[int], str] = js
    ) -> dict[str, Any]:
        """An asset in a list; `stamp` writes its times."""
        body: dict[str, Any] = {
            "id": asset.id,
            "createdAt": stamp(asset.created),
            "ownerId": asset.owner_id,
            "libraryId": asset.library_id,
            "type": asset.type,
            "originalPath": asset.path,
            "originalFileName": asset.name,
            "originalMimeType": mime_type(asset.name),
            "thumbhash": thumbhash(asset),
            "fileCreatedAt": stamp(asset.taken),
            "fileModifiedAt": stamp(asset.modified),
            "localDateTime": stamp(asset.taken),
            "updatedAt": stamp(asset.updated),
            "isFavorite": asset.favorite,
            "isArchived": asset.visibility == "archive",
            "isTrashed": asset.deleted is not None,
            "visibility": asset.visibility,
            "duration": duration(asset, self._modern),
            "livePhotoVideoId": asset.live_video,
            "people": [],
            "checksum": asset.checksum,
            "isOffline": asset.offline,
            "hasMetadata": True,
            "duplicateId": None,
            "resized": True,
            "width": asset.width,
            "height": asset.height,
            "isEdited": False,
        }
        if with_exif:
            body["exifInfo"] = exif_info(asset)
        if not self._modern:
            body["deviceAssetId"] = asset.device_asset_id
            body["deviceId"] = asset.device_id
        return body

    def changed_asset(self, asset: Asset) -> dict[str, Any]:
        """The answer to `PUT /assets/{id}`."""
        body = self.asset(asset)
        if not self._modern:
            body["unassignedFaces"] = []
        return body

    def whole_asset(self, asset: Asset) -> dict[str, Any]:
        """`GET /assets/{id}`."""
        tags = [tag(self._state.tags[tag_id]) for tag_id in asset.tags]
        return {
            **self.changed_asset(asset),
            "owner": user_brief(self._state.users[asset.owner_id]),
            "tags": tags,
            "stack": None,
        }

    def _album(self, album: Album, assets: list[dict[str, Any]]) -> dict[str, Any]:
        users = self._state.users
        shared = len(album.members) > 1
        body: dict[str, Any] = {
            "albumName": album.name,
            "description": album.description,
            "albumThumbnailAssetId": album.thumbnail,
            "createdAt": js(album.created),
            "updatedAt": js(album.updated),
            "id": album.id,
            "albumUsers": [
                {"user": user_brief(users[user_id]), "role": member.role}
                for user_id, member in album.members.items()
                if self._modern or member.role != "owner"
            ],
            "shared": shared,
            "hasSharedLink": False,
            "isActivityEnabled": True,
            "order": album.order,
        }
        if not self._modern:
            body["ownerId"] = album.owner_id
            body["owner"] = user_brief(users[album.owner_id])
            body["assets"] = assets
        return body

    def listed_assets(self, album: Album) -> list[Asset]:
        """What an album lists, the newest first."""
        here = [self._state.assets[asset_id] for asset_id in album.assets]
        return sorted(
            (asset for asset in here if asset.listed),
            key=lambda asset: asset.taken,
            reverse=album.order == "desc",
        )

    def _contents(self, album: Album) -> list[dict[str, Any]]:
        return [self.asset(asset, stamp=pg) for asset in self.listed_assets(album)]

    def changed_album(self, album: Album, contents: bool = False) -> dict[str, Any]:
        """The answer to a change: whole times, no `lastModifiedAssetTimestamp`."""
        with_assets = contents and not self._modern
        body = self._album(album, self._contents(album) if with_assets else [])
        times = [self._state.assets[asset_id].taken for asset_id in album.assets]
        body["assetCount"] = len(times)
        if times:
            body["startDate"], body["endDate"] = pg(min(times)), pg(max(times))
        return body

    def album(self, album: Album, statistics: tuple[Any, ...]) -> dict[str, Any]:
        """An album in a list; `statistics` are count, start, end, last change."""
        body = self._album(album, [])
        self._add_statistics(body, statistics)
        return body

    def whole_album(
        self, album: Album, statistics: tuple[Any, ...], contents: bool
    ) -> dict[str, Any]:
        """`GET /albums/{id}`."""
        with_assets = contents and not self._modern
        body = self._album(album, self._contents(album) if with_assets else [])
        self._add_statistics(body, statistics)
        if len(album.members) > 1:
            counts: dict[str, int] = {}
            for asset_id in album.assets:
                asset = self._state.assets[asset_id]
                if asset.deleted is None:
                    counts[asset.owner_id] = counts.get(asset.owner_id, 0) + 1
            body["contributorCounts"] = [
                {"userId": user_id, "assetCount": count} for user_id, count in counts.items()
            ]
        return body

    def _add_statistics(self, body: dict[str, Any], statistics: tuple[Any, ...]) -> None:
        count, start, end, modified = statistics
        body["assetCount"] = count
        if count:
            body["startDate"], body["endDate"] = day(start), day(end)
            body["lastModifiedAssetTimestamp"] = optional_js(modified)
