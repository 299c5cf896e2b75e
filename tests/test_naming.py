"""A folder that has changed a little is named quickly, and never otherwise than from scratch.

The oracle is `FileNames.name`, which looks at every file; `follow` may only be quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import event, given, settings
from hypothesis import strategies as st

from immich_conch.immich.model import Asset
from immich_conch.library.naming import FileNames, Folder

ALBUM = "rome"
#: Names that meet: in case, in Unicode's form, with a mark, where a slash is replaced.
POOL = (
    "a.jpg",
    "A.jpg",
    "b.jpg",
    "b.mov",
    "b ~00000002.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "a/b.jpg",
    "",
)
IDS = tuple(f"0000000{number}-0000-4000-8000-000000000000" for number in range(7))


def asset(asset_id: str, name: str, created: float = 1.0, **more: Any) -> Asset:
    fields: dict[str, Any] = {
        "owner_id": "me",
        "modified": 1.5e9,
        "taken": 1.5e9,
        "visibility": "timeline",
        "trashed": False,
        "size": 1,
        "checksum": None,
    }
    return Asset(asset_id, name, created=created, **fields | more)


@frozen
class World:
    """What Immich says of an album: its assets, what is noted of them, the folders in it."""

    members: tuple[Asset, ...]
    notes: Mapping[str, Mapping[str, Any] | None]
    reserved: frozenset[str]


def some_world(dice: Random) -> World:
    members, notes = [], {}
    for asset_id in dice.sample(IDS, dice.randrange(len(IDS) + 1)):
        live = dice.choice((None,) * 6 + IDS[:2])
        members.append(
            asset(
                asset_id,
                dice.choice(POOL),
                dice.choice((1.0, 2.0)),
                modified=dice.choice((1.5e9, 1.6e9)),
                live_photo_video_id=None if live == asset_id else live,
            )
        )
        places = [{"name": dice.choice(POOL[:-1])} for _ in range(dice.choice((0, 0, 0, 1, 2)))]
        notes[asset_id] = {"v": 1, "albums": {ALBUM: places}} if places else None
    reserved = frozenset(dice.choice(((), (), ("a.jpg",), ("b.jpg", "a.jpg"))))
    return World(tuple(members), notes, reserved)


def some_history(seed: int) -> list[World]:
    """An album over time: mostly what there was with one thing changed, else something else."""
    dice = Random(seed)
    history = [some_world(dice)]
    for _ in range(dice.randrange(1, 7)):
        last, other = history[-1], some_world(dice)
        kind = dice.choice(("same", "come", "come", "go", "change", "reserve", "live", "other"))
        if kind == "come":
            ids = {one.id for one in last.members}
            new = [one for one in other.members if one.id not in ids][:2]
            last = evolve(
                last,
                members=(*last.members, *new),
                notes={**last.notes, **{one.id: other.notes[one.id] for one in new}},
            )
        elif kind == "go":
            last = evolve(last, members=last.members[1:])
        elif kind == "change":
            last = evolve(last, notes={**last.notes, **dict(list(other.notes.items())[:1])})
        elif kind == "reserve":
            last = evolve(last, reserved=frozenset(dice.sample(POOL[:4], 2)))
        elif kind == "live" and last.members:
            part = dice.choice([one for one in (*IDS[:2], None) if one != last.members[0].id])
            still = evolve(last.members[0], live_photo_video_id=part)
            last = evolve(last, members=(still, *last.members[1:]))
        elif kind == "other":
            last = other
        history.append(last)
    return history


def name_from_scratch(names: FileNames, old: Folder | None, folder: Folder) -> None:
    names.name(ALBUM, folder)


def name_quickly(names: FileNames, old: Folder | None, folder: Folder) -> None:
    if old is None or not names.follow(ALBUM, old, folder):
        event("from scratch")
        names.name(ALBUM, folder)
    else:
        event("quickly")


def shown(folder: Folder) -> Any:
    def told(file: Any) -> Any:
        return file.name, file.asset, file.link, file.still

    return (
        {name: told(file) for name, file in folder.files.items()},
        {key: told(file) for key, file in folder.by_key.items()},
        {one: {told(file) for file in files} for one, files in folder.by_asset.items()},
    )


def run(
    history: list[World], ignore_case: bool, way: Callable[[FileNames, Folder | None, Folder], None]
) -> list[Any]:
    """What is shown at each time, and what is remembered of it."""
    names = FileNames(ignore_case)
    seen, old = [], None
    for world in history:
        for asset_id, value in world.notes.items():
            names.remember(asset_id, value)
        members = {one.id: one for one in world.members}
        parts = {
            one: members.get(one) or asset(one, "b.mov", visibility="hidden") for one in IDS[:2]
        }
        folder = Folder.of((len(seen),), members, parts, world.reserved)
        way(names, old, folder)
        old = folder
        seen.append((shown(folder), dict(names._pins[ALBUM])))
    return seen


@settings(max_examples=400)
@given(st.integers(0, 2**32), st.booleans())
def test_what_is_named_quickly_is_named_as_from_scratch(seed: int, ignore_case: bool) -> None:
    history = some_history(seed)
    quick = run(history, ignore_case, name_quickly)
    assert quick == run(history, ignore_case, name_from_scratch)


def folder_of(*members: Asset, **more: Any) -> Folder:
    return Folder.of((1,), {one.id: one for one in members}, {}, **more)


def test_a_file_that_comes_is_named_without_a_look_at_the_others() -> None:
    names = FileNames()
    old = folder_of(asset(IDS[0], "a.jpg"), asset(IDS[1], "a.jpg"))
    names.name(ALBUM, old)
    new = folder_of(*old.members.values(), asset(IDS[2], "c.jpg"))
    assert names.follow(ALBUM, old, new)
    assert set(new.files) == {"a.jpg", "a ~00000001.jpg", "c.jpg"}
    # The file that had the name has gone: nobody inherits it.
    less = folder_of(new.members[IDS[1]], new.members[IDS[2]])
    assert names.follow(ALBUM, new, less)
    assert set(less.files) == {"a ~00000001.jpg", "c.jpg"}


@pytest.mark.parametrize("first", [0, 1])
def test_two_that_come_with_one_name_are_told_apart_by_age(first: int) -> None:
    names = FileNames()
    old = folder_of(asset(IDS[0], "z.jpg"))
    names.name(ALBUM, old)
    pins = dict(names._pins[ALBUM])
    pair = [asset(IDS[1], "a.jpg", created=2.0), asset(IDS[2], "a.jpg", created=1.0)]
    new = folder_of(*old.members.values(), pair[first], pair[1 - first])
    assert not names.follow(ALBUM, old, new)
    assert names._pins[ALBUM] == pins
    names.name(ALBUM, new)
    assert new.files["a.jpg"].asset.id == IDS[2]
