"""What a user's tree means: resolve, list, make, remove, rename.

The tree joins the catalog (what is in Immich) with the files in flight (`IPending`), and changes
albums and their links through the session.  Section 2 of the contract says what is where, 7 what
removing does, 8 what a rename does.  Callers hand in parsed paths.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotFound,
    Refused,
    Unsupported,
)
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.catalog import Catalog, File, is_hidden
from immich_conch.library.locks import Locks
from immich_conch.library.nodes import (
    AlbumNode,
    FileNode,
    Info,
    Node,
    PendingNode,
    RootNode,
    asset_key,
    clamp_time,
)
from immich_conch.library.notes import Notes
from immich_conch.library.paths import Path
from immich_conch.library.pending import IPending
from immich_conch.library.removal import Tell, may_delete

#: What a key must be allowed for an overwrite, besides the upload: without one of these the new
#: asset would be in the album and the old one could not leave it.
OVERWRITE_PERMISSIONS = ("asset.copy", "asset.update", "asset.delete", "albumAsset.delete")


#: What became of an asset that lost a name, for the log.
_FATES = {
    True: "to Immich's trash",
    False: "out of this album only",
    None: "this name only",
}


@define(eq=False)
class Tree:
    """One session's view of its user's library.

    `tell` enters an album's own changes (added, removed) into every catalog of the user,
    `tell_album` an album that was made or renamed, or None for one that is gone.
    """

    immich: IImmich
    catalog: Catalog
    pending: IPending
    locks: Locks
    notes: Notes
    tell: Tell
    tell_album: Callable[[str, Album | None], None]
    read_only: bool = False
    final_delete: bool = False

    _log = Logger()

    # -- looking ----------------------------------------------------------------------------------

    async def find(self, path: Path) -> Node | None:
        """What is at a path, or None; raises Denied for what lies in a hidden album."""
        if path.is_root:
            return RootNode()
        album = await self.catalog.find_album(path.parts[0])
        if album is None or len(path.parts) > 2:
            return None
        if is_hidden(album):
            if len(path.parts) > 1:
                raise Denied(f"The album is hidden from SFTP by its description ({path.parts[0]}).")
            return None
        if len(path.parts) == 1:
            return AlbumNode(album)
        pending = self.pending.find(album.id, path.name)
        if pending is not None:
            return PendingNode(album, pending)
        file = await self.catalog.find_file(album.id, path.name)
        # The listing may have been waited for: an upload may have begun meanwhile.
        pending = self.pending.find(album.id, path.name)
        if pending is not None:
            return PendingNode(album, pending)
        if file is None or self._is_gone(album, file):
            return None
        return FileNode(album, file)

    def _is_gone(self, album: Album, file: File) -> bool:
        """Whether a file is removed already, or an upload still stands for it."""
        return _hidden(set(self.pending.hidden(album.id)), file)

    async def resolve(self, path: Path) -> Node:
        """What is at a path; raises NotFound or Denied."""
        node = await self.find(path)
        if node is None:
            raise NotFound
        return node

    async def stat(self, path: Path) -> Info:
        """The attributes of what is at a path; raises NotFound.

        An upload that was cut off shows how far it came: clients resume from there.
        """
        node = await self.find(path)
        if not isinstance(node, (RootNode, AlbumNode, PendingNode)):
            partial = await self.partial(path)
            node = node if partial is None else partial
        if node is None:
            raise NotFound
        if isinstance(node, RootNode):
            albums = await self.catalog.albums()
            return self.root_info(max((album.updated for album in albums.values()), default=0))
        return self.info(node)

    async def partial(self, path: Path) -> PendingNode | None:
        """The upload to exactly this path that was cut off, if one is kept."""
        if len(path.parts) != 2:
            return None
        album = await self.catalog.find_album(path.parts[0])
        if album is None or is_hidden(album):
            return None
        pending = self.pending.partial(album.id, path.name)
        return None if pending is None else PendingNode(album, pending)

    def root_info(self, modified: float) -> Info:
        """The attributes of `/`."""
        mode = 0o555 if self.read_only else 0o755
        return Info(stat.S_IFDIR | mode, 0, clamp_time(modified))

    def info(self, node: AlbumNode | FileNode | PendingNode) -> Info:
        """The attributes of a node."""
        writable = not self.read_only and node.album.role != "viewer"
        if isinstance(node, AlbumNode):
            mode = stat.S_IFDIR | (0o755 if writable else 0o555)
            return Info(mode, 0, clamp_time(node.album.updated))
        mode = stat.S_IFREG | (0o644 if writable else 0o444)
        if isinstance(node, PendingNode):
            return Info(mode, node.pending.size, clamp_time(node.pending.modified))
        return Info(mode, node.file.asset.size, clamp_time(node.file.modified))

    async def list(self, path: Path) -> list[tuple[str, Info]]:
        """A folder's entries; complete or an error (rule 2)."""
        node = await self.find(path)
        if isinstance(node, RootNode):
            albums = await self.catalog.albums()
            return [(name, self.info(AlbumNode(album))) for name, album in albums.items()]
        if node is None:
            await self._refuse_hidden(path)
            raise NotFound
        if not isinstance(node, AlbumNode):
            raise Refused("This is a file, not a folder.")
        album = node.album
        folder = await self.catalog.folder(album.id)
        waiting = {self.catalog.key(file.name): file for file in self.pending.in_album(album.id)}
        hidden = set(self.pending.hidden(album.id))
        entries = [
            (name, self.info(FileNode(album, file)))
            for name, file in folder.files.items()
            if not _hidden(hidden, file) and self.catalog.key(name) not in waiting
        ]
        entries.extend(
            (file.name, self.info(PendingNode(album, file))) for file in waiting.values()
        )
        return entries

    # -- what may be changed --------------------------------------------------------------------

    def _writable(self) -> None:
        if self.read_only:
            raise Denied("This service is read-only.")

    async def _refuse_hidden(self, path: Path) -> None:
        """A hidden album's name cannot be opened, created over or removed."""
        if path.parts:
            album = await self.catalog.find_album(path.parts[0])
            if album is not None and is_hidden(album):
                raise Denied("The album of this name is hidden from SFTP by its description.")

    async def album_for_writing(self, path: Path) -> Album:
        """The album that a file at `path` goes to; raises Denied or NotFound."""
        self._writable()
        if len(path.parts) < 2:
            raise Denied("Files go into albums; there can be none in /.")
        node = await self.find(path.parent)
        if node is None:
            await self._refuse_hidden(path)
        if not isinstance(node, AlbumNode):
            raise NotFound
        if node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        return node.album

    async def may_overwrite(self, asset: Asset) -> None:
        """Raise Denied where the old asset could not go once the new one is there."""
        if asset.owner_id != self.immich.user.id:
            raise Denied("This file belongs to somebody else; it cannot be overwritten.")
        for permission in OVERWRITE_PERMISSIONS:
            if not self.immich.allowed(permission):
                raise MissingPermission(permission)
        may_delete(await self.immich.server.trash_enabled(), self.final_delete)

    # -- changing ---------------------------------------------------------------------------------

    async def mkdir(self, path: Path) -> None:
        """Make an album; raises AlreadyExists or Denied."""
        self._writable()
        if path.is_root:
            raise AlreadyExists
        if len(path.parts) > 1:
            raise Denied("Albums are not nested: folders can be made in / only.")
        name = names.check_new(path.name)
        # One at a time: clients make the same folder from several connections at once.
        async with self.locks.hold(("album name", self.catalog.key(name))):
            if await self.catalog.find_album(name) is not None:
                await self._refuse_hidden(path)
                raise AlreadyExists
            album = await self.immich.create_album(name)
            self.tell_album(album.id, album)
        self._log.info("user {user} made album {name!r}", user=self.immich.user.email, name=name)

    async def rmdir(self, path: Path) -> None:
        """Delete an own album, never its assets; leave a shared one."""
        self._writable()
        if path.is_root:
            raise Denied("The root folder cannot be removed.")
        node = await self.find(path)
        if node is None:
            await self._refuse_hidden(path)
            raise NotFound
        if not isinstance(node, AlbumNode):
            raise Refused("This is a file, not a folder.")
        album = node.album
        self.pending.may_leave(album.id)
        # What was removed has to go by the delete rule, which needs the album.
        await self.pending.finish_removals(album.id)
        noted: list[Asset] = []
        try:
            if album.role == "owner":
                if album.asset_count:
                    noted = await self.catalog.noted_in(album.id)
                await self.immich.delete_album(album.id)
            else:
                await self.immich.leave_album(album.id)
        except NotFound:
            self.catalog.stale()
            raise
        self.tell_album(album.id, None)
        for asset in noted:
            await self.notes.forget_album(self.immich, album.id, asset)
        self._log.info(
            "user {user} {did} album {name!r}",
            user=self.immich.user.email,
            did="deleted" if album.role == "owner" else "left",
            name=album.name,
        )

    async def remove(self, path: Path) -> None:
        """Remove a file by the delete rule (section 7)."""
        self._writable()
        node = await self.find(path)
        if node is None:
            partial = await self.partial(path)
            if partial is not None and self.pending.drop_partial(partial.album.id, path.name):
                return
            await self._refuse_hidden(path)
            raise NotFound
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

    async def rename(self, source: Path, target: Path, replace: bool = False) -> None:
        """RENAME, or with `replace` posix-rename (section 8)."""
        self._writable()
        if source.is_root or target.is_root:
            raise Denied("The root folder cannot be renamed.")
        node = await self.resolve(source)
        if isinstance(node, AlbumNode):
            await self._rename_album(node.album, target)
            return
        assert isinstance(node, (FileNode, PendingNode))
        if node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        album = await self.album_for_writing(target)
        name = names.check_new(target.name)
        same_place = album.id == node.album.id and self.catalog.key(
            source.name
        ) == self.catalog.key(name)
        existing = None if same_place else await self.find(target)
        if existing is not None and not replace:
            raise AlreadyExists
        if isinstance(node, PendingNode):
            replaced_id = node.pending.replaces if same_place else None
            if isinstance(existing, FileNode):
                await self.may_overwrite(existing.file.asset)
                replaced_id = existing.file.asset.id
            elif isinstance(existing, PendingNode):
                replaced_id = existing.pending.replaces
            if not await self.pending.rename(node.pending, album, name, replaced_id):
                # It came into Immich under its old name while we waited: it is a file there.
                await self.rename(source, target, replace)
            return
        if same_place and source.name == target.name:
            return
        await self._move(node, album, name, existing)

    async def _rename_album(self, album: Album, target: Path) -> None:
        if len(target.parts) > 1:
            raise Unsupported("Albums are not nested: a folder cannot be moved into another.")
        name = names.check_new(target.name)
        async with self.locks.hold(("album name", self.catalog.key(name))):
            existing = await self.catalog.find_album(name)
            if existing is not None and existing.id != album.id:
                await self._refuse_hidden(target)
                raise AlreadyExists
            changed = await self.immich.rename_album(album.id, name)
            self.tell_album(album.id, changed)

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

    async def set_time(self, path: Path, time: float) -> None:
        """A time set by path: settles an upload in flight, is noted for a committed file.

        Without effect where it cannot be kept.  Raises NotFound, and what the commit raised if
        this settled an upload.
        """
        node = await self.resolve(path)
        if isinstance(node, PendingNode):
            self._writable()
            if await self.pending.set_time(node.pending, time):
                return
            # It came into Immich while we waited: it is a file there.
            node = await self.resolve(path)
        if isinstance(node, FileNode) and not self.read_only and node.album.role != "viewer":
            await self.notes.retime(self.immich, node.album.id, node.file, time)


def _hidden(hidden: set[tuple[str, str]], file: File) -> bool:
    """Whether a file is not to be shown, by its name or by the one it wants."""
    if not hidden:
        return False
    asset_id = file.asset.id
    return (asset_id, names.fold(file.name)) in hidden or (asset_id, file.link.key) in hidden
