"""Files change: removed, given another name or another album (sections 7 and 8)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import attrs
from attrs import define
from twisted.logger import Logger

from immich_conch.errors import AlreadyExists, Denied, NotFound, Refused
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.copying import add_name
from immich_conch.library.naming import File
from immich_conch.library.nodes import AlbumNode, FileNode, Node, PendingNode, asset_key
from immich_conch.library.pairs import Along
from immich_conch.library.paths import Path
from immich_conch.library.pending import IPendingFile
from immich_conch.library.relations import is_view
from immich_conch.library.relocation import Relocation
from immich_conch.library.removal import may_delete

#: What became of an asset that lost a name, for the log.
_FATES = {
    True: "to Immich's trash",
    False: "out of this album only",
    None: "this name only",
}


@define(eq=False, repr=False)
class Files(Relocation):
    """What a session may do to committed files."""

    _log = Logger()

    async def remove(self, path: Path) -> None:
        """Remove a file by the delete rule (section 7)."""
        self._writable()
        node = await self.find(path)
        if node is None:
            cut_off = await self.partial(path)
            if cut_off is not None and self.pending.drop_partial(cut_off.album.id, path.name):
                return
            if await self._along(path) is not None:
                return  # its still left this place, and it is here no more, wherever it is now
            await self._refuse_hidden(path)
            raise NotFound
        if not isinstance(node, (FileNode, PendingNode)):
            raise Refused("This is a folder, not a file.")
        if node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        self.pending.drop_partial(node.album.id, path.name)
        if isinstance(node, PendingNode):
            await self.pending.remove(node.pending, partial(self._remove_beneath, node))
        elif not self._is_gone(node.album, node.file):
            await self._remove_file(node.album, node.file)

    async def _remove_beneath(self, node: PendingNode) -> None:
        """Remove what a file in flight is to overwrite, and what its commit has brought in so far.

        What came under the name from elsewhere was never seen here, so it was not meant.
        """
        album, pending = node.album, node.pending
        key, made = self.catalog.key(pending.name), pending.asset_id
        # The new one first: without the old one beside it, it would be named anew.
        for asset_id in dict.fromkeys((made, pending.replaces)):
            if asset_id is None:
                continue
            with suppress(NotFound):  # gone by another hand
                files = (await self.catalog.folder(album.id)).by_asset.get(asset_id, ())
                for file in files:
                    if key in map(self.catalog.key, (file.name, file.link.name)):
                        if asset_id == made or not self._is_gone(album, file):
                            await self._remove_file(album, file, but=pending)
                        break
                else:
                    if asset_id == made:
                        await self._take_back(album, asset_id, pending.name)

    async def _take_back(self, album: Album, asset_id: str, name: str) -> None:
        """Remove what a commit that broke off has put into the album, unseen by the catalog."""
        asset = await self.immich.asset(asset_id)
        async with self.locks.hold(asset_key(asset)):
            holding = await self.notes.pairs.albums_of(self.immich, asset)
            if album.id not in holding or asset.trashed:
                return  # out of the album; elsewhere it may have been before the upload
            await self.notes.drop(
                self.immich, album.id, asset, name, final_delete=self.final_delete
            )
            self.tell(album.id, [], [asset.id])

    async def _is_nowhere(self, path: Path) -> bool:
        """Whether the motion part that was at a path is no file any more."""
        found = await self._along(path)
        return found is not None and not found[1].shown

    async def _along(self, path: Path) -> tuple[Album, Along] | None:
        """The motion part that was at a path until its still left, and the album it was in."""
        parent = None if path.is_root else await self.find(path.parent)
        if not isinstance(parent, AlbumNode):
            return None
        along = self.notes.pairs.went(parent.album.id, path.name)
        return None if along is None else (parent.album, along)

    async def went_along(self, path: Path) -> FileNode | None:
        """The motion part that was at a path until its still left: where it is now, or there.

        A client that moves both halves of a live photo names the part next.
        """
        found = await self._along(path)
        if found is None:
            return None
        album, along = found
        if along.album_id is None or not along.shown:
            return FileNode(album, along.file)
        folder = await self.catalog.folder(along.album_id)
        files = folder.by_asset.get(along.file.asset.id, ())
        if not files:
            return None
        return FileNode(await self.catalog.album(along.album_id), files[0])

    async def _remove_file(self, album: Album, file: File, but: IPendingFile | None = None) -> None:
        """Remove now, or leave it to whoever looks out for the RENAME that may follow."""
        if file.asset.owner_id == self.immich.user.id:
            may_delete(await self.immich.server.trash_enabled(), self.final_delete)
            if await self.pending.hold_removal(self.immich, album, file, but):
                return
        await self._remove_link(album, file)

    async def _remove_link(self, album: Album, file: File) -> None:
        """Remove a file by the delete rule."""
        async with self.locks.hold(asset_key(file.asset)):
            trashed = await self._drop_link(album, file)
        await self._freed(album, file, trashed)

    async def _drop_link(self, album: Album, file: File) -> bool | None:
        """Apply the delete rule, as `Notes.drop`; callers hold the asset's lock."""
        asset = file.asset
        trashed = await self.notes.drop(
            self.immich, album.id, asset, file.link.name, final_delete=self.final_delete
        )
        if trashed is not None:
            self.tell(album.id, [], [asset.id])
        return trashed

    async def _freed(self, album: Album, file: File, trashed: bool | None) -> None:
        """A file has lost its name: what also wants it does not get it."""
        await self.notes.pin_siblings(self.immich, self.catalog, album.id, file.name)
        self._log.info(
            "user {user} removed {name!r} from album {album!r}, asset {asset}: {what}",
            user=self.immich.user.email,
            name=file.name,
            album=album.name,
            asset=file.asset.id,
            what=_FATES[trashed],
        )

    async def _move(self, node: FileNode, album: Album, name: str, existing: Node | None) -> None:
        """Give a committed file another name, another album, or both.

        It is added first, then what had the name goes, and last it leaves its old place: whatever
        fails on the way, it is in both places and never in none.
        """
        if isinstance(existing, PendingNode):
            if not await self.pending.bring_in(existing.pending):
                raise AlreadyExists("An upload of this name is still on its way.")
            there = await self.catalog.find_file(album.id, name)
            existing = None if there is None else FileNode(album, there)
        await self.pending.finish_removals(album.id, name)
        replaced = existing.file if isinstance(existing, FileNode) else None
        asset = node.file.asset
        if replaced is not None and replaced.asset.id == asset.id:
            replaced = None
        if replaced is not None:
            await self.may_overwrite(replaced.asset)
        fate: list[bool | None] = []

        async def replace(asset: Asset) -> None:
            if replaced is not None:
                with suppress(NotFound):  # it has lost the name by another hand
                    fate.append(await self._drop_link(album, replaced))
                if asset.live_photo_video_id == replaced.asset.id:
                    asset = attrs.evolve(asset, live_photo_video_id=None)
                # The name is free only now.
                self._name_again(album, asset)

        keys = [asset_key(file.asset) for file in (node.file, replaced) if file is not None]
        try:
            async with self.locks.hold(*keys):
                if album.id == node.album.id:
                    await self._must_be_there(node)
                if album.id != node.album.id:
                    await self.notes.move(
                        self.immich, self.tell, node.file, node.album.id, album.id, name, replace
                    )
                elif replaced is None:
                    await self.notes.rename(self.immich, album.id, node.file, name)
                    if node.file.link.name == name:
                        # It wanted that name all along and was shown with a mark; now it is free.
                        self._name_again(album, asset)
                else:
                    if replaced.asset.live_photo_video_id == asset.id:
                        # A motion part takes its still's place: it must not go along with it.
                        asset = await self.notes.pairs.release(self.immich, asset)
                    await add_name(self.notes, self.immich, album.id, node.file, name)
                    await replace(asset)
                    if names.fold(node.file.link.name) != names.fold(name):
                        await self.notes.drop(self.immich, album.id, asset, node.file.link.name)
                    # else it wanted that name all along, and has no other one to lose
        finally:
            if replaced is not None and fate:
                await self._freed(album, replaced, fate[0])
        self.pending.drop_partial(album.id, name)
        await self.notes.pin_siblings(self.immich, self.catalog, node.album.id, node.file.name)

    async def _must_be_there(self, node: FileNode) -> None:
        """Raise NotFound for a file that lost its place while its lock was waited for.

        What is in the trash can be given a name as well, and would take that from somebody who is
        there.  The caller holds the asset's lock.
        """
        asset, link = node.file.asset, node.file.link
        if is_view(node.album.id) or not self.notes.writable(self.immich, asset):
            return  # nothing will be noted of it
        trashed = (await self.immich.asset(asset.id)).trashed
        # Behind that: whoever had the lock has told the catalog meanwhile.
        files = (await self.catalog.folder(node.album.id)).by_asset.get(asset.id, ())
        if trashed or all(file.link.key != link.key for file in files):
            raise NotFound

    def _name_again(self, album: Album, asset: Asset) -> None:
        """A file may have a name now that was not free; a motion part is there by its still."""
        if asset.visibility != "hidden":
            self.tell(album.id, [asset], [asset.id])
            return
        for file in self.catalog.shown(album.id, asset.id)[:1]:
            if file.still is not None:
                self.tell(album.id, [file.still], [asset.id])
