"""A catalog that asks for what has changed, against one that asks for everything each time.

Both look at one mirror of a pretended Immich, which tells rows as they are when a stream begins,
some of them a stream late.  What one shows, the other has to show, whatever happened: the names by
which files go, what stands behind them, and what is remembered of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import pytest
from attrs import Factory, define, field
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from test_amending import sets
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from immich_conch.errors import NotFound, Unreachable
from immich_conch.immich.model import Asset
from immich_conch.library import change_log, contents
from immich_conch.library.catalog import Catalog
from immich_conch.library.contents import RETRY
from immich_conch.library.mirror import Mirror
from immich_conch.library.naming import Folder
from immich_conch.library.tables import METADATA_KEY

ME, OTHER = (f"0000000{number}-0000-4000-8000-0000000000aa" for number in (1, 2))
ASSETS = tuple(f"{number:08}-0000-4000-8000-000000000000" for number in range(1, 10))
#: The last two are others'; of the very last the stream tells nothing: a part in no album.
FOREIGN = ASSETS[-2:]
ALBUMS = tuple(f"0000000{number}-0000-4000-8000-00000000000b" for number in range(1, 4))
NAMES = ("a.jpg", "A.jpg", "a.mov", "b.jpg", "b.mov", "b.mp4", "a ~00000002.jpg")
#: The third album may be a folder in the first, and have the name of a file.
PATHS = ("Rome", "Oslo", "Rome/a.jpg", "Rome/b.jpg", "Paris")
MOMENT = "2020-01-01T00:00:{:02}.000Z"


@define(eq=False)
class Row:
    """An asset of Immich."""

    id: str
    name: str
    size: int | None = 1
    visibility: str = "timeline"
    trashed: bool = False
    live: str | None = None
    description: str = ""

    @property
    def created(self) -> int:
        return ASSETS.index(self.id) * 7 % 4

    @property
    def owner(self) -> str:
        return OTHER if self.id in FOREIGN else ME

    @property
    def is_video(self) -> bool:
        return not self.name.endswith("jpg")

    @property
    def checksum(self) -> bytes:
        return hashlib.sha1(self.id.encode(), usedforsecurity=False).digest()

    def value(self) -> Asset:
        """As Immich's other calls have it."""
        return Asset(
            self.id,
            self.name,
            self.owner,
            modified=1577836800.0,
            taken=1577836800.0,
            created=1577836800.0 + self.created,
            visibility=self.visibility,
            trashed=self.trashed,
            size=self.size,
            checksum=self.checksum,
            is_video=self.is_video,
            live_photo_video_id=self.live,
            description=self.description,
        )


