"""What is where: a user's albums, the assets in them, and how fresh that knowledge is.

A catalog asks Immich for the list of albums when its knowledge is older than the freshness bound
and somebody asks; one refresh is shared by all who wait.  An album's content is kept with the
album's validator (FACTS.md: five fields together, for removing an asset does not move
`updatedAt`) and listed again only when that changes, so a thousand `stat`s in a row cost Immich a
handful of calls; where the source knows what has changed, that alone is asked for.  A refresh that
fails is an error for all who waited: what is not known is never shown as empty (rule 2).  Own
changes are entered at once, before they are answered.

It must know nothing of SFTP, of HTTP, or of uploads in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import Factory, define, field
from twisted.internet.interfaces import IReactorTime

from immich_conch.errors import NotFound
from immich_conch.immich.model import Album, Asset
from immich_conch.library import metadata, names
from immich_conch.library.albums import AlbumNames, Albums, Vanished, is_hidden
from immich_conch.library.amending import amend
from immich_conch.library.contents import Contents
from immich_conch.library.gather import Shared
from immich_conch.library.naming import File, FileNames, Folder
from immich_conch.library.source import ISource


@define(eq=False, repr=False)
class Catalog:
    """The albums and assets that one credential sees.

    `source` answers for that credential, `clock.seconds()` is monotonic enough to measure ages;
    `freshness` is in seconds.  `separator` is what stands between folders in an album's name, empty
    for no nested folders.
    """

    source: ISource
    clock: IReactorTime
    freshness: float = 2.0
    ignore_case: bool = False
    separator: str = "/"
    _albums: Albums | None = field(default=None, init=False)
    #: Own changes that are not in `_albums` yet; many at once are named once.
    _own_albums: dict[str, Album | None] = Factory(dict)
    vanished: Vanished = Factory(Vanished)
    _folders: dict[str, Folder] = Factory(dict)
    _albums_refresh: Shared[Albums] | None = field(default=None, init=False)
    _folder_refresh: dict[str, Shared[Folder]] = Factory(dict)
    _album_names: AlbumNames = Factory(
        lambda self: AlbumNames(self.ignore_case, self.separator), takes_self=True
    )
    _file_names: FileNames = Factory(lambda self: FileNames(self.ignore_case), takes_self=True)
    _contents: Contents = Factory(
        lambda self: Contents(self.source, self.clock, self._file_names), takes_self=True
    )
    #: Own changes since a refresh under way began, applied again to what it brings: an answer
    #: that Immich made before the change must not undo it.
    _album_changes: list[tuple[str, Album | None]] = Factory(list)

    # -- albums ---------------------------------------------------------------------------------

    async def albums(self) -> dict[str, Album]:
        """Shown path -> album, hidden ones left out; raises what the refresh raised."""
        known = await self.known()
        return {
            known.branches[album.id].path: album
            for album in known.by_id.values()
            if not is_hidden(album)
        }

    async def album(self, album_id: str) -> Album:
        """An album by id; raises NotFound."""
        known = await self.known()
        album = known.by_id.get(album_id)
        if album is None:
            raise NotFound("This album does not exist any more.")
        return album

    def key(self, name: str) -> str:
        """The key under which a name is looked up: any Unicode form, any case if so set."""
        return names.fold(name, casefold=self.ignore_case)

    async def known(self) -> Albums:
        """All albums in their folders, fresh within the bound; raises what the refresh raised."""
        known = self.fresh_albums()
        if known is not None:
            return known
        if self._albums_refresh is None or self._albums_refresh.done:
            self._album_changes.clear()
            self._albums_refresh = Shared.start(self._refresh_albums())
        return await self._albums_refresh.wait()

    def fresh_albums(self) -> Albums | None:
        """All albums in their folders, if that is known within the bound."""
        known = self._current()
        if known is None or self.clock.seconds() - known.at >= self.freshness:
            return None
        return known

    async def _refresh_albums(self) -> Albums:
        at = self.clock.seconds()
        albums = await self.source.albums()
        by_id: dict[str, Album] = {album.id: album for album in albums}
        for album_id, album in self._album_changes:
            if album is None:
                by_id.pop(album_id, None)
            else:
                by_id[album_id] = album
        return self._enter_albums(at, by_id)

    def _current(self) -> Albums | None:
        """What is known, with own changes in it."""
        if self._albums is not None and self._own_albums:
            by_id = dict(self._albums.by_id)
            for album_id, album in self._own_albums.items():
                if album is None:
                    by_id.pop(album_id, None)
                else:
                    by_id[album_id] = album
            self._enter_albums(self._albums.at, by_id)
        return self._albums

    def _enter_albums(self, at: float, by_id: dict[str, Album]) -> Albums:
        """Name the albums, and the files that have the name of a folder now, or no more."""
        self._own_albums.clear()
        self._albums = known = self._album_names.named(at, by_id)
        for album_id, folder in list(self._folders.items()):
            branch = known.branches.get(album_id)
            if branch is None:
                self._forget(album_id)
            elif folder.reserved != branch.children.keys():
                folder.reserved = frozenset(branch.children)
                self._file_names.name(album_id, folder)
        return known

    # -- the content of an album ----------------------------------------------------------------

    async def folder(self, album_id: str) -> Folder:
        """An album's content, fresh within the bound; raises NotFound or what Immich raised."""
        album = await self.album(album_id)
        folder = self.fresh_folder(album)
        if folder is not None:
            return folder
        refresh = self._folder_refresh.get(album_id)
        if refresh is None or refresh.done:
            self._contents.begin(album_id)
            refresh = self._folder_refresh[album_id] = Shared.start(self._refresh_folder(album))
        try:
            return await refresh.wait()
        finally:
            if refresh.done and self._folder_refresh.get(album_id) is refresh:
                del self._folder_refresh[album_id]
                self._contents.end(album_id)

    def fresh_folder(self, album: Album) -> Folder | None:
        """The content of an album that is fresh itself, if that is known."""
        folder = self._folders.get(album.id)
        return folder if folder is not None and folder.validator == album.validator else None

    async def _refresh_folder(self, album: Album) -> Folder:
        mark = self.source.mark(album.id)
        folder = await self._amended(album)
        if folder is None:
            mark = self.source.mark(album.id)
            folder = await self._rebuilt(album)
        folder.mark = mark
        return folder

    async def _amended(self, album: Album) -> Folder | None:
        """The folder there was, with what has changed since; None where that is not all."""
        folder = self._folders.get(album.id)
        content = None if folder is None else await self._contents.since(album, folder)
        reserved = self._reserved(album.id)
        if folder is None or content is None or self._folders.get(album.id) is not folder:
            return None
        if folder.reserved != reserved:
            return None
        if not amend(self._file_names, album.id, folder, content):
            return None
        if content.settles:
            folder.settled = self.clock.seconds()
        folder.validator = album.validator
        return folder

    async def _rebuilt(self, album: Album) -> Folder:
        """A folder of all that is in the album."""
        content = await self._contents.whole(album)
        parts = content.shown_parts()
        reserved = self._reserved(album.id)
        folder = Folder.of(album.validator, dict(content.members), parts, reserved)
        folder.unsettled, folder.settled = content.unsettled(), self.clock.seconds()
        old = self._folders.get(album.id)
        if old is None or not self._file_names.follow(album.id, old, folder):
            self._file_names.name(album.id, folder)
        self._folders[album.id] = folder
        return folder

    def _reserved(self, album_id: str) -> frozenset[str]:
        """The keys of the names that folders in an album have."""
        albums = self._current()
        branch = None if albums is None else albums.branches.get(album_id)
        return frozenset(() if branch is None else branch.children)

    async def siblings(self, album_id: str, name: str) -> list[File]:
        """Files that would be called this if they were alone, and are shown under another name."""
        key = self.key(name)
        folder = await self.folder(album_id)
        return [
            file
            for file in folder.files.values()
            if file.name != file.link.name
            and self.key(file.link.name) == key
            and self.key(file.name) != key
        ]

    async def noted_in(self, album_id: str) -> list[Asset]:
        """Assets of an album of which anything is noted for it."""
        assets = (await self.folder(album_id)).assets
        return [
            asset
            for asset in assets.values()
            if metadata.noted(self._file_names.value(asset.id), album_id)
        ]

    async def find_file(self, album_id: str, name: str) -> File | None:
        """The file shown under this name in an album, or None."""
        return (await self.folder(album_id)).by_key.get(self.key(name))

    # -- own changes, entered before they are answered ------------------------------------------

    def album_changed(self, album: Album) -> None:
        """An album was made, renamed or described by us."""
        self._note_album(album.id, album)
        self.source.album_changed(album)
        self._own_albums[album.id] = album

    def album_gone(self, album_id: str) -> None:
        """An album was deleted or left by us."""
        self._note_album(album_id, None)
        self.source.album_gone(album_id)
        self._own_albums[album_id] = None
        self._album_names.forget(album_id)
        self._forget(album_id)

    def _note_album(self, album_id: str, album: Album | None) -> None:
        if self._albums_refresh is not None and not self._albums_refresh.done:
            self._album_changes.append((album_id, album))

    def assets_changed(
        self, album_id: str, added: Sequence[Asset] = (), removed: Sequence[str] = ()
    ) -> None:
        """Assets were added to or taken out of an album by us; what is noted of them is known."""
        self._contents.changed(album_id, added, removed)
        self.source.changed(album_id, added, removed)
        folder = self._folders.get(album_id)
        if folder is None:
            return
        for asset_id in removed:
            self._leave(album_id, folder, asset_id)
        alone = True
        for asset in added:
            if not asset.listed:
                continue
            shown = self._enter(album_id, folder, asset)
            if shown is None:
                # Its motion part is not known: the next look asks.
                del self._folders[album_id]
                return
            alone = shown and alone
        if not alone:
            self._file_names.name(album_id, folder)

    def _leave(self, album_id: str, folder: Folder, asset_id: str) -> None:
        """An asset left a folder, its motion part with it; or a part did, and its still stays."""
        if asset_id in folder.stills:
            self.part_changed(asset_id)
        for still_id in folder.stills.get(asset_id, ()):
            still = folder.members[still_id]
            alone = attrs.evolve(still, live_photo_video_id=None)
            folder.members[still_id] = folder.assets[still_id] = alone
        folder.stills.pop(asset_id, None)
        part_id = folder.part(asset_id)
        folder.members.pop(asset_id, None)
        for one in (asset_id, part_id):
            if one is not None:
                folder.assets.pop(one, None)
                self._file_names.leave(album_id, folder, one)

    def _enter(self, album_id: str, folder: Folder, asset: Asset) -> bool | None:
        """Show an asset and its motion part; whether nobody else's name has to change.

        None: that the part is not known.
        """
        before, live = folder.members.get(asset.id), asset.live_photo_video_id
        if before is not None and before.live_photo_video_id != live:
            part_id = folder.part(asset.id)
            if part_id is not None:
                self.part_changed(part_id)
                folder.assets.pop(part_id, None)
                self._file_names.leave(album_id, folder, part_id)
        folder.members[asset.id] = folder.assets[asset.id] = asset
        alone = self._file_names.enter(album_id, folder, asset)
        if live is None:
            return alone
        if live not in self._contents.parts:
            return None
        part = self._contents.parts[live]
        if part is not None:
            folder.pair(asset, part)
            alone = self._file_names.enter(album_id, folder, part) and alone
        return alone

    def stills(self, part_id: str) -> Sequence[str]:
        """Ids of live photos known to have this motion part; there may be others."""
        shown = {one for folder in self._folders.values() for one in folder.stills.get(part_id, ())}
        return sorted(shown.union(self.source.stills(part_id)))

    def shown(self, album_id: str, asset_id: str) -> Sequence[File]:
        """The files of an asset in a folder, as far as the folder is known."""
        folder = self._folders.get(album_id)
        return () if folder is None else folder.by_asset.get(asset_id, ())

    def part_changed(self, part_id: str) -> None:
        """A motion part was unlinked, trashed or restored by us."""
        self.source.part_changed(part_id)
        self._contents.parts.pop(part_id, None)

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """What is noted of an asset was read or written by us."""
        self.source.noted(asset_id, value)
        if self._file_names.value(asset_id) == value:
            return
        self._file_names.remember(asset_id, value)
        for album_id, folder in self._folders.items():
            asset = folder.assets.get(asset_id)
            if asset is not None and not self._file_names.enter(album_id, folder, asset):
                self._file_names.name(album_id, folder)

    def stale(self) -> None:
        """Whatever is known may be wrong: ask Immich at the next look."""
        self._albums = None
        self._own_albums.clear()

    def _forget(self, album_id: str) -> None:
        self._folders.pop(album_id, None)
        self._file_names.forget(album_id)
