"""Own changes that the sync stream has not told yet, laid over what it has told.

A delta that began before an own change must not undo it, and what the stream tells afterwards
must not be undone by an own change.  So the tables hold nothing but what was told, and an own
change lies over them until a delta that began after it has told the same; or, if it tells
otherwise, until a second one has (a row that Immich writes while it sends comes one delta later).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from attrs import Factory, define

from immich_conch.immich.model import Album, Asset

T = TypeVar("T")

#: Seconds by which a delta has to begin after an own change in order to tell it for sure: Immich
#: sends what is a millisecond old, and a change is in its database before it is answered.
MARGIN = 0.05
#: Deltas after an own change that may disagree with it before they are believed.
PATIENCE = 2


@define
class _Entry(Generic[T]):
    """What we did, or None for what is gone by us; when; and how many deltas disagreed since."""

    value: T | None
    at: float
    disagreed: int = 0


@define(eq=False)
class Layer(Generic[T]):
    """Own changes of one kind by id."""

    _entries: dict[str, _Entry[T]] = Factory(dict)

    def enter(self, key: str, value: T | None, at: float) -> None:
        """We made it `value`; None is gone."""
        self._entries[key] = _Entry(value, at)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The value, or None for what is gone or not here."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def items(self) -> Iterator[tuple[str, T | None]]:
        """All that lies over the tables."""
        return ((key, entry.value) for key, entry in self._entries.items())

    def settle(self, began: float, agrees: Callable[[str, T | None], bool]) -> list[str]:
        """A delta that began then is in the tables: the ids that lie over them no more."""
        settled = []
        for key, entry in self._entries.items():
            if entry.at + MARGIN > began:
                continue
            entry.disagreed += 1
            if entry.disagreed >= PATIENCE or agrees(key, entry.value):
                settled.append(key)
        for key in settled:
            del self._entries[key]
        return settled


@define(eq=False)
class Overlay:
    """All own changes under way."""

    albums: Layer[Album] = Factory(Layer)
    notes: Layer[Mapping[str, Any]] = Factory(Layer)
    #: By album.
    members: dict[str, Layer[Asset]] = Factory(dict)

    def is_gone(self, album_id: str) -> bool:
        """Whether we deleted or left an album."""
        return album_id in self.albums and self.albums.get(album_id) is None

    def of(self, album_id: str) -> Layer[Asset]:
        """The layer over an album's content."""
        return self.members.get(album_id) or Layer()

    def enter_members(self, album_id: str, asset_id: str, asset: Asset | None, at: float) -> None:
        """An asset was added to an album by us, or with None taken out."""
        self.members.setdefault(album_id, Layer()).enter(asset_id, asset, at)
