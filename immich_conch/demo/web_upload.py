"""`POST /assets`: what becomes of an upload once its body is there, and before.

The order of the checks is the recordings': type, file, fields, emptiness, quota, duplicate.
"""

from __future__ import annotations

import json
from typing import Any

from immich_conch.demo.assets import VISIBILITIES, normal_checksum
from immich_conch.demo.dates import parse
from immich_conch.demo.entities import Asset, User
from immich_conch.demo.media import asset_type, extension
from immich_conch.demo.refusals import (
    Refusal,
    bad_date,
    check_uuid,
    missing_dates,
    wrong_type,
)
from immich_conch.demo.routing import Answer, Call, Core, Route
from immich_conch.demo.web_assets import check_items


def announced_duplicate(core: Core, user: User, checksum: str | None) -> Answer | None:
    """The answer to an upload whose `x-immich-checksum` names an asset of the user.

    It is given before the body is read; nobody compares the header with the bytes.
    """
    normal = None if checksum is None else normal_checksum(checksum)
    known = None if normal is None else core.assets.known(user, normal)
    return None if known is None else Answer(200, {"status": "duplicate", "id": known.id})


def _dates(call: Call, fields: dict[str, str]) -> tuple[int, int]:
    paths = ["fileCreatedAt", "fileModifiedAt"]
    missing = [path for path in paths if not fields.get(path)]
    if missing:
        raise missing_dates(call.modern, missing)
    times = []
    for path in paths:
        try:
            times.append(parse(fields[path]))
        except ValueError as error:
            raise bad_date(call.modern, path) from error
    return times[0], times[1]


def _items(call: Call, text: str | None) -> list[tuple[str, dict[str, Any]]]:
    if text is None:
        return []
    try:
        items = json.loads(text)
    except ValueError as error:
        if call.modern:
            issue = {
                "code": "custom",
                "message": "Invalid input: expected JSON string, received string",
                "path": ["metadata"],
            }
            raise Refusal(400, "Validation failed", [issue]) from error
        raise Refusal(400, ["metadata must be valid JSON"]) from error
    return check_items(call, items)


def _live_video(call: Call, fields: dict[str, str]) -> str | None:
    if not fields.get("livePhotoVideoId"):
        return None
    video_id = check_uuid(call.modern, "livePhotoVideoId", fields["livePhotoVideoId"])
    video = call.state.by_owner[call.user.id].get(video_id)
    if video is None:
        raise Refusal(400, "Live photo video not found")
    if video.type != "VIDEO":
        raise Refusal(400, "Live photo video must be a video")
    return video_id


def _upload(call: Call) -> Answer:
    body = call.upload
    early = announced_duplicate(call.core, call.user, call.header("x-immich-checksum"))
    if early is not None:
        return early
    if body is None or body.error:
        raise Refusal(400, "Unexpected end of form")
    fields, file = body.fields, body.file
    name = fields.get("filename") or (file.name if file is not None else "")
    kind = asset_type(name, call.modern)
    if file is not None and kind is None:
        raise Refusal(400, f"Unsupported file type {name}")
    if file is None or kind is None:
        raise Refusal(400, "Field(s) assetData should not be empty")
    if not call.modern:
        for path in ("deviceAssetId", "deviceId"):
            if not fields.get(path):
                raise wrong_type(False, path, "string", None)
    taken, modified = _dates(call, fields)
    items = _items(call, fields.get("metadata"))
    visibility = call.option("visibility", fields.get("visibility", "timeline"), VISIBILITIES)
    live_video = _live_video(call, fields)
    if call.modern and not file.size:
        raise Refusal(400, "File is empty")
    if call.quota_full:
        raise Refusal(400, "Quota has been exceeded!")
    call.core.assets.require_quota(call.user, file.size)
    known = call.core.assets.known(call.user, file.checksum)
    if known is not None:
        return Answer(200, {"status": "duplicate", "id": known.id})
    state = call.state
    now, asset_id, file_id = state.now(), state.new_id(), state.new_id()
    folder = f"/data/upload/{call.user.id}/{file_id[:2]}/{file_id[2:4]}"
    asset = Asset(
        id=asset_id,
        owner_id=call.user.id,
        name=name,
        type=kind,
        checksum=file.checksum,
        size=file.size,
        modified=modified,
        taken=taken,
        created=now,
        updated=now,
        seq=state.next_seq(),
        exif_seq=state.next_seq(),
        path=f"{folder}/{file_id}{name[len(name) - len(extension(name)) :]}",
        device_asset_id=fields.get("deviceAssetId", ""),
        device_id=fields.get("deviceId", ""),
        favorite=fields.get("isFavorite") == "true",
        visibility=visibility,
        live_video=live_video,
    )
    state.storage.keep(body.claim(), asset_id)
    call.core.assets.create(call.user, asset)
    for key, value in items:
        call.core.assets.set_note(asset, key, value)
    call.core.assets.extract_later(asset)
    return Answer(201, {"id": asset_id, "status": "created"})


ROUTES = (Route("POST", "/assets", _upload, "asset.upload"),)
