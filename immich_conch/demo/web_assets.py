"""`/assets` and `/trash`: reading, changing, deleting, and the assets' own metadata."""

from __future__ import annotations

from typing import Any

from immich_conch.demo.assets import CUT_OUT, VISIBILITIES, normal_checksum
from immich_conch.demo.dates import js, parse
from immich_conch.demo.entities import Note
from immich_conch.demo.refusals import Refusal, bad_date, check_uuid, wrong_type
from immich_conch.demo.routing import Answer, Call, Route


def _read(call: Call) -> Answer:
    asset = call.core.assets.find(call.user, call.id(), "asset.read")
    return Answer(200, call.core.answers.whole_asset(asset))


def _changes(call: Call) -> dict[str, Any]:
    data = call.fields(
        isFavorite="boolean",
        visibility="string",
        description="string",
        rating="number?",
        latitude="number",
        longitude="number",
        dateTimeOriginal="string",
        livePhotoVideoId="string?",
    )
    if "visibility" in data:
        call.option("visibility", data["visibility"], VISIBILITIES)
    if "dateTimeOriginal" in data:
        try:
            data["dateTimeOriginal"] = parse(data["dateTimeOriginal"])
        except ValueError as error:
            raise bad_date(call.modern, "dateTimeOriginal") from error
    if data.get("livePhotoVideoId") is not None:
        video_id = check_uuid(call.modern, "livePhotoVideoId", data["livePhotoVideoId"])
        video = call.state.by_owner[call.user.id].get(video_id)
        if video is None:
            raise Refusal(400, "Live photo video not found")
        if video.type != "VIDEO":
            raise Refusal(400, "Live photo video must be a video")
    return data


def _update(call: Call) -> Answer:
    asset = call.core.assets.find(call.user, call.id(), "asset.update")
    changes = _changes(call)
    part = call.state.assets.get(asset.live_video or "")
    unlinks = "livePhotoVideoId" in changes and changes["livePhotoVideoId"] is None
    if unlinks and part is not None and CUT_OUT.search(part.path):
        raise Refusal(400, "Cannot unlink Android motion photos")
    call.core.assets.update(asset, changes)
    return Answer(200, call.core.answers.changed_asset(asset))


def _update_many(call: Call) -> Answer:
    assets = call.core.assets.find_all(call.user, call.ids(), "asset.update")
    changes = _changes(call)
    for asset in assets:
        call.core.assets.update(asset, changes)
    return Answer(204)


def _delete(call: Call) -> Answer:
    assets = call.core.assets.find_all(call.user, call.ids(), "asset.delete")
    call.core.assets.delete(assets, call.fields(force="boolean").get("force", False))
    return Answer(204)


def _check(call: Call) -> Answer:
    results = []
    for entry in call.fields(assets="array!")["assets"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("checksum"), str):
            raise wrong_type(call.modern, "checksum", "string", None)
        checksum = normal_checksum(entry["checksum"])
        known = None if checksum is None else call.core.assets.known(call.user, checksum)
        result: dict[str, Any] = {"id": entry.get("id"), "action": "accept"}
        if known is not None:
            result |= {
                "action": "reject",
                "reason": "duplicate",
                "assetId": known.id,
                "isTrashed": known.deleted is not None,
            }
        results.append(result)
    return Answer(200, {"results": results})


def _copy(call: Call) -> Answer:
    data = call.json()
    source_id = check_uuid(call.modern, "sourceId", data.get("sourceId"))
    target_id = check_uuid(call.modern, "targetId", data.get("targetId"))
    flags = call.fields(
        albums="boolean",
        favorite="boolean",
        sharedLinks="boolean",
        sidecar="boolean",
        stack="boolean",
    )
    source, target = call.core.assets.find_all(call.user, [source_id, target_id], "asset.copy")
    if source is target:
        raise Refusal(400, "Source and target id must be distinct")
    if flags.get("albums", True):
        call.core.albums.carry_over(source, target)
    if flags.get("favorite", True) and target.favorite != source.favorite:
        call.core.assets.update(target, {"isFavorite": source.favorite})
    return Answer(204)


def _trash_restore(call: Call) -> Answer:
    ids = call.ids()
    call.core.assets.restore(call.core.assets.find_all(call.user, ids, "asset.delete"))
    return Answer(200, {"count": len(ids)})


