"""What changes of live photos: a part goes along with its still, or leaves it (section 2).

In Immich the still names its part, and the part is hidden and in no album.  So a still takes its
part along wherever it goes; a part that is to go alone is unlinked first, and is an asset like
any other from then on.  Every step asks Immich which still names a part, for it links and unlinks
by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
from attrs import define, field, frozen
from twisted.logger import Logger

from immich_conch.errors import Denied, MissingPermission, NotFound
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.motion import visible
from immich_conch.library.naming import File
from immich_conch.library.relations import is_view
from immich_conch.library.removal import Tell, link, may_delete

#: Seconds for which a REMOVE or RENAME of a part that went along with its still is answered OK: a
#: client that removes or moves a folder of live photos names both halves of each in turn.
ALONG_KEPT = 600.0
#: What a key must be allowed for a part to leave its still.
PERMISSION = "asset.update"
#: Parts remembered that went along, a user.
MOST_ALONG = 10_000


@frozen
class Along:
    """A part that left a place with its still; `album_id` is where both are now, None: nowhere."""

    file: File
    album_id: str | None
    at: float

    @property
    def shown(self) -> bool:
        """Whether it is beside its still somewhere; no view shows it."""
        return self.album_id is not None and not is_view(self.album_id)


def _may_unlink(immich: IImmich) -> None:
    """Raise MissingPermission before anything is done for a part that could not be unlinked."""
    if not immich.allowed(PERMISSION):
        raise MissingPermission(PERMISSION)


def _nothing(*_: str) -> Sequence[str]:
    return ()


def _no_files(*_: str) -> Sequence[File]:
    return ()


@define(eq=False)
class Pairs:
    """The live photos of one user.

    `known` gives ids of stills that the catalogs know of a part, `shown` the files of an asset in
    an album's folder; `seconds` is a clock.
    """

    tell: Tell
    seconds: Callable[[], float]
    known: Callable[[str], Sequence[str]] = _nothing
    shown: Callable[[str, str], Sequence[File]] = _no_files
    _along: dict[tuple[str, str], Along] = field(factory=dict)

    _log = Logger()

    # -- who belongs together -------------------------------------------------------------------

    async def part(self, immich: IImmich, asset: Asset) -> Asset | None:
        """An asset as it is now, if it is a motion part of which only its still is in albums."""
        if not asset.is_video and asset.visibility != "hidden":
            return None
        fresh = await immich.asset(asset.id)
        return fresh if fresh.visibility == "hidden" else None

    async def stills(self, immich: IImmich, part: Asset) -> list[Asset]:
        """The live photos that name a part now, trashed ones too; the oldest first."""
        found: dict[str, Asset] = {}
        for still_id in self.known(part.id):
            try:
                still = await immich.asset(still_id)
            except NotFound:
                continue
            if still.live_photo_video_id == part.id:
                found[still.id] = still
        if not found and part.owner_id == immich.user.id:
            found = {still.id: still for still in await immich.stills_of(part)}
        return sorted(found.values(), key=lambda one: (one.trashed, one.created, one.id))

    async def albums_of(self, immich: IImmich, asset: Asset) -> set[str]:
        """Ids of the albums whose folders show an asset, be it through its still."""
        found = {album.id for album in await immich.albums_of(asset.id)}
        if asset.visibility == "hidden":
            found |= await self._places(immich, await self.stills(immich, asset))
        return found

    async def _places(self, immich: IImmich, stills: Sequence[Asset]) -> set[str]:
        """Ids of the albums whose folders show one of these stills."""
        found = set()
        for still in stills:
            if not still.trashed:
                found.update({album.id for album in await immich.albums_of(still.id)})
        return found

    # -- a still leaves, its part with it ----------------------------------------------------------

    def beside(self, album_id: str, still: Asset) -> Sequence[File]:
        """The files of a still's motion part in an album, as they are shown now."""
        part_id = still.live_photo_video_id
        shown = () if part_id is None else self.shown(album_id, part_id)
        return [file for file in shown if file.still is not None]  # else it is released by now

    def leaves(self, album_id: str, files: Sequence[File], now_in: str | None = None) -> None:
        """These files of a part left an album with its still, for `now_in` or for the trash."""
        for file in files:
            place = album_id, names.fold(file.name)
            self._along.pop(place, None)
            self._along[place] = Along(file, now_in, self.seconds())
        while len(self._along) > MOST_ALONG:
            del self._along[next(iter(self._along))]

    def went(self, album_id: str, name: str) -> Along | None:
        """The part that was shown there under this name until its still left, not long ago."""
        along = self._along.get((album_id, names.fold(name)))
        if along is None or self.seconds() - along.at > ALONG_KEPT:
            return None
        return along

    # -- a part alone -----------------------------------------------------------------------------

    async def drop(
        self, immich: IImmich, album_id: str, part: Asset, final_delete: bool = False
    ) -> bool:
        """Remove a part alone: to the trash, and unlinked; whether it went there.

        Where its still has left before, it has gone along already.
        """
        stills = await self.stills(immich, part)
        if stills and album_id not in await self._places(immich, stills):
            return False
        if part.owner_id != immich.user.id:
            raise Denied("This is the motion part of somebody else's live photo.")
        _may_unlink(immich)
        trash_enabled = await immich.server.trash_enabled()
        may_delete(trash_enabled, final_delete)
        if not stills:
            # The trash shows nothing that is hidden.
            await immich.update_asset(part.id, visibility="timeline")
        await immich.trash([part.id], final=not trash_enabled)
        for still in stills:
            await self._name(immich, still, None)
            await self._told(immich, still, None, part)
        self.tell(album_id, [], [part.id])
        return True

    async def release(self, immich: IImmich, part: Asset) -> Asset:
        """Make a part an asset like any other, in every album where its still shows it."""
        if part.owner_id != immich.user.id:
            raise Denied("This is the motion part of somebody else's live photo.")
        _may_unlink(immich)
        stills = await self.stills(immich, part)
        for still in stills:
            for album in () if still.trashed else await immich.albums_of(still.id):
                await link(immich, album.id, part.id)
        for still in stills:
            await self._name(immich, still, None)
        # An archived still makes it archived, a trashed one has said nothing of it.
        alone = await immich.asset(part.id)
        if alone.visibility == "hidden":
            await immich.update_asset(part.id, visibility="timeline")
            alone = await immich.asset(part.id)
        for still in stills:
            await self._told(immich, still, None, part, alone)
        return alone

    async def hand_over(self, immich: IImmich, old: Asset, new: Asset) -> Asset:
        """A still that is overwritten hands its part on; the new still, which may have one now."""
        part_id = old.live_photo_video_id
        if part_id is None or new.is_video or new.live_photo_video_id is not None:
            return new
        if old.owner_id != immich.user.id:
            return new
        try:
            # Immich's word: a view does not show the part, and a folder that is known no more, for
            # it has just changed, shows nothing; but it must not be in the trash with the still.
            if not visible(await immich.asset(part_id)):
                return new
            return await self._name(immich, new, part_id)
        except NotFound:
            return new  # the part is gone by another hand

    async def take_place(self, immich: IImmich, old: Asset, new: Asset) -> Asset | None:
        """A part that is overwritten is followed by the new one; a still that names it then."""
        if not new.is_video or old.owner_id != immich.user.id:
            return None
        part = await self.part(immich, old)
        stills = [] if part is None else await self.stills(immich, part)
        changed = None
        for still in stills:
            changed = await self._name(immich, still, new.id)
            await self._told(immich, still, new.id, old)
        if changed is not None:
            # Immich takes what it links itself out of all albums, too.
            for album in await immich.albums_of(new.id):
                await immich.remove_from_album(album.id, [new.id])
        return changed

    async def _name(self, immich: IImmich, still: Asset, part_id: str | None) -> Asset:
        try:
            await immich.update_asset(still.id, livePhotoVideoId=part_id)
        except NotFound:
            if part_id is not None:
                raise
        return attrs.evolve(still, live_photo_video_id=part_id)

    async def _told(
        self,
        immich: IImmich,
        still: Asset,
        part_id: str | None,
        gone: Asset,
        alone: Asset | None = None,
    ) -> None:
        """Tell every catalog that a still names another part now, or none."""
        if still.trashed:
            return
        added: Iterable[Asset] = [attrs.evolve(still, live_photo_video_id=part_id)]
        for album in await immich.albums_of(still.id):
            self.tell(album.id, [*added, *([] if alone is None else [alone])], [gone.id])