@define(eq=False)
class Immich:
    """Rows, what of them is to be told when, and a session that tells it."""

    modern: bool
    assets: dict[str, Row] = Factory(dict)
    albums: dict[str, str] = Factory(dict)
    links: dict[tuple[str, str], None] = Factory(dict)
    notes: dict[str, Mapping[str, Any]] = Factory(dict)
    #: What a later stream tells, and which.
    dirty: dict[tuple[str, Any], int] = Factory(dict)
    streams: int = 0
    starts_over: bool = False
    cut: bool = False
    #: What is not to be had of all that is there, and what else is.
    away: set[str] = Factory(set)
    back: set[str] = Factory(set)

    # -- the session --------------------------------------------------------------------------

    async def sync_stream(
        self, take: Callable[[Sequence[Any]], None], reset: bool, only: Collection[str] = ()
    ) -> None:
        self.streams += 1
        if self.starts_over and not reset:
            take([{"type": "SyncResetV1", "data": {}, "ack": "SyncResetV1|x"}])
        if reset:
            self.starts_over = False
            self.dirty.clear()
            for kind, key in self.everything():
                self.dirty[kind, key] = 0
        due = {one for one, when in self.dirty.items() if when <= self.streams or reset}
        rows = sorted(due, key=lambda one: (ORDER.index(one[0]), one[1]))
        lines = [
            {"type": kind, "data": data, "ack": f"{kind}|x"}
            for row in rows
            for kind, data in self.told(*row)
        ]
        if self.cut:
            self.cut = False
            take(lines[: len(lines) // 2])
            raise Unreachable("Immich broke its sync stream off.")
        for one in due:
            del self.dirty[one]
        take(lines)
        take([{"type": "SyncCompleteV1", "data": {}, "ack": "SyncCompleteV1|x"}])

    async def sync_ack(self, acks: Sequence[str]) -> None:
        pass

    def allowed(self, permission: str) -> bool:
        return True

    async def asset(self, asset_id: str) -> Asset:
        if asset_id not in self.assets or asset_id in self.away:
            raise NotFound
        return self.assets[asset_id].value()

    async def size(self, asset_id: str) -> int | None:
        return 7 if asset_id < ASSETS[4] or asset_id in self.back else None

    # -- what it tells ----------------------------------------------------------------------------

    def everything(self) -> list[tuple[str, Any]]:
        """All rows."""
        return [
            *(("asset", one) for one in self.assets),
            *(("exif", one) for one in self.assets),
            *(("note", one) for one in self.notes),
            *(("album", one) for one in self.albums),
            *(("link", one) for one in self.links),
        ]

    def tell(self, kind: str, key: Any, delay: int = 0) -> None:
        """Something is to be told, by a later stream."""
        self.dirty[kind, key] = self.streams + 1 + delay

    def told(self, kind: str, key: Any) -> list[tuple[str, Any]]:
        """The lines that say how a row is now."""
        if kind in ("asset", "exif") and key in self.assets:
            row = self.assets[key]
            linked = any(asset == key for _, asset in self.links)
            if row.owner != ME and not linked:
                return []
            form = "AlbumAssetCreateV1" if row.owner != ME else "AssetV1"
            if kind == "asset":
                return [(form, self._asset(row))]
            data = {"assetId": key, "description": row.description, "rating": None}
            return [("AssetExifV1", {**data, "fileSizeInByte": row.size})]
        if kind == "asset":
            return [("AssetDeleteV1", {"assetId": key})]
        if kind == "note" and key in self.notes and key in self.assets:
            data = {"assetId": key, "key": METADATA_KEY, "value": self.notes[key]}
            return [("AssetMetadataV1", data)]
        if kind == "note":
            return [("AssetMetadataDeleteV1", {"assetId": key, "key": METADATA_KEY})]
        if kind == "album" and key in self.albums:
            times = dict.fromkeys(("createdAt", "updatedAt"), MOMENT.format(ALBUMS.index(key)))
            data = {"id": key, "name": self.albums[key], "description": "", "ownerId": ME}
            return [("AlbumV1", {**data, **times})]
        if kind == "album":
            return [("AlbumDeleteV1", {"albumId": key})]
        if kind == "link":
            data = {"albumId": key[0], "assetId": key[1]}
            if key not in self.links:
                return [("AlbumToAssetDeleteV1", data)]
            # Others' assets come because of an album.
            foreign = key[1] in FOREIGN
            rows = [self.told(kind, key[1]) for kind in ORDER[:2]] if foreign else []
            return [*(line for row in rows for line in row), ("AlbumToAssetV1", data)]
        return []

    def _asset(self, row: Row) -> dict[str, Any]:
        moment = MOMENT.format(0)
        return {
            "id": row.id,
            "ownerId": row.owner,
            "originalFileName": row.name,
            "fileCreatedAt": moment,
            "fileModifiedAt": moment,
            "type": "VIDEO" if row.is_video else "IMAGE",
            "deletedAt": moment if row.trashed else None,
            "isFavorite": False,
            "visibility": row.visibility,
            "livePhotoVideoId": row.live,
            "libraryId": None,
            "checksum": base64.b64encode(row.checksum).decode(),
            **({"createdAt": MOMENT.format(row.created)} if self.modern else {}),
        }

    # -- what happens to it -----------------------------------------------------------------------

    def link(self, album: str, asset: str, delay: int) -> None:
        """An asset comes into an album."""
        if album in self.albums and asset in self.assets:
            self.links[album, asset] = None
            self.tell("link", (album, asset), delay)

    def unlink(self, album: str, asset: str, delay: int) -> None:
        """An asset leaves an album."""
        if (album, asset) in self.links:
            del self.links[album, asset]
            self.tell("link", (album, asset), delay)


#: In which order a stream tells things.
ORDER = ("asset", "exif", "note", "album", "link")


@define(eq=False)
class Slow:
    """A mirror whose last answer can be held back."""

    mirror: Mirror
    holds: bool = False
    held: list[Deferred[None]] = Factory(list)
    asked: list[str] = Factory(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mirror, name)

    async def notes(self, asset_ids: Sequence[str]) -> Any:
        self.asked += asset_ids
        if self.holds:
            waiter: Deferred[None] = Deferred()
            self.held.append(waiter)
            await waiter
        return await self.mirror.notes(asset_ids)

    def release(self) -> None:
        """Answer."""
        self.holds = False
        held, self.held = self.held, []
        for waiter in held:
            waiter.callback(None)


@define(eq=False)
class Everything(Slow):
    """A source that does not know what has changed, for a catalog that asks for everything.

    The mirror hears of own changes from the other catalog.
    """

    def mark(self, album_id: str) -> None:
        return None

    def changed(self, album_id: str, added: Any, removed: Any) -> None:
        pass

    def noted(self, asset_id: str, value: Any) -> None:
        pass

    def part_changed(self, part_id: str) -> None:
        pass

    def album_changed(self, album: Any) -> None:
        pass

    def album_gone(self, album_id: str) -> None:
        pass


@define(eq=False)
class Pair:
    """The two catalogs before one Immich."""

    immich: Immich
    ignore_case: bool = False
    clock: Clock = Factory(Clock)
    catalogs: list[Catalog] = field(factory=list, init=False)
    mirror: Mirror = field(init=False)
    in_place: int = 0

    def __attrs_post_init__(self) -> None:
        async def lend(revoked: Any) -> Any:
            return self.immich

        self.mirror = Mirror(ME, lend, self.clock)
        for source in (Slow(self.mirror), Everything(self.mirror)):
            self.catalogs.append(Catalog(source, self.clock, 0.25, self.ignore_case))

    def started(self) -> list[Deferred[Any]]:
        """Every folder is asked of both."""
        return [Deferred.fromCoroutine(self._everything(one)) for one in self.catalogs]

    async def _everything(self, catalog: Catalog) -> dict[str, Any]:
        folders: dict[str, Any] = {}
        for album_id in sorted((await catalog.known()).by_id):
            before = catalog._folders.get(album_id)
            validator = None if before is None else before.validator
            folder = await catalog.folder(album_id)
            if folder is before and folder.validator != validator:
                self.in_place += 1
            folders[album_id] = self._shown(catalog, album_id, folder)
        return folders

    def _shown(self, catalog: Catalog, album_id: str, folder: Folder) -> Any:
        def plain(asset: Asset | None) -> Any:
            # Ages are known to a listing where names of assets collide, though no files' do (2.x).
            known = asset is None or self.immich.modern
            return asset if known else attrs.evolve(asset, created=0.0)

        def told(file: Any) -> Any:
            return file.name, plain(file.asset), file.link, plain(file.still)

        return {
            "validator": folder.validator,
            "reserved": folder.reserved,
            "members": {key: plain(one) for key, one in folder.members.items()},
            "assets": {key: plain(one) for key, one in folder.assets.items()},
            "stills": sets(folder.stills),
            "files": {name: told(file) for name, file in folder.files.items()},
            "by_key": {key: told(file) for key, file in folder.by_key.items()},
            "by_asset": {
                key: {told(file) for file in files} for key, files in folder.by_asset.items()
            },
            "pins": dict(catalog._file_names.pins(album_id)),
        }

    def ended(self, waiting: list[Deferred[Any]]) -> list[Any]:
        """What they show, once nobody waits any more."""
        results: list[Any] = [None for _ in waiting]
        for number, one in enumerate(waiting):
            one.addBoth(lambda result, number=number: results.__setitem__(number, result))
        for _ in range(100):
            if None not in results:
                break
            self.clock.advance(0.1)
        return results

    def look(self) -> None:
        """Both show the same, of now."""
        self.clock.advance(1.5)
        if self.immich.cut:
            # Neither of them is to look more often than the other.
            self.ended([Deferred.fromCoroutine(self.mirror.albums())])
            assert not self.immich.cut
        self.agree(self.started())
        for catalog in self.catalogs:
            for folder in catalog._folders.values():
                assert_whole(catalog, folder)

    def agree(self, waiting: list[Deferred[Any]]) -> None:
        """They tell the same."""
        one, other = self.ended(waiting)
        for album_id in one.keys() | other.keys():
            for what, shown in one[album_id].items():
                assert shown == other[album_id][what], what

    def both(self, change: Callable[[Catalog], None]) -> None:
        """An own change is entered into both."""
        for catalog in self.catalogs:
            change(catalog)


def assert_whole(catalog: Catalog, folder: Folder) -> None:
    """A folder agrees with itself."""
    files = set(folder.files.values())
    assert files == set(folder.by_key.values())
    assert files == {file for files in folder.by_asset.values() for file in files}
    assert {file.asset.id for file in files} == folder.assets.keys()
    assert all(folder.assets[file.asset.id] is file.asset for file in files)
    assert {catalog.key(file.name) for file in files} == folder.by_key.keys()


# -- what may happen: by which numbers, to which rows ---------------------------------------------


def come(p: Pair, a: int, b: int, c: int) -> None:
    """An upload, or an asset's other state."""
    key = ASSETS[a % len(ASSETS)]
    size = None if c % 3 == 0 else 5
    p.immich.assets.setdefault(key, Row(key, NAMES[b % len(NAMES)], size))
    for kind in ("asset", "exif"):
        p.immich.tell(kind, key, c % 5 == 0)
    p.immich.link(ALBUMS[b % 2], key, c % 7 == 0)


def go(p: Pair, a: int, b: int, c: int) -> None:
    key = ASSETS[a % len(ASSETS)]
    if p.immich.assets.pop(key, None) is not None:
        for album in ALBUMS:
            p.immich.links.pop((album, key), None)
        p.immich.notes.pop(key, None)
        p.immich.tell("asset", key)


def link(p: Pair, a: int, b: int, c: int) -> None:
    p.immich.link(ALBUMS[b % 3], ASSETS[a % len(ASSETS)], c % 4 == 0)


def unlink(p: Pair, a: int, b: int, c: int) -> None:
    p.immich.unlink(ALBUMS[b % 3], ASSETS[a % len(ASSETS)], c % 4 == 0)


def change(p: Pair, a: int, b: int, c: int) -> None:
    """It is hidden, trashed, described, measured …"""
    row = p.immich.assets.get(ASSETS[a % len(ASSETS)])
    if row is None:
        return
    if b % 4 == 0:
        row.visibility = ("timeline", "archive", "hidden", "locked")[c % 4]
    elif b % 4 == 1:
        row.trashed = not row.trashed
    elif b % 4 == 2:
        row.description = f"{c}"
    else:
        row.size = None if c % 3 == 0 else c
    p.immich.tell("exif" if b % 4 > 1 else "asset", row.id, c % 5 == 0)


def pair(p: Pair, a: int, b: int, c: int) -> None:
    """Immich makes a live photo of two, or two of it."""
    row = p.immich.assets.get(ASSETS[a % len(ASSETS)])
    part = p.immich.assets.get(ASSETS[b % len(ASSETS)])
    if row is None or row.is_video:
        return
    if row.live is not None and c % 2:
        row.live = None
    elif part is not None and part.is_video:
        row.live = part.id
        if c % 4 < 3:
            part.visibility = "hidden"
            p.immich.tell("asset", part.id, c % 3 == 0)
        for album in ALBUMS:
            p.immich.unlink(album, part.id, c % 3 == 0)
    p.immich.tell("asset", row.id, c % 5 == 0)


def value_of(b: int, c: int) -> Mapping[str, Any] | None:
    names = [NAMES[(b + number) % len(NAMES)] for number in range(c % 3)]
    places: list[Any] = [{"name": name} for name in names] or [{"time": b}]
    return None if c % 5 == 0 else {"v": 1, "albums": {ALBUMS[b % 2]: places}}


def note(p: Pair, a: int, b: int, c: int) -> None:
    key, value = ASSETS[a % len(ASSETS[:-2])], value_of(b, c)
    if key in p.immich.assets:
        p.immich.notes.pop(key, None)
        if value is not None:
            p.immich.notes[key] = value
        p.immich.tell("note", key, c % 4 == 0)


def own_note(p: Pair, a: int, b: int, c: int) -> None:
    note(p, a, b, c)
    key = ASSETS[a % len(ASSETS[:-2])]
    if key in p.immich.assets:
        p.both(lambda catalog: catalog.noted(key, p.immich.notes.get(key)))


def own_add(p: Pair, a: int, b: int, c: int) -> None:
    """As after an upload."""
    album, key = ALBUMS[b % 2], ASSETS[a % len(ASSETS[:-2])]
    if album not in p.immich.albums:
        return
    new = Row(key, NAMES[c % len(NAMES)])
    row = p.immich.assets.setdefault(key, new)
    row.trashed, row.visibility = False, "timeline" if c % 6 else "hidden"
    for kind in ("asset", "exif"):
        p.immich.tell(kind, key, c % 3 == 0)
    p.immich.link(album, key, c % 2)
    p.both(lambda catalog: catalog.assets_changed(album, [row.value()]))


def own_remove(p: Pair, a: int, b: int, c: int) -> None:
    album, key = ALBUMS[b % 2], ASSETS[a % len(ASSETS)]
    if (album, key) in p.immich.links:
        if c % 4:  # else Immich did otherwise
            p.immich.unlink(album, key, c % 3)
        p.both(lambda catalog: catalog.assets_changed(album, [], [key]))


def own_unpair(p: Pair, a: int, b: int, c: int) -> None:
    """A part is removed alone: unlinked, and in the trash."""
    album, row = ALBUMS[b % 2], p.immich.assets.get(ASSETS[a % len(ASSETS)])
    if row is None or row.live is None or (album, row.id) not in p.immich.links:
        return
    part_id, still = row.live, row
    if part_id in p.immich.assets:
        p.immich.assets[part_id].trashed = True
    if c % 4:
        row.live = None
    p.immich.tell("asset", part_id, c % 3 == 0)
    p.immich.tell("asset", row.id, c % 3 == 0)
    if c % 2:
        p.both(lambda catalog: catalog.assets_changed(album, [still.value()]))
    p.both(lambda catalog: catalog.assets_changed(album, [], [part_id]))


def forgotten(p: Pair, a: int, b: int, c: int) -> None:
    """Something of ours went wrong half-way."""
    p.both(lambda catalog: catalog.stale())


def album(p: Pair, a: int, b: int, c: int) -> None:
    """An album is made, renamed or removed; by us, or not."""
    key, name = ALBUMS[a % 3], PATHS[b % len(PATHS)]
    own = key in p.immich.albums and c % 2
    if c % 5 == 0 and a % 3:
        p.immich.albums.pop(key, None)
        for one in [one for one in p.immich.links if one[0] == key]:
            del p.immich.links[one]
        if own:
            p.both(lambda catalog: catalog.album_gone(key))
    else:
        p.immich.albums[key] = name
        for catalog in p.catalogs if own and c % 3 else ():
            known = catalog.fresh_albums()
            if known is not None and key in known.by_id:
                catalog.album_changed(attrs.evolve(known.by_id[key], name=name))
    p.immich.tell("album", key, c % 4 == 0)


def start_over(p: Pair, a: int, b: int, c: int) -> None:
    if a % 2:
        p.immich.starts_over = True
    else:
        p.immich.cut = True


def look(p: Pair, a: int, b: int, c: int) -> None:
    p.look()


def look_while(p: Pair, a: int, b: int, c: int) -> None:
    """Something happens by us while both are at it."""
    p.look()
    change(p, c, 2, a)
    sources: list[Any] = [catalog.source for catalog in p.catalogs]
    for source in sources:
        source.holds = True
    p.clock.advance(1.5)
    waiting = p.started()
    event("held" if sources[0].held else "nothing to hold")
    assert len(sources[0].held) == len(sources[1].held)
    if b % 4 == 0 and not p.immich.dirty:
        # More comes by the stream, but nothing that names depend on.
        change(p, a, 2, c + 1)
        p.clock.advance(1.5)
        p.ended([Deferred.fromCoroutine(p.mirror.albums())])
    works = (own_add, own_remove, own_note, own_unpair, forgotten)[a % 5 :][:2]
    for work in works if c % 2 else works[::-1]:
        work(p, b, a, c)
    for source in sources:
        source.release()
    if b % 4:
        p.agree(waiting)
    else:
        p.ended(waiting)
    p.look()


STEPS = [
    *[come, link, change, note, look] * 3,
    *[go, unlink, pair, own_add, own_remove, own_note, own_unpair, look_while, look] * 2,
    album,
    start_over,
]
NUMBERS = st.integers(0, 41)


def begun(modern: bool, ignore_case: bool = False) -> Pair:
    """Two albums with a few files, which were looked at."""
    p = Pair(Immich(modern), ignore_case)
    p.immich.albums.update(zip(ALBUMS[:2], PATHS, strict=False))
    for number, key in enumerate(ASSETS[:5]):
        p.immich.assets[key] = Row(key, NAMES[number], None if number == 3 else 1)
        p.immich.links[ALBUMS[number % 2], key] = None
        p.immich.links[ALBUMS[0], key] = None
    p.look()
    return p


@settings(max_examples=250, deadline=None, phases=set(Phase) - {Phase.explain})
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), NUMBERS, NUMBERS, NUMBERS), min_size=10, max_size=60
    ),
    st.booleans(),
    st.booleans(),
)
def test_whatever_happens_what_has_changed_is_all(
    steps: list[Any], modern: bool, ignore_case: bool
) -> None:
    p = begun(modern, ignore_case)
    for work, a, b, c in steps:
        work(p, a, b, c)
    # All is told by now, and believed.
    for _ in range(4):
        p.look()
    event("in place" if p.in_place else "anew")


