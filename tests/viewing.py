"""A rig with views, and what they show: tags, people, the trash, and many photos."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rig import TAKEN, VERSIONS, Rig, rig

from immich_conch.demo.entities import Person, Tag
from immich_conch.parsing import VIEWS

ALL = {f"@{word.capitalize()}" for word in VIEWS}

both = pytest.mark.parametrize("version", VERSIONS)


@asynccontextmanager
async def viewed(
    tmp_path: Path, version: str = "3.1.0", views: tuple[str, ...] = VIEWS, **more: Any
) -> AsyncIterator[Rig]:
    """A rig with all views on."""
    async with rig(tmp_path, version, views=views, **more) as r:
        yield r


def tag(r: Rig, value: str, *assets: Any) -> Tag:
    """A tag of Alice's, with what is above it, on some assets."""
    state, parent = r.demo.state, None
    parts = value.split("/")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        made = next((t for t in state.tags.values() if t.value == path), None)
        if made is None:
            made = Tag(state.new_id(), r.alice.id, path, parent, state.now(), state.now())
            state.tags[made.id] = made
        parent = made.id
    for asset in assets:
        asset.tags.append(made.id)
    return made


def person(r: Rig, name: str, *assets: Any, hidden: bool = False) -> Person:
    """Somebody on some assets."""
    state = r.demo.state
    made = Person(state.new_id(), r.alice.id, name, state.now(), state.now(), hidden)
    state.people[made.id] = made
    for asset in assets:
        asset.people.append(made.id)
    return made


async def trashed(r: Rig, *assets: Any) -> None:
    """Somebody moved assets to the trash elsewhere."""
    immich = await r.server.log_in("alice@example.com", "correct horse")
    await immich.trash([asset.id for asset in assets])


def many(r: Rig, count: int, **more: Any) -> None:
    """So many assets without an album, the first ones of one name."""
    names = [f"{number % 1500:05}.jpg" for number in range(count)]
    r.demo.add_assets(r.alice, names, TAKEN, **more)
