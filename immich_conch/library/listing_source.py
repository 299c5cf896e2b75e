"""A catalog's knowledge by asking: the list of albums, each album's listing, each asset's metadata.

This is how API keys see a library, for which Immich has no sync stream, and everybody where the
stream fails.  Metadata is no part of a listing: it is read once an asset, side by side, before the
folder is shown, and kept.  Only own assets are asked for, since only their owner can write it and
only their owner's stream tells it: a user sees the same names by password and by key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from immich_conch.errors import Denied, MissingPermission, NotFound, Refused, Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import metadata
from immich_conch.library.gather import gather
from immich_conch.library.motion import HIDDEN_LOOKS, LEFT_LOOKS, LINK_TRIES, LINKING, Parts, moment
from immich_conch.library.source import ISource

T = TypeVar("T")
_Notes = dict[str, Mapping[str, Any] | None]

#: Reads of metadata side by side; about 5 ms each (FACTS.md).
NOTE_REQUESTS = 16


class Ask(Protocol):
    """Runs work with a live session of the credential, which stays open as long as it runs."""

    async def __call__(self, work: Callable[[IImmich], Awaitable[T]], /) -> T: ...


@implementer(ISource)
@define(eq=False)
class ListingSource:
    """Immich's listings and metadata; `ask` lends a session of the credential, `clock` waits."""

    ask: Ask
    clock: IReactorTime
    #: What is known of own assets: the value, or None where there is none.
    _notes: _Notes = field(factory=dict)
    #: Assets of others, as listings showed them.
    _foreign: set[str] = field(factory=set)
    _parts: Parts = field(factory=Parts)
    #: Motion part -> live photos that were listed with it.
    _stills: dict[str, set[str]] = field(factory=dict)
    #: By album, the videos that its last listing showed.
    _videos: dict[str, set[str]] = field(factory=dict)
    #: Videos that are hidden and no live photo's, as far as could be found out.
    _alone: set[str] = field(factory=set)

    async def albums(self) -> list[Album]:
        """All albums the credential sees."""
        return await self.ask(lambda immich: immich.albums())

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album."""

        async def work(immich: IImmich) -> list[Asset]:
            looked: dict[str, int] = {}
            for _ in range(LINK_TRIES):
                listing = await immich.assets(album)
                if not await self._being_linked(immich, album, listing, looked):
                    break
                await moment(self.clock)
            else:
                raise Unreachable(LINKING)
            self._foreign.update(a.id for a in listing if a.owner_id != immich.user.id)
            self._videos[album.id] = {a.id for a in listing if a.listed and a.is_video}
            for asset in listing:
                if asset.live_photo_video_id is not None:
                    self._stills.setdefault(asset.live_photo_video_id, set()).add(asset.id)
            return listing

        return await self.ask(work)

    def mark(self, album_id: str) -> None:
        """Listings do not tell what has changed."""

    async def changes(self, album: Album, since: int) -> None:
        """Not known; list it."""

    async def _being_linked(
        self, immich: IImmich, album: Album, listing: Sequence[Asset], looked: dict[str, int]
    ) -> bool:
        """Whether to list again, for a video is missing that may just become a motion part.

        Immich hides it, takes it out of its albums and names it in its still by three updates
        side by side, and a listing may show some of them only.
        """
        here = {asset.id for asset in listing if asset.listed}
        parts = {asset.live_photo_video_id for asset in listing if asset.listed}
        videos = (asset for asset in listing if asset.is_video and not asset.trashed)
        hidden = {asset.id for asset in videos if asset.visibility == "hidden"}
        suspects = (self._videos.get(album.id, set()) | hidden - self._alone) - here - parts
        if not suspects:
            return False

        async def look(asset_id: str) -> bool:
            try:
                asset = await immich.asset(asset_id)
            except (NotFound, MissingPermission):
                return False
            most = HIDDEN_LOOKS if asset.visibility == "hidden" else LEFT_LOOKS
            looked[asset_id] = looked.get(asset_id, 0) + 1
            if not asset.trashed and looked[asset_id] <= most:
                return True
            self._alone.add(asset_id)
            return False

        return any(await gather([partial(look, one) for one in suspects], NOTE_REQUESTS))

    async def parts(self, stills: Sequence[Asset]) -> Mapping[str, Asset]:
        """The motion parts of live photos by their own ids, each asked for once."""
        ids = [still.live_photo_video_id for still in stills]
        found = await self._parts.of([one for one in ids if one is not None], self.ask)
        # Only its owner can note anything of an asset.
        self._foreign.update(
            still.live_photo_video_id
            for still in stills
            if still.live_photo_video_id in found and still.id in self._foreign
        )
        return found

    def stills(self, part_id: str) -> Sequence[str]:
        """Live photos known to have this motion part."""
        return sorted(self._stills.get(part_id, ()))

    def part_changed(self, part_id: str) -> None:
        """A motion part was unlinked, trashed or restored by us."""
        self._parts.forget(part_id)
        self._alone.discard(part_id)

    async def size(self, asset_id: str) -> int | None:
        """The size of an original, by HEAD."""
        return await self.ask(lambda immich: immich.size(asset_id))

    async def notes(self, asset_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What is noted of assets; those that nobody has read before are read now."""
        known = self._notes
        unknown = [id for id in asset_ids if id not in known and id not in self._foreign]
        if unknown:
            await self.ask(partial(self._read, known, unknown))
        found = ((id, known.get(id)) for id in asset_ids)
        return {id: value for id, value in found if value is not None}

    async def _read(self, known: _Notes, asset_ids: Sequence[str], immich: IImmich) -> None:
        async def read(asset_id: str) -> None:
            try:
                value = (await immich.get_metadata(asset_id)).get(metadata.KEY)
            except MissingPermission:
                raise
            except (NotFound, Denied, Refused):
                return  # gone since it was listed
            # What was written by us meanwhile is newer than this answer.
            known.setdefault(asset_id, value if isinstance(value, Mapping) else None)

        try:
            await gather([partial(read, asset_id) for asset_id in asset_ids], NOTE_REQUESTS)
        except MissingPermission:
            # Such a key has the assets' own names; the next key of the user may see more.
            for asset_id in asset_ids:
                known.setdefault(asset_id, None)

    def forget_notes(self) -> None:
        """Ask for all notes anew; reads under way keep what they have, for whoever waits."""
        self._notes = {}

    def changed(self, album_id: str, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """Listings tell by themselves; what we took out is not missed."""
        self._videos.get(album_id, set()).difference_update(removed)

    def album_changed(self, album: Album) -> None:
        """Listings tell by themselves; the catalog has the change already."""

    def album_gone(self, album_id: str) -> None:
        """Listings tell by themselves; the catalog has the change already."""

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """Our key of an asset was read, written or removed by us."""
        self._notes[asset_id] = value
