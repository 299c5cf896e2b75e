"""A commit with what stands around it: the album that may be gone, the file that is overwritten.

`commit` brings bytes into an album; here an upload takes its place there.  Whoever had the name
before leaves the album only when its successor is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from attrs import define, field, frozen
from twisted.logger import Logger

from immich_conch.errors import NotFound, Refused, Unsupported
from immich_conch.immich.model import Asset
from immich_conch.library import metadata, names
from immich_conch.library.adds import Adds
from immich_conch.library.locks import Locks
from immich_conch.library.metadata import Link
from immich_conch.library.naming import File
from immich_conch.library.nodes import asset_key
from immich_conch.library.notes import Notes
from immich_conch.library.relations import is_view, still_there
from immich_conch.transfer.commit import Commit, Content, carry_over
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upload import Upload

#: Places remembered of which own upload filled them last.
MADE_KEPT = 10_000


def _place(upload: Upload) -> tuple[str, str]:
    return upload.album_id, names.fold(upload.name)


@frozen
class Landed:
    """An upload that is in Immich: in its album or, where that is gone, without one.

    `replaced` lost the upload's name for it, and `left` the album if that was its only one.
    `still` is the live photo that shows it there as its motion part.
    """

    asset: Asset
    in_album: bool
    replaced: Asset | None = None
    left: bool = False
    still: Asset | None = None


def wanted_link(upload: Upload, asset: Asset, file: File | None) -> Link:
    """How known bytes are to be shown for an upload: as the client named it, at the client's time.

    `file` is what has the name now.  If that are these bytes their name stays what it is; and a
    client that told no time leaves the time they have.
    """
    link = metadata.own_link(asset)
    if file is not None and file.asset.id == asset.id:
        link = file.link
    elif names.fold(link.name) != names.fold(upload.name):
        link = Link(upload.name, link.time)
    return link if upload.time is None else Link(link.name, metadata.whole(upload.time))


def _kept_apart(
    links: tuple[Link, ...], shown: Sequence[File], name: str, wanted: Link
) -> tuple[Link, ...]:
    """The links of an asset that a copy gives the name it wants and is not shown by so far.

    The name that it is shown by, with a mark, is noted then: it would vanish else, for both are
    one link.
    """
    if wanted.key == names.fold(name):
        for file in shown:
            if file.link.key == wanted.key and names.fold(file.name) != wanted.key:
                aside = Link(file.name, file.link.time)
                links = metadata.renamed(links, file.link.name, aside)
    return links


@define(eq=False)
class Landing:
    """Brings uploads into Immich.  Callers hold the lock of the upload's place."""

    locks: Locks
    notes: Notes
    #: Hears, while nobody else can touch the asset, that it is in an album now.
    landed: Callable[[str, str, str], None]
    final_delete: bool = False
    adds: Adds = field(factory=Adds)
    #: What own uploads have put under which names, for the next upload under the same name.
    _made: dict[tuple[str, str], str] = field(factory=dict)

    _log = Logger()

    async def run(self, upload: Upload, lease: Lease) -> Landed:
        """Run the commit of an upload; raises what Immich raised."""
        async with self.locks.hold(("sha1", upload.checksum)):
            asset, in_album, still = await self._into_immich(upload, lease)
            if in_album:
                self.landed(upload.album_id, upload.name, asset.id)
                # A removal of the still that is held back would take the part along.
                for file in () if still is None else lease.catalog.shown(upload.album_id, still.id):
                    self.landed(upload.album_id, file.name, file.asset.id)
        if asset.size is None:
            asset = attrs.evolve(asset, size=upload.size)
        if not in_album:
            return Landed(asset, in_album=False)
        landed, free = await self._replace(upload, lease, asset)
        if still is not None and (landed.replaced is None or landed.replaced.id != still.id):
            landed = attrs.evolve(landed, still=still)
        if free:
            self._made[_place(upload)] = asset.id
            while len(self._made) > MADE_KEPT:
                del self._made[next(iter(self._made))]
        return landed

    async def _into_immich(self, upload: Upload, lease: Lease) -> tuple[Asset, bool, Asset | None]:
        """The asset, whether its album still exists, and the still that shows it there."""
        immich = lease.immich

        def made(asset_id: str) -> None:
            upload.asset_id = asset_id
            self.notes.noted(asset_id, None)

        async def landed(asset: Asset) -> None:
            await self._note(upload, lease, asset)
            upload.asset_id = asset.id

        async def alone(asset: Asset) -> None:
            upload.asset_id = asset.id

        content = Content(
            name=upload.name,
            modified=upload.modified,
            size=upload.size,
            checksum=upload.checksum,
            body=upload.body,
            overlap=upload.overlap,
            unknown=upload.unknown,
        )
        upload.unknown = False  # another try looks again
        try:
            commit = Commit(
                immich, content, upload.album_id, made, landed, self.notes.pairs, self.adds
            )
            return await commit.run(), True, commit.still
        except NotFound:
            try:
                await still_there(immich, upload.album_id)
            except NotFound:
                self._log.warn(
                    "the album of {name!r} is gone; the file is in Immich without an album",
                    name=upload.name,
                )
                # By now Immich may have them; it was looked up before, if at all.
                content = attrs.evolve(content, unknown=False)
                commit = Commit(immich, content, None, made, alone, self.notes.pairs)
                return await commit.run(), False, None
            raise

    async def _note(self, upload: Upload, lease: Lease, asset: Asset) -> None:
        """Note how known bytes are to be shown, before the album holds them.

        So they are never seen there under a name that nobody gave them.  The caller holds the
        lock of the bytes.
        """
        immich, album_id = lease.immich, upload.album_id
        if is_view(album_id):
            return  # CLOSE has looked whether it can be shown there
        before = await self.notes.read(immich, asset)
        # Immich's word: another upload may have put the bytes there a moment ago.
        here = not asset.trashed and album_id in await self.notes.pairs.albums_of(immich, asset)
        links = metadata.links(before, album_id, asset) if here else ()
        file = await lease.catalog.find_file(album_id, upload.name) if here else None
        wanted = wanted_link(upload, asset, file)
        # Else it may be what a try that failed put there, which is nobody's file.
        copied = here and upload.copy_of is not None and upload.asset_id is None
        shown = lease.catalog.shown(album_id, asset.id) if copied else ()
        kept = _kept_apart(links, shown, upload.name, wanted)
        after = metadata.with_links(before, album_id, asset, metadata.added(kept, wanted))
        try:
            await self.notes.write(immich, asset, before, after)
        except Unsupported as error:
            known = links or (metadata.own_link(asset),)
            if metadata.find(known, wanted.name) is None:
                raise Refused(
                    f"Immich has these bytes as {asset.name!r}, and another name for them "
                    "cannot be kept here."
                ) from error
            # A time that cannot be kept has no effect (section 6).
            self._log.info("the time of {name!r} cannot be kept", name=upload.name)

    async def _replace(self, upload: Upload, lease: Lease, asset: Asset) -> tuple[Landed, bool]:
        """Let the asset that had the name lose it; what came of it, and whether the name is free.

        What got the name from elsewhere since the client took it, on another device say, stays
        and keeps it: the client never saw that file, so it cannot have meant to overwrite it.
        """
        album_id = upload.album_id
        file = await lease.catalog.find_file(album_id, upload.name)
        if file is None or file.asset.id == asset.id:
            return Landed(asset, True), True
        old = file.asset
        meant = old.id in (upload.replaces, self._made.get(_place(upload)))
        if not meant or old.owner_id != lease.immich.user.id:
            return Landed(asset, True), False
        try:
            await carry_over(lease.immich, await lease.immich.asset(old.id), asset)
        except NotFound:
            return Landed(asset, True, old, left=True), True  # gone by another hand
        pairs = self.notes.pairs
        if old.live_photo_video_id == asset.id:
            # A motion part takes its still's place: it must not go along with it.
            asset = await pairs.release(lease.immich, asset)
        asset = await pairs.hand_over(lease.immich, old, asset)
        still = await pairs.take_place(lease.immich, old, asset)
        try:
            async with self.locks.hold(asset_key(old)):
                trashed = await self.notes.drop(
                    lease.immich,
                    album_id,
                    old,
                    file.link.name,
                    final_delete=self.final_delete,
                    heir=asset,
                )
        except NotFound:
            trashed = None  # it has another name meanwhile
        if asset.live_photo_video_id == old.id:
            asset = attrs.evolve(asset, live_photo_video_id=None)
        return Landed(asset, True, old, left=trashed is not None, still=still), True
