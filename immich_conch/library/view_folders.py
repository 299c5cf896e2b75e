"""Which folders the views have: people, the tree of tags, years and months.

People without a name have no folder: Immich finds thousands of them, and a file can still be
found by everything else.  A tag's value is a path (`Places/Rome`), so tags are folders in folders.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import accumulate
from typing import Generic, TypeVar

from attrs import Factory, define, field, frozen
from twisted.internet.interfaces import IReactorTime

from immich_conch.immich.model import Album, Tag
from immich_conch.library import names
from immich_conch.library.gather import Shared
from immich_conch.library.listing_source import Ask
from immich_conch.library.relations import PEOPLE, TAGS, TIMELINE, VIEWS, key_of, kind_of

T = TypeVar("T")


@frozen
class Spot:
    """One folder of a view: its id as an album's, its own folders by name, whether it has files.

    `value` is the whole tag for a tag's folder.
    """

    id: str
    path: tuple[str, ...]
    folders: dict[str, str] = Factory(dict)
    has_files: bool = True
    value: str = ""
    modified: float = 0.0

    def album(self, user_id: str) -> Album:
        """The folder as the album that uploads and moves take it for."""
        return Album(
            id=self.id,
            name="/".join(self.path),
            description="",
            owner_id=user_id,
            role="owner",
            created=0.0,
            updated=self.modified,
            asset_count=0,
            validator=(),
        )


@define(eq=False)
class _Kept(Generic[T]):
    """One answer of Immich's, kept for a while and asked for once by all who wait."""

    ask: Callable[[], Awaitable[T]]
    clock: IReactorTime
    freshness: float
    _at: float | None = None
    _began: float = 0.0
    _value: T | None = None
    _running: Shared[T] | None = None

    async def get(self) -> T:
        """The answer, fresh within the bound; raises what Immich raised."""
        if self._at is not None and self.clock.seconds() - self._at < self.freshness:
            return self._value  # type: ignore[return-value]
        if self._running is None or self._running.done:
            self._began = self.clock.seconds()
            self._running = Shared.start(_value(self.ask))
        running = self._running
        value = await running.wait()
        if self._running is running:
            self._at, self._value = self._began, value
        return value

    def stale(self) -> None:
        """It may be wrong by a change of our own."""
        self._at = self._running = None


