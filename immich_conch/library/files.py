"""Files change: removed, given another name or another album (sections 7 and 8)."""

from __future__ import annotations

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import AlreadyExists, Denied, NotFound, Refused
from immich_conch.immich.model import Album, Asset
from immich_conch.library.folders import Folders
from immich_conch.library.naming import File
from immich_conch.library.nodes import AlbumNode, FileNode, Node, PendingNode, asset_key
from immich_conch.library.paths import Path
from immich_conch.library.removal import may_delete

#: What became of an asset that lost a name, for the log.
_FATES = {
    True: "to Immich's trash",
    False: "out of this album only",
    None: "this name only",
}


@define(eq=False)
class Files(Folders):
    """What a session may do to committed files."""

    _log = Logger()

    async def remove(self, path: Path) -> None:
        """Remove a file by the delete rule (section 7)."""
        self._writable()
        node = await self.find(path)
        if node is None:
            partial = await self.partial(path)
            if partial is not None and self.pending.drop_partial(partial.album.id, path.name):
                return
            along = await self.went_along(path)
            if along is None:
                await self._refuse_hidden(path)
                raise NotFound
            node = along
            if along.album.id == await self._album_at(path):
                return  # the still was removed, and this with it
        if not isinstance(node, (FileNode, PendingNode)):
            raise Refused("This is a folder, not a file.")
        if node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        self.pending.drop_partial(node.album.id, path.name)
        file: File | None
        if isinstance(node, PendingNode):
            if not await self.pending.remove(node.pending):
                return
            file = await self.catalog.find_file(node.album.id, path.name)
            # What came under the name from elsewhere was never seen here, so it was not meant.
            seen = (node.pending.replaces, node.pending.asset_id)
            file = file if file is not None and file.asset.id in seen else None
        else:
            file = node.file
        if file is not None and not self._is_gone(node.album, file):
            await self._remove_file(node.album, file)

    async def _album_at(self, path: Path) -> str | None:
        parent = await self.find(path.parent)
        return parent.album.id if isinstance(parent, AlbumNode) else None

    async def went_along(self, path: Path) -> FileNode | None:
        """The motion part that was at a path until its still left: where it is now, or there.

        A client that removes or moves both halves of a live photo names the part next.
        """
        parent = None if path.is_root else await self.find(path.parent)
        if not isinstance(parent, AlbumNode):
            return None
        along = self.notes.pairs.went(parent.album.id, path.name)
        if along is None:
            return None
        if along.album_id is None:
            return FileNode(parent.album, along.file)
        folder = await self.catalog.folder(along.album_id)
        files = folder.by_asset.get(along.file.asset.id, ())
        if not files:
            return None
        return FileNode(await self.catalog.album(along.album_id), files[0])

    async def _remove_file(self, album: Album, file: File) -> None:
        """Remove now, or leave it to whoever looks out for the RENAME that may follow."""
        if file.asset.owner_id == self.immich.user.id:
            may_delete(await self.immich.server.trash_enabled(), self.final_delete)
            if await self.pending.hold_removal(self.immich, album, file):
                return
        await self._remove_link(album, file)

    async def _remove_link(self, album: Album, file: File, heir: Asset | None = None) -> None:
        """Remove a file by the delete rule; `heir` is who wants its name."""
        asset = file.asset
        async with self.locks.hold(asset_key(asset)):
            trashed = await self.notes.drop(
                self.immich, album.id, asset, file.link.name, final_delete=self.final_delete
            )
            if trashed is not None:
                self.tell(album.id, [], [asset.id])
        if heir is not None:
            # The name is free only now: the heir is named once more.
            self.tell(album.id, [heir], [heir.id])
        await self.notes.pin_siblings(self.immich, self.catalog, album.id, file.name)
        self._log.info(
            "user {user} removed {name!r} from album {album!r}, asset {asset}: {what}",
            user=self.immich.user.email,
            name=file.name,
            album=album.name,
            asset=asset.id,
            what=_FATES[trashed],
        )

    async def _move(self, node: FileNode, album: Album, name: str, existing: Node | None) -> None:
        """Give a committed file another name, another album, or both.

        In another album it is added first, and removed here after.
        """
        if isinstance(existing, PendingNode):
            raise AlreadyExists("An upload of this name is still on its way.")
        await self.pending.finish_removals(album.id, name)
        replaced = existing.file if isinstance(existing, FileNode) else None
        if replaced is not None and replaced.asset.id == node.file.asset.id:
            replaced = None
        if replaced is not None:
            await self.may_overwrite(replaced.asset)
        async with self.locks.hold(asset_key(node.file.asset)):
            if album.id == node.album.id:
                await self.notes.rename(self.immich, album.id, node.file, name)
            else:
                await self.notes.move(
                    self.immich, self.tell, node.file, node.album.id, album.id, name
                )
        if replaced is not None:
            await self._remove_link(album, replaced, node.file.asset)
        await self.notes.pin_siblings(self.immich, self.catalog, node.album.id, node.file.name)
