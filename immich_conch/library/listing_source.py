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
from zope.interface import implementer

from immich_conch.errors import Denied, MissingPermission, NotFound, Refused
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import metadata
from immich_conch.library.gather import gather
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
    """Immich's listings and metadata; `ask` lends a session of the credential."""

    ask: Ask
    #: What is known of own assets: the value, or None where there is none.
    _notes: _Notes = field(factory=dict)
    #: Assets of others, as listings showed them.
    _foreign: set[str] = field(factory=set)

    async def albums(self) -> list[Album]:
        """All albums the credential sees."""
        return await self.ask(lambda immich: immich.albums())

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album."""

        async def work(immich: IImmich) -> list[Asset]:
            listing = await immich.assets(album)
            self._foreign.update(a.id for a in listing if a.owner_id != immich.user.id)
            return listing

        return await self.ask(work)

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
        """Listings tell by themselves; the catalog has the change already."""

    def album_changed(self, album: Album) -> None:
        """Listings tell by themselves; the catalog has the change already."""

    def album_gone(self, album_id: str) -> None:
        """Listings tell by themselves; the catalog has the change already."""

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """Our key of an asset was read, written or removed by us."""
        self._notes[asset_id] = value