async def _value(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()


@define(eq=False)
class ViewFolders:
    """The folders of one credential's views."""

    ask: Ask
    clock: IReactorTime
    on: frozenset[str]
    freshness: float = 2.0
    ignore_case: bool = False
    people: _Kept[dict[str, str]] = field(init=False)
    tags: _Kept[_TagTree] = field(init=False)
    months: _Kept[list[str]] = field(init=False)
    #: What people were shown as.
    _pins: dict[str, str] = Factory(dict)

    def __attrs_post_init__(self) -> None:
        def kept(ask: Callable[[], Awaitable[T]]) -> _Kept[T]:
            return _Kept(ask, self.clock, self.freshness)

        self.people = kept(self._people)
        self.tags = kept(self._tags)
        self.months = kept(lambda: self.ask(lambda immich: immich.months()))

    def key(self, name: str) -> str:
        """The key under which a name is looked up."""
        return names.fold(name, casefold=self.ignore_case)

    def tops(self) -> list[Spot]:
        """The views themselves, without asking anybody."""
        return [Spot(view, (view,)) for word, view in VIEWS.items() if word in self.on]

    async def spot(self, parts: tuple[str, ...]) -> Spot | None:
        """The folder at a path, or None; raises what Immich raised."""
        top = next((spot for spot in self.tops() if self.key(spot.id) == self.key(parts[0])), None)
        if top is None:
            return None
        if top.id == TAGS:
            return await self._tag_spot(parts[1:])
        if top.id == PEOPLE:
            folders = {name: f"{PEOPLE}/{id}" for id, name in (await self.people.get()).items()}
            return self._below(Spot(PEOPLE, (PEOPLE,), folders, has_files=False), parts[1:])
        if top.id == TIMELINE:
            return await self._month_spot(parts[1:])
        return top if len(parts) == 1 else None

    async def by_id(self, view_id: str) -> Spot | None:
        """The folder of an id, or None."""
        kind = kind_of(view_id)
        if kind == TAGS and view_id != TAGS:
            return await self._tag_by_id(key_of(view_id))
        if kind in (PEOPLE, TIMELINE):
            return Spot(view_id, (view_id,))
        return next((spot for spot in self.tops() if spot.id == view_id), None)

    def _below(self, spot: Spot, rest: tuple[str, ...]) -> Spot | None:
        """A folder of files one level below another."""
        if not rest:
            return spot
        for name, view_id in spot.folders.items():
            if self.key(name) == self.key(rest[0]) and len(rest) == 1:
                return Spot(view_id, (*spot.path, name))
        return None

    async def _people(self) -> dict[str, str]:
        people = await self.ask(lambda immich: immich.people())
        entries = (
            names.Entry(person.id, person.name, 0.0, self._pins.get(person.id))
            for person in people
            if person.name
        )
        wanted = {person.id: names.safe(person.name) for person in people}
        shown = names.assign(entries, folders=True, casefold=self.ignore_case)
        self._pins = {id: name for id, name in shown.items() if name != wanted[id]}
        return shown

    async def _tags(self) -> _TagTree:
        return _TagTree(await self.ask(lambda immich: immich.tags()), self.ignore_case)

    async def _month_spot(self, rest: tuple[str, ...]) -> Spot | None:
        months = await self.months.get()
        years = {month[:4]: f"{TIMELINE}/{month[:4]}" for month in sorted(months)}
        top = Spot(TIMELINE, (TIMELINE,), years, has_files=False)
        if not rest:
            return top
        if rest[0] not in years:
            return None
        inside = {
            month: f"{TIMELINE}/{month}" for month in sorted(months) if month.startswith(rest[0])
        }
        return self._below(
            Spot(years[rest[0]], (TIMELINE, rest[0]), inside, has_files=False), rest[1:]
        )

    async def _tag_spot(self, rest: tuple[str, ...]) -> Spot | None:
        """The folder at a path below `@Tags`."""
        tree = await self.tags.get()
        path: tuple[str, ...] = (TAGS,)
        value = ""
        for part in rest:
            inside = tree.folders(value)
            name = next((name for name in inside if self.key(name) == self.key(part)), None)
            if name is None:
                return None
            value, path = inside[name], (*path, name)
        return tree.spot(value, path)

    async def _tag_by_id(self, tag_id: str) -> Spot | None:
        tree = await self.tags.get()
        tag = tree.by_id.get(tag_id)
        if tag is None:
            return None
        path: tuple[str, ...] = (TAGS,)
        above = ""
        for value in accumulate(tag.value.split("/"), lambda above, part: f"{above}/{part}"):
            shown = {child: name for name, child in tree.folders(above).items()}
            path, above = (*path, shown[value]), value
        return tree.spot(tag.value, path)


class _TagTree:
    """Tags as folders; one that stands above others without being a tag is a folder too."""

    def __init__(self, tags: list[Tag], ignore_case: bool) -> None:
        self.tags = {tag.value: tag for tag in tags}
        self.by_id = {tag.id: tag for tag in tags}
        self._named: dict[str, dict[str, str]] = {}
        self._ignore_case = ignore_case
        self._below: dict[str, set[str]] = {}
        for value in self.tags:
            while value:
                above = value.rpartition("/")[0]
                self._below.setdefault(above, set()).add(value)
                value = above

    def folders(self, value: str) -> dict[str, str]:
        """The names of what lies in a tag's folder, and the tag of each."""
        if value not in self._named:
            entries = {self._id(child): child for child in self._below.get(value, ())}
            shown = names.assign(
                (names.Entry(id, child.rpartition("/")[2], 0.0) for id, child in entries.items()),
                folders=True,
                casefold=self._ignore_case,
            )
            self._named[value] = {shown[id]: child for id, child in entries.items()}
        return self._named[value]

    def _id(self, value: str) -> str:
        return self.tags[value].id if value in self.tags else value

    def spot(self, value: str, path: tuple[str, ...]) -> Spot:
        """A tag's folder; `@Tags` itself, and what is no tag, has no files."""
        tag = self.tags.get(value)
        inside = {
            name: f"{TAGS}/{self.tags[child].id}" if child in self.tags else f"{TAGS}/"
            for name, child in sorted(self.folders(value).items())
        }
        if tag is None:
            return Spot(f"{TAGS}/" if value else TAGS, path, inside, False, value)
        return Spot(f"{TAGS}/{tag.id}", path, inside, value=value, modified=tag.created)


def month_bounds(month: str) -> tuple[datetime, datetime]:
    """The beginning and the end of a month, as if the wall clock were UTC."""
    year, number = int(month[:4]), int(month[5:])
    begin = datetime(year, number, 1, tzinfo=UTC)
    return begin, datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
