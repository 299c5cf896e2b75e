"""The files of an album's folder under the names they are shown by.

An asset wants the names that are noted of it, else its own.  A name once shown is not passed on
to a sibling for as long as the catalog lives (section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, define, frozen

from immich_conch.immich.model import Asset
from immich_conch.library import metadata, names
from immich_conch.library.metadata import Link


@frozen(eq=False)
class File:
    """An asset under the name its folder shows; `link` is what it wants to be there."""

    name: str
    asset: Asset
    link: Link

    @property
    def modified(self) -> int:
        """The time it shows, in whole POSIX seconds."""
        return self.link.time


@define(eq=False)
class Folder:
    """The content of one album, by shown name; complete, or it would not exist.

    One asset may be in it under several names.  `reserved` are the keys of the folders in it, whose
    names no file has.
    """

    validator: tuple[object, ...]
    assets: dict[str, Asset]
    files: dict[str, File] = Factory(dict)
    by_key: dict[str, File] = Factory(dict)
    by_asset: dict[str, tuple[File, ...]] = Factory(dict)
    reserved: frozenset[str] = frozenset()


@define(eq=False)
class FileNames:
    """Names the files of folders, each time as they were shown before where that can be."""

    ignore_case: bool = False
    #: Shown file names by album, then by asset and the key of the link.
    _pins: dict[str, dict[tuple[str, str], str]] = Factory(dict)
    #: What is noted of assets, of those that have a note.
    _values: dict[str, Mapping[str, Any]] = Factory(dict)

    def key(self, name: str) -> str:
        """The key under which a name is looked up: any Unicode form, any case if so set."""
        return names.fold(name, casefold=self.ignore_case)

    def value(self, asset_id: str) -> Mapping[str, Any] | None:
        """What is noted of an asset."""
        return self._values.get(asset_id)

    def remember(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """What is noted of an asset, None for nothing."""
        if value is None:
            self._values.pop(asset_id, None)
        else:
            self._values[asset_id] = value

    def forget(self, album_id: str) -> None:
        """An album is gone."""
        self._pins.pop(album_id, None)

    def name(self, album_id: str, folder: Folder) -> None:
        """Give all files of a folder their names."""
        pins = self._pins.get(album_id, {})
        wanted: dict[str, tuple[Asset, Link]] = {}
        entries = []
        for asset in folder.assets.values():
            for number, link in enumerate(self._links(album_id, asset)):
                entry_id = asset.id if not number else f"{asset.id}#{number}"
                wanted[entry_id] = asset, link
                pinned = pins.get((asset.id, link.key))
                if not pins and link.name != asset.name:
                    # A name that is noted was given by somebody: it comes before one that is not.
                    pinned = link.name
                entries.append(names.Entry(entry_id, link.name, asset.created, pinned))
        shown = names.assign(entries, casefold=self.ignore_case, reserved=folder.reserved)
        self._pins[album_id] = {}
        folder.files, folder.by_key, folder.by_asset = {}, {}, {}
        for entry_id, name in shown.items():
            self._show(album_id, folder, File(name, *wanted[entry_id]))

    def enter(self, album_id: str, folder: Folder, asset: Asset) -> bool:
        """Show an asset as it is noted now; False where that takes more than its own names."""
        pins = self._pins.setdefault(album_id, {})
        links = self._links(album_id, asset)
        for file in self._hide(folder, asset.id):
            if all(link.key != file.link.key for link in links):
                pins.pop((asset.id, file.link.key), None)
        clash = False
        for link in links:
            name = pins.get((asset.id, link.key)) or names.safe(link.name)
            key = self.key(name)
            if key in folder.by_key or key in folder.reserved:
                clash = True
                continue
            self._show(album_id, folder, File(name, asset, link))
        return not clash

    def leave(self, album_id: str, folder: Folder, asset_id: str) -> None:
        """An asset has left a folder; siblings keep the names they were shown under."""
        folder.assets.pop(asset_id, None)
        pins = self._pins.setdefault(album_id, {})
        for file in self._hide(folder, asset_id):
            pins.pop((asset_id, file.link.key), None)

    def _links(self, album_id: str, asset: Asset) -> tuple[Link, ...]:
        return metadata.links(self._values.get(asset.id), album_id, asset)

    def _show(self, album_id: str, folder: Folder, file: File) -> None:
        folder.files[file.name] = folder.by_key[self.key(file.name)] = file
        folder.by_asset[file.asset.id] = (*folder.by_asset.get(file.asset.id, ()), file)
        self._pins.setdefault(album_id, {})[file.asset.id, file.link.key] = file.name

    def _hide(self, folder: Folder, asset_id: str) -> tuple[File, ...]:
        files = folder.by_asset.pop(asset_id, ())
        for file in files:
            folder.files.pop(file.name, None)
            folder.by_key.pop(self.key(file.name), None)
        return files
