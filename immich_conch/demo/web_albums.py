"""`/albums`: listing, changing, sharing, and what is in them."""

from __future__ import annotations

from typing import Any

from attrs import astuple

from immich_conch.demo.albums import ROLES
from immich_conch.demo.entities import Album
from immich_conch.demo.refusals import check_uuid, no_access
from immich_conch.demo.routing import Answer, Call, Route


def _statistics(call: Call, album: Album) -> tuple[Any, ...]:
    return astuple(call.core.albums.statistics(album))


def _wanted(call: Call, album: Album) -> bool:
    """Whether a listing with this query has the album; the two versions ask differently."""
    owned = album.owner_id == call.user.id
    shared = len(album.members) > 1
    query = call.query
    if "assetId" in query:
        asset_id = check_uuid(call.modern, "assetId", query["assetId"])
        if asset_id not in album.assets:
            return False
        if not call.modern:
            return True
    if call.modern:
        return all(
            str(value).lower() == query[name]
            for name, value in (("isOwned", owned), ("isShared", shared))
            if name in query
        )
    if query.get("shared") == "true":
        return shared
    if query.get("shared") == "false":
        return owned and not shared
    return owned


def _list(call: Call) -> Answer:
    albums = call.core.albums
    albums.refresh_thumbnails()
    found = [album for album in albums.of_user(call.user) if _wanted(call, album)]
    found.sort(key=lambda album: album.created, reverse=True)
    answers = call.core.answers
    return Answer(200, [answers.album(album, _statistics(call, album)) for album in found])


def _create(call: Call) -> Answer:
    data = call.fields(
        albumName="string!", description="string", assetIds="array", albumUsers="array"
    )
    ids = [check_uuid(call.modern, "assetIds", value) for value in data.get("assetIds", ())]
    state = call.state
    assets = [
        state.assets[asset_id]
        for asset_id in dict.fromkeys(ids)
        if asset_id in state.by_owner[call.user.id]
        and state.assets[asset_id].visibility != "locked"
    ]
    shared = [
        (state.users[user_id], role)
        for user_id, role in _entries(call, data.get("albumUsers", []))
        if user_id in state.users and user_id != call.user.id
    ]
    album = call.core.albums.create(
        call.user, data["albumName"], data.get("description", ""), assets, shared
    )
    return Answer(201, call.core.answers.changed_album(album, contents=True))


def _read(call: Call) -> Answer:
    albums = call.core.albums
    album = albums.find(call.user, call.id(), "album.read")
    albums.refresh_thumbnails()
    contents = call.query.get("withoutAssets") != "true"
    body = call.core.answers.whole_album(album, _statistics(call, album), contents)
    return Answer(200, body)


def _update(call: Call) -> Answer:
    data = call.fields(
        albumName="string", description="string", order="string", albumThumbnailAssetId="string"
    )
    album = call.core.albums.find(call.user, call.id(), "album.update")
    if "order" in data:
        call.option("order", data["order"], ("asc", "desc"))
    if data.get("albumThumbnailAssetId", album.thumbnail) not in (None, *album.assets):
        raise no_access("album.update")
    call.core.albums.update(album, data)
    return Answer(200, call.core.answers.changed_album(album))


def _delete(call: Call) -> Answer:
    call.core.albums.delete(call.core.albums.find(call.user, call.id(), "album.delete"))
    return Answer(204)


def _add_assets(call: Call) -> Answer:
    album = call.core.albums.find(call.user, call.id(), "albumAsset.create")
    return Answer(200, call.core.albums.add(call.user, album, call.ids()))


def _remove_assets(call: Call) -> Answer:
    album = call.core.albums.find(call.user, call.id(), "albumAsset.delete")
    return Answer(200, call.core.albums.remove(call.user, album, call.ids()))


def _add_to_many(call: Call) -> Answer:
    """`PUT /albums/assets`: many assets into many albums, one answer for all."""
    asset_ids, success, error = call.ids("assetIds"), False, "unknown"
    for album_id in call.ids("albumIds"):
        album = call.core.albums.find(call.user, album_id, "albumAsset.create")
        for result in call.core.albums.add(call.user, album, asset_ids):
            success = success or result["success"]
            error = result.get("error", error)
    return Answer(200, {"success": True} if success else {"success": False, "error": error})


def _entries(call: Call, values: list[Any]) -> list[tuple[str, str]]:
    entries = []
    for value in values:
        entry = value if isinstance(value, dict) else {}
        user_id = check_uuid(call.modern, "userId", entry.get("userId"))
        entries.append((user_id, call.option("role", entry.get("role", "editor"), ROLES)))
    return entries


def _share(call: Call) -> Answer:
    entries = _entries(call, call.fields(albumUsers="array!")["albumUsers"])
    album = call.core.albums.find(call.user, call.id(), "album.share")
    call.core.albums.share(album, entries)
    return Answer(200, call.core.answers.changed_album(album))


def _user_id(call: Call) -> str:
    return call.user.id if call.params["userId"] == "me" else call.id("userId")


def _set_role(call: Call) -> Answer:
    role = call.option("role", call.fields(role="string!")["role"], ROLES)
    album = call.core.albums.find(call.user, call.id(), "album.share")
    call.core.albums.set_role(album, _user_id(call), role)
    return Answer(204)


def _unshare(call: Call) -> Answer:
    user_id = _user_id(call)
    wanted = "album.read" if user_id == call.user.id else "album.share"
    album = call.core.albums.find(call.user, call.id(), wanted)
    call.core.albums.unshare(album, user_id)
    return Answer(204)


ROUTES = (
    Route("GET", "/albums", _list, "album.read"),
    Route("POST", "/albums", _create, "album.create"),
    Route("PUT", "/albums/assets", _add_to_many, "albumAsset.create"),
    Route("GET", "/albums/{id}", _read, "album.read"),
    Route("PATCH", "/albums/{id}", _update, "album.update"),
    Route("DELETE", "/albums/{id}", _delete, "album.delete"),
    Route("PUT", "/albums/{id}/assets", _add_assets, "albumAsset.create"),
    Route("DELETE", "/albums/{id}/assets", _remove_assets, "albumAsset.delete"),
    Route("PUT", "/albums/{id}/users", _share, "albumUser.create"),
    Route("PUT", "/albums/{id}/user/{userId}", _set_role, "albumUser.update"),
    Route("DELETE", "/albums/{id}/user/{userId}", _unshare, "albumUser.delete"),
)
