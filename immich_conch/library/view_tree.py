"""The tree with views: folders below `/@…` that show the library by something else than albums.

What a view's folder means for reading, writing, moving and removing is said in `relations`; here
paths find their way into it.  All that is not below a view is left to `Tree`.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from attrs import define
from twisted.logger import Logger

from immich_conch.errors import (
    AlreadyExists,
    Denied,
    MissingPermission,
    NotEmpty,
    NotFound,
    Refused,
    Unsupported,
)
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names, relations
from immich_conch.library.albums import Branch
from immich_conch.library.naming import File
from immich_conch.library.nodes import (
    FOLDER_NODES,
    AlbumNode,
    Entries,
    FileNode,
    FolderNode,
    More,
    Node,
    PendingNode,
    asset_key,
)
from immich_conch.library.paths import Path
from immich_conch.library.pending import IPendingFile
from immich_conch.library.relations import TAGS, TRASH, UNSORTED, is_view, kind_of
from immich_conch.library.removal import leave_other_albums
from immich_conch.library.tree import Tree
from immich_conch.library.view_catalog import ViewCatalog
from immich_conch.library.view_folders import Spot
from immich_conch.library.view_listing import Listing
from immich_conch.library.views import Views

#: The place of a view's folder among those of albums.
NOWHERE = Branch("", "")
#: Entries that are made at once: what a reactor can do in a hundredth of a second or two.
PAGE = 1000


@define(eq=False, repr=False)
class ViewTree(Tree):
    """A Tree whose catalog has views."""

    _log = Logger()

    @property
    def views(self) -> Views:
        """The views of the session's credential."""
        assert isinstance(self.catalog, ViewCatalog)
        return self.catalog.views

    def _in_view(self, path: Path) -> bool:
        return bool(self.views.on) and not path.is_root and is_view(path.parts[0])

    # -- looking ----------------------------------------------------------------------------------

    async def find(self, path: Path) -> Node | None:
        """What is at a path, or None."""
        if not self._in_view(path):
            return await super().find(path)
        spot = await self.views.spot(path.parts)
        if spot is not None:
            return AlbumNode(self._album(spot), NOWHERE)
        folder = await self._folder_of(path)
        return None if folder is None else await self.find_in(self._album(folder), path.name)

    async def _committed(self, album: Album, name: str) -> tuple[File | None, IPendingFile | None]:
        if not is_view(album.id):
            return await super()._committed(album, name)
        # As far as it is listed: a large view need not have come whole for it.
        return await self.catalog.find_file(album.id, name), None

    def _album(self, spot: Spot) -> Album:
        return spot.album(self.immich.user.id)

    async def _folder_of(self, path: Path) -> Spot | None:
        """The folder that a file lies in, if that is a view's and has files."""
        if len(path.parts) < 2:
            return None
        spot = await self.views.spot(path.parent.parts)
        return spot if spot is not None and spot.has_files else None

    async def partial(self, path: Path) -> PendingNode | None:
        """The upload to exactly this path that was cut off, if one is kept."""
        if not self._in_view(path):
            return await super().partial(path)
        folder = await self._folder_of(path)
        if folder is None:
            return None
        pending = self.pending.partial(folder.id, path.name)
        return None if pending is None else PendingNode(self._album(folder), pending)

    async def list(self, path: Path) -> Entries:
        """A folder's entries; complete or an error (rule 2)."""
        entries, more = await self.pages(path)
        while more is not None and (page := await more()):
            entries.extend(page)
        return entries

    async def pages(self, path: Path) -> tuple[Entries, More | None]:
        """A folder's first entries, and what gives the others."""
        if not self._in_view(path):
            entries = await super().list(path)
            if path.is_root:
                entries += [
                    (spot.id, self.info(AlbumNode(self._album(spot), NOWHERE)))
                    for spot in self.views.folders.tops()
                ]
            return entries, None
        spot = await self.views.spot(path.parts)
        if spot is None:
            if await self.find(path) is None:
                raise NotFound
            raise Refused("This is a file, not a folder.")
        album = self._album(spot)
        entries = [
            (name, self.info(AlbumNode(attrs.evolve(album, id=view_id), NOWHERE)))
            for name, view_id in spot.folders.items()
        ]
        listing = await self.views.listing(spot.id) if spot.has_files else None
        if listing is None:
            return entries, None
        # What is in flight is shown first; a commit meanwhile must not show it once more.
        waiting = {self.catalog.key(file.name): file for file in self.pending.in_album(spot.id)}
        entries += [(file.name, self.info(PendingNode(album, file))) for file in waiting.values()]
        pages = _Pages(self, album, listing, frozenset(waiting))
        return entries + await pages.next(), pages.next

    # -- what may be changed ----------------------------------------------------------------------

    async def album_for_writing(self, path: Path, make: bool = True) -> Album:
        """The album or the view's folder that a file at `path` goes to."""
        if not self._in_view(path):
            return await super().album_for_writing(path, make)
        return (await self._view_for_writing(path)).album

    async def may_write(self, path: Path) -> AlbumNode | FolderNode:
        """The folder that a file at `path` goes to; raises Denied, NotFound or Refused."""
        if not self._in_view(path):
            return await super().may_write(path)
        return await self._view_for_writing(path)

    async def _view_for_writing(self, path: Path) -> AlbumNode:
        self._writable()
        if len(path.parts) < 2:
            raise Denied("Files go into albums; there can be none in /.")
        spot = await self.views.spot(path.parent.parts)
        if spot is None:
            raise NotFound
        relations.may_enter(self.immich, spot.id)
        if not spot.has_files:
            raise Denied("There can be no files in this folder.")
        if await self.views.spot(path.parts) is not None:
            raise Refused("This is a folder, not a file.")
        return AlbumNode(self._album(spot), NOWHERE)

    async def mkdir(self, path: Path) -> None:
        """Make an album, or in `@Tags` a tag."""
        if not self._in_view(path):
            await super().mkdir(path)
            return
        self._writable()
        spot = None if len(path.parts) < 2 else await self.views.spot(path.parent.parts)
        if await self.find(path) is not None:
            raise AlreadyExists
        if len(path.parts) < 2:
            raise Denied("The names of albums cannot begin with @ while views are on.")
        if spot is None:
            raise NotFound
        if kind_of(spot.id) != TAGS:
            raise Denied("The folders of this view come by themselves.")
        self._may("tag.create")
        name = names.check_new(path.name)
        await self.immich.make_tag(f"{spot.value}/{name}" if spot.value else name)
        self.views.folders.tags.stale()
        self._log.info("user {user} made tag {path}", user=self.immich.user.email, path=str(path))

    async def rmdir(self, path: Path) -> None:
        """Remove an album, or a tag that nothing has and that has none below it."""
        if not self._in_view(path):
            await super().rmdir(path)
            return
        self._writable()
        spot = await self.views.spot(path.parts)
        if spot is None:
            if await self.find(path) is None:
                raise NotFound
            raise Refused("This is a file, not a folder.")
        if kind_of(spot.id) != TAGS or not spot.has_files:
            raise Denied("The folders of this view go by themselves.")
        self._may("tag.delete")
        self.pending.may_leave(spot.id)
        await self.pending.finish_removals(spot.id)
        # Immich would take the tags below along, and the tag off everything that has it.
        if spot.folders or (await self.views.whole(spot.id)).files:
            raise NotEmpty
        await self.immich.delete_tag(relations.key_of(spot.id))
        self.views.folders.tags.stale()
        self._log.info(
            "user {user} removed tag {path}", user=self.immich.user.email, path=str(path)
        )

    def _may(self, permission: str) -> None:
        if not self.immich.allowed(permission):
            raise MissingPermission(permission)

    async def rename(self, source: Path, target: Path, replace: bool = False) -> None:
        """RENAME; a file that goes into a view or out of one is moved as `relations` says."""
        if self._in_view(source) or self._in_view(target):
            self._writable()
            if isinstance(await self.resolve(source), FOLDER_NODES):
                raise Unsupported("The folders of views cannot be renamed, nor albums into them.")
        await super().rename(source, target, replace)

    async def link(self, source: Path, target: Path) -> None:
        """`hardlink@openssh.com`; into a view it makes the relation."""
        if self._in_view(source) or self._in_view(target):
            self._writable()
            node = await self.resolve(source)
            if isinstance(node, (FileNode, PendingNode)) and node.album.id == TRASH:
                raise Unsupported("What is in the trash can be moved out of it, not linked.")
            if self._in_view(target) and isinstance(node, FileNode):
                there = (await self.album_for_writing(target)).id
                if there == UNSORTED:
                    raise Unsupported("What is in a folder cannot be in @Unsorted as well.")
        await super().link(source, target)

    async def _move(self, node: FileNode, album: Album, name: str, existing: Node | None) -> None:
        here, there = node.album.id, album.id
        if not is_view(here) and not is_view(there):
            await super()._move(node, album, name, existing)
            return
        asset = node.file.asset
        if here == there:
            raise Unsupported("In a view a file has the name that it has in Immich.")
        if is_view(there):
            # A mark is no name of its own: the file keeps the one that it has in Immich.
            marked = node.file.link.name == asset.name and names.fold(name) == names.fold(
                node.file.name
            )
            wanted = names.safe(asset.name) if marked else name
            leaving = "" if is_view(here) else here
            await relations.may_take(self.immich, there, asset, wanted, leaving)
            folder = None if is_view(here) else await self.catalog.folder(here)
            if there == UNSORTED and folder and len(folder.by_asset.get(asset.id, ())) > 1:
                raise Refused("The file has another name in that album, so it would stay there.")
        if here == TRASH:
            async with self.locks.hold(asset_key(asset)):
                await leave_other_albums(self.immich, asset.id, but=there)
                await self.immich.restore([asset.id])
            asset = attrs.evolve(asset, trashed=False)
            node = FileNode(node.album, File(node.file.name, asset, node.file.link))
        await super()._move(node, album, name, existing)

    async def _remove_file(self, album: Album, file: File, but: IPendingFile | None = None) -> None:
        """Remove now, or leave it to whoever looks out for the RENAME that may follow."""
        if not is_view(album.id):
            await super()._remove_file(album, file, but)
            return
        trash_enabled = await self.immich.server.trash_enabled()
        relations.may_remove(album.id, trash_enabled, self.final_delete)
        if await self.pending.hold_removal(self.immich, album, file, but):
            return
        holding = await self._holding(album, file.asset)
        await self._remove_link(album, file)
        for other in holding:
            self.tell(other.id, [], [file.asset.id])

    async def _holding(self, album: Album, asset: Asset) -> Iterable[Album]:
        """The albums that an asset is about to leave with its removal from a view."""
        if not relations.deletes(album.id) or kind_of(album.id) in (TRASH, UNSORTED):
            return []
        return await self.immich.albums_of(asset.id)


@define(eq=False, repr=False)
class _Pages:
    """A folder's files, as they come in; those in `waiting` were shown as uploads."""

    tree: ViewTree
    album: Album
    listing: Listing
    waiting: frozenset[str]
    _at: int = 0

    async def next(self) -> Entries:
        """The files that have come since, at least one; empty at the end.

        Raises what kept the rest away, at every call from then on: never an end that is none.
        """
        while await self.listing.more_than(self._at):
            files = self.listing.order[self._at : self._at + PAGE]
            self._at += len(files)
            hidden = set(self.tree.pending.hidden(self.album.id))
            page = [
                (file.name, self.tree.info(FileNode(self.album, file)))
                for file in files
                if self.listing.shows(file)
                and self.tree.catalog.key(file.name) not in self.waiting
                and (file.asset.id, file.link.key) not in hidden
                and (file.asset.id, names.fold(file.name)) not in hidden
            ]
            if page:
                return page
        return []
