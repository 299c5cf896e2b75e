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
    """An asset under the name its folder shows; `link` is what it wants to be there.

    `still` is, for the motion part of a live photo, its still in the folder.
    """

    name: str
    asset: Asset
    link: Link
    still: Asset | None = None

    @property
    def modified(self) -> int:
        """The time it shows, in whole POSIX seconds."""
        return self.link.time


@define(eq=False)
class Folder:
    """The content of one album, by shown name; complete, or it would not exist.

    One asset may be in it under several names.  `members` is what Immich has in the album,
    `assets` that and the motion parts of its live photos; `stills` says whose these are.
    `reserved` are the keys of the folders in it, whose names no file has.  `mark` is what stands
    for its content when it is asked what has changed since; `unsettled` are members of which
    something was not to be had when that was last tried, `settled` (clock seconds).
    """

    validator: tuple[object, ...]
    members: dict[str, Asset]
    assets: dict[str, Asset] = Factory(dict)
    stills: dict[str, tuple[str, ...]] = Factory(dict)
    files: dict[str, File] = Factory(dict)
    by_key: dict[str, File] = Factory(dict)
    by_asset: dict[str, tuple[File, ...]] = Factory(dict)
    reserved: frozenset[str] = frozenset()
    mark: int | None = None
    unsettled: set[str] = Factory(set)
    settled: float = 0.0

    @classmethod
    def of(
        cls,
        validator: tuple[object, ...],
        members: dict[str, Asset],
        parts: Mapping[str, Asset],
        reserved: frozenset[str] = frozenset(),
    ) -> Folder:
        """A folder of these members and those of the parts that their stills have."""
        folder = cls(validator, members, dict(members), reserved=reserved)
        for still in members.values():
            part = parts.get(still.live_photo_video_id or "")
            if part is not None:
                folder.pair(still, part)
        return folder

    def still_of(self, part_id: str) -> Asset | None:
        """The live photo that shows a motion part; the oldest of several."""
        ids = self.stills.get(part_id)
        if not ids:
            return None
        return min((self.members[one] for one in ids), key=lambda one: (one.created, one.id))

    def pair(self, still: Asset, part: Asset) -> None:
        """Show a motion part beside a member."""
        self.assets.setdefault(part.id, part)
        known = self.stills.get(part.id, ())
        self.stills[part.id] = (*(one for one in known if one != still.id), still.id)

    def part(self, still_id: str) -> str | None:
        """A member is no still of its motion part any more; the part, if it leaves with it."""
        still = self.members.get(still_id)
        part_id = None if still is None else still.live_photo_video_id
        if part_id is None or part_id not in self.stills:
            return None
        left = tuple(one for one in self.stills[part_id] if one != still_id)
        if left:
            self.stills[part_id] = left
            return None
        del self.stills[part_id]
        return None if part_id in self.members else part_id


def entry_id(asset_id: str, number: int) -> str:
    """What tells the names of one asset apart, for `names`."""
    return asset_id if not number else f"{asset_id}#{number}"