def _trash_restore_all(call: Call) -> Answer:
    assets = call.core.assets.in_trash(call.user)
    call.core.assets.restore(assets)
    return Answer(200, {"count": len(assets)})


def _trash_empty(call: Call) -> Answer:
    assets = call.core.assets.in_trash(call.user)
    call.core.assets.delete(assets, force=True)
    return Answer(200, {"count": len(assets)})


# Metadata


def _note(key: str, note: Note) -> dict[str, Any]:
    return {"key": key, "value": note.value, "updatedAt": js(note.updated)}


def check_items(call: Call, items: Any) -> list[tuple[str, dict[str, Any]]]:
    """Key and value of metadata items; raises Refusal."""
    if not isinstance(items, list):
        raise wrong_type(call.modern, "items", "array", items)
    found = []
    for item in items:
        entry = item if isinstance(item, dict) else {}
        key, value = entry.get("key"), entry.get("value")
        if not isinstance(key, str) or not key:
            raise wrong_type(call.modern, "key", "string", key)
        if not isinstance(value, dict):
            raise wrong_type(call.modern, "value", "object", value)
        found.append((key, value))
    return found


def _notes(call: Call) -> Answer:
    asset = call.core.assets.find(call.user, call.id(), "asset.read")
    return Answer(200, [_note(key, note) for key, note in asset.notes.items()])


def _note_of_key(call: Call) -> Answer:
    asset = call.core.assets.find(call.user, call.id(), "asset.read")
    key = call.params["key"]
    if key not in asset.notes:
        raise Refusal(400, f'Metadata with key "{key}" not found for asset with id "{asset.id}"')
    return Answer(200, _note(key, asset.notes[key]))


def _set_notes(call: Call) -> Answer:
    items = check_items(call, call.json().get("items"))
    asset = call.core.assets.find(call.user, call.id(), "asset.update")
    return Answer(
        200, [_note(key, call.core.assets.set_note(asset, key, value)) for key, value in items]
    )


def _drop_note(call: Call) -> Answer:
    asset = call.core.assets.find(call.user, call.id(), "asset.update")
    call.core.assets.drop_note(asset, call.params["key"])
    return Answer(204)


def _set_many_notes(call: Call) -> Answer:
    items = call.json().get("items")
    checked = check_items(call, items)
    ids = [check_uuid(call.modern, "assetId", item.get("assetId")) for item in items or ()]
    assets = call.core.assets.find_all(call.user, ids, "asset.update")
    return Answer(
        200,
        [
            {"assetId": asset.id, **_note(key, call.core.assets.set_note(asset, key, value))}
            for asset, (key, value) in zip(assets, checked, strict=True)
        ],
    )


def _drop_many_notes(call: Call) -> Answer:
    items = [
        item if isinstance(item, dict) else {} for item in call.fields(items="array!")["items"]
    ]
    ids = [check_uuid(call.modern, "assetId", item.get("assetId")) for item in items]
    assets = call.core.assets.find_all(call.user, ids, "asset.update")
    for asset, item in zip(assets, items, strict=True):
        call.core.assets.drop_note(asset, str(item.get("key")))
    return Answer(204)


ROUTES = (
    Route("DELETE", "/assets", _delete, "asset.delete"),
    Route("PUT", "/assets", _update_many, "asset.update"),
    Route("POST", "/assets/bulk-upload-check", _check, "asset.upload"),
    Route("PUT", "/assets/copy", _copy, "asset.copy"),
    Route("PUT", "/assets/metadata", _set_many_notes, "asset.update"),
    Route("DELETE", "/assets/metadata", _drop_many_notes, "asset.update"),
    Route("GET", "/assets/{id}", _read, "asset.read"),
    Route("PUT", "/assets/{id}", _update, "asset.update"),
    Route("GET", "/assets/{id}/metadata", _notes, "asset.read"),
    Route("PUT", "/assets/{id}/metadata", _set_notes, "asset.update"),
    Route("GET", "/assets/{id}/metadata/{key}", _note_of_key, "asset.read"),
    Route("DELETE", "/assets/{id}/metadata/{key}", _drop_note, "asset.update"),
    Route("POST", "/trash/restore/assets", _trash_restore, "asset.delete"),
    Route("POST", "/trash/restore", _trash_restore_all, "asset.delete"),
    Route("POST", "/trash/empty", _trash_empty, "asset.delete"),
)
