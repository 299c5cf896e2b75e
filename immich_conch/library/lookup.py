"""What stands at a path: resolve, stat, list, and what a session may change.

Joins the catalog (what is in Immich) with the files in flight (`IPending`).  Section 2 of the
contract says what is where.  Callers hand in parsed paths.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import Denied, MissingPermission, NotFound, Refused
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.albums import is_hidden
from immich_conch.library.catalog import Catalog
from immich_conch.library.locks import Locks
from immich_conch.library.naming import File
from immich_conch.library.nodes import (
    AlbumNode,
    Entries,
    FileNode,
    Info,
    More,
    Node,
    PendingNode,
    RootNode,
    clamp_time,
)
from immich_conch.library.notes import Notes
from immich_conch.library.paths import Path
from immich_conch.library.pending import IPending
from immich_conch.library.removal import Tell, may_delete

#: What a key must be allowed for an overwrite, besides the upload: without one of these the new
#: asset would be in the album and the old one could not leave it.
OVERWRITE_PERMISSIONS = ("asset.copy", "asset.update", "asset.delete", "albumAsset.delete")


@define(eq=False)
class Lookup:
    """One session's view of its user's library, to look at.

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
        return await self.find_in(album, path.name)

    async def find_in(self, album: Album, name: str) -> FileNode | PendingNode | None:
        """The file of a name in an album that is not hidden, or None."""
        pending = self.pending.find(album.id, name)
        if pending is not None:
            return PendingNode(album, pending)
        file = await self.catalog.find_file(album.id, name)
        # The listing may have been waited for: an upload may have begun meanwhile.
        pending = self.pending.find(album.id, name)
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

    async def list(self, path: Path) -> Entries:
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

    async def pages(self, path: Path) -> tuple[Entries, More | None]:
        """A folder's first entries, and what gives the others or None."""
        return await self.list(path), None

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


def _hidden(hidden: set[tuple[str, str]], file: File) -> bool:
    """Whether a file is not to be shown, by its name or by the one it wants."""
    if not hidden:
        return False
    asset_id = file.asset.id
    return (asset_id, names.fold(file.name)) in hidden or (asset_id, file.link.key) in hidden
