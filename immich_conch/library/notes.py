"""Reading and writing what an asset is called in an album, in its own metadata (section 6).

Every change reads the key first, for another instance of this service or another program may have
written it.  Callers hold the asset's lock, so that two changes here cannot undo each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import ConchError, MissingPermission, NotFound, Refused, Unsupported
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library import metadata, relations
from immich_conch.library.catalog import Catalog
from immich_conch.library.locks import Locks
from immich_conch.library.metadata import Link, Value
from immich_conch.library.naming import File
from immich_conch.library.nodes import asset_key
from immich_conch.library.pairs import Pairs
from immich_conch.library.relations import is_view
from immich_conch.library.removal import Tell, link, remove_asset, unlink

#: What a key must be allowed to note anything.
PERMISSIONS = ("asset.read", "asset.update")

#: Enters what is noted of an asset into every catalog of the user.
Noted = Callable[[str, Value | None], None]


@define(eq=False)
class Notes:
    """The links of one user's assets."""

    locks: Locks
    noted: Noted
    pairs: Pairs

    _log = Logger()

    def writable(self, immich: IImmich, asset: Asset) -> bool:
        """Whether a session may note anything of an asset: its owner's, with the permission."""
        return asset.owner_id == immich.user.id and all(map(immich.allowed, PERMISSIONS))

    async def read(self, immich: IImmich, asset: Asset) -> Value | None:
        """What is noted of an asset now; None for what cannot be read.

        Callers hold the asset's lock: the catalogs are told, and must not be told what was so
        before a change that they have.
        """
        if asset.owner_id != immich.user.id or not immich.allowed(PERMISSIONS[0]):
            return None
        value = await self._value(immich, asset)
        self.noted(asset.id, value)
        return value

    async def _value(self, immich: IImmich, asset: Asset) -> Value | None:
        return (await immich.get_metadata(asset.id)).get(metadata.KEY)

    async def keepable(self, immich: IImmich, asset: Asset) -> bool:
        """Whether a name or time of its own can be noted, for all that is known now."""
        return self.writable(immich, asset) and metadata.understood(
            await self._value(immich, asset)
        )

    async def write(
        self, immich: IImmich, asset: Asset, before: Value | None, after: Value | None
    ) -> None:
        """Note what differs; raises Unsupported where that cannot be."""
        if after == before:
            return
        if not self.writable(immich, asset) or not metadata.understood(before):
            raise Unsupported("Immich cannot keep another name or time of this file here.")
        if after is None:
            await immich.delete_metadata(asset.id, metadata.KEY)
        else:
            await immich.set_metadata(asset.id, metadata.KEY, after)
        self.noted(asset.id, after)

    async def may_take(
        self, immich: IImmich, album_id: str, asset: Asset, wanted: Link, file: File | None
    ) -> None:
        """Raise Refused if bytes that Immich has could not be shown as an upload wants them.

        `file` is what has the upload's name now.
        """
        if is_view(album_id):
            await relations.may_take(immich, album_id, asset, wanted.name)
            return
        if wanted == metadata.own_link(asset):
            return
        if file is not None and file.asset.id == asset.id and file.link == wanted:
            return
        if not await self.keepable(immich, asset):
            raise Refused(
                f"Immich has these bytes as {asset.name!r} already, and another name or time "
                "for them cannot be kept here (an API key needs asset.update for it)."
            )

    async def retime(self, immich: IImmich, album_id: str, file: File, time: float) -> None:
        """Give a committed file a time; no effect where that cannot be kept."""
        new = metadata.whole(time)
        if is_view(album_id) or file.link.time == new or not self.writable(immich, file.asset):
            return
        async with self.locks.hold(asset_key(file.asset)):
            before = await self.read(immich, file.asset)
            links = metadata.links(before, album_id, file.asset)
            if not metadata.understood(before) or metadata.find(links, file.link.name) is None:
                return
            links = metadata.added(links, Link(file.link.name, new))
            after = metadata.with_links(before, album_id, file.asset, links)
            await self.write(immich, file.asset, before, after)

    async def rename(self, immich: IImmich, album_id: str, file: File, name: str) -> None:
        """Give a file another name in its album; callers hold the asset's lock.

        Raises NotFound if it has lost its name meanwhile, Unsupported where a name cannot be kept.
        """
        asset, old = file.asset, file.link.name
        before = await self.read(immich, asset)
        links = metadata.links(before, album_id, asset)
        if metadata.find(links, old) is None:
            raise NotFound
        links = metadata.renamed(links, old, Link(name, file.link.time))
        after = metadata.with_links(before, album_id, asset, links)
        await self.write(immich, asset, before, after)

    async def move(
        self,
        immich: IImmich,
        tell: Tell,
        file: File,
        source: str,
        target: str,
        name: str,
        added: Callable[[Asset], Awaitable[None]] | None = None,
    ) -> None:
        """Move a file from one album to another, under a name there; as `rename`.

        Noted first, so that it is never shown under a name that nobody gave it; then added, then
        removed; `added` runs in between, with the asset as it is then.  A live photo's motion part
        goes along; moved alone it is an asset like any other from then on.
        """
        asset, old = file.asset, file.link.name
        part = await self.pairs.part(immich, asset)
        if part is not None:
            if await self._went_along(immich, part, source, target, Link(name, file.link.time)):
                if added is not None:
                    await added(part)
                tell(source, [], [asset.id])
                return
            asset = await self.pairs.release(immich, part)
        before = await self.read(immich, asset)
        here = metadata.links(before, source, asset)
        if metadata.find(here, old) is None:
            raise NotFound
        holding = await immich.albums_of(asset.id)
        is_there = any(album.id == target for album in holding)
        there = metadata.links(before, target, asset) if is_there else ()
        there = metadata.added(there, Link(name, file.link.time))
        after = before if is_view(target) else metadata.with_links(before, target, asset, there)
        await self.write(immich, asset, before, after)
        beside = self.pairs.beside(source, asset)
        await self._note_beside(immich, beside, source, target)
        await link(immich, target, asset.id)
        if (await immich.asset(asset.id)).trashed:
            # By another hand, before we knew: an album takes it, and does not show it.
            if not is_there and not is_view(target):
                await unlink(immich, target, asset.id)
                await self.forget(immich, target, asset, after)
            raise NotFound("The file is in Immich's trash.")
        tell(target, [asset], [])
        if added is not None:
            await added(asset)
        rest = metadata.removed(here, old)
        if rest:
            last = metadata.with_links(after, source, asset, rest)
            await self.write(immich, asset, after, last)
            return
        await unlink(immich, source, asset.id)
        self.pairs.leaves(source, beside, target)
        tell(source, [], [asset.id])
        await self.forget(immich, source, asset, after)
        await self._forget_beside(immich, beside, source)

    async def _went_along(
        self, immich: IImmich, part: Asset, source: str, target: str, wanted: Link
    ) -> bool:
        """Whether a motion part is in `target` by its still, which has left `source`.

        Then it gets its name there, which is all that is left to do.
        """
        places = await self.pairs.albums_of(immich, part)
        if target not in places or source in places:
            return False
        before = await self.read(immich, part)
        after = metadata.with_links(before, target, part, [wanted])
        await self.write(immich, part, before, metadata.with_links(after, source, part, ()))
        return True

    async def _note_beside(
        self, immich: IImmich, files: Sequence[File], source: str, target: str
    ) -> None:
        """A motion part that goes along is to be shown as it was; before its still is there."""
        own = all(file.link == metadata.own_link(file.asset) for file in files)
        if own or is_view(target):
            return
        part = files[0].asset
        if not self.writable(immich, part):
            return
        before = await self.read(immich, part)
        kept = metadata.links(before, source, part)
        await self.write(immich, part, before, metadata.with_links(before, target, part, kept))

    async def _forget_beside(self, immich: IImmich, files: Sequence[File], album_id: str) -> None:
        """A motion part has left an album with its still."""
        if files and any(file.link != metadata.own_link(file.asset) for file in files):
            part = files[0].asset
            try:
                before = await self.read(immich, part)
            except NotFound:
                return  # deleted for good with its still
            await self.forget(immich, album_id, part, before)

    async def forget_album(self, immich: IImmich, album_id: str, asset: Asset) -> None:
        """Leave no note of an album that was deleted; what goes wrong is only logged."""
        async with self.locks.hold(asset_key(asset)):
            try:
                before = await self.read(immich, asset)
            except ConchError as error:
                self._log.warn("a note stays on asset {id}: {why}", id=asset.id, why=error.text)
            else:
                await self.forget(immich, album_id, asset, before)

    async def drop(
        self,
        immich: IImmich,
        album_id: str,
        asset: Asset,
        name: str,
        *,
        final_delete: bool = False,
        heir: Asset | None = None,
    ) -> bool | None:
        """Take one link of an asset out of an album; with the last one the delete rule applies.

        A live photo's motion part goes along, unless `heir` names it from now on.  Whether the
        asset went to the trash; None if it is in the album under another name still.
        """
        before = await self.read(immich, asset)
        links = metadata.links(before, album_id, asset)
        rest = metadata.removed(links, name)
        if rest:
            if len(rest) == len(links):
                raise NotFound
            if not self.writable(immich, asset):
                raise MissingPermission(PERMISSIONS[1])
            after = metadata.with_links(before, album_id, asset, rest)
            await self.write(immich, asset, before, after)
            return None
        part = await self.pairs.part(immich, asset)
        if part is not None:
            trashed = await self.pairs.drop(immich, album_id, part, final_delete)
            await self.forget(immich, album_id, asset, before)
            return trashed
        stays = heir is not None and heir.live_photo_video_id == asset.live_photo_video_id
        beside = () if stays else self.pairs.beside(album_id, asset)
        trashed = await remove_asset(immich, album_id, asset, final_delete=final_delete)
        self.pairs.leaves(album_id, beside)
        await self.forget(immich, album_id, asset, before)
        await self._forget_beside(immich, beside, album_id)
        return trashed

    async def forget(
        self, immich: IImmich, album_id: str, asset: Asset, before: Value | None
    ) -> None:
        """Leave nothing behind of an asset that is out of an album.

        It is out already, so what goes wrong is only logged; the note has no effect any more.
        """
        if not metadata.noted(before, album_id) or not self.writable(immich, asset):
            return
        try:
            after = metadata.with_links(before, album_id, asset, ())
            await self.write(immich, asset, before, after)
        except NotFound:
            return  # deleted for good, and its metadata with it
        except ConchError as error:
            self._log.warn(
                "a note of album {album} stays on asset {asset}: {reason}",
                album=album_id,
                asset=asset.id,
                reason=error.text,
            )

    async def pin_siblings(
        self, immich: IImmich, catalog: Catalog, album_id: str, name: str
    ) -> None:
        """A name was freed: note for those that also want it what they are shown as (section 3).

        Where that cannot be written they keep the name for as long as the catalog lives.
        """
        try:
            for file in await catalog.siblings(album_id, name):
                if self.writable(immich, file.asset):
                    await self._pin(immich, album_id, file)
        except ConchError as error:
            self._log.warn(
                "what also wants the name {name!r} keeps its own only until a restart: {reason}",
                name=name,
                reason=error.text,
            )

    async def _pin(self, immich: IImmich, album_id: str, file: File) -> None:
        asset = file.asset
        async with self.locks.hold(asset_key(asset)):
            before = await self.read(immich, asset)
            links = metadata.links(before, album_id, asset)
            shown = Link(file.name, file.link.time)
            links = metadata.renamed(links, file.link.name, shown)
            after = metadata.with_links(before, album_id, asset, links)
            await self.write(immich, asset, before, after)
