"""The mirror where there can be one, listings where not: what a password session's catalog asks.

While a mirror is loaded from nothing, looks are answered by whichever is whole first, listings or
mirror (what is worth a listing then, `first_load` says); after that the mirror answers, and with
nothing older than what the listings have shown.  A server without the stream, or a library too
large for it, is served by listings, with one log line; the mirror says itself when it is worth
another try.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from immich_conch.errors import ConchError, NoMirror, SessionRevoked
from immich_conch.immich.model import Album, Asset
from immich_conch.library.first_load import FirstLoad
from immich_conch.library.listing_source import ListingSource
from immich_conch.library.mirror import Mirror
from immich_conch.library.source import ISource

T = TypeVar("T")


@implementer(ISource)
@define(eq=False)
class LiveSource:
    """ISource over a mirror with listings behind it."""

    mirror: Mirror
    listings: ListingSource
    _mirrored: bool = True

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.mirror.notes_first()

    async def _first(
        self,
        live: Callable[[], Awaitable[T]],
        listed: Callable[[], Awaitable[T]],
        early: Callable[[FirstLoad], Callable[[], Awaitable[T]] | None],
    ) -> T:
        """The mirror's answer, the listings' where there is no mirror or a load of it failed.

        `early` gives the way to an answer during a load, if one is worth it.
        """
        other: Callable[[], Awaitable[T]] | None = None
        if self.mirror.failing:
            return await self._listed(listed)
        try:
            load = await self.mirror.load()
            other = None if load is None else early(load)
            self.mirror.keep_fresh()
            if load is not None and other is not None:
                answer = await self._race(load, live, other)
            else:
                answer = await live()
        except NoMirror as error:
            if self._mirrored:
                self._mirrored = False
                self._log.warn("the library is listed, not mirrored: {reason}", reason=error.text)
            return await self._listed(listed)
        except SessionRevoked:
            raise
        except ConchError as error:
            if other == listed or not self.mirror.failing:
                raise
            self._log.info("the mirror could not be loaded: {reason}", reason=error.text)
            return await self._listed(listed)
        if not self._mirrored and load is None:
            self._mirrored = True
            self._log.info("the library is mirrored again")
        return answer

    async def _listed(self, listed: Callable[[], Awaitable[T]]) -> T:
        answer = await listed()
        self.mirror.seen()
        return answer

    async def _race(
        self,
        load: FirstLoad,
        live: Callable[[], Awaitable[T]],
        other: Callable[[], Awaitable[T]],
    ) -> T:
        """The answer that is whole first; if neither comes, the mirror's error."""
        first: Deferred[T] = Deferred()
        lost: dict[bool, Failure] = {}

        async def run(work: Callable[[], Awaitable[T]]) -> T:
            return await work()

        def win(answer: T) -> None:
            if not first.called:
                first.callback(answer)

        def lose(failure: Failure, is_live: bool) -> None:
            lost[is_live] = failure
            if len(lost) == 2 and not first.called:
                first.errback(lost[True])

        load.hold()
        runners = []
        for is_live, work in ((False, partial(self._listed, other)), (True, live)):
            runner = Deferred.fromCoroutine(run(work))
            runner.addCallbacks(win, lose, errbackArgs=(is_live,))
            runners.append(runner)
        # Behind `win`: what it leads to at once, such as the listing of a folder, goes first, too.
        runners[0].addBoth(lambda _: load.release())
        try:
            return await first
        finally:
            for runner in runners:
                runner.cancel()

    async def albums(self) -> list[Album]:
        """All albums the user sees."""
        return await self._first(
            self.mirror.albums, self.listings.albums, lambda load: self.listings.albums
        )

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album."""
        listed = partial(self.listings.assets, album)
        return await self._first(
            lambda: self.mirror.assets(album),
            listed,
            lambda load: listed if load.may_list(album.asset_count) else None,
        )

    def mark(self, album_id: str) -> int | None:
        """What stands for an album's content, where the mirror is whole.

        Listings answer where it is lost, and the next one knows nothing of marks before itself.
        """
        return self.mirror.mark(album_id)

    async def changes(self, album: Album, since: int) -> Mapping[str, Asset | None] | None:
        """What the mirror knows to have changed; a load of it is not waited for."""
        try:
            if self.mirror.failing or await self.mirror.load() is not None:
                return None
            self.mirror.keep_fresh()
            return await self.mirror.changes(album, since)
        except NoMirror:
            return None
        except SessionRevoked:
            raise
        except ConchError:
            # Where a load failed listings answer, else nobody does.
            if not self.mirror.failing:
                raise
            return None

    async def parts(self, stills: Sequence[Asset]) -> Mapping[str, Asset]:
        """The motion parts of live photos."""
        listed = partial(self.listings.parts, stills)
        return await self._first(
            lambda: self.mirror.parts(stills),
            listed,
            lambda load: listed if load.may_list(len(stills)) else None,
        )

    def stills(self, part_id: str) -> Sequence[str]:
        """Live photos known to have this motion part."""
        return self.mirror.stills(part_id) or self.listings.stills(part_id)

    def part_changed(self, part_id: str) -> None:
        """A motion part was unlinked, trashed or restored by us."""
        for source in (self.mirror, self.listings):
            source.part_changed(part_id)

    async def size(self, asset_id: str) -> int | None:
        """The size of an original."""
        return await self.listings.size(asset_id)

    async def notes(self, asset_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What is noted of assets."""

        async def told() -> Mapping[str, Mapping[str, Any]]:
            found = await self.mirror.notes(asset_ids)
            # What the listings have read would be old once they take over again.
            self.listings.forget_notes()
            return found

        return await self._first(
            told,
            lambda: self.listings.notes(asset_ids),
            lambda load: partial(self.mirror.early_notes, load, asset_ids),
        )

    def changed(self, album_id: str, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """An own change to an album's content is in Immich."""
        for source in (self.mirror, self.listings):
            source.changed(album_id, added, removed)

    def album_changed(self, album: Album) -> None:
        """An own change to an album is in Immich."""
        for source in (self.mirror, self.listings):
            source.album_changed(album)

    def album_gone(self, album_id: str) -> None:
        """An album was deleted or left by us."""
        for source in (self.mirror, self.listings):
            source.album_gone(album_id)

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """Our metadata of an asset was written or removed by us."""
        for source in (self.mirror, self.listings):
            source.noted(asset_id, value)
