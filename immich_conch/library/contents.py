"""What an album's folder is made of: its members with their sizes, motion parts and notes.

All of it is asked for, or of those members alone that may have changed.  Own changes that are made
meanwhile are entered into what comes, for an answer that Immich made before the change must not
undo it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import attrs
from attrs import Factory, define, field, frozen
from twisted.internet.interfaces import IReactorTime

from immich_conch.errors import NotFound
from immich_conch.immich.model import Album, Asset
from immich_conch.library.gather import gather
from immich_conch.library.naming import FileNames, Folder
from immich_conch.library.source import ISource

#: HEAD requests side by side for assets whose size a listing did not tell.
SIZE_REQUESTS = 8
#: Seconds after which what was not to be had is asked for again: a size, and where only what has
#: changed is asked for a motion part.
RETRY = 60.0
#: Members looked at again beside those that have changed; for more it is quicker to make the folder
#: anew (20,000: 0.4 s instead of 1 s).  An album full of motion photos has as many, for nobody can
#: tell a part that is never shown from one that was not to be had.
MAX_AGAIN = 1000


@frozen
class _Change:
    """An own change to an album's content."""

    added: tuple[Asset, ...]
    removed: tuple[str, ...]

    def apply(self, assets: dict[str, Asset]) -> dict[str, Asset]:
        result = {
            key: attrs.evolve(asset, live_photo_video_id=None)
            if asset.live_photo_video_id in self.removed
            else asset
            for key, asset in assets.items()
            if key not in self.removed
        }
        result.update((asset.id, asset) for asset in self.added if asset.listed)
        return result


@frozen
class Content:
    """Members and the motion parts of their live photos, None for a part that is not shown.

    `gone` are the ids of those that are no members any more.  `settles` says that all is among it
    of which something was not to be had before.
    """

    members: Mapping[str, Asset]
    parts: Mapping[str, Asset | None]
    gone: frozenset[str] = frozenset()
    settles: bool = True

    def shown_parts(self) -> dict[str, Asset]:
        """The parts that are files."""
        return {part_id: part for part_id, part in self.parts.items() if part is not None}

    def unsettled(self) -> set[str]:
        """The members of which something was not to be had, their own or their part's."""

        def lacks(asset: Asset) -> bool:
            if asset.size is None:
                return True
            live = asset.live_photo_video_id
            part = None if live is None else self.parts.get(live)
            return live is not None and (part is None or part.size is None)

        return {asset.id for asset in self.members.values() if lacks(asset)}


@define(eq=False)
class Contents:
    """Asks `source`; `clock.seconds()` measures how old an answer is that there was none."""

    source: ISource
    clock: IReactorTime
    file_names: FileNames
    #: Motion parts of live photos by id; None for one that is not shown.
    parts: dict[str, Asset | None] = Factory(dict)
    _sizes: dict[str, tuple[float, int | None]] = Factory(dict)
    #: Own changes since an answer under way was asked for, by album.
    _changes: dict[str, list[_Change]] = field(factory=dict)

    def begin(self, album_id: str) -> None:
        """An album's content is asked for from here on."""
        self._changes[album_id] = []

    def end(self, album_id: str) -> None:
        """It has come, or will not."""
        self._changes.pop(album_id, None)

    def changed(self, album_id: str, added: Iterable[Asset], removed: Iterable[str]) -> None:
        """We put assets into an album, or took some out."""
        if album_id in self._changes:
            self._changes[album_id].append(_Change(tuple(added), tuple(removed)))

    async def whole(self, album: Album) -> Content:
        """Everything; raises NotFound or what Immich raised."""
        listing = await self.source.assets(album)
        return await self._completed(album.id, {one.id: one for one in listing if one.listed})

    async def since(self, album: Album, folder: Folder) -> Content | None:
        """What may differ from what a folder shows; None where everything has to be asked for.

        Raises what Immich raised.
        """
        if folder.mark is None:
            return None
        changes = await self.source.changes(album, folder.mark)
        if changes is None:
            return None
        members = {key: one for key, one in changes.items() if one is not None and one.listed}
        again = {still for one in changes for still in folder.stills.get(one, ())}
        settles = self.clock.seconds() - folder.settled > RETRY
        if settles:
            again |= folder.unsettled
        if len(again) > MAX_AGAIN:
            return None
        for one in again - changes.keys():
            if one in folder.members:
                members[one] = folder.members[one]
        content = await self._completed(album.id, members, changes.keys() - members.keys())
        return attrs.evolve(content, settles=settles)

    async def _completed(
        self, album_id: str, members: dict[str, Asset], gone: Iterable[str] = ()
    ) -> Content:
        """Members with all that their folder shows of them, by what is known and done by now."""
        parts: dict[str, Asset] = {}
        asked: set[str] = set()
        known: set[str] = set()
        while True:
            stills = [
                asset
                for asset in members.values()
                if asset.live_photo_video_id is not None and asset.live_photo_video_id not in asked
            ]
            if stills:
                parts.update(await self.source.parts(stills))
                asked.update(str(still.live_photo_video_id) for still in stills)
            assets = await self._with_sizes({**parts, **members})
            members = {asset_id: assets[asset_id] for asset_id in members}
            parts = {asset_id: assets[asset_id] for asset_id in parts}
            # The last question: what is noted by us from here on is entered by `noted`.
            unread = [asset_id for asset_id in assets if asset_id not in known]
            values = await self.source.notes(unread)
            for asset_id in unread:
                self.file_names.remember(asset_id, values.get(asset_id))
            known.update(unread)
            for change in self._changes.get(album_id, ()):
                members = change.apply(members)
            if all(a.live_photo_video_id in (None, *asked) for a in members.values()):
                break
        told = {part_id: parts.get(part_id) for part_id in asked}
        self.parts.update(told)
        # Whoever we took out has left the folder already, and whoever we put in is back.
        return Content(members, told, frozenset(gone) - members.keys())

    async def _with_sizes(self, assets: dict[str, Asset]) -> dict[str, Asset]:
        """Fill in sizes that the listing did not tell (section 2: fetched, never guessed)."""
        missing = [asset for asset in assets.values() if asset.size is None]
        if not missing:
            return assets
        now = self.clock.seconds()
        for asset in missing:
            at, size = self._sizes.get(asset.id, (now, None))
            # An offline library may come back; what has a size keeps it.
            if size is None and now - at > RETRY:
                del self._sizes[asset.id]
        unknown = [asset for asset in missing if asset.id not in self._sizes and not asset.offline]
        await self._fetch_sizes(unknown, now)
        for asset in missing:
            assets[asset.id] = attrs.evolve(asset, size=self._sizes.get(asset.id, (0, None))[1])
        return assets

    async def _fetch_sizes(self, assets: Sequence[Asset], now: float) -> None:
        async def fetch(asset: Asset) -> None:
            try:
                self._sizes[asset.id] = (now, await self.source.size(asset.id))
            except NotFound:
                self._sizes[asset.id] = (now, None)

        await gather([partial(fetch, asset) for asset in assets], SIZE_REQUESTS)
