"""Paths: what a client's bytes mean, and that no bytes do harm."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from immich_conch.errors import BadName
from immich_conch.library.paths import MAX_COMPONENT_BYTES, MAX_PATH_BYTES, ROOT, Path, parse

pieces = st.lists(st.sampled_from(["/", "//", ".", "..", "a", "é", "e\u0301", "b c", "..."]))


@given(pieces.map("".join))
@example("../..//a/./b/../")
def test_paths_are_resolved_as_posix_does_it_by_the_text(text: str) -> None:
    expected = posixpath.normpath("/" + text.lstrip("/"))
    assert str(parse(text.encode())) == expected


@given(st.one_of(st.binary(), pieces.map("".join).map(str.encode), st.binary(max_size=6000)))
def test_any_bytes_are_a_path_or_a_bad_name(raw: bytes) -> None:
    try:
        path = parse(raw)
    except BadName:
        return
    assert parse(path.to_bytes()) == path
    for part in path.parts:
        assert part not in ("", ".", "..")
        assert "/" not in part
        assert "\0" not in part


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"", ()),
        (b"/", ()),
        (b".", ()),
        (b"./", ()),
        (b"..", ()),
        (b"/../..", ()),
        (b"Rome", ("Rome",)),
        (b"/Rome/", ("Rome",)),
        (b"//Rome//IMG.jpg", ("Rome", "IMG.jpg")),
        (b"Rome/../Oslo/./a", ("Oslo", "a")),
        (b"/ Rome /a", (" Rome ", "a")),
    ],
)
def test_relative_paths_start_at_the_root(raw: bytes, parts: tuple[str, ...]) -> None:
    assert parse(raw).parts == parts


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/\xff", "UTF-8"),
        (b"/\xed\xa0\x80", "UTF-8"),
        (b"/a\0b", "NUL"),
        (b"/" + b"a" * 256, "255 bytes"),
        (b"/" + "é".encode() * 128, "255 bytes"),
        (b"/a" * 2049, "4096 bytes"),
    ],
)
def test_what_is_no_path_is_refused_with_its_reason(raw: bytes, text: str) -> None:
    with pytest.raises(BadName, match=text):
        parse(raw)


def test_the_longest_names_and_paths_are_taken() -> None:
    assert parse(b"a" * MAX_COMPONENT_BYTES).name == "a" * MAX_COMPONENT_BYTES
    assert len(parse(b"/a" * (MAX_PATH_BYTES // 2)).parts) == MAX_PATH_BYTES // 2


def test_a_decomposed_name_is_as_long_as_its_composed_form() -> None:
    assert parse(("e\u0301" * 120).encode()).name == "e\u0301" * 120


def test_a_path_knows_its_folder_and_its_name() -> None:
    path = parse(b"/Trips/Rome/IMG.jpg")
    assert path.name == "IMG.jpg"
    assert path.parent == Path(("Trips", "Rome")) == parse(b"Trips").child("Rome")
    assert path.to_bytes() == b"/Trips/Rome/IMG.jpg"
    assert (ROOT.name, ROOT.parent, str(ROOT), ROOT.is_root) == ("", ROOT, "/", True)
    assert not path.is_root


def test_a_folder_contains_itself_and_what_lies_below() -> None:
    rome = parse(b"/Trips/Rome")
    assert rome.contains(rome)
    assert rome.contains(rome.child("a"))
    assert ROOT.contains(rome)
    assert not rome.contains(rome.parent)
    assert not rome.contains(parse(b"/Trips/Romeo"))
