"""A catalog that answers for the folders of views as it does for albums.

So uploads in flight, overwriting and removing find in a view's folder what they look for in an
album's.  Where a view is on, an album whose name begins with `@` is shown with a look-alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from attrs import define, field

from immich_conch.immich.model import Album, Asset
from immich_conch.library.albums import AlbumNames, Albums
from immich_conch.library.catalog import Catalog
from immich_conch.library.naming import File, Folder
from immich_conch.library.relations import is_view
from immich_conch.library.views import Views

#: What stands for an `@` at the beginning of an album's name: FULLWIDTH COMMERCIAL AT.
LOOKALIKE = "\uff20"


@define(eq=False, repr=False)
class _Names(AlbumNames):
    """Names of albums that no view has."""

    def named(self, at: float, by_id: dict[str, Album]) -> Albums:
        shown = {
            album_id: attrs.evolve(album, name=LOOKALIKE + album.name[1:])
            if album.name.startswith("@")
            else album
            for album_id, album in by_id.items()
        }
        known = super().named(at, shown)
        known.by_id = by_id
        return known


@define(eq=False, repr=False)
class ViewCatalog(Catalog):
    """A Catalog with the views of its credential."""

    views: Views = field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.views.on:
            self._album_names = _Names(self.ignore_case, self.separator)

    async def album(self, album_id: str) -> Album:
        """An album, or a view's folder, by id; raises NotFound."""
        if is_view(album_id):
            return await self.views.album(album_id)
        return await super().album(album_id)

    async def folder(self, album_id: str) -> Folder:
        """The whole content of an album or a view's folder; raises NotFound."""
        if is_view(album_id):
            return await self.views.whole(album_id)
        return await super().folder(album_id)

    async def find_file(self, album_id: str, name: str) -> File | None:
        """The file of a name; None in the folder of a view that is switched off."""
        if is_view(album_id):
            listing = await self.views.listing(album_id)
            return None if listing is None else await listing.find(name)
        return await super().find_file(album_id, name)

    async def siblings(self, album_id: str, name: str) -> list[File]:
        """Files that also want a name; in a view names are nothing that could be kept."""
        return [] if is_view(album_id) else await super().siblings(album_id, name)

    def assets_changed(
        self, album_id: str, added: Sequence[Asset] = (), removed: Sequence[str] = ()
    ) -> None:
        """Assets were put into an album or a view, or taken out, by us."""
        if is_view(album_id):
            self.views.changed(album_id, added, removed)
        else:
            super().assets_changed(album_id, added, removed)
            self.views.album_changed(added, removed)
