"""Nested folders by the slash in album names (BEHAVIOUR, sections 2, 3, 7 and 8)."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from hypothesis import example, given
from hypothesis import strategies as st
from rig import NEW, NO_TRUNC, TAKEN, VERSIONS, Rig, Session, jpeg, raises, rig
from test_tree import bob, with_bob
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from immich_conch.errors import (
    AlreadyExists,
    BadName,
    Denied,
    MissingPermission,
    NotEmpty,
    NotFound,
    Refused,
    Unreachable,
)
from immich_conch.immich.model import Album
from immich_conch.library.albums import MAX_VANISHED, VANISHED_TIME, AlbumNames, Branch, Vanished

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)


def albums(r: Rig) -> list[str]:
    """The names of all albums in Immich."""
    return sorted(album.name for album in r.demo.state.albums.values())


async def mkdir(session: Session, path: str) -> None:
    await session.sftp.makeDirectory(path.encode(), {})


async def rmdir(session: Session, path: str) -> None:
    await session.sftp.removeDirectory(path.encode())


async def folders(session: Session, path: str = "/") -> list[str]:
    """The paths of all folders at and below one, sorted."""
    found = []
    for name, attributes in (await session.ls(path)).items():
        if stat.S_ISDIR(attributes["permissions"]):
            child = f"{path.rstrip('/')}/{name}"
            found += [child, *await folders(session, child)]
    return sorted(found)


# -- the tree, pure -------------------------------------------------------------------------------


def album(number: int, name: str, created: float = 0.0, hidden: bool = False) -> Album:
    return Album(
        id=f"{number:08x}-0000-4000-8000-000000000000",
        name=name,
        description="#nosync" if hidden else "",
        owner_id="",
        role="owner",
        created=created,
        updated=created,
        asset_count=0,
        validator=(),
    )


PARTS = st.sampled_from(["", "a", "A", "é", "e\u0301", ".", "..", "a\n", "x" * 300, "é" * 200, "-"])
SEPARATORS = ["/", " - ", "-", ".", ""]


@st.composite
def album_names(draw: st.DrawFn, separator: str) -> str:
    if draw(st.booleans()):
        return draw(st.text(st.sampled_from(f"ab/ -.~\n{separator}"), max_size=12))
    return (separator or "/").join(draw(st.lists(PARTS, max_size=5)))


@st.composite
def albums_and_order(draw: st.DrawFn) -> tuple[str, bool, list[Album], list[Album]]:
    separator = draw(st.sampled_from(SEPARATORS))
    given_names = draw(st.lists(album_names(separator), max_size=12))
    made = [
        album(number * 0x1111, name, draw(st.integers(0, 3)), draw(st.booleans()))
        for number, name in enumerate(given_names)
    ]
    return separator, draw(st.booleans()), made, draw(st.permutations(made))


def branches(root: Branch) -> list[Branch]:
    return [branch for branch in root.within() if branch is not root]


@given(albums_and_order())
@example(("/", False, [album(1, "a"), album(2, "a")], [album(2, "a"), album(1, "a")]))
@example(("/", True, [album(1, "a/b"), album(2, "A/c")], [album(2, "A/c"), album(1, "a/b")]))
@example((" - ", False, [album(1, "x - " * 2000), album(2, "x - " * 2000)], []))
def test_every_album_is_at_one_path_and_every_folder_has_its_parent(
    case: tuple[str, bool, list[Album], list[Album]],
) -> None:
    separator, ignore_case, made, shuffled = case
    known = AlbumNames(ignore_case, separator).named(0.0, {a.id: a for a in made})
    assert set(known.branches) == {a.id for a in made}
    paths = {}
    for branch in branches(known.root):
        parts = [inner.name for inner in branch.line]
        assert known.find(parts) is branch
        assert all(0 < len(part.encode()) <= 255 for part in parts)
        assert all("/" not in part and part not in (".", "..") for part in parts)
        assert len(branch.path.encode()) < 4096 - 256
        paths[branch.path] = branch.album_id
        assert branch.visible == any(
            not known.hides(inner) and inner.album_id is not None for inner in branch.within()
        )
        # There is no folder that no album asks for.
        assert any(inner.album_id is not None for inner in branch.within())
    assert len(paths) == len(branches(known.root))
    assert sorted(filter(None, paths.values())) == sorted(a.id for a in made)
    if not separator:
        assert all("/" not in path for path in paths)
    if shuffled:
        again = AlbumNames(ignore_case, separator).named(0.0, {a.id: a for a in shuffled})
        assert {branch.path: branch.album_id for branch in branches(again.root)} == paths


def shown(names: Iterable[str], separator: str = "/", ignore_case: bool = False) -> list[str]:
    made = [album(number, name, number) for number, name in enumerate(names)]
    known = AlbumNames(ignore_case, separator).named(0.0, {a.id: a for a in made})
    return sorted(branch.path for branch in branches(known.root))


@pytest.mark.parametrize(
    ("separator", "names", "paths"),
    [
        ("/", ["Trips/2024/Rome"], ["Trips", "Trips/2024", "Trips/2024/Rome"]),
        ("/", ["a//b", "/a"], ["(unnamed)", "(unnamed)/a", "a", "a/(unnamed)", "a/(unnamed)/b"]),
        (" - ", ["Trips - Rome", "a/b"], ["Trips", "Trips/Rome", "a∕b"]),
        ("", ["Trips/Rome"], ["Trips∕Rome"]),
        # Two spellings of one folder, shown as the earliest album has it.
        ("/", ["e\u0301/1", "é/2"], ["e\u0301", "e\u0301/1", "e\u0301/2"]),
    ],
)
def test_names_become_folders(separator: str, names: list[str], paths: list[str]) -> None:
    assert shown(names, separator) == sorted(paths)


def test_folders_that_differ_in_case_are_one_where_case_does_not_count() -> None:
    assert shown(["Trips/1", "trips/2"], ignore_case=True) == ["Trips", "Trips/1", "Trips/2"]
    assert shown(["Trips/1", "trips/2"]) == ["Trips", "Trips/1", "trips", "trips/2"]


def test_a_thousand_levels_are_no_trouble() -> None:
    paths = shown(["/".join("a" * 1000)])
    assert len(paths) == 1000


def test_the_tree_is_made_anew_only_when_names_change() -> None:
    naming = AlbumNames()
    one = album(1, "a/b")
    first = naming.named(0.0, {one.id: one})
    newer = attrs.evolve(one, updated=9.0)
    second = naming.named(1.0, {newer.id: newer})
    assert second.root is first.root
    assert second.updated(second.root) == 9.0
    other = album(1, "a/c")
    assert naming.named(2.0, {other.id: other}).root is not first.root


def test_vanished_folders_are_forgotten_after_a_while_and_in_number() -> None:
    vanished = Vanished()
    vanished.note(("a",), 0.0)
    assert not vanished.take(("b",), 1.0)
    assert vanished.take(("a",), 1.0)
    assert not vanished.take(("a",), 1.0)
    vanished.note(("a",), 0.0)
    assert not vanished.take(("a",), VANISHED_TIME)
    for number in range(MAX_VANISHED + 1):
        vanished.note((str(number),), 0.0)
    assert not vanished.take(("0",), 1.0)
    assert vanished.take(("1",), 1.0)


# -- looking --------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_nested_album_is_a_folder_in_folders(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Trips/2024/Rome", r.asset("a.jpg"))
        r.album("Trips/2024", r.asset("b.jpg"))
        oslo = r.album("Trips/2023/Oslo")
        session = await r.session()
        assert list(await session.ls("/")) == ["Trips"]
        assert sorted(await session.ls("/Trips")) == ["2023", "2024"]
        assert sorted(await session.ls("/Trips/2024")) == ["Rome", "b.jpg"]
        assert list(await session.ls("/Trips/2024/Rome")) == ["a.jpg"]
        assert await session.get("/Trips/2024/Rome/a.jpg") == jpeg("a.jpg")
        assert (await session.stat("/Trips/2024/b.jpg"))["size"] == len(jpeg("b.jpg"))
        prefix = await session.stat("/Trips/2023")
        assert prefix["permissions"] == stat.S_IFDIR | 0o755
        assert prefix["mtime"] == oslo.updated // 1_000
        for path in ("/Trips/2022", "/Trips/2023/x.jpg", "/Trips/2024/Rome/a.jpg/b", "/2024"):
            await raises(NotFound, session.stat(path))
            await raises(NotFound, session.ls(path))
        await raises(Refused, session.get("/Trips/2023"))


@pytest_twisted.ensureDeferred
async def test_a_folder_on_the_way_shows_the_newest_change_below(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A/1")
        session = await r.session()
        before = (await session.stat("/A"))["mtime"]
        later = r.album("A/2/3")
        later.updated += 1_000_000_000
        r.clock.advance(10)
        assert (await session.stat("/A"))["mtime"] == later.updated // 1_000 > before
        assert (await session.ls("/"))["A"]["mtime"] == later.updated // 1_000


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_hidden_album_on_the_way_is_a_folder_that_takes_nothing(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Secret", r.asset("a.jpg"), description="#nosync")
        r.album("Secret/Open", r.asset("b.jpg"))
        r.album("Mine")
        session = await r.session()
        assert await folders(session) == ["/Mine", "/Secret", "/Secret/Open"]
        assert list(await session.ls("/Secret")) == ["Open"]
        assert (await session.stat("/Secret"))["permissions"] == stat.S_IFDIR | 0o555
        for work in (
            session.stat("/Secret/a.jpg"),
            session.open("/Secret/b.jpg"),
            mkdir(session, "/Secret"),
            mkdir(session, "/Secret/New"),
            session.mv("/Mine", "/Secret/Mine"),
            session.mv("/Secret/Open/b.jpg", "/Secret/b.jpg"),
            session.mv("/Secret", "/Other"),
            session.posix_mv("/Mine", "/Secret"),
        ):
            await raises(Denied, work)
        await raises(NotEmpty, rmdir(session, "/Secret"))
        await session.put("/Secret/Open/c.jpg", jpeg("c"), TAKEN)
        await mkdir(session, "/Secret/Open/Deeper")
        assert albums(r) == ["Mine", "Secret", "Secret/Open", "Secret/Open/Deeper"]


@pytest_twisted.ensureDeferred
async def test_a_hidden_nested_album_is_taboo_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A", r.asset("B.jpg"))
        hidden = r.album("A/B.jpg", description="#nosync")
        session = await r.session()
        # It takes part in naming: the file has another name than the album.
        [name] = await session.ls("/A")
        assert name.startswith("B ~")
        await raises(Denied, session.open("/A/B.jpg"))
        await raises(Denied, mkdir(session, "/A/B.jpg"))
        await raises(Denied, rmdir(session, "/A/B.jpg"))
        await raises(Denied, session.mv(f"/A/{name}", "/A/B.jpg"))
        # What is hidden does not keep a folder.
        await rmdir(session, "/A")
        assert await session.ls("/") == {}
        assert r.demo.album("A/B.jpg") is hidden


# -- an asset named like a folder -----------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_asset_named_like_a_folder_in_its_album_gets_a_mark(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("B.jpg")
        r.album("A", asset)
        session = await r.session()
        assert list(await session.ls("/A")) == ["B.jpg"]
        inner = r.album("A/B.jpg", r.asset("c.jpg"))
        r.clock.advance(10)
        marked = f"B ~{asset.id[:8]}.jpg"
        entries = await session.ls("/A")
        assert sorted(entries) == [marked, "B.jpg"]
        assert stat.S_ISDIR(entries["B.jpg"]["permissions"])
        assert await session.get(f"/A/{marked}") == jpeg("B.jpg")
        assert list(await session.ls("/A/B.jpg")) == ["c.jpg"]
        # A new catalog sees the same.
        assert sorted(await (await r.session(key=r.demo.add_key(r.alice))).ls("/A")) == sorted(
            entries
        )
        await raises(Refused, session.open("/A/B.jpg"))
        await raises(Refused, session.open("/A/B.jpg", NEW))
        await raises(Refused, session.mv(f"/A/{marked}", "/A/B.jpg"))
        await raises(Refused, session.posix_mv(f"/A/{marked}", "/A/B.jpg"))
        await raises(Refused, session.rm("/A/B.jpg"))
        # The folder is gone: the file keeps the name it was shown under, and can be given its own.
        await rmdir(session, "/A/B.jpg")
        assert inner.id not in r.demo.state.albums
        assert list(await session.ls("/A")) == [marked]
        await session.mv(f"/A/{marked}", "/A/B.jpg")
        assert list(await session.ls("/A")) == ["B.jpg"]


@pytest_twisted.ensureDeferred
async def test_no_folder_is_made_over_a_file(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A", r.asset("B.jpg"))
        r.album("Mine")
        session = await r.session()
        handle = await session.open("/A/flying.jpg")
        for name in ("B.jpg", "flying.jpg"):
            await raises(AlreadyExists, mkdir(session, f"/A/{name}"))
            await raises(AlreadyExists, session.mv("/Mine", f"/A/{name}"))
            await raises(AlreadyExists, session.posix_mv("/Mine", f"/A/{name}"))
            await raises(Refused, mkdir(session, f"/A/{name}/deeper"))
        assert albums(r) == ["A", "Mine"]
        handle.writeChunk(0, jpeg("f"))
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await handle.close()


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_upload_whose_name_a_folder_gets_meanwhile_is_never_hidden(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        album = r.album("A")
        session = await r.session()
        await session.put("/A/B.jpg", jpeg("new"))
        r.album("A/B.jpg")
        r.clock.advance(2)
        entries = await session.ls("/A")
        assert len(entries) == 2
        [name] = entries.keys() - {"B.jpg"}
        assert name.startswith("B ~")
        assert (await session.stat(f"/A/{name}"))["size"] == len(jpeg("new"))
        assert await session.get(f"/A/{name}") == jpeg("new")
        await raises(NotEmpty, rmdir(session, "/A"))
        await session.utime(f"/A/{name}")
        assert r.names_in(album) == ["B.jpg"]
        assert len(await session.ls("/A")) == 2


# -- mkdir ----------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_mkdir_makes_an_album_of_the_whole_path(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        session = await r.session()
        await mkdir(session, "/Trips/2024")
        assert albums(r) == ["Trips/2024"]
        assert await folders(session) == ["/Trips", "/Trips/2024"]
        await raises(AlreadyExists, mkdir(session, "/Trips/2024"))
        await mkdir(session, "/Trips")
        assert albums(r) == ["Trips", "Trips/2024"]
        await raises(AlreadyExists, mkdir(session, "/Trips"))
        await mkdir(session, "/Trips/2024/a/b/c")
        assert albums(r) == ["Trips", "Trips/2024", "Trips/2024/a/b/c"]
        r.clock.advance(10)
        assert "/Trips/2024/a/b/c" in await folders(session)


@pytest.mark.parametrize("kind", ["stored", "twice"])
@pytest_twisted.ensureDeferred
async def test_a_new_folder_lies_where_it_was_made(tmp_path: Path, kind: str) -> None:
    async with rig(tmp_path) as r:
        parent = r.album("a\nb")
        if kind == "twice":
            parent = r.album("a\nb")
        session = await r.session()
        there = sorted(await session.ls("/"))[-1]
        await mkdir(session, f"/{there}/new")
        expected = "a\nb/new" if kind == "stored" else f"a␊b ~{parent.id[:8]}/new"
        assert expected in albums(r)
        for _ in range(2):
            assert list(await session.ls(f"/{there}")) == ["new"]
            session = await r.session(key=r.demo.add_key(r.alice))


@pytest_twisted.ensureDeferred
async def test_a_folder_of_another_spelling_is_the_same(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Cafe\u0301/1")
        session = await r.session()
        await mkdir(session, "/Café/2")
        assert albums(r) == ["Cafe\u0301/1", "Cafe\u0301/2"]
        assert sorted(await session.ls("/Cafe\u0301")) == sorted(await session.ls("/Café"))
        await raises(AlreadyExists, mkdir(session, "/Café/1"))


@pytest_twisted.ensureDeferred
async def test_what_no_album_can_be_called_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        session = await r.session()
        await raises(BadName, mkdir(session, "/a/b\n"))
        await raises(BadName, mkdir(session, "/a\n/b"))
        await raises(BadName, mkdir(session, "/" + "/".join(["x" * 250] * 15)))
        deep = "/" + "/".join(["x" * 250] * 13)
        await mkdir(session, deep)
        assert (await session.stat(deep))["permissions"] == stat.S_IFDIR | 0o755
        assert len(albums(r)) == 1


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_file_put_into_a_folder_that_is_no_album_makes_it_one(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        r.album("Trips/Rome", r.asset("old.jpg"))
        session = await r.session()
        await raises(Denied, session.open("/Trips/notes.txt"))
        await raises(NotFound, session.sftp.openFile(b"/Trips/a.jpg", NO_TRUNC & ~8, {}))
        assert albums(r) == ["Trips/Rome"]
        one = Deferred.fromCoroutine(session.put("/Trips/a.jpg", jpeg("a"), TAKEN))
        two = Deferred.fromCoroutine(session.put("/Trips/b.jpg", jpeg("b"), TAKEN))
        await one
        await two
        assert albums(r) == ["Trips", "Trips/Rome"]
        assert r.names_in(r.demo.album("Trips")) == ["a.jpg", "b.jpg"]
        assert sorted(await session.ls("/Trips")) == ["Rome", "a.jpg", "b.jpg"]
        # A RENAME into one does the same.
        r.album("Other/Oslo")
        r.clock.advance(10)
        await session.mv("/Trips/Rome/old.jpg", "/Other/old.jpg")
        assert r.names_in(r.demo.album("Other")) == ["old.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_folder_whose_making_was_not_answered_is_not_made_twice(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        session = await r.session()
        await session.ls("/")
        r.demo.faults.add("lose-answer", method="POST", route="/albums")
        await raises(Unreachable, mkdir(session, "/Trips"))
        await raises(AlreadyExists, mkdir(session, "/Trips"))
        assert albums(r) == ["Trips"]


# -- rmdir ----------------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_a_tree_is_removed_from_below(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        asset = r.asset("a.jpg")
        r.album("Trips/2024/Rome", asset)
        r.album("Trips/2024/Rome/Night")
        session = await r.session()
        for path in ("/Trips", "/Trips/2024", "/Trips/2024/Rome"):
            await raises(NotEmpty, rmdir(session, path))
        await rmdir(session, "/Trips/2024/Rome/Night")
        await rmdir(session, "/Trips/2024/Rome")
        assert (asset.deleted, asset.albums) == (None, set())
        assert await session.ls("/") == {}
        # These are gone with the last album in them; a client removes each of them all the same.
        await rmdir(session, "/Trips/2024")
        await rmdir(session, "/Trips")
        await raises(NotFound, rmdir(session, "/Trips"))
        await raises(NotFound, rmdir(session, "/Never"))


@pytest_twisted.ensureDeferred
async def test_a_folder_vanished_long_ago_is_not_found(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Trips/Rome")
        session = await r.session()
        await rmdir(session, "/Trips/Rome")
        r.clock.advance(VANISHED_TIME)
        await raises(NotFound, rmdir(session, "/Trips"))


@pytest_twisted.ensureDeferred
async def test_an_upload_waiting_in_a_nested_album_keeps_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A/B")
        session = await r.session()
        await session.put("/A/B/a.jpg", jpeg("a"))
        await raises(NotEmpty, rmdir(session, "/A/B"))
        await session.utime("/A/B/a.jpg")
        await rmdir(session, "/A/B")
        assert albums(r) == []


# -- rename ---------------------------------------------------------------------------------------


@asynccontextmanager
async def logged() -> AsyncIterator[list[str]]:
    """The lines that are logged as errors."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.error:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


