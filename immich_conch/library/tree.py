"""What a user's tree means: everything a session may ask of it, and do to it.

Looking is `lookup`'s, folders are `folders`', committed files are `files`'; here is what may meet
any of these.  Section 8 of the contract says what a rename does.  Callers hand in parsed paths.
"""

from __future__ import annotations

from attrs import define

from immich_conch.errors import AlreadyExists, Denied, NotFound, Refused
from immich_conch.library import names
from immich_conch.library.copying import add_name, add_place
from immich_conch.library.files import Files
from immich_conch.library.nodes import FOLDER_NODES, FileNode, PendingNode, asset_key
from immich_conch.library.paths import Path


@define(eq=False, repr=False)
class Tree(Files):
    """One session's view of its user's library, as `Lookup` says."""

    async def rename(self, source: Path, target: Path, replace: bool = False) -> None:
        """RENAME, or with `replace` posix-rename (section 8)."""
        self._writable()
        if source.is_root or target.is_root:
            raise Denied("The root folder cannot be renamed.")
        node, is_called = await self.find(source), source.name
        along = node is None
        if along:
            node = await self.went_along(source)
        if node is None:
            raise NotFound
        if isinstance(node, FOLDER_NODES):
            await self._rename_folder(source, target, replace)
            return
        assert isinstance(node, (FileNode, PendingNode))
        if node.album.role == "viewer":
            raise Denied("You may only look at this album.")
        name = names.check_new(target.name)
        album = await self.album_for_writing(target)
        if along and isinstance(node, FileNode):
            is_called = node.file.name
            if album.id == node.album.id and await self._is_nowhere(source):
                raise NotFound
        same_place = album.id == node.album.id and self.catalog.key(is_called) == self.catalog.key(
            name
        )
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
        if same_place and is_called == target.name:
            return
        await self._move(node, album, name, existing)

    async def link(self, source: Path, target: Path) -> None:
        """`hardlink@openssh.com`: a file in another album as well, or under a second name.

        An upload that only waits for its time is brought into Immich first.  Raises AlreadyExists,
        and what `copying` raises.
        """
        self._writable()
        node = await self.resolve(source)
        while isinstance(node, PendingNode):
            if not await self.pending.bring_in(node.pending):
                raise Refused("This file is still being uploaded; it can be linked later.")
            node = await self.resolve(source)
        if not isinstance(node, FileNode):
            raise Denied("Folders cannot be linked.")
        name = names.check_new(target.name)
        album = await self.album_for_writing(target)
        there = await self.find(target)
        if there is not None:
            if isinstance(there, FileNode) and _came_along(node, there):
                return
            raise AlreadyExists
        await self.pending.finish_removals(album.id, name)
        async with self.locks.hold(asset_key(node.file.asset)):
            if album.id == node.album.id:
                await self._must_be_there(node)
                await add_name(self.notes, self.immich, album.id, node.file, name)
            else:
                await add_place(self.notes, self.immich, self.tell, node.file, album.id, name)
        self.pending.drop_partial(album.id, name)
        self._log.info(
            "user {user} linked asset {asset} as {name!r} in album {album!r}",
            user=self.immich.user.email,
            asset=node.file.asset.id,
            name=name,
            album=album.name,
        )

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


def _came_along(node: FileNode, there: FileNode) -> bool:
    """Whether a motion part is in another album, where its still was linked before it."""
    same = node.file.asset.id == there.file.asset.id
    return same and there.file.still is not None and there.album.id != node.album.id
