"""`POST /search/metadata`: pages of assets, the newest first.

3.x searches whatever albums the user sees, in every visibility but the locked folder; 2.5.6
leaves out other people's assets and, unless asked for them, all but the timeline (recordings).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from immich_conch.demo.assets import VISIBILITIES, normal_checksum
from immich_conch.demo.dates import parse
from immich_conch.demo.entities import Asset
from immich_conch.demo.refusals import bad_date, check_uuid, too_big, too_small
from immich_conch.demo.routing import Answer, Call, Route

MAX_SIZE = 1000
"""Assets a page at most."""

_DEFAULT_SIZE = 250

_TIMES = {"taken": "taken", "created": "created", "updated": "updated", "trashed": "deleted"}


def _candidates(call: Call, album_ids: list[str]) -> Iterable[Asset]:
    state = call.state
    if not album_ids:
        return state.by_owner[call.user.id].values()
    albums = [call.core.albums.find(call.user, album_id, "album.read") for album_id in album_ids]
    first, *others = albums
    found = (
        state.assets[asset_id]
        for asset_id in first.assets
        if all(asset_id in album.assets for album in others)
    )
    if call.modern:
        return found
    return (asset for asset in found if asset.owner_id == call.user.id)


def _bounds(call: Call, data: dict[str, Any]) -> list[tuple[str, bool, int]]:
    bounds = []
    for name, attribute in _TIMES.items():
        for suffix, after in (("After", True), ("Before", False)):
            text = data.get(name + suffix)
            if text is not None:
                try:
                    bounds.append((attribute, after, parse(str(text))))
                except ValueError as error:
                    raise bad_date(call.modern, name + suffix) from error
    return bounds


def _matches(call: Call, asset: Asset, data: dict[str, Any]) -> bool:
    visibility = data.get("visibility")
    if visibility is None:
        if asset.visibility == "locked" or (not call.modern and asset.visibility != "timeline"):
            return False
    elif asset.visibility != visibility:
        return False
    trash = data.get("withDeleted") or "trashedAfter" in data or "trashedBefore" in data
    if asset.deleted is not None and not trash:
        return False
    name = data.get("originalFileName")
    if name is not None and name.lower() not in asset.name.lower():
        return False
    if "checksum" in data and asset.checksum != normal_checksum(data["checksum"]):
        return False
    if data.get("isNotInAlbum") and asset.albums:
        return False
    if "isMotion" in data and data["isMotion"] != (asset.live_video is not None):
        return False
    if not all(_tagged(call, asset, tag_id) for tag_id in data.get("tagIds", ())):
        return False
    if not all(person_id in asset.people for person_id in data.get("personIds", ())):
        return False
    return all(
        key not in data or data[key] == value
        for key, value in (
            ("id", asset.id),
            ("type", asset.type),
            ("isFavorite", asset.favorite),
            ("isOffline", asset.offline),
            ("libraryId", asset.library_id),
        )
    )


def _tagged(call: Call, asset: Asset, tag_id: str) -> bool:
    """Whether an asset has a tag, or one below it."""
    wanted = call.state.tags.get(tag_id)
    if wanted is None:
        return False
    values = [call.state.tags[own].value for own in asset.tags]
    return any(f"{value}/".startswith(f"{wanted.value}/") for value in values)


def _within(asset: Asset, bounds: list[tuple[str, bool, int]]) -> bool:
    for attribute, after, limit in bounds:
        value = getattr(asset, attribute)
        if value is None or (value < limit if after else value > limit):
            return False
    return True


def _search(call: Call) -> Answer:
    data = call.fields(
        albumIds="array",
        tagIds="array",
        personIds="array",
        withExif="boolean",
        withDeleted="boolean",
        isNotInAlbum="boolean",
        isFavorite="boolean",
        isOffline="boolean",
        isMotion="boolean",
        size="number",
        page="number",
        checksum="string",
        originalFileName="string",
        visibility="string",
        type="string",
        order="string",
        id="string",
        libraryId="string?",
        **{name + suffix: "string" for name in _TIMES for suffix in ("After", "Before")},
    )
    size, page = int(data.get("size", _DEFAULT_SIZE)), int(data.get("page", 1))
    if size > MAX_SIZE:
        raise too_big(call.modern, "size", MAX_SIZE)
    for path, number in (("size", size), ("page", page)):
        if number < 1:
            raise too_small(call.modern, path, 1)
    if "visibility" in data:
        call.option("visibility", data["visibility"], VISIBILITIES)
    album_ids = [check_uuid(call.modern, "albumIds", value) for value in data.get("albumIds", ())]
    bounds = _bounds(call, data)
    found = [
        asset
        for asset in _candidates(call, album_ids)
        if _matches(call, asset, data) and _within(asset, bounds)
    ]
    # Two assets of one moment come in the order they were made, whichever page they fall on.
    found.sort(key=lambda asset: (asset.taken, asset.created), reverse=data.get("order") != "asc")
    start = (page - 1) * size
    with_exif = data.get("withExif", False)
    items = [call.core.answers.asset(a, with_exif) for a in found[start : start + size]]
    more = len(found) > start + size
    return Answer(
        200,
        {
            "albums": {"total": 0, "count": 0, "items": [], "facets": []},
            "assets": {
                "total": len(items),
                "count": len(items),
                "items": items,
                "facets": [],
                "nextPage": str(page + 1) if more else None,
            },
        },
    )


ROUTES = (Route("POST", "/search/metadata", _search, "asset.read"),)
