"""What stands at a path: resolve, stat, list, and what a session may change.

Joins the catalog (what is in Immich) with the files in flight (`IPending`).  Section 2 of the
contract says what is where.  Callers hand in parsed paths.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import BadName, Denied, MissingPermission, NotFound, Refused
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.albums import Albums, Branch, is_hidden
from immich_conch.library.catalog import Catalog
from immich_conch.library.locks import Locks
from immich_conch.library.naming import File, Folder
from immich_conch.library.nodes import (
    FOLDER_NODES,
    AlbumNode,
    Entries,
    FileNode,
    FolderNode,
    Info,
    More,
    Node,
    PendingNode,
    RootNode,
    clamp_time,
)
from immich_conch.library.notes import Notes
from immich_conch.library.paths import Path, parse
from immich_conch.library.pending import IPending, IPendingFile
from immich_conch.library.removal import Tell, may_delete

#: What a key must be allowed for an overwrite, besides the upload: without one of these the new
#: asset would be in the album and the old one could not leave it.
OVERWRITE_PERMISSIONS = ("asset.copy", "asset.update", "asset.delete", "albumAsset.delete")

#: A key that is allowed none of these changes nothing: what it sees is shown as read-only.
CHANGING_PERMISSIONS = (
    "asset.upload",
    "asset.delete",
    "albumAsset.create",
    "albumAsset.delete",
    "album.create",
    "album.delete",
)


@define(eq=False, repr=False)
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
        known = await self.catalog.known()
        branch, depth = known.walk(path.parts)
        if depth == len(path.parts):
            return folder_node(known, branch)
        album = known.album(branch)
        if album is None or depth < len(path.parts) - 1:
            return None
        if is_hidden(album):
            raise Denied(f"The album is hidden from SFTP by its description ({branch.name}).")
        return await self.find_in(album, path.name)

    async def find_in(self, album: Album, name: str) -> FileNode | PendingNode | None:
        """The file of this name in an album, which is the name of no folder in it."""
        pending = self.pending.find(album.id, name)
        if pending is not None:
            return PendingNode(album, pending)
        file, aside = await self._committed(album, name)
        # The listing may have been waited for: an upload may have begun meanwhile.
        pending = self.pending.find(album.id, name) or aside
        if pending is not None:
            return PendingNode(album, pending)
        if file is None or self._is_gone(album, file):
            return None
        return FileNode(album, file)

    async def _committed(self, album: Album, name: str) -> tuple[File | None, IPendingFile | None]:
        """What is in Immich under a name, and what is in flight and has the name for a folder's."""
        folder = await self.catalog.folder(album.id)
        key = self.catalog.key(name)
        return folder.by_key.get(key), self._set_aside(album, folder).get(key)

    def _set_aside(self, album: Album, folder: Folder) -> dict[str, IPendingFile]:
        """Files in flight whose name a folder has got meanwhile, by the key of a name with a mark.

        The folder keeps the name; nothing is ever hidden because of its name (section 3).
        """
        if not folder.reserved:
            return {}
        aside: dict[str, IPendingFile] = {}
        for file in self.pending.in_album(album.id):
            if self.catalog.key(file.name) in folder.reserved:
                name = marked(file, {*folder.reserved, *folder.by_key})
                aside[self.catalog.key(name)] = file
        return aside

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
        if node is None or isinstance(node, FileNode):
            partial = await self.partial(path)
            node = node if partial is None else partial
        if node is None:
            raise NotFound
        if isinstance(node, RootNode):
            known = await self.catalog.known()
            return self.root_info(known.updated(known.root))
        return self.info(node)

    def glance(self, raw: bytes) -> Info | None:
        """What `stat` tells of a folder or a committed file where all of it is known and fresh.

        None says nothing: not of what is on its way, removed or hidden, nor of what is not there.
        """
        known = self.catalog.fresh_albums()
        if known is None or self.pending.busy:
            return None
        try:
            parts = parse(raw).parts
        except BadName:
            return None
        branch, depth = known.walk(parts)
        if depth == len(parts):
            node = folder_node(known, branch)
            return self.info(node) if isinstance(node, FOLDER_NODES) else None
        album = known.album(branch)
        if album is None or depth < len(parts) - 1 or is_hidden(album):
            return None
        folder = self.catalog.fresh_folder(album)
        file = None if folder is None else folder.by_key.get(known.key(parts[-1]))
        return None if file is None else self.info(FileNode(album, file))

    async def partial(self, path: Path) -> PendingNode | None:
        """The upload to exactly this path that was cut off, if one is kept."""
        known = await self.catalog.known()
        branch = known.find(path.parent.parts)
        album = None if branch is None else known.album(branch)
        if album is None or is_hidden(album):
            return None
        pending = self.pending.partial(album.id, path.name)
        return None if pending is None else PendingNode(album, pending)

    def root_info(self, modified: float) -> Info:
        """The attributes of `/`."""
        mode = 0o755 if self.may_change else 0o555
        return Info(stat.S_IFDIR | mode, 0, clamp_time(modified))

    def info(self, node: AlbumNode | FolderNode | FileNode | PendingNode) -> Info:
        """The attributes of a node."""
        if isinstance(node, FolderNode):
            mode = 0o555 if not self.may_change or node.sealed else 0o755
            return Info(stat.S_IFDIR | mode, 0, clamp_time(node.modified))
        writable = self.may_change and node.album.role != "viewer"
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
        if node is None:
            await self._refuse_hidden(path)
            raise NotFound
        if not isinstance(node, (RootNode, AlbumNode, FolderNode)):
            raise Refused("This is a file, not a folder.")
        while True:
            known = await self.catalog.known()
            branch = known.find(path.parts)
            inside = None if branch is None else folder_node(known, branch)
            if branch is None or inside is None:
                raise NotFound
            folders = ((inner.name, folder_node(known, inner)) for inner in branch.folders())
            entries = [
                (name, self.info(inner))
                for name, inner in folders
                if isinstance(inner, FOLDER_NODES)
            ]
            if not isinstance(inside, AlbumNode):
                return entries
            content = await self.catalog.folder(inside.album.id)
            # Folders may have come or gone while it was asked for, and files named after that.
            if content.reserved == branch.children.keys():
                return [*entries, *self._files_in(inside.album, content)]

    def _files_in(self, album: Album, folder: Folder) -> Iterator[tuple[str, Info]]:
        """The files of an album, in flight ones included."""
        waiting = {self.catalog.key(file.name): file for file in self.pending.in_album(album.id)}
        hidden = set(self.pending.hidden(album.id))
        for name, shown in folder.files.items():
            if not _hidden(hidden, shown) and self.catalog.key(name) not in waiting:
                yield name, self.info(FileNode(album, shown))
        for key, file in waiting.items():
            name = file.name
            if key in folder.reserved:
                name = marked(file, {*folder.reserved, *folder.by_key})
            yield name, self.info(PendingNode(album, file))

    async def pages(self, path: Path) -> tuple[Entries, More | None]:
        """A folder's first entries, and what gives the others or None."""
        return await self.list(path), None

    # -- what may be changed --------------------------------------------------------------------

    @property
    def may_change(self) -> bool:
        """Whether this session may change anything at all, as modes show it."""
        return not self.read_only and any(map(self.immich.allowed, CHANGING_PERMISSIONS))

    def _writable(self) -> None:
        if self.read_only:
            raise Denied("This service is read-only.")

    async def _refuse_hidden(self, path: Path) -> None:
        """A hidden album's name, and what is in it, cannot be opened, created over or removed."""
        known = await self.catalog.known()
        refuse_hidden(known, known.walk(path.parts)[0])

    async def may_overwrite(self, asset: Asset) -> None:
        """Raise Denied where the old asset could not go once the new one is there."""
        if asset.owner_id != self.immich.user.id:
            raise Denied("This file belongs to somebody else; it cannot be overwritten.")
        for permission in OVERWRITE_PERMISSIONS:
            if not self.immich.allowed(permission):
                raise MissingPermission(permission)
        may_delete(await self.immich.server.trash_enabled(), self.final_delete)