def test_what_was_not_to_be_had_is_asked_for_again() -> None:
    p = begun(modern=True)
    # A size, and somebody else's motion part, of which the stream tells nothing.
    offline, still, part = ASSETS[4], ASSETS[5], ASSETS[8]
    p.immich.assets[offline].size = None
    p.immich.tell("exif", offline)
    p.immich.assets[part] = Row(part, "c.mp4", visibility="hidden")
    p.immich.assets[still] = Row(still, "c.jpg", live=part)
    p.immich.away.add(part)
    p.immich.link(ALBUMS[0], still, 0)
    for kind in ("asset", "exif"):
        p.immich.tell(kind, still)
    p.look()
    folder = p.catalogs[0]._folders[ALBUMS[0]]
    assert folder.unsettled == {offline, still}
    assert folder.assets[offline].size is None
    p.immich.away.clear()
    p.immich.back.add(offline)
    change(p, 0, 2, 1)
    p.clock.advance(RETRY)
    p.look()
    assert p.catalogs[0]._folders[ALBUMS[0]] is folder
    assert folder.assets[offline].size == 7
    assert "c.mp4" in folder.files
    assert not folder.unsettled


def test_where_much_is_to_be_asked_for_again_the_folder_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = begun(modern=True)
    for offline, name in ((ASSETS[4], NAMES[4]), (ASSETS[5], "z.jpg")):
        p.immich.assets[offline] = Row(offline, name, None)
        p.immich.link(ALBUMS[0], offline, 0)
        for kind in ("asset", "exif"):
            p.immich.tell(kind, offline)
    p.look()
    folder = p.catalogs[0]._folders[ALBUMS[0]]
    assert len(folder.unsettled) == 2
    tries = ((1, 1, True), (2, RETRY, True), (1, RETRY, False))
    for text, (most, pause, stays) in enumerate(tries, 1):
        monkeypatch.setattr(contents, "MAX_AGAIN", most)
        p.clock.advance(pause)
        change(p, 0, 2, text)
        p.look()
        assert (p.catalogs[0]._folders[ALBUMS[0]] is folder) == stays


