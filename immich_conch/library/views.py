"""The folders of the views, and what is in them: answered by Immich's searches, for a while.

How long an answer is believed follows what it cost: a folder that took ten seconds to list is not
listed again for each of the `stat`s that follow.  Own changes are entered at once, and what they
may have changed elsewhere is asked for again when somebody looks.  A view's folder that is looked
at while it is listed gives what has come; what does not come is an error (rule 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import attrs
from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from immich_conch.errors import ConchError, NotFound
from immich_conch.immich.model import Album, Asset
from immich_conch.library.gather import gather
from immich_conch.library.listing_source import Ask
from immich_conch.library.naming import Folder
from immich_conch.library.relations import (
    ARCHIVE,
    FAVORITES,
    PEOPLE,
    TAGS,
    TIMELINE,
    TRASH,
    UNSORTED,
    key_of,
    kind_of,
)
from immich_conch.library.view_folders import Spot, ViewFolders, month_bounds
from immich_conch.library.view_listing import Listing

#: A listing is believed for so many times as long as it took, up to so many seconds.
WORTH, WORTH_MOST = 10.0, 60.0
#: Files of all folders that are remembered; the folder that was listed longest ago goes first.
REMEMBERED = 200_000
#: HEAD requests side by side for assets whose size a search did not tell.
SIZE_REQUESTS = 8

#: What an album's folder shows too.
_SHOWN = ("timeline", "archive")


@define(eq=False, repr=False)
class Views:
    """The views of one credential; `on` are the words of `relations.VIEWS`."""

    ask: Ask
    clock: IReactorTime
    user_id: str
    on: frozenset[str] = frozenset()
    freshness: float = 2.0
    ignore_case: bool = False
    folders: ViewFolders = Factory(
        lambda self: ViewFolders(self.ask, self.clock, self.on, self.freshness, self.ignore_case),
        takes_self=True,
    )
    #: Listings by the id of their folder, the one that was begun last at the end.
    _listings: dict[str, Listing] = field(factory=dict)

    _log = Logger()

    async def spot(self, parts: tuple[str, ...]) -> Spot | None:
        """The folder at a path, or None."""
        return await self.folders.spot(parts)

    async def album(self, view_id: str) -> Album:
        """A folder as an album; raises NotFound where it is gone, or its view switched off."""
        spot = await self.folders.by_id(view_id) if self._is_on(view_id) else None
        if spot is None:
            raise NotFound
        return spot.album(self.user_id)

    def _is_on(self, view_id: str) -> bool:
        return any(spot.id == kind_of(view_id) for spot in self.folders.tops())

    async def listing(self, view_id: str) -> Listing | None:
        """The files of a folder, on their way or there; None where its view is switched off."""
        if not self._is_on(view_id):
            return None
        known = self._listings.get(view_id)
        if known is not None and not self._too_old(known):
            return known
        spot = await self.folders.by_id(view_id)
        if spot is None:
            raise NotFound
        now = self._listings.get(view_id)
        if now is not None and now is not known and not self._too_old(now):
            return now  # somebody else was quicker
        before = None if known is None or known.ended is None else known.folder
        reserved = frozenset(map(self.folders.key, spot.folders))
        new = Listing(self.clock.seconds(), self.folders.key, before, reserved)
        self._listings.pop(view_id, None)
        self._listings[view_id] = new
        Deferred.fromCoroutine(self._load(view_id, new)).addErrback(
            lambda failure: self._log.failure("listing {view}", failure=failure, view=view_id)
        )
        return new

    async def whole(self, view_id: str) -> Folder:
        """All files of a folder; raises NotFound and what Immich raised."""
        listing = await self.listing(view_id)
        if listing is None:
            raise NotFound
        return await listing.whole()

    def _too_old(self, listing: Listing) -> bool:
        if listing.stale or listing.error is not None:
            return True
        if listing.ended is None:
            return False
        took = listing.ended - listing.began
        kept = max(self.freshness, min(WORTH * took, WORTH_MOST))
        return self.clock.seconds() - listing.began >= took + kept

    # -- asking ---------------------------------------------------------------------------------

    async def _load(self, view_id: str, listing: Listing) -> None:
        try:
            for visibility in _visibilities(view_id):
                criteria = {**_criteria(view_id), "visibility": visibility}
                after: str | None = ""
                while after is not None:
                    found, after = await self._search(criteria, after)
                    found = [asset for asset in found if _belongs(view_id, asset)]
                    listing.take(await self._with_sizes(found))
        except ConchError as error:
            listing.fail(error)
            return
        except BaseException as error:
            listing.fail(ConchError(f"The folder could not be listed: {error!r}"))
            raise
        listing.end(self.clock.seconds())
        self._forget_old()

    async def _search(self, criteria: dict[str, Any], after: str) -> tuple[list[Asset], str | None]:
        return await self.ask(lambda immich: immich.search(criteria, after))

    async def _with_sizes(self, assets: list[Asset]) -> list[Asset]:
        """Fill in sizes that the search did not tell (section 2: fetched, never guessed)."""
        sizes: dict[str, int | None] = {}

        async def fetch(asset: Asset) -> None:
            try:
                sizes[asset.id] = await self.ask(lambda immich: immich.size(asset.id))
            except NotFound:
                sizes[asset.id] = None

        unknown = [asset for asset in assets if asset.size is None and not asset.offline]
        if unknown:
            await gather([partial(fetch, asset) for asset in unknown], SIZE_REQUESTS)
        return [
            attrs.evolve(asset, size=sizes[asset.id]) if asset.id in sizes else asset
            for asset in assets
        ]

    def _forget_old(self) -> None:
        count = sum(len(listing.order) for listing in self._listings.values())
        for view_id, listing in list(self._listings.items())[:-1]:
            if count <= REMEMBERED:
                return
            if not listing.running:
                count -= len(listing.order)
                del self._listings[view_id]

    # -- own changes, entered before they are answered ------------------------------------------

    def changed(self, view_id: str, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """We made or undid a view's relation, or removed assets there."""
        for other, listing in self._listings.items():
            if other != view_id:
                listing.stale = True
        self._tree_changed(added)
        mine = self._listings.get(view_id)
        if mine is not None:
            for asset_id in removed:
                mine.leave(asset_id)
            for asset in added:
                mine.enter(asset)

    def album_changed(self, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """We put assets into an album, or took them out."""
        for view_id, listing in self._listings.items():
            listing.stale = listing.stale or bool(removed) or view_id != UNSORTED
        self._tree_changed(added)
        unsorted = self._listings.get(UNSORTED)
        if unsorted is not None:
            for asset in added:
                unsorted.leave(asset.id)

    def _tree_changed(self, added: Sequence[Asset]) -> None:
        if added:
            self.folders.months.stale()


def _visibilities(view_id: str) -> tuple[str, ...]:
    kind = kind_of(view_id)
    if kind == TIMELINE:
        return ("timeline",)
    return ("archive",) if kind == ARCHIVE else _SHOWN


def _criteria(view_id: str) -> dict[str, Any]:
    """What Immich is asked for; FACTS.md does not tell, so tried against both versions."""
    kind, key = kind_of(view_id), key_of(view_id)
    if kind == FAVORITES:
        return {"isFavorite": True}
    if kind == PEOPLE:
        return {"personIds": [key]}
    if kind == TAGS:
        return {"tagIds": [key]}
    if kind == UNSORTED:
        return {"isNotInAlbum": True}
    if kind == TRASH:
        return {"withDeleted": True, "trashedAfter": "1970-01-01T00:00:00.000Z"}
    if kind == TIMELINE:
        # The bounds are instants, a month is one of the wall clock: a day around it is enough.
        begin, end = month_bounds(key)
        around = timedelta(days=1)
        return {"takenAfter": _iso(begin - around), "takenBefore": _iso(end + around)}
    return {}


def _belongs(view_id: str, asset: Asset) -> bool:
    """Whether an asset is in a folder, as far as the search could not say."""
    if asset.trashed != (view_id == TRASH):
        return False
    if kind_of(view_id) != TIMELINE:
        return True
    begin, end = month_bounds(key_of(view_id))
    local = asset.taken if asset.local is None else asset.local
    return begin.timestamp() <= local < end.timestamp()


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
