"""A commit with what stands around it: the album that may be gone, the file that is overwritten.

`commit` brings bytes into an album; here an upload takes its place there.  Whoever had the name
before leaves the album only when its successor is in it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from attrs import define, field, frozen
from twisted.logger import Logger

from immich_conch.errors import NotFound
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.locks import Locks
from immich_conch.library.nodes import asset_key
from immich_conch.library.removal import remove_asset
from immich_conch.transfer.commit import Commit, Content, carry_over
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upload import Upload

#: Places remembered of which own upload filled them last.
MADE_KEPT = 10_000


def _place(upload: Upload) -> tuple[str, str]:
    return upload.album_id, names.fold(upload.name)


@frozen
class Landed:
    """An upload that is in Immich: in its album or, where that is gone, without one.

    `shown` is the name it is shown under, or None for its own; `replaced` left the album for it.
    """

    asset: Asset
    in_album: bool
    shown: str | None = None
    replaced: Asset | None = None


@define(eq=False)
class Landing:
    """Brings uploads into Immich.  Callers hold the lock of the upload's place."""

    locks: Locks
    #: Hears, while nobody else can touch the asset, that it is in an album now.
    landed: Callable[[str, str], None]
    final_delete: bool = False
    #: What own uploads have put under which names, for the next upload under the same name.
    _made: dict[tuple[str, str], str] = field(factory=dict)

    _log = Logger()

    async def run(self, upload: Upload, lease: Lease) -> Landed:
        """Run the commit of an upload; raises what Immich raised."""
        async with self.locks.hold(("sha1", upload.checksum)):
            asset, in_album = await self._into_immich(upload, lease)
            if in_album:
                self.landed(upload.album_id, asset.id)
        if asset.size is None:
            asset = attrs.evolve(asset, size=upload.file.size)
        if not in_album:
            return Landed(asset, in_album=False)
        replaced, free = await self._replace(upload, lease, asset)
        shown: str | None = upload.name
        if names.fold(asset.name) != names.fold(upload.name):
            shown = None
            self._log.info(
                "Immich has the bytes of {name!r} under the name {known!r} already",
                name=upload.name,
                known=asset.name,
            )
        if free and shown is not None:
            self._made[_place(upload)] = asset.id
            while len(self._made) > MADE_KEPT:
                del self._made[next(iter(self._made))]
        return Landed(asset, True, shown if free else None, replaced)

    async def _into_immich(self, upload: Upload, lease: Lease) -> tuple[Asset, bool]:
        """The asset, and whether its album still exists."""

        def landed(asset: Asset) -> None:
            # Known bytes under another name are a file of their own: it stays in sight.
            if names.fold(asset.name) == names.fold(upload.name):
                upload.asset_id = asset.id

        content = Content(
            name=upload.name,
            modified=upload.modified,
            size=upload.file.size,
            checksum=upload.checksum,
            body=upload.body,
            overlap=upload.overlap,
        )
        immich = lease.immich
        try:
            return await Commit(immich, content, upload.album_id, landed).run(), True
        except NotFound:
            try:
                await immich.album(upload.album_id)
            except NotFound:
                self._log.warn(
                    "the album of {name!r} is gone; the file is in Immich without an album",
                    name=upload.name,
                )
                return await Commit(immich, content, None, landed).run(), False
            raise

    async def _replace(
        self, upload: Upload, lease: Lease, asset: Asset
    ) -> tuple[Asset | None, bool]:
        """Let the asset that had the name leave; it, and whether the name is free now.

        What got the name from elsewhere since the client took it, on another device say, stays
        and keeps it: the client never saw that file, so it cannot have meant to overwrite it.
        """
        album_id = upload.album_id
        file = await lease.catalog.find_file(album_id, upload.name)
        if file is None or file.asset.id == asset.id:
            return None, True
        old = file.asset
        meant = old.id in (upload.replaces, self._made.get(_place(upload)))
        if not meant or old.owner_id != lease.immich.user.id:
            return None, False
        try:
            await carry_over(lease.immich, await lease.immich.asset(old.id), asset)
        except NotFound:
            return old, True  # gone by another hand
        async with self.locks.hold(asset_key(old)):
            await remove_asset(lease.immich, album_id, old, final_delete=self.final_delete)
        return old, True