def test_a_thousand_changes_are_more_than_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "MAX_CHANGES", 2)
    p = begun(modern=True)
    folder = p.catalogs[0]._folders[ALBUMS[0]]
    for count, stays in ((2, True), (3, False), (1, True)):
        for number in range(count):
            change(p, number, 2, p.immich.streams)
        p.look()
        after = p.catalogs[0]._folders[ALBUMS[0]]
        assert (after is folder) == stays
        folder = after


def test_an_age_that_became_known_is_told_with_the_next_change() -> None:
    p = begun(modern=False)
    folder, asset_id = p.catalogs[0]._folders[ALBUMS[0]], ASSETS[2]
    assert not folder.assets[asset_id].created
    p.ended([Deferred.fromCoroutine(p.mirror.created([asset_id]))])
    change(p, 0, 2, 1)
    p.look()
    assert p.catalogs[0]._folders[ALBUMS[0]] is folder
    assert folder.assets[asset_id].created == p.immich.assets[asset_id].value().created


def test_what_is_done_by_us_is_among_what_has_changed() -> None:
    p = begun(modern=True)
    still, part = p.immich.assets[ASSETS[1]], p.immich.assets[ASSETS[2]]
    still.live = part.id
    p.immich.tell("asset", still.id)
    p.look()
    album = p.catalogs[0]._albums.by_id[ALBUMS[0]]

    def changed(act: Callable[[], None]) -> Any:
        mark = p.mirror.mark(album.id)
        assert mark is not None
        act()
        (found,) = p.ended([Deferred.fromCoroutine(p.mirror.changes(album, mark))])
        return {key: one is not None for key, one in found.items()}

    new = Row(ASSETS[6], "new.jpg")
    assert changed(lambda: p.mirror.changed(album.id, [new.value()], [])) == {new.id: True}
    assert changed(lambda: p.mirror.changed(album.id, [], [ASSETS[0]])) == {ASSETS[0]: False}
    assert changed(lambda: p.mirror.part_changed(part.id)) == {still.id: True}
    assert changed(lambda: p.mirror.noted(new.id, {"v": 1})) == {new.id: True}
    noted = changed(lambda: p.mirror.noted(part.id, {"v": 1}))
    assert noted == {still.id: True, part.id: True}
    assert changed(lambda: p.mirror.album_changed(album)) == {}
    # Half of a delta is nothing to go by.
    p.mirror._follower._whole = False
    assert p.mirror.mark(album.id) is None