def folder_node(known: Albums, branch: Branch) -> RootNode | AlbumNode | FolderNode | None:
    """What a folder is, None for one that is not shown."""
    if branch.parent is None:
        return RootNode()
    if not branch.visible:
        return None
    album = known.album(branch)
    if album is not None and not is_hidden(album):
        return AlbumNode(album, branch)
    return FolderNode(branch, known.updated(branch), sealed=album is not None)


def refuse_hidden(known: Albums, branch: Branch) -> None:
    """Raise Denied for a folder that is a hidden album."""
    if known.hides(branch):
        raise Denied("The album of this name is hidden from SFTP by its description.")


def marked(file: IPendingFile, reserved: set[str]) -> str:
    """The name of a file in flight, with a mark that stays the same as long as it is on its way."""
    mark = hashlib.sha1(f"{file.album_id}/{file.name}".encode(), usedforsecurity=False)
    entry = names.Entry(mark.hexdigest(), file.name, 0.0)
    return names.assign([entry], reserved=reserved)[entry.id]


def _hidden(hidden: set[tuple[str, str]], file: File) -> bool:
    """Whether a file is not to be shown, by its name or by the one it wants."""
    if not hidden:
        return False
    asset_id = file.asset.id
    return (asset_id, names.fold(file.name)) in hidden or (asset_id, file.link.key) in hidden
