"""The value in an asset's own metadata: what it says, and that nothing is left (section 6)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immich_conch.errors import Refused
from immich_conch.immich.model import Asset
from immich_conch.library import metadata
from immich_conch.library.metadata import Link

HERE, THERE = "album-1", "album-2"
ASSET = Asset(
    id="asset-1",
    name="a.jpg",
    owner_id="alice",
    modified=1_500_000_000.75,
    taken=0.0,
    created=0.0,
    visibility="timeline",
    trashed=False,
    size=1,
    checksum=b"x" * 20,
)
OWN = Link("a.jpg", 1_500_000_000)

some_links = st.lists(
    st.builds(
        Link, st.sampled_from(["a.jpg", "b.jpg", "ä.jpg", "c"]), st.sampled_from([0, 7, OWN.time])
    ),
    min_size=1,
    unique_by=lambda link: link.key,
).map(tuple)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_without_a_value_an_assets_own_name_and_whole_second_count() -> None:
    assert metadata.links(None, HERE, ASSET) == (OWN,)


@given(some_links, some_links)
def test_links_come_back_as_they_were_noted(
    here: tuple[Link, ...], there: tuple[Link, ...]
) -> None:
    value = metadata.with_links(None, HERE, ASSET, here)
    value = metadata.with_links(value, THERE, ASSET, there)
    value = json.loads(json.dumps(value))
    assert metadata.links(value, HERE, ASSET) == here
    assert metadata.links(value, THERE, ASSET) == there
    assert metadata.with_links(value, HERE, ASSET, here) == value


@given(some_links, some_links)
def test_nothing_is_left_when_the_last_deviation_goes(
    here: tuple[Link, ...], there: tuple[Link, ...]
) -> None:
    value = metadata.with_links(None, HERE, ASSET, here)
    value = metadata.with_links(value, THERE, ASSET, there)
    value = metadata.with_links(value, HERE, ASSET, ())
    assert metadata.links(value, THERE, ASSET) == there
    assert metadata.with_links(value, THERE, ASSET, (OWN,)) is None
    assert metadata.with_links(value, THERE, ASSET, ()) is None


def test_what_equals_the_assets_own_is_left_out() -> None:
    noted = metadata.with_links(
        None, HERE, ASSET, (OWN, Link("b.jpg", OWN.time), Link("a2.jpg", 7))
    )
    assert noted == {
        "v": 1,
        "albums": {HERE: [{}, {"name": "b.jpg"}, {"name": "a2.jpg", "time": 7}]},
    }


@given(anything)
def test_what_somebody_else_wrote_never_breaks_a_listing(junk: Any) -> None:
    for value in (junk, {"v": 1, "albums": junk}, {"v": 1, "albums": {HERE: junk}}):
        assert metadata.links(value, HERE, ASSET)
    for name, time in ((junk, 7), ("b.jpg", junk)):
        value = {"v": 1, "albums": {HERE: [{"name": name, "time": time}]}}
        links = metadata.links(value, HERE, ASSET)
        assert len(links) == 1
        assert links[0].name
        assert 0 <= links[0].time <= metadata.MAX_TIME


@pytest.mark.parametrize("value", [{"v": 2, "albums": {}}, {"mtime": 1}, {"v": True}, {}])
def test_an_unknown_version_is_ignored_and_left_alone(value: dict[str, Any]) -> None:
    assert not metadata.understood(value)
    assert metadata.links({**value, "albums": {HERE: [{"name": "b"}]}}, HERE, ASSET) == (OWN,)
    assert metadata.with_links(value, HERE, ASSET, (OWN,)) == value
    assert metadata.with_links(value, HERE, ASSET, ()) == value


def test_what_is_not_ours_is_kept() -> None:
    value = {
        "v": 1,
        "note": "mine",
        "albums": {THERE: [{"name": 5}, "junk"], HERE: [{"name": "b"}]},
    }
    after = metadata.with_links(value, HERE, ASSET, ())
    assert after == {"v": 1, "note": "mine", "albums": {THERE: [{"name": 5}, "junk"]}}


def test_a_name_in_another_unicode_form_is_the_same_link() -> None:
    composed, apart = Link("\u00e4.jpg", 1), Link("a\u0308.jpg", 2)
    assert metadata.added((OWN, composed), apart) == (OWN, apart)
    assert metadata.removed((OWN, composed), apart.name) == (OWN,)
    assert metadata.find((OWN, composed), apart.name) is composed
    assert metadata.renamed((OWN, composed), "a.jpg", apart) == (apart,)


def test_a_value_does_not_grow_without_end_but_shrinks() -> None:
    many = tuple(Link(f"{n:0200}.jpg", n) for n in range(250))
    value = metadata.with_links(None, HERE, ASSET, many)
    with pytest.raises(Refused, match="too many names"):
        metadata.with_links(value, THERE, ASSET, many)
    assert metadata.with_links(value, HERE, ASSET, many[1:]) is not None


def test_a_time_is_cut_to_whole_seconds_that_sftp_can_say() -> None:
    assert [metadata.whole(t) for t in (1.9, -5.0, 2.0**40)] == [1, 0, metadata.MAX_TIME]
    assert metadata.own_link(attrs.evolve(ASSET, modified=-1.0)).time == 0


def test_the_document_shows_a_value_that_is_read_as_it_says() -> None:
    text = (Path(__file__).parent.parent / "docs" / "metadata.rst").read_text()
    shown = re.search(r"::\n\n(    \{.*?\n    \}\n)", text, re.DOTALL)
    assert shown is not None
    value = json.loads(shown[1])
    renamed, twice = value["albums"]
    assert metadata.links(value, renamed, ASSET) == (Link("sea.jpg", OWN.time),)
    assert metadata.links(value, twice, ASSET) == (OWN, Link("copy.jpg", 1_500_000_000))
    assert f"{metadata.MAX_VALUE_BYTES:,} bytes" in text
    assert str(metadata.MAX_TIME) in text
    assert f"``{metadata.KEY}``" in text