def test_a_part_that_leaves_the_album_stays_beside_its_still() -> None:
    p = begun(modern=True)
    still, part = p.immich.assets[ASSETS[0]], p.immich.assets[ASSETS[2]]
    still.live = part.id
    p.immich.tell("asset", still.id)
    p.look()
    folder = p.catalogs[0]._folders[ALBUMS[0]]
    assert part.id in folder.members
    p.immich.unlink(ALBUMS[0], part.id, 0)
    p.look()
    assert p.catalogs[0]._folders[ALBUMS[0]] is folder
    assert part.id not in folder.members
    assert part.name in folder.files


def held(p: Pair) -> tuple[Slow, list[Deferred[Any]]]:
    """The catalog that asks for what has changed is at it, and has all but its last answer."""
    p.clock.advance(1.5)
    source: Any = p.catalogs[0].source
    source.holds = True
    waiting = p.started()[:1]
    assert source.held
    return source, waiting


def test_what_leaves_and_is_put_back_by_us_is_there() -> None:
    p = begun(modern=True)
    asset = p.immich.assets[ASSETS[0]].value()
    p.immich.unlink(ALBUMS[0], asset.id, 0)
    source, waiting = held(p)
    p.immich.link(ALBUMS[0], asset.id, 0)
    p.both(lambda catalog: catalog.assets_changed(ALBUMS[0], [asset]))
    source.release()
    (shown,) = p.ended(waiting)
    assert asset.name in shown[ALBUMS[0]]["files"]


