"""Folders change: made, removed, renamed (sections 2, 7 and 8).  A folder is an album in Immich."""

from __future__ import annotations

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import AlreadyExists, Denied, NotFound, Refused, Unsupported
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.lookup import Lookup
from immich_conch.library.nodes import AlbumNode
from immich_conch.library.paths import Path


@define(eq=False)
class Folders(Lookup):
    """What a session may do to folders."""

    _log = Logger()

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
