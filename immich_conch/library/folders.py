"""Folders change: made and removed (sections 2 and 7).

A folder is an album in Immich, or stands on the way to albums.  Where one is made or renamed is
decided one after the other for a user, by `FOLDERS`: clients make the same folder from several
connections at once.
"""

from __future__ import annotations

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import (
    AlreadyExists,
    BadName,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
    Unreachable,
)
from immich_conch.immich.model import Album
from immich_conch.library import names
from immich_conch.library.albums import Albums, Branch
from immich_conch.library.lookup import Lookup, refuse_hidden
from immich_conch.library.nodes import AlbumNode, FolderNode
from immich_conch.library.paths import Path

#: Folders that version control makes wherever it is told to begin; an album of such a name would be
#: left behind when its files are refused.
VERSION_CONTROL = frozenset((".bzr", ".git", ".hg", ".svn"))
#: The lock key of all changes to a user's folders.
FOLDERS = ("folders",)


@define(eq=False, repr=False)
class Folders(Lookup):
    """What a session may do to folders, and which of them take files."""

    _log = Logger()

    # -- files go into albums -------------------------------------------------------------------

    async def may_write(self, path: Path) -> AlbumNode | FolderNode:
        """The folder that a file at `path` goes to; raises Denied, NotFound or Refused."""
        self._writable()
        if len(path.parts) < 2:
            raise Denied("Files go into albums; there can be none in /.")
        known = await self.catalog.known()
        branch, depth = known.walk(path.parts)
        if depth >= len(path.parts) - 1:
            refuse_hidden(known, branch)
        if depth == len(path.parts):
            raise Refused("This is a folder, not a file.")
        node = await self.find(path.parent)
        if node is None:
            await self._refuse_hidden(path)
        if not isinstance(node, (AlbumNode, FolderNode)):
            raise NotFound
        if isinstance(node, AlbumNode) and node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        return node

    async def album_for_writing(self, path: Path, make: bool = True) -> Album:
        """The album that a file at `path` goes to; raises as `may_write`.

        A folder that is no album yet becomes one with `make`, else it holds no such file.
        """
        node = await self.may_write(path)
        if isinstance(node, AlbumNode):
            return node.album
        if not make:
            raise NotFound
        async with self.locks.hold(FOLDERS):
            known = await self.catalog.known()
            branch = known.find(path.parent.parts)
            if branch is None or not branch.visible:
                raise NotFound
            refuse_hidden(known, branch)
            album = known.album(branch)
            return await self._make(self._stored(branch)) if album is None else album

    # -- made -------------------------------------------------------------------------------------

    async def mkdir(self, path: Path) -> None:
        """Make an album, or make one of a folder that is none; raises AlreadyExists or Denied."""
        self._writable()
        if path.is_root:
            raise AlreadyExists
        async with self.locks.hold(FOLDERS):
            known = await self.catalog.known()
            branch = known.find(path.parts)
            if branch is None:
                await self._make(await self._name_for(known, path))
                return
            refuse_hidden(known, branch)
            if branch.album_id is not None:
                raise AlreadyExists
            await self._make(self._stored(branch))

    def _stored(self, branch: Branch) -> str:
        """The name of an album that is to be a folder which is there already."""
        return self.catalog.separator.join(inner.stored for inner in branch.line)

    async def _make(self, name: str) -> Album:
        try:
            album = await self.immich.create_album(name)
        except Unreachable:
            # It may have been made: the next try looks before it makes another one.
            self.catalog.stale()
            raise
        self.tell_album(album.id, album)
        self._log.info("user {user} made album {name!r}", user=self.immich.user.email, name=name)
        return album

    async def _name_for(self, known: Albums, path: Path) -> str:
        """The name that an album must have to be the folder at a path.

        The folders on the way keep the spelling they have in the names of their albums.  Raises
        Denied where there can be no such folder, AlreadyExists or Refused where a file is in the
        way, BadName.
        """
        separator = self.catalog.separator
        if not separator and len(path.parts) > 1:
            raise Denied("Nested folders are switched off here; there are folders in / only.")
        branch, depth = known.walk(path.parts[:-1])
        refuse_hidden(known, branch)
        rest = path.parts[depth:]
        album = known.album(branch)
        if album is not None:
            if album.role == "viewer":
                raise Denied("You may only look at this album.")
            await self._no_file_in_the_way(known, branch, album, rest)
        new = [self._checked(part) for part in rest]
        wanted = [known.key(part) for part in path.parts]
        for line in (
            [inner.stored for inner in branch.line],
            [inner.name for inner in branch.line],
        ):
            name = separator.join([*line, *new])
            if [known.key(part) for part in names.parts(name, separator)] == wanted:
                return name
        raise BadName("The folders of this path cannot be kept in an album's name: it is too long.")

    async def _no_file_in_the_way(
        self, known: Albums, branch: Branch, album: Album, rest: tuple[str, ...]
    ) -> None:
        if known.key(rest[0]) in branch.children:
            return  # a folder has that name
        if await self.find_in(album, rest[0]) is not None:
            if len(rest) == 1:
                raise AlreadyExists
            raise Refused("This is a file, not a folder.")

    def _checked(self, name: str) -> str:
        """A new folder's name; raises BadName."""
        name = names.check_new(name)
        if name in VERSION_CONTROL:
            raise Denied("Version control cannot keep its files here: Immich takes photos only.")
        separator = self.catalog.separator
        if separator and separator in name:
            raise BadName(
                f"A folder's name cannot hold {separator!r}, which stands between folders."
            )
        return name

    # -- removed ----------------------------------------------------------------------------------

    async def rmdir(self, path: Path) -> None:
        """Delete an own album, never its assets; leave a shared one.

        A folder that vanished because the last album in it was removed by us is removed with OK.
        """
        self._writable()
        if path.is_root:
            raise Denied("The root folder cannot be removed.")
        async with self.locks.hold(FOLDERS):
            node = await self.find(path)
            if node is None:
                await self._refuse_hidden(path)
                keys = tuple(map(self.catalog.key, path.parts))
                if self.catalog.vanished.take(keys, self.catalog.clock.seconds()):
                    return
                raise NotFound
            if not isinstance(node, (AlbumNode, FolderNode)):
                raise Refused("This is a file, not a folder.")
            if isinstance(node, FolderNode) or node.branch.folders():
                raise NotEmpty("There are albums nested in this folder.")
            await self._remove_album(node)

    async def _remove_album(self, node: AlbumNode) -> None:
        album = node.album
        self.pending.may_leave(album.id)
        # What was removed has to go by the delete rule, which needs the album.
        await self.pending.finish_removals(album.id)
        try:
            # Not only where the album counts assets: what came by us just now is not counted yet.
            noted = await self.catalog.noted_in(album.id)
            if album.role == "owner":
                await self.immich.delete_album(album.id)
            else:
                await self.immich.leave_album(album.id)
        except NotFound:
            self.catalog.stale()
            raise
        self.tell_album(album.id, None)
        self._may_have_vanished(node.branch)
        for asset in noted:
            await self.notes.forget_album(self.immich, album.id, asset)
        self._log.info(
            "user {user} {did} album {name!r}",
            user=self.immich.user.email,
            did="deleted" if album.role == "owner" else "left",
            name=album.name,
        )

    def _may_have_vanished(self, branch: Branch) -> None:
        """A folder was removed or moved away; those on the way to it may have gone with it."""
        now = self.catalog.clock.seconds()
        keys: tuple[str, ...] = ()
        for inner in branch.line[:-1]:
            keys = (*keys, self.catalog.key(inner.name))
            if inner.album_id is None:
                self.catalog.vanished.note(keys, now)