def test_what_leaves_while_we_look_is_gone() -> None:
    p = begun(modern=True)
    change(p, 0, 2, 1)
    source, waiting = held(p)
    p.immich.unlink(ALBUMS[0], ASSETS[0], 0)
    p.both(lambda catalog: catalog.assets_changed(ALBUMS[0], [], [ASSETS[0]]))
    source.release()
    (shown,) = p.ended(waiting)
    assert ASSETS[0] not in shown[ALBUMS[0]]["assets"]


def test_an_album_that_we_delete_while_we_look_is_no_folder() -> None:
    p = begun(modern=True)
    change(p, 0, 2, 1)
    source, waiting = held(p)
    del p.immich.albums[ALBUMS[0]]
    p.both(lambda catalog: catalog.album_gone(ALBUMS[0]))
    source.release()
    (failure,) = p.ended(waiting)
    assert failure.check(NotFound)


def test_what_changes_while_a_folder_is_made_shows_next() -> None:
    p = begun(modern=True)
    p.catalogs[0]._folders.clear()
    source, waiting = held(p)
    change(p, 0, 2, 9)
    p.clock.advance(1.5)
    p.ended([Deferred.fromCoroutine(p.mirror.albums())])
    source.release()
    p.ended(waiting)
    folder = p.catalogs[0]._folders[ALBUMS[0]]
    p.look()
    assert p.catalogs[0]._folders[ALBUMS[0]] is folder
    assert folder.assets[ASSETS[0]].description == "9"


def test_nobody_asks_for_everything_because_of_one_file() -> None:
    p = begun(modern=True)
    source: Any = p.catalogs[0].source
    source.asked.clear()
    change(p, 1, 2, 1)
    p.clock.advance(1.5)
    p.ended(p.started()[:1])
    assert source.asked == [ASSETS[1]] * 2  # it is in two albums
