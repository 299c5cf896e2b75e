"""`/tags`: a tree of names, and which assets carry them."""

from __future__ import annotations

from typing import Any

from immich_conch.demo.answers import tag as answer
from immich_conch.demo.entities import Tag
from immich_conch.demo.refusals import no_access
from immich_conch.demo.routing import Answer, Call, Route


def _own(call: Call) -> list[Tag]:
    tags = [tag for tag in call.state.tags.values() if tag.user_id == call.user.id]
    return sorted(tags, key=lambda tag: tag.value)


def _upsert(call: Call, value: str) -> Tag:
    """The tag of a path; makes it and what is above it."""
    known = next((tag for tag in _own(call) if tag.value == value), None)
    if known is not None:
        return known
    above = value.rpartition("/")[0]
    parent = _upsert(call, above).id if above else None
    now = call.state.now()
    tag = Tag(call.state.new_id(), call.user.id, value, parent, now, now)
    call.state.tags[tag.id] = tag
    call.state.save("tag", tag.id, tag)
    return tag


def _find(call: Call) -> Tag:
    tag = call.state.tags.get(call.id())
    if tag is None or tag.user_id != call.user.id:
        raise no_access("tag.read")
    return tag


def _list(call: Call) -> Answer:
    return Answer(200, [answer(tag) for tag in _own(call)])


def _upsert_many(call: Call) -> Answer:
    values = call.fields(tags="array!")["tags"]
    whole = ["/".join(filter(None, str(value).split("/"))) for value in values]
    return Answer(200, [answer(_upsert(call, value)) for value in whole])


def _read(call: Call) -> Answer:
    return Answer(200, answer(_find(call)))


def _delete(call: Call) -> Answer:
    tag = _find(call)
    for below in [t for t in _own(call) if t is tag or t.value.startswith(tag.value + "/")]:
        for asset in call.state.by_owner[call.user.id].values():
            if below.id in asset.tags:
                asset.tags.remove(below.id)
                call.state.save("asset", asset.id, asset)
        del call.state.tags[below.id]
        call.state.save("tag", below.id, None)
    return Answer(204)


def _set(call: Call, wanted: bool) -> Answer:
    tag = _find(call)
    own = call.state.by_owner[call.user.id]
    results: list[dict[str, Any]] = []
    for asset_id in call.ids():
        asset = own.get(asset_id)
        error = None
        if asset is None:
            error = "no_permission"
        elif (tag.id in asset.tags) == wanted:
            error = "duplicate" if wanted else "not_found"
        elif wanted:
            asset.tags.append(tag.id)
        else:
            asset.tags.remove(tag.id)
        if error is None and asset is not None:
            call.core.assets.written_to(asset)
            results.append({"id": asset_id, "success": True})
        else:
            results.append({"id": asset_id, "success": False, "error": error})
    return Answer(200, results)


def _tag_assets(call: Call) -> Answer:
    return _set(call, True)


def _untag_assets(call: Call) -> Answer:
    return _set(call, False)


ROUTES = (
    Route("GET", "/tags", _list, "tag.read"),
    Route("PUT", "/tags", _upsert_many, "tag.create"),
    Route("GET", "/tags/{id}", _read, "tag.read"),
    Route("DELETE", "/tags/{id}", _delete, "tag.delete"),
    Route("PUT", "/tags/{id}/assets", _tag_assets, "tag.asset"),
    Route("DELETE", "/tags/{id}/assets", _untag_assets, "tag.asset"),
)
