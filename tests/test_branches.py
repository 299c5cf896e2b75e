"""The tree that album names make, without a session: paths, spellings, what vanishes."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from immich_conch.immich.model import Album
from immich_conch.library.albums import MAX_VANISHED, VANISHED_TIME, AlbumNames, Branch, Vanished


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
