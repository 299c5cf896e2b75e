"""A live mirror of what one user sees: what the sync stream told, with own changes over it.

Every answer is as fresh as the bound promises, from tables that are whole, or an error.  What an
album's folder shows has a revision, which is the validator of the albums given out.

It must know nothing of SFTP or of HTTP, and of names no more than that some collide.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from attrs import Factory, define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.errors import NotFound
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.first_load import FirstLoad
from immich_conch.library.follower import Follower, Lend
from immich_conch.library.gather import gather
from immich_conch.library.motion import Parts, never_cut_out, visible
from immich_conch.library.overlay import Overlay
from immich_conch.library.records import AssetRecord, raw_id, text_id
from immich_conch.library.source import ISource
from immich_conch.library.tables import Tables

#: Assets above which a library is not mirrored (at some 700 bytes each).
MAX_ASSETS = 500_000
#: `GET /assets/{id}` side by side for the members of a name collision (2.x).
CREATED_REQUESTS = 8


@implementer(ISource)
@define(eq=False, repr=False)
class Mirror:
    """ISource over the sync stream.  `clock.seconds()` measures; `freshness` is in seconds.

    Raises NoMirror, and MirrorTooLarge over `max_assets`, where the stream is of no use; from then
    on at once, so the owner should ask a source of listings instead.
    """

    user_id: str
    lend: Lend
    clock: IReactorTime
    freshness: float = 1.0
    max_assets: int = MAX_ASSETS
    _own: Overlay = Factory(Overlay)
    #: Motion parts of others, and own ones of which it was asked whether they were cut out.
    _parts: Parts = Factory(Parts)
    _revisions: count[int] = Factory(partial(count, 1))
    #: Revisions that own changes gave to albums.
    _own_revisions: dict[str, int] = Factory(dict)
    _follower: Follower = field(init=False, repr=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._follower = Follower(
            user_id=self.user_id,
            lend=self.lend,
            clock=self.clock,
            freshness=self.freshness,
            max_assets=self.max_assets,
            revisions=self._revisions,
            settle=self._settle,
        )

    def keep_fresh(self) -> None:
        """Take deltas ahead of their time from now on, so that nobody has to wait for one."""
        self._follower.keep_fresh()

    def rest(self) -> None:
        """Take no more deltas but those that somebody waits for."""
        self._follower.rest()

    async def quiet(self) -> None:
        """Wait until the session that is followed is not in use."""
        await self._follower.quiet()

    # -- a load that is under way ---------------------------------------------------------------

    def notes_first(self) -> None:
        """Begin each load with what is noted, for those who do not wait for its end."""
        self._follower.notes_first = True

    async def load(self) -> FirstLoad | None:
        """None if answers come at once, or the load from nothing that is under way."""
        return await self._follower.load()

    @property
    def failing(self) -> bool:
        """Whether a load failed and another is not due yet."""
        return self._follower.failing

    def seen(self) -> None:
        """The user was shown what Immich's listings say now: answer with nothing older."""
        self._follower.not_before = self.clock.seconds()

    async def early_notes(
        self, load: FirstLoad, asset_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """As `notes`, while a load is under way; raises NotFound if it ends before they come."""
        told = await load.notes()
        if told is None:
            raise NotFound("Nothing was told of the assets' metadata.")
        return self._notes(told, asset_ids)

    # -- answers --------------------------------------------------------------------------------

    async def albums(self) -> list[Album]:
        """All albums the user sees."""
        tables = await self._follower.fresh()
        found = [
            self._shown(record.value(tables.user))
            for record in tables.albums.values()
            if text_id(record.id) not in self._own.albums
        ]
        found += [self._shown(album) for _, album in self._own.albums.items() if album is not None]
        return found

    async def assets(self, album: Album) -> list[Asset]:
        """The whole content of an album; raises NotFound."""
        tables = await self._follower.fresh()
        assets = self._content(tables, album.id)
        parts = [
            tables.assets.get(raw_id(asset.live_photo_video_id))
            for asset in assets
            if asset.live_photo_video_id is not None and asset.listed
        ]
        return await self._with_created(assets, [part for part in parts if part is not None])

    def mark(self, album_id: str) -> int | None:
        """What stands for an album's content now; None where changes will not be known.

        Marks are revisions, which go on counting when tables are replaced: new tables know that
        they know nothing of what was before them.
        """
        tables = self._follower.whole
        record = None if tables is None else tables.albums.get(raw_id(album_id))
        return None if record is None else record.mark(next(self._revisions))

    async def changes(self, album: Album, since: int) -> Mapping[str, Asset | None] | None:
        """The members that may show something else than at a mark.

        Ages are in it as far as they are known: where they decide who has a name, by 2.x, the whole
        content has to be asked for.
        """
        tables = await self._follower.fresh()
        record = tables.albums.get(raw_id(album.id))
        if record is None or record.log is None or self._own.is_gone(album.id):
            return None
        own, changed = self._own.of(album.id), record.log.after(since)
        if changed is None:
            return None
        found: dict[str, Asset | None] = {}
        for key in changed:
            asset_id, told = text_id(key), tables.assets.get(key)
            if asset_id in own:
                found[asset_id] = own.get(asset_id)
            else:
                there = told is not None and told in record.members
                found[asset_id] = told.value() if told is not None and there else None
        return found

    async def asset(self, asset_id: str) -> Asset:
        """One asset that the user owns or sees in an album; raises NotFound."""
        record = (await self._follower.fresh()).assets.get(raw_id(asset_id))
        if record is None:
            raise NotFound
        return record.value()

    async def parts(self, stills: Sequence[Asset]) -> Mapping[str, Asset]:
        """The motion parts of live photos by their own ids.

        The stream tells own ones but for where they lie, which says whether Immich cut them out;
        others' it does not tell at all.
        """
        tables, shown, unknown = await self._follower.fresh(), [], []
        for still in stills:
            record = tables.assets.get(raw_id(still.live_photo_video_id))
            if record is not None and never_cut_out(record.name):
                shown.append(record.value())
            else:
                unknown.append(str(still.live_photo_video_id))
        found = await self._parts.of(unknown, self._follower.ask) if unknown else {}
        for part_id, part in found.items():
            record = tables.assets.get(raw_id(part_id))
            shown.append(part if record is None else record.value())
        return {part.id: part for part in shown if visible(part)}

    def stills(self, part_id: str) -> Sequence[str]:
        """Live photos known to have this motion part."""
        tables = self._follower.tables
        return [] if tables is None else [text_id(one.id) for one in tables.stills(raw_id(part_id))]

    def part_changed(self, part_id: str) -> None:
        """A motion part was unlinked, trashed or restored by us."""
        self._parts.forget(part_id)
        tables = self._follower.tables
        if tables is not None:
            for still in tables.stills(raw_id(part_id)):
                tables.log(still)

    async def size(self, asset_id: str) -> int | None:
        """What Immich says of an original whose size the stream did not tell."""
        return await self._follower.ask(lambda immich: immich.size(asset_id))

    async def notes(self, asset_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Our metadata of those assets that have some."""
        return self._notes((await self._follower.fresh()).notes, asset_ids)

    def _notes(
        self, told: Mapping[bytes, Mapping[str, Any]], asset_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        own, found = self._own.notes, {}
        for asset_id in asset_ids:
            if asset_id in own:
                value = own.get(asset_id)
            else:
                value = told.get(raw_id(asset_id)) if told else None
            if value is not None:
                found[asset_id] = value
        return found

    async def created(self, asset_ids: Sequence[str]) -> Mapping[str, float]:
        """When assets came into Immich, asked for once where the stream does not tell (2.x).

        `assets` has done so for those that share a name of their own.  Whoever gives assets other
        names asks for those that want the same one.  What is gone meanwhile is left out.
        """
        tables = await self._follower.fresh()
        records = [tables.assets.get(raw_id(asset_id)) for asset_id in asset_ids]
        await self._learn_created(tables, [record for record in records if record is not None])
        return {
            text_id(record.id): record.created
            for record in records
            if record is not None and record.created is not None
        }

    def _content(self, tables: Tables, album_id: str) -> list[Asset]:
        record = tables.albums.get(raw_id(album_id))
        own = self._own.of(album_id)
        if self._own.is_gone(album_id) or (record is None and album_id not in self._own.albums):
            raise NotFound("This album does not exist any more.")
        members: Iterable[AssetRecord] = () if record is None else record.members
        if not own:
            return [member.value() for member in members]
        found = [member.value() for member in members if text_id(member.id) not in own]
        return found + [asset for _, asset in own.items() if asset is not None]

    def _shown(self, album: Album) -> Album:
        """An album with the count and validator that own changes give it."""
        revision = self._own_revisions.get(album.id)
        if revision is None:
            return album
        tables = self._follower.tables
        assert tables is not None
        record = tables.albums.get(raw_id(album.id))
        if record is not None:
            revision = max(revision, record.revision)
        content = record.listed if record is not None else 0
        own = self._own.of(album.id)
        for asset_id, asset in own.items():
            told = tables.assets.get(raw_id(asset_id))
            if record is not None and told is not None and told in record.members:
                content -= told.listed
            content += asset is not None and asset.listed
        return evolve(album, asset_count=content, validator=(revision,))

    # -- when assets came into Immich, which 2.x's stream does not tell ---------------------------

    async def _with_created(self, assets: list[Asset], parts: Sequence[AssetRecord]) -> list[Asset]:
        """The content with the age of all whose names collide, also with one of the parts."""
        unknown = [asset for asset in assets if not asset.created]
        if not unknown:
            return assets
        rivals: dict[str, list[Asset]] = {}
        for asset in [*(part.value() for part in parts), *assets]:
            if asset.listed or asset.visibility == "hidden":
                key = names.fold(names.safe(asset.name), casefold=True)
                rivals.setdefault(key, []).append(asset)
        wanted = {a.id for group in rivals.values() if len(group) > 1 for a in group}
        if not wanted:
            return assets
        created = await self.created(sorted(wanted))
        return [
            evolve(asset, created=created[asset.id])
            if not asset.created and asset.id in created
            else asset
            for asset in assets
        ]

    async def _learn_created(self, tables: Tables, records: Iterable[AssetRecord]) -> None:
        unknown = [record for record in records if record.created is None]
        if not unknown:
            return

        async def learn(record: AssetRecord) -> None:
            def look(immich: IImmich) -> Awaitable[Asset]:
                return immich.asset(text_id(record.id))

            try:
                record.created = (await self._follower.ask(look)).created
                tables.log(record)
            except NotFound:
                self._log.debug("an asset left while its age was asked for")

        await gather([partial(learn, record) for record in unknown], CREATED_REQUESTS)

    # -- own changes, entered before they are answered --------------------------------------------

    def changed(self, album_id: str, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """We added assets to an album or took some out."""
        now = self.clock.seconds()
        for asset_id in removed:
            self._own.enter_members(album_id, asset_id, None, now)
        for asset in added:
            self._own.enter_members(album_id, asset.id, asset, now)
        self._touch(album_id, *removed, *(asset.id for asset in added))

    def album_changed(self, album: Album) -> None:
        """We made, renamed or described an album."""
        self._own.albums.enter(album.id, album, self.clock.seconds())
        self._touch(album.id)

    def album_gone(self, album_id: str) -> None:
        """We deleted or left an album."""
        self._own.albums.enter(album_id, None, self.clock.seconds())
        self._touch(album_id)

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """We wrote our metadata key, or with None removed it."""
        self._own.notes.enter(asset_id, value, self.clock.seconds())
        self._touch_albums_of(asset_id)

    def _touch(self, album_id: str, *asset_ids: str) -> None:
        """An album, or some of its members, are something else by an own change."""
        self._own_revisions[album_id] = revision = next(self._revisions)
        tables = self._follower.tables
        record = None if tables is None else tables.albums.get(raw_id(album_id))
        if record is not None and record.log is not None:
            for asset_id in asset_ids:
                record.log.enter(raw_id(asset_id), revision)

    def _touch_albums_of(self, asset_id: str) -> None:
        for album_id, own in self._own.members.items():
            if asset_id in own:
                self._touch(album_id, asset_id)
        tables = self._follower.tables
        record = None if tables is None else tables.assets.get(raw_id(asset_id))
        if tables is not None and record is not None:
            tables.touch_asset(record)

    def _settle(self, tables: Tables, began: float) -> None:
        """Own changes that the tables have by now, or know better, lie over them no more."""

        def same_album(album_id: str, album: Album | None) -> bool:
            record = tables.albums.get(raw_id(album_id))
            if record is None or album is None:
                return record is None and album is None
            return (record.name, record.description) == (album.name, album.description)

        for album_id in self._own.albums.settle(began, same_album):
            self._touch(album_id)
        for album_id, layer in list(self._own.members.items()):
            record = tables.albums.get(raw_id(album_id))
            members = set() if record is None else record.members

            def same_member(
                asset_id: str, asset: Asset | None, members: set[AssetRecord] = members
            ) -> bool:
                told = tables.assets.get(raw_id(asset_id))
                there = told is not None and told in members and told.listed
                return there == (asset is not None and asset.listed)

            settled = layer.settle(began, same_member)
            if settled:
                self._touch(album_id, *settled)
            if not len(layer):
                del self._own.members[album_id]
        for asset_id in self._own.notes.settle(
            began, lambda asset_id, value: tables.notes.get(raw_id(asset_id)) == value
        ):
            self._touch_albums_of(asset_id)