def trip(r: Rig, count: int = 4) -> list[str]:
    """A folder that is no album, with albums below; their names."""
    names = ["Trips/2024", "Trips/2024/Rome", "Trips/2023/Oslo", "Trips/Z"][:count]
    for name in names:
        r.album(name, r.asset(f"{name.replace('/', ' ')}.jpg"))
    return sorted(names)


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_rename_of_a_folder_takes_everything_below_along(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        names = trip(r)
        session, other = await r.session(), await r.session(key=r.demo.add_key(r.alice))
        await other.ls("/")
        await session.mv("/Trips", "/Reisen/alle")
        assert albums(r) == sorted(name.replace("Trips", "Reisen/alle") for name in names)
        for one in (session, other):
            assert await folders(one) == [
                "/Reisen",
                "/Reisen/alle",
                "/Reisen/alle/2023",
                "/Reisen/alle/2023/Oslo",
                "/Reisen/alle/2024",
                "/Reisen/alle/2024/Rome",
                "/Reisen/alle/Z",
            ]
            await raises(NotFound, one.stat("/Trips"))
        path = "/Reisen/alle/2024/Rome/Trips 2024 Rome.jpg"
        assert await session.get(path) == jpeg("Trips 2024 Rome.jpg")
        # An album with albums in it, back up.
        await session.mv("/Reisen/alle/2024", "/2024")
        assert {"2024", "2024/Rome"} <= set(albums(r))
        # What was only there for what is gone may be removed once.
        await session.mv("/Reisen/alle", "/Trips")
        await rmdir(session, "/Reisen")
        await raises(NotFound, rmdir(session, "/Reisen"))


@pytest_twisted.ensureDeferred
async def test_a_folder_is_not_renamed_onto_another_or_into_itself(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        r.album("Mine", r.asset("mine.jpg"))
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Mine", "/Trips"))
        await raises(AlreadyExists, session.mv("/Mine", "/Trips/2024"))
        await raises(AlreadyExists, session.mv("/Trips/2024", "/Mine"))
        await raises(AlreadyExists, session.mv("/Trips/2024/Rome", "/Trips/2024"))
        for path in ("/Trips/new", "/Trips/2024/new", "/Trips/2024"):
            await raises(Refused, session.mv("/Trips", path))
            await raises(Refused, session.posix_mv("/Trips", path))
        # posix-rename replaces an empty album only.
        for path in ("/Trips", "/Trips/2024", "/Trips/2023"):
            await raises(AlreadyExists, session.posix_mv("/Mine", path))
        await raises(AlreadyExists, session.posix_mv("/Trips", "/Mine"))
        await session.mv("/Mine", "/Mine")
        assert albums(r) == sorted([*names, "Mine"])


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_posix_rename_replaces_an_empty_album(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        names = trip(r)
        empty = r.album("New/Place")
        session = await r.session()
        await raises(AlreadyExists, session.mv("/Trips", "/New/Place"))
        handle = await session.open("/New/Place/a.jpg")
        await raises(NotEmpty, session.posix_mv("/Trips", "/New/Place"))
        handle.abort()
        await session.posix_mv("/Trips", "/New/Place")
        assert empty.id not in r.demo.state.albums
        assert albums(r) == sorted(name.replace("Trips", "New/Place") for name in names)
        assert "2024" in await session.ls("/New/Place")


@pytest.mark.parametrize("ignore_case", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_folder_may_be_spelt_anew(tmp_path: Path, ignore_case: bool) -> None:
    async with rig(tmp_path, ignore_case=ignore_case) as r:
        r.album("café", r.asset("a.jpg"))
        r.album("café/one")
        r.album("cafe\u0301/two")
        session = await r.session()
        target = "CAFÉ" if ignore_case else "cafe\u0301"
        await session.mv("/café", f"/{target}")
        assert albums(r) == sorted([target, f"{target}/one", f"{target}/two"])
        for _ in range(2):
            assert list(await session.ls("/")) == [target]
            assert sorted(await session.ls(f"/{target}")) == ["a.jpg", "one", "two"]
            r.clock.advance(10)


@pytest.mark.parametrize("way", ["mirror", "listings"])
@pytest_twisted.ensureDeferred
async def test_live_photos_and_removals_that_wait_go_along_with_the_folder(
    tmp_path: Path, way: str
) -> None:
    more = {"mirror_max_assets": 1000} if way == "mirror" else {}
    async with rig(tmp_path, **more) as r:
        parts = [r.asset(f"IMG_{n}.MOV", visibility="hidden") for n in (1, 2)]
        stills = [
            r.asset(f"IMG_{n}.HEIC", live_video=part.id) for n, part in enumerate(parts, start=1)
        ]
        inner, other = r.album("Trips/Rome", *stills), r.album("Other")
        session = await r.session()
        await session.put("/Trips/Rome/new.jpg", jpeg("new"))  # without a time: it waits
        await session.rm("/Trips/Rome/IMG_1.HEIC")  # held back for that
        await session.rm("/Trips/Rome/IMG_1.MOV")
        await session.mv("/Trips", "/Old")
        assert inner.name == "Old/Rome"
        assert stills[0].deleted is not None
        assert sorted(await session.ls("/Old/Rome")) == ["IMG_2.HEIC", "IMG_2.MOV", "new.jpg"]
        await raises(NotFound, session.ls("/Trips"))
        await session.utime("/Old/Rome/new.jpg")
        assert r.names_in(inner) == ["IMG_2.HEIC", "new.jpg"]
        # And out of the nested album, both halves, under other names.
        await session.mv("/Old/Rome/IMG_2.MOV", "/Old/Rome/Film.MOV")
        await session.mv("/Old/Rome/IMG_2.HEIC", "/Other/Photo.HEIC")
        for _ in range(2):
            assert list(await session.ls("/Old/Rome")) == ["new.jpg"]
            assert sorted(await session.ls("/Other")) == ["Film.MOV", "Photo.HEIC"]
            r.clock.advance(3.0)
        assert (stills[1].albums, parts[1].deleted) == ({other.id}, None)


@pytest_twisted.ensureDeferred
async def test_uploads_on_their_way_go_along_with_the_folder(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        inner = r.album("A/B")
        session = await r.session()
        await session.put("/A/B/sealed.jpg", jpeg("sealed"))
        handle = await session.open("/A/B/open.jpg")
        handle.writeChunk(0, jpeg("open"))
        await session.mv("/A", "/C")
        assert sorted(await session.ls("/C/B")) == ["open.jpg", "sealed.jpg"]
        await handle.close()
        await session.utime("/C/B/open.jpg")
        await session.utime("/C/B/sealed.jpg")
        assert r.names_in(inner) == ["open.jpg", "sealed.jpg"]


@pytest_twisted.ensureDeferred
async def test_hidden_albums_below_go_along_with_the_folder(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("A")
        r.album("A/Secret", description="#nosync")
        session = await r.session()
        await session.mv("/A", "/B")
        assert albums(r) == ["B", "B/Secret"]


@EVERY_VERSION
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("mirror", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_a_rename_that_fails_half_way_is_undone(
    tmp_path: Path, version: str, position: int, mirror: int
) -> None:
    async with rig(tmp_path, version, mirror_max_assets=mirror, mirror_keep=0.0) as r:
        names = trip(r)
        session = await r.session()
        before = await folders(session)
        # In the order they are renamed in: by the time they were made.
        victim = list(r.demo.state.albums.values())[position]
        r.demo.faults.add(
            "status", method="PATCH", route=f"/albums/{victim.id}", status=403, count=None
        )
        patched = r.demo.requests["PATCH /albums/{id}"]
        with pytest.raises(Denied):
            await session.mv("/Trips", "/Reisen")
        assert r.demo.requests["PATCH /albums/{id}"] - patched == 2 * position + 1
        assert albums(r) == names
        assert await folders(session) == before
        r.demo.faults.clear()
        await session.mv("/Trips", "/Reisen")
        assert albums(r) == sorted(name.replace("Trips", "Reisen") for name in names)


@pytest.mark.parametrize("position", range(4))
@pytest_twisted.ensureDeferred
async def test_a_rename_whose_answers_stay_away_is_undone_too(
    tmp_path: Path, position: int
) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        session = await r.session()
        before = await folders(session)
        victim = list(r.demo.state.albums.values())[position]
        rename, asked = type(session.lease.immich).rename_album, []

        async def lost(immich: object, album_id: str, name: str) -> object:
            answer = await rename(immich, album_id, name)  # type: ignore[arg-type]
            asked.append(name)
            if album_id == victim.id and len(asked) == position + 1:
                raise Unreachable
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session.lease.immich), "rename_album", lost)
            await raises(Unreachable, session.mv("/Trips", "/Reisen"))
        # The one without an answer was renamed, and is given its name back with the others.
        assert len(asked) == 2 * (position + 1)
        assert albums(r) == names
        assert await folders(session) == before


@pytest.mark.parametrize("position", range(1, 4))
@pytest_twisted.ensureDeferred
async def test_a_rename_that_cannot_be_undone_tells_what_is_where(
    tmp_path: Path, position: int
) -> None:
    async with rig(tmp_path) as r, logged() as lines:
        trip(r)
        session = await r.session()
        await folders(session)
        made = list(r.demo.state.albums.values())
        first, victim = made[0], made[position]
        rename, asked = type(session.lease.immich).rename_album, []

        async def broken(immich: object, album_id: str, name: str) -> object:
            asked.append((album_id, name))
            if album_id == victim.id or (album_id == first.id and name.startswith("Trips")):
                raise Refused("Immich has a bad day.")
            return await rename(immich, album_id, name)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session.lease.immich), "rename_album", broken)
            error = await raises(Refused, session.mv("/Trips", "/Reisen"))
        assert "bad day" in error.text
        assert "'Trips/2024' is called 'Reisen/2024' now" in error.text
        assert any("Reisen/2024" in line for line in lines)
        # All others have their names back, and the listing tells the truth.
        assert sorted(a.name for a in made if a is not first and a.name.startswith("Trips")) == (
            sorted(a.name for a in made if a is not first)
        )
        assert {"/Reisen", "/Reisen/2024"} <= set(await folders(session))


@pytest.mark.parametrize("fails", ["rename", "delete"])
@pytest_twisted.ensureDeferred
async def test_a_replaced_album_is_there_again_when_the_rename_fails(
    tmp_path: Path, fails: str
) -> None:
    async with rig(tmp_path) as r:
        names = trip(r, 2)
        empty = r.album("New", description="kept")
        session = await r.session()
        before = await folders(session)
        if fails == "rename":
            route = f"/albums/{list(r.demo.state.albums.values())[1].id}"
            r.demo.faults.add("status", method="PATCH", route=route, status=403, count=None)
        else:
            route = f"/albums/{empty.id}"
            r.demo.faults.add("status", method="DELETE", route=route, status=403, count=None)
        with pytest.raises(Denied):
            await session.posix_mv("/Trips", "/New")
        assert albums(r) == sorted([*names, "New"])
        assert r.demo.album("New") is empty
        assert await folders(session) == before


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_not_rename_changes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        session = await r.session(
            key=r.demo.add_key(r.alice, ["user.read", "album.read", "asset.read"])
        )
        await raises(MissingPermission, session.mv("/Trips", "/Reisen"))
        assert albums(r) == names


# -- the separator --------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_another_separator_splits_and_joins(tmp_path: Path) -> None:
    async with rig(tmp_path, album_separator=" - ") as r:
        r.album("Trips - Rome", r.asset("a.jpg"))
        r.album("AC/DC")
        session = await r.session()
        assert await folders(session) == ["/AC∕DC", "/Trips", "/Trips/Rome"]
        await mkdir(session, "/Trips/Oslo/Day 1")
        assert "Trips - Oslo - Day 1" in albums(r)
        error = await raises(BadName, mkdir(session, "/Trips/a - b"))
        assert "' - '" in error.text
        await raises(BadName, session.mv("/Trips", "/a - b"))
        await raises(BadName, mkdir(session, "/Trips/a -/b"))
        await session.mv("/Trips", "/Reisen")
        assert albums(r) == ["AC/DC", "Reisen - Oslo - Day 1", "Reisen - Rome"]


@pytest_twisted.ensureDeferred
async def test_without_a_separator_folders_are_in_the_root_only(tmp_path: Path) -> None:
    async with rig(tmp_path, album_separator="") as r:
        r.album("Trips/Rome", r.asset("a.jpg"))
        session = await r.session()
        assert await folders(session) == ["/Trips∕Rome"]
        await raises(Denied, mkdir(session, "/Trips/Oslo"))
        await raises(Denied, mkdir(session, "/Trips∕Rome/Oslo"))
        await mkdir(session, "/Trips")
        await raises(Denied, session.mv("/Trips", "/Trips∕Rome/Trips"))
        await session.mv("/Trips", "/Tours")
        assert albums(r) == ["Tours", "Trips/Rome"]
        await rmdir(session, "/Trips∕Rome")
        assert albums(r) == ["Tours"]


# -- shared albums --------------------------------------------------------------------------------


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_shared_albums_nest_like_own_ones(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        look = r.album("Trips/Look", r.asset("a.jpg"), shared={"bob@example.com": "viewer"})
        edit = r.album("Trips/Edit", r.asset("b.jpg"), shared={"bob@example.com": "editor"})
        session = await bob(r)
        assert await folders(session) == ["/Trips", "/Trips/Edit", "/Trips/Look"]
        assert (await session.stat("/Trips/Look"))["permissions"] == stat.S_IFDIR | 0o555
        assert (await session.stat("/Trips/Edit"))["permissions"] == stat.S_IFDIR | 0o755
        await raises(Denied, session.open("/Trips/Look/new.jpg"))
        await raises(Denied, mkdir(session, "/Trips/Look/new"))
        await session.put("/Trips/Edit/new.jpg", jpeg("new"), TAKEN)
        await mkdir(session, "/Trips/Edit/Own")
        await raises(Denied, session.mv("/Trips", "/Reisen"))
        await raises(Denied, session.mv("/Trips/Look", "/Look"))
        assert albums(r) == ["Trips/Edit", "Trips/Edit/Own", "Trips/Look"]
        # An editor may rename on 3.x; where Immich refuses nothing is changed.
        if version == "3.1.0":
            await session.mv("/Trips/Edit", "/Trips/Both")
            assert albums(r) == ["Trips/Both", "Trips/Both/Own", "Trips/Look"]
            await session.mv("/Trips/Both", "/Trips/Edit")
        else:
            await raises(Denied, session.mv("/Trips/Edit", "/Trips/Both"))
            assert albums(r) == ["Trips/Edit", "Trips/Edit/Own", "Trips/Look"]
        await rmdir(session, "/Trips/Look")
        await rmdir(session, "/Trips/Edit/Own")
        await rmdir(session, "/Trips/Edit")
        await rmdir(session, "/Trips")
        assert await session.ls("/") == {}
        # Left, not deleted: others keep them, and what was put there.
        assert albums(r) == ["Trips/Edit", "Trips/Look"]
        assert r.names_in(edit) == ["b.jpg", "new.jpg"]
        assert r.names_in(look) == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_leaving_an_album_takes_the_own_notes_for_it_along(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        with_bob(r)
        album = r.album("Trips/Edit", shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/a.jpg", jpeg("a"), TAKEN)
        await session.mv("/Trips/Edit/a.jpg", "/Trips/Edit/b.jpg")
        [asset] = r.demo.assets_of(album)
        assert album.id in str(asset.notes["immich-conch"].value)
        await rmdir(session, "/Trips/Edit")
        assert asset.notes == {}


@EVERY_VERSION
@pytest.mark.parametrize("mirror", [0, 1000])
@pytest_twisted.ensureDeferred
async def test_an_album_that_is_shared_no_more_is_not_found(
    tmp_path: Path, version: str, mirror: int
) -> None:
    async with rig(tmp_path, version, mirror_max_assets=mirror, mirror_keep=0.0) as r:
        with_bob(r)
        asset = r.asset("a.jpg")
        album = r.album("Trips/Edit", asset, shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/mine.jpg", jpeg("mine"), TAKEN)
        assert sorted(await session.ls("/Trips/Edit")) == ["a.jpg", "mine.jpg"]
        handle = await session.open("/Trips/Edit/late.jpg")
        handle.writeChunk(0, jpeg("late"))
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        r.clock.advance(10)
        for work in (
            session.ls("/Trips/Edit"),
            session.stat("/Trips/Edit"),
            session.stat("/Trips/Edit/a.jpg"),
            session.get("/Trips/Edit/a.jpg"),
            session.open("/Trips/Edit/new.jpg"),
            session.rm("/Trips/Edit/mine.jpg"),
            session.mv("/Trips/Edit", "/Trips/Mine"),
            rmdir(session, "/Trips/Edit"),
            session.ls("/Trips"),
        ):
            await raises(NotFound, work)
        # The album is gone for an upload on its way: CLOSE says so.
        handle.setAttrs({"atime": TAKEN, "mtime": TAKEN})
        await raises(NotFound, handle.close())
        # Shared once more, it is there once more.
        r.demo.core.albums.share(album, [(r.demo.user("bob@example.com").id, "viewer")])
        r.clock.advance(10)
        assert sorted(await session.ls("/Trips/Edit")) == ["a.jpg", "mine.jpg"]
        session.hang_up()


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_upload_answered_ok_into_an_album_unshared_after_is_kept(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        album = r.album("Trips/Edit", shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.put("/Trips/Edit/late.jpg", jpeg("late"))
        user = r.demo.user("bob@example.com")
        r.demo.core.albums.unshare(album, user.id)
        await r.settled()
        # Section 5: it was answered OK, so it is in Immich, without an album.
        assets = [a for a in r.demo.state.assets.values() if a.owner_id == user.id]
        assert [(a.name, a.albums) for a in assets] == [("late.jpg", set())]
        assert r.in_spool() == []


@EVERY_VERSION
@pytest_twisted.ensureDeferred
async def test_an_unshared_album_within_the_freshness_bound_is_no_traceback(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        with_bob(r)
        album = r.album("Trips/Edit", r.asset("a.jpg"), shared={"bob@example.com": "editor"})
        session = await bob(r)
        await session.ls("/Trips")
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        # The list of albums is as old as it may be: each of these asks Immich and is told.
        await raises(NotFound, session.ls("/Trips/Edit"))
        r.demo.core.albums.share(album, [(r.demo.user("bob@example.com").id, "editor")])
        r.clock.advance(10)
        await session.ls("/Trips/Edit")
        r.demo.core.albums.unshare(album, r.demo.user("bob@example.com").id)
        await raises(NotFound, rmdir(session, "/Trips/Edit"))
        await raises(NotFound, session.ls("/Trips/Edit"))


# -- one after the other -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_two_renames_of_one_folder_at_once_do_not_mix(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        names = trip(r)
        one, two = await r.session(), await r.session()
        await folders(one)
        first = Deferred.fromCoroutine(one.mv("/Trips", "/One"))
        second = Deferred.fromCoroutine(two.mv("/Trips", "/Two"))
        await first
        await raises(NotFound, second)
        assert albums(r) == sorted(name.replace("Trips", "One") for name in names)
