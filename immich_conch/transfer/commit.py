"""A spool file becomes an asset in an album (section 5, "Commit").

The steps ask Immich for the truth each time and every answer by id is looked at, so a commit that
broke off anywhere is repaired by running it again.  Callers hold the lock of the user and the
checksum; nothing in here waits for a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from immich_conch.errors import ConchError, Denied, NotFound, QuotaExceeded, Refused, Unreachable
from immich_conch.immich.interfaces import IImmich, IUploadBody
from immich_conch.immich.model import Asset, NewAsset, Uploaded
from immich_conch.library.adds import Adds
from immich_conch.library.pairs import Pairs
from immich_conch.library.removal import leave_other_albums, link
from immich_conch.transfer.overlap import Overlap

_log = Logger()

#: How often an asset that keeps falling into the trash is taken out of it again.
RESTORES = 3


@frozen
class Content:
    """What is to be in Immich: name, times (POSIX seconds), size (bytes), SHA-1, and the bytes."""

    name: str
    modified: float
    size: int
    checksum: bytes
    body: Callable[[], IUploadBody]
    overlap: Overlap | None = None
    #: Whether CLOSE has just heard that Immich does not know these bytes.  Where that has changed
    #: since, the upload itself is told so before its body is sent.
    unknown: bool = False


async def check_content(
    immich: IImmich, size: int, checksum: bytes, waiting: int = 0
) -> Asset | None:
    """What CLOSE can check before it promises anything; the asset that has these bytes already.

    `waiting` are bytes of sealed uploads that the quota must still take.  Raises Denied (locked
    folder), Refused (what Immich cut out of a motion photo), QuotaExceeded, Unreachable.
    """
    known = (await immich.check([checksum]))[0]
    if known is not None:
        asset = await immich.asset(known.asset_id)
        _can_be_shown(asset)
        return asset
    if immich.user.quota_size is None:
        return None
    user = await immich.me()
    if user.quota_size is not None and (user.quota_used or 0) + waiting + size > user.quota_size:
        raise QuotaExceeded
    return None


def _can_be_shown(asset: Asset) -> None:
    """Raise for an asset that Immich would not show in an album."""
    if asset.visibility == "locked":
        raise Denied("These bytes are in Immich's locked folder, which SFTP does not show.")
    if asset.cut_out:
        raise Refused("These bytes are the video that Immich itself cut out of a motion photo.")


@define(eq=False)
class Commit:
    """One run of a commit.  `made` or `landed` is done before the album is touched.

    `made` hears the id of a new asset, of which nothing can be noted yet; `landed` the asset that
    had these bytes before.
    """

    immich: IImmich
    content: Content
    album_id: str | None
    made: Callable[[str], None]
    landed: Callable[[Asset], Awaitable[None]]
    pairs: Pairs
    adds: Adds | None = None
    #: The live photo that brings these bytes into the album as its motion part.
    still: Asset | None = field(default=None, init=False)
    #: The asset that this run's upload made.
    _made: str | None = field(default=None, init=False)

    _log = Logger()

    async def run(self) -> Asset:
        """The asset, in the album and not in the trash; raises what Immich raised."""
        asset_id = await self._bytes_in()
        if self._made == asset_id:
            self.made(asset_id)
            new = await self._new_into_album(asset_id)
            if new is not None:
                return new
        asset = await self._looked_at(asset_id)
        if self._made != asset_id:
            await self.landed(asset)
        if asset.visibility == "hidden":
            return await self._beside_its_still(asset)
        return await self._into_album(asset)

    async def _new_into_album(self, asset_id: str) -> Asset | None:
        """A new asset is looked at once, behind its way into the album.

        None where that did not go as it nearly always does: somebody has moved it to the trash, or
        Immich has found out that it is the motion part of a live photo.
        """
        if self.album_id is not None:
            try:
                await link(self.immich, self.album_id, asset_id, self.adds)
            except (Denied, Refused):
                return None  # why, the longer way finds out
        asset = await self._looked_at(asset_id)
        return None if asset.trashed or asset.visibility == "hidden" else asset

    async def _looked_at(self, asset_id: str) -> Asset:
        """The asset, if its bytes are these and an album can show it."""
        asset = await self.immich.asset(asset_id)
        if asset.checksum is not None and asset.checksum != self.content.checksum:
            if self._made == asset_id:  # what was there before is nobody's mistake
                await self.immich.trash([asset_id])
            raise Unreachable("Immich received other bytes than were sent; they are sent again.")
        _can_be_shown(asset)
        return asset

    async def _beside_its_still(self, part: Asset) -> Asset:
        """Known bytes that Immich has as a motion part: they are in an album by their still."""
        stills = await self.pairs.stills(self.immich, part)
        if part.trashed:
            await self.immich.restore([part.id])
        if not stills:
            await self.immich.update_asset(part.id, visibility="timeline")
            return await self._into_album(await self.immich.asset(part.id))
        for still in stills:
            holding = [] if still.trashed else await self.immich.albums_of(still.id)
            if any(album.id == self.album_id for album in holding):
                self.still = still
                break
        else:
            # Trashed ones are the last.
            self.still = await self._into_album(stills[0])
        return await self.immich.asset(part.id)

    async def _into_album(self, asset: Asset) -> Asset:
        asset_id = asset.id
        if asset.trashed:
            await leave_other_albums(self.immich, asset_id, but=self.album_id)
        for _ in range(RESTORES):
            if asset.trashed:
                await self.immich.restore([asset_id])
            if self.album_id is not None:
                await link(self.immich, self.album_id, asset_id, self.adds)
            # A delete elsewhere may have come between any two calls: read again, always.
            asset = await self.immich.asset(asset_id)
            if not asset.trashed:
                return asset
        raise Refused("The asset is moved to Immich's trash again and again by somebody else.")

    async def _bytes_in(self) -> str:
        """Make sure that Immich has the bytes; the id of the asset that holds them."""
        content = self.content
        known = None
        if not content.unknown:
            known = (await self.immich.check([content.checksum]))[0]
        overlap = content.overlap
        if known is not None:
            if overlap is not None:
                overlap.abort()
            return known.asset_id
        new = NewAsset(
            name=content.name,
            modified=content.modified,
            created=content.modified,
            size=content.size,
            checksum=content.checksum,
        )
        if overlap is not None and overlap.alive:
            try:
                return self._uploaded(await overlap.finish(new))
            except (ConchError, CancelledError):
                # The spool has it whole; what the request ran into shows again, or is over.
                return await self._bytes_again(new)
        return self._uploaded(await self.immich.upload(content.body(), new))

    def _uploaded(self, answer: Uploaded) -> str:
        if not answer.duplicate:
            self._made = answer.asset_id
        return answer.asset_id

    async def _bytes_again(self, new: NewAsset) -> str:
        known = (await self.immich.check([self.content.checksum]))[0]
        if known is not None:
            return known.asset_id
        return self._uploaded(await self.immich.upload(self.content.body(), new))


async def carry_over(immich: IImmich, old: Asset, new: Asset) -> None:
    """What an overwritten asset hands on: favourite, links, description, rating, tags.

    Both are as `IImmich.asset` gives them.
    """
    if old.owner_id != immich.user.id or new.owner_id != immich.user.id:
        return
    try:
        await immich.copy_relations(old.id, new.id)
        fields: dict[str, object] = {}
        if old.description and not new.description:
            fields["description"] = old.description
        if old.rating is not None and new.rating is None:
            fields["rating"] = old.rating
        if fields:
            await immich.update_asset(new.id, **fields)
    except NotFound:
        # Somebody deleted the old asset for good meanwhile: nothing is left to carry.
        return
    for tag_id in old.tags:
        if tag_id in new.tags:
            continue
        try:
            await immich.tag(tag_id, new.id)
        except (Denied, NotFound, Refused) as error:
            # A key may lack `tag.asset`, a tag may be gone: no reason to keep the new file out.
            _log.info(
                "a tag of {name!r} is not carried over: {reason}", name=old.name, reason=error.text
            )
