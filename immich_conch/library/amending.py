"""A folder in which little has changed is brought up to date in place.

All of it at one go or nothing: what is to be shown is worked out first, by a look at those that
have changed alone, and given up where anybody else's name may depend on it.  Where it is done, the
folder is what `FileNames.follow` and `FileNames.name` would have made of the whole content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from attrs import define, field

from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.contents import Content
from immich_conch.library.metadata import Link
from immich_conch.library.naming import File, FileNames, Folder, entry_id, same_links

_T = TypeVar("_T")


def amend(file_names: FileNames, album_id: str, folder: Folder, content: Content) -> bool:
    """Show what has changed; False if that takes a look at everything, and then nothing is done."""
    amendment = _Amendment(file_names, album_id, folder, content)
    if not (amendment.weigh() and amendment.name()):
        return False
    amendment.carry_out()
    return True


@define(eq=False)
class _Amendment:
    """What becomes of one folder."""

    file_names: FileNames
    album_id: str
    folder: Folder
    content: Content
    #: Motion part -> its stills from now on, of the parts that anything of may change.
    stills: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    #: All whose files may change, None for who is shown no more.
    assets: dict[str, Asset | None] = field(factory=dict, init=False)
    #: Their files from now on, by asset and by key.
    by_asset: dict[str, list[File]] = field(factory=dict, init=False)
    by_key: dict[str, File] = field(factory=dict, init=False)

    def member(self, asset_id: str) -> Asset | None:
        """A member as it is from now on."""
        if asset_id in self.content.gone:
            return None
        return self.content.members.get(asset_id) or self.folder.members.get(asset_id)

    def weigh(self) -> bool:
        """Find out who is shown; False if that is not known."""
        content, folder = self.content, self.folder
        touched = content.members.keys() | content.gone
        parts = {one for one in touched if one in folder.stills}
        of: dict[str, list[str]] = {}
        for asset in self._before_and_after(touched):
            if asset.live_photo_video_id is not None:
                parts.add(asset.live_photo_video_id)
        for asset in content.members.values():
            if asset.live_photo_video_id is not None:
                of.setdefault(asset.live_photo_video_id, []).append(asset.id)
        for asset_id in touched:
            self.assets[asset_id] = self.member(asset_id)
        for part_id in parts:
            known = part_id in content.parts
            part = content.parts.get(part_id) if known else folder.assets.get(part_id)
            stays = [one for one in folder.stills.get(part_id, ()) if one not in touched]
            if not known and (stays and part_id in content.gone):
                return False
            stills = (*stays, *of.get(part_id, ()))
            self.stills[part_id] = stills if part is not None else ()
            shown = part if self.stills[part_id] else None
            self.assets[part_id] = self.member(part_id) or shown
        return True

    def _before_and_after(self, asset_ids: Iterable[str]) -> Iterator[Asset]:
        for asset_id in asset_ids:
            for among in (self.folder.members, self.content.members):
                if asset_id in among:
                    yield among[asset_id]

    def still_of(self, part_id: str) -> Asset | None:
        """As `Folder.still_of`, from now on."""
        found = [self.member(one) for one in self.stills.get(part_id, ())]
        stills = [one for one in found if one is not None]
        return min(stills, key=lambda one: (one.created, one.id), default=None)

    def name(self) -> bool:
        """Name the files; False where a name depends on others'.

        Who wants what is shown keeps its names; the others get theirs if those are free.
        """
        folder = self.folder
        others: list[tuple[Asset, tuple[Link, ...], Asset | None]] = []
        left: set[str] = set()
        pins = self.file_names.pins(self.album_id)
        if not pins or any(self._is_unclear(part_id) for part_id in self.stills):
            return False
        for asset_id, asset in self.assets.items():
            files = folder.by_asset.get(asset_id, ())
            left.update(self.file_names.key(file.name) for file in files)
            if asset is None:
                continue
            links, still = self.file_names.links(self.album_id, asset), self.still_of(asset_id)
            if same_links(links, files):
                for file in files:
                    self._show(File(file.name, asset, file.link, still))
            else:
                others.append((asset, links, still))
        # Stills first: a part is kept beside its still, whatever that is called.
        others.sort(key=lambda other: other[2] is not None)
        losers: list[tuple[float, str, Asset, Link]] = []
        for asset, links, still in others:
            for number, link in enumerate(links):
                pinned = pins.get((asset.id, link.key))
                if pinned is None and still is not None and self._is_marked(still):
                    return False
                name = pinned or names.safe(link.name)
                key = self.file_names.key(name)
                if key in self.by_key:
                    return False
                if self._is_kept(key, left):
                    if pinned is not None or not self._may_lose(asset):
                        return False
                    losers.append((asset.created, entry_id(asset.id, number), asset, link))
                    continue
                self._show(File(name, asset, link, still))
        # Last, for no name that is made up is to be one that is wanted.
        for _, one, asset, link in sorted(losers, key=lambda loser: loser[:2]):
            name = names.marked(names.safe(link.name), one, lambda made: self._is_taken(made, left))
            self._show(File(name, asset, link))
        return True

    def _is_kept(self, key: str, left: set[str]) -> bool:
        """Whether a name stays another's, whoever else wants it."""
        folder = self.folder
        return key in folder.reserved or (key in folder.by_key and key not in left)

    def _is_taken(self, name: str, left: set[str]) -> bool:
        key = self.file_names.key(name)
        return key in self.by_key or self._is_kept(key, left)

    def _may_lose(self, asset: Asset) -> bool:
        """Whether a mark is all it takes where a name is taken.

        Not in a live photo, whose parts have the same mark, nor without an age (2.x): then all that
        want a name have to be asked for theirs.
        """
        live = asset.live_photo_video_id is not None or asset.id in self.stills
        return bool(asset.created) and not live

    def _is_unclear(self, part_id: str) -> bool:
        """Whether it takes ages that may not be known to tell which still a part is beside."""
        stills = self.stills[part_id]
        members = (self.member(one) for one in stills)
        return len(stills) > 1 and any(one is None or not one.created for one in members)

    def _is_marked(self, still: Asset) -> bool:
        """Whether a live photo is shown under other names than it wants, or not yet."""
        if still.id in self.assets:
            shown = tuple(self.by_asset.get(still.id, ()))
        else:
            shown = self.folder.by_asset.get(still.id, ())
        return not shown or any(file.name != file.link.name for file in shown)

    def _show(self, file: File) -> None:
        self.by_asset.setdefault(file.asset.id, []).append(file)
        self.by_key[self.file_names.key(file.name)] = file

    def carry_out(self) -> None:
        """Show it all.  Nobody else runs meanwhile."""
        folder = self.folder
        for asset_id, asset in self.assets.items():
            member = self.member(asset_id)
            _set(folder.members, asset_id, member)
            _set(folder.assets, asset_id, asset)
            self.file_names.leave(self.album_id, folder, asset_id)
        for part_id, stills in self.stills.items():
            _set(folder.stills, part_id, stills or None)
        for files in self.by_asset.values():
            for file in files:
                self.file_names.show(self.album_id, folder, file)
        for one in (*self.content.members, *self.content.gone):
            folder.unsettled.discard(one)
        folder.unsettled |= self.content.unsettled()


def _set(among: dict[str, _T], key: str, value: _T | None) -> None:
    if value is None:
        among.pop(key, None)
    else:
        among[key] = value