def same_links(links: tuple[Link, ...], files: tuple[File, ...]) -> bool:
    """Whether an asset wants to be shown as it is."""
    if len(links) == len(files) == 1:
        return links[0] == files[0].link
    return {*links} == {file.link for file in files}


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

    def pins(self, album_id: str) -> Mapping[tuple[str, str], str]:
        """The names shown in an album, by asset and the key of the link."""
        return self._pins.get(album_id, {})

    def forget(self, album_id: str) -> None:
        """An album is gone."""
        self._pins.pop(album_id, None)

    def name(self, album_id: str, folder: Folder) -> None:
        """Give all files of a folder their names."""
        pins = self._pins.get(album_id, {})
        wanted: dict[str, tuple[Asset, Link]] = {}
        entries = []
        for asset in folder.assets.values():
            still = folder.still_of(asset.id)
            for number, link in enumerate(self.links(album_id, asset)):
                one = entry_id(asset.id, number)
                wanted[one] = asset, link
                pinned = pins.get((asset.id, link.key))
                if not pins and link.name != asset.name:
                    # A name that is noted was given by somebody: it comes before one that is not.
                    pinned = link.name
                follows = None if still is None else self._followed(album_id, still, link.name)
                entries.append(names.Entry(one, link.name, asset.created, pinned, follows))
        shown = names.assign(entries, casefold=self.ignore_case, reserved=folder.reserved)
        self._pins[album_id] = {}
        folder.files, folder.by_key, folder.by_asset = {}, {}, {}
        for one, name in shown.items():
            asset, link = wanted[one]
            self.show(album_id, folder, File(name, asset, link, folder.still_of(asset.id)))

    def follow(self, album_id: str, old: Folder, folder: Folder) -> bool:
        """Name a folder that was named as `old` last, where not much has changed.

        Who was there and wants the same names keeps what it is shown under, so only the others need
        a look.  False where somebody's name depends on others', and `name` has to decide; where
        this is True it would have said the same.
        """
        pins = self._pins.get(album_id)
        if not pins or old.reserved != folder.reserved or old.stills != folder.stills:
            return False
        self._pins[album_id] = kept = {}
        others: list[Asset] = []
        for asset in folder.assets.values():
            links, files = self.links(album_id, asset), old.by_asset.get(asset.id, ())
            if same_links(links, files):
                still = folder.still_of(asset.id)
                for file in files:
                    self.show(album_id, folder, File(file.name, asset, file.link, still))
                continue
            others.append(asset)
            for link in links:
                name = pins.get((asset.id, link.key))
                if name is not None:
                    kept[asset.id, link.key] = name
        live = {*folder.stills, *(one for ids in folder.stills.values() for one in ids)}
        for asset in others:
            if asset.id in live or not self.enter(album_id, folder, asset):
                self._pins[album_id] = pins
                return False
        return True

    def enter(self, album_id: str, folder: Folder, asset: Asset) -> bool:
        """Show an asset as it is noted now; False where that takes more than its own names."""
        pins = self._pins.setdefault(album_id, {})
        links = self.links(album_id, asset)
        for file in self._hide(folder, asset.id):
            if all(link.key != file.link.key for link in links):
                pins.pop((asset.id, file.link.key), None)
        clash = False
        still = folder.still_of(asset.id)
        for link in links:
            pinned = pins.get((asset.id, link.key))
            name = pinned or names.safe(link.name)
            key = self.key(name)
            follows = pinned is None and still is not None and self._is_marked(folder, still)
            if follows or key in folder.by_key or key in folder.reserved:
                clash = True
                continue
            self.show(album_id, folder, File(name, asset, link, still))
        return not clash

    def leave(self, album_id: str, folder: Folder, asset_id: str) -> None:
        """An asset has left a folder; siblings keep the names they were shown under."""
        pins = self._pins.setdefault(album_id, {})
        for file in self._hide(folder, asset_id):
            pins.pop((asset_id, file.link.key), None)

    def _followed(self, album_id: str, still: Asset, name: str) -> str | None:
        """The entry of a live photo that its motion part of this name is to be kept beside."""
        for number, link in enumerate(self.links(album_id, still)):
            if names.same_stem(link.name, name, self.ignore_case):
                return entry_id(still.id, number)
        return None

    def _is_marked(self, folder: Folder, still: Asset) -> bool:
        """Whether a live photo is shown under other names than it wants, or not yet."""
        shown = folder.by_asset.get(still.id, ())
        return not shown or any(file.name != file.link.name for file in shown)

    def links(self, album_id: str, asset: Asset) -> tuple[Link, ...]:
        """What an asset wants to be shown as."""
        return metadata.links(self._values.get(asset.id), album_id, asset)

    def show(self, album_id: str, folder: Folder, file: File) -> None:
        """Show a file, whose name is free, and remember that."""
        folder.files[file.name] = folder.by_key[self.key(file.name)] = file
        folder.by_asset[file.asset.id] = (*folder.by_asset.get(file.asset.id, ()), file)
        self._pins.setdefault(album_id, {})[file.asset.id, file.link.key] = file.name

    def _hide(self, folder: Folder, asset_id: str) -> tuple[File, ...]:
        files = folder.by_asset.pop(asset_id, ())
        for file in files:
            folder.files.pop(file.name, None)
            folder.by_key.pop(self.key(file.name), None)
        return files
