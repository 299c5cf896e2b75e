"""`/people` and `/faces`: who is on which of a user's assets.

Nobody looks for faces here; what Immich's machine learning would find is posted by hand.
"""

from __future__ import annotations

from typing import Any

from immich_conch.demo.dates import js
from immich_conch.demo.entities import Person
from immich_conch.demo.refusals import check_uuid, no_access, too_big, too_small
from immich_conch.demo.routing import Answer, Call, Route

MAX_SIZE = 1000
"""People a page at most."""

_DEFAULT_SIZE = 500

_MINIMUM_FACES = 3
"""Faces of somebody without a name from which on Immich lists them."""


def _answer(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "birthDate": None,
        "thumbnailPath": "",
        "isHidden": person.hidden,
        "isFavorite": False,
        "updatedAt": js(person.updated),
    }


def _shown_on(call: Call, person: Person) -> int:
    """How many assets of the timeline somebody is on."""
    return sum(
        1
        for asset in call.state.by_owner[call.user.id].values()
        if person.id in asset.people and asset.deleted is None and asset.visibility == "timeline"
    )


def _number(call: Call, name: str, default: int, most: int | None = None) -> int:
    text = call.query.get(name, "")
    value = int(text) if text.isdigit() else default
    if value < 1:
        raise too_small(call.modern, name, 1)
    if most is not None and value > most:
        raise too_big(call.modern, name, most)
    return value


def _list(call: Call) -> Answer:
    size = _number(call, "size", _DEFAULT_SIZE, MAX_SIZE)
    page = _number(call, "page", 1)
    found = []
    for person in call.state.people.values():
        faces = _shown_on(call, person) if person.user_id == call.user.id else 0
        if faces >= (1 if person.name else _MINIMUM_FACES):
            found.append((person.hidden, not person.name, -faces, person.name, person))
    found.sort(key=lambda entry: (*entry[:4], entry[4].created))
    hidden = sum(1 for entry in found if entry[0])
    if call.query.get("withHidden") != "true":
        shown = [entry[4] for entry in found if not entry[0]]
    else:
        shown = [entry[4] for entry in found]
    start = (page - 1) * size
    return Answer(
        200,
        {
            "people": [_answer(person) for person in shown[start : start + size]],
            "hasNextPage": len(shown) > start + size,
            "total": len(found),
            "hidden": hidden,
        },
    )


def _create(call: Call) -> Answer:
    data = call.fields(name="string", isHidden="boolean")
    now = call.state.now()
    person = Person(
        call.state.new_id(),
        call.user.id,
        data.get("name", ""),
        now,
        now,
        data.get("isHidden", False),
    )
    call.state.people[person.id] = person
    call.state.save("person", person.id, person)
    return Answer(201, _answer(person))


def _add_face(call: Call) -> Answer:
    data = call.fields(
        assetId="string!",
        personId="string!",
        **dict.fromkeys(("imageWidth", "imageHeight", "x", "y", "width", "height"), "number!"),
    )
    asset_id = check_uuid(call.modern, "assetId", data["assetId"])
    person = call.state.people.get(check_uuid(call.modern, "personId", data["personId"]))
    asset = call.core.assets.find(call.user, asset_id, "asset.read")
    if person is None or person.user_id != call.user.id:
        raise no_access("person.read")
    if person.id not in asset.people:
        asset.people.append(person.id)
        call.state.save("asset", asset.id, asset)
    return Answer(201)


ROUTES = (
    Route("GET", "/people", _list, "person.read"),
    Route("POST", "/people", _create, "person.create"),
    Route("POST", "/faces", _add_face, "face.create"),
)
