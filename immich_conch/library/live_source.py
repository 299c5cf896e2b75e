"""The mirror where there can be one, listings where not: what a password session's catalog asks.

A server without the stream, or a library too large for it, is served by listings, with one log
line; the mirror says itself when it is worth another try.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import NoMirror
from immich_conch.immich.model import Album, Asset
from immich_conch.library.mirror import Mirror
from immich_conch.library.source import ISource

T = TypeVar("T")


@implementer(ISource)
@define(eq=False)
class LiveSource:
    """ISource over a mirror with listings behind it."""

    mirror: Mirror
    listings: ISource
    _mirrored: bool = True

    _log = Logger()

    async def _first(
        self, live: Callable[[], Awaitable[T]], listed: Callable[[], Awaitable[T]]
    ) -> T:
        try:
            answer = await live()
        except NoMirror as error:
            if self._mirrored:
                self._mirrored = False
                self._log.warn("the library is listed, not mirrored: {reason}", reason=error.text)
            return await listed()
        self.mirror.keep_fresh()
        if not self._mirrored:
            self._mirrored = True
            self._log.info("the library is mirrored again")
        return answer

    async def albums(self) -> list[Album]:
        """All albums the user sees."""
        return await self._first(self.mirror.albums, self.listings.albums)

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album."""
        return await self._first(
            lambda: self.mirror.assets(album), lambda: self.listings.assets(album)
        )

    async def parts(self, stills: Sequence[Asset]) -> Mapping[str, Asset]:
        """The motion parts of live photos."""
        return await self._first(
            lambda: self.mirror.parts(stills), lambda: self.listings.parts(stills)
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
        return await self._first(
            lambda: self.mirror.notes(asset_ids), lambda: self.listings.notes(asset_ids)
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
