"""What real Immich servers sent, line by line, into the tables: recordings of 2.5.6 and 3.1.0."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from immich_conch.errors import BadAnswer, Unreachable
from immich_conch.immich.sync import MAX_LINE, _Lines, parse
from immich_conch.library.records import raw_id, text_id
from immich_conch.library.tables import Tables
from tests.test_mirror import VERSIONS

RECORDINGS = Path(__file__).parent / "recordings"


def unlabelled(text: str) -> str:
    """The recordings' labels in the shape of ids again."""
    return re.sub(r"uuid-(\d+)", lambda hit: f"00000000-0000-4000-8000-{int(hit[1]):012}", text)


def steps(version: str, scenario: str) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """(note, request, lines) of each stream that was answered; users were asked for, too."""
    found = []
    for step in json.loads((RECORDINGS / version / f"{scenario}.json").read_text())["steps"]:
        body = step["response"]["body"]
        if step["request"]["path"] != "/api/sync/stream" or not isinstance(body, dict):
            continue
        if step["response"]["status"] != 200 or "text" not in body:
            continue
        lines = parse([line.encode() for line in unlabelled(body["text"]).splitlines()])
        kept = [line for line in lines if line["type"] not in ("UserV1", "SyncCompleteV1")]
        found.append((step["note"], step["request"], kept))
    return found


def owner_of_session(version: str, scenario: str, token: str) -> str:
    """Who streams: the owner of the assets that come as own ones."""
    for _, request, lines in steps(version, scenario):
        if token in request["headers"]["Authorization"]:
            for line in lines:
                if re.fullmatch("AssetV[12]", line["type"]):
                    return str(line["data"]["ownerId"])
    raise AssertionError(token)


class Thorough(Tables):
    """Takes every line apart, also of what the user's own lines told."""

    def _album_asset(self, data: Any) -> None:
        self._asset(data)

    def _album_exif(self, data: Any) -> None:
        self._exif(data)


@pytest.mark.parametrize("scenario", ["sync", "sync_shared"])
@pytest.mark.parametrize("version", VERSIONS)
def test_lines_that_are_passed_over_tell_nothing_new(version: str, scenario: str) -> None:
    tokens = {
        re.sub("^Bearer ", "", request["headers"]["Authorization"])
        for _, request, _ in steps(version, scenario)
    }
    skipped = 0
    for token in sorted(tokens):
        user = raw_id(owner_of_session(version, scenario, token))
        quick, thorough = Tables(user, 1000, count(1)), Thorough(user, 1000, count(1))
        for _, request, lines in steps(version, scenario):
            if token not in request["headers"]["Authorization"]:
                continue
            for tables in (quick, thorough):
                tables.apply(lines)
                tables.finish()
            skipped += sum(line["data"].get("ownerId") == text_id(user) for line in lines)
            assert {r.id: r.value() for r in quick.assets.values()} == {
                r.id: r.value() for r in thorough.assets.values()
            }
            for key, album in quick.albums.items():
                other = thorough.albums[key]
                assert {r.id for r in album.members} == {r.id for r in other.members}
                assert album.listed == other.listed == sum(r.listed for r in album.members)
    assert skipped


@pytest.mark.parametrize("version", VERSIONS)
def test_a_shared_album_is_followed_as_recorded(version: str) -> None:
    bob = owner_of_session(version, "sync_shared", "token-bob")
    tables = Tables(raw_id(bob), 1000, count(1))
    seen = []
    for _, _, lines in steps(version, "sync_shared"):
        for line in lines:
            tables.apply([line])
        tables.finish()
        assert not tables.incomplete
        albums = [album.value(tables.user) for album in tables.albums.values()]
        seen.append([(album.name, album.role, album.asset_count) for album in albums])
    assert seen[:7] == [
        [],
        [("Sync shared", "viewer", 1)],
        [("Sync shared", "viewer", 2)],
        [("Sync shared", "editor", 2)],
        [("Renamed", "editor", 2)],
        [("Renamed", "editor", 1)],
        # Trashed by its owner: in the album, but not listed.
        [("Renamed", "editor", 0)],
    ]
    # What the user sees no more is not kept.
    foreign = [record for record in tables.assets.values() if text_id(record.owner) != bob]
    linked = {record for album in tables.albums.values() for record in album.members}
    assert set(foreign) <= linked


@pytest.mark.parametrize("version", VERSIONS)
def test_an_own_library_is_followed_as_recorded(version: str) -> None:
    recorded = steps(version, "sync")
    alice = owner_of_session(version, "sync", "token-alice")
    tables = Tables(raw_id(alice), 1000, count(1))
    full: set[str] = set()
    for note, _, lines in recorded:
        if note == "everything":
            tables = Tables(raw_id(alice), 1000, count(1))
        for line in lines:
            if line["type"] == "SyncResetV1":
                break
            tables.apply([line])
        tables.finish()
        assert not tables.incomplete, note
        told = {line["data"]["id"] for line in lines if re.fullmatch("AssetV[12]", line["type"])}
        full |= told
        assert told <= {text_id(key) for key in tables.assets}, note
    assert full and tables.albums
    for album in tables.albums.values():
        assert album.value(tables.user).role in ("owner", "editor", "viewer")
    for line in (line for _, _, lines in recorded for line in lines):
        assert line["ack"].partition("|")[0]


def test_lines_are_parsed_only_if_each_is_one() -> None:
    good = b'{"type":"SyncAckV1","data":{},"ack":"AssetV1|1"}'
    assert parse([good, good]) == [json.loads(good)] * 2
    bad = [
        b"1",
        b"{}",
        b"[]",
        b"{",
        good + b"," + good,
        good[:-1],
        b'{"type":1,"data":{},"ack":""}',
    ]
    for line in bad:
        with pytest.raises(BadAnswer):
            parse([good, line])
    with pytest.raises(BadAnswer):
        parse([b'{"type":"A","data":{"a":1', b'"b":2},"ack":"A|1"}'])


@pytest_twisted.ensureDeferred
async def test_a_line_without_an_end_is_not_waited_for() -> None:
    lines = _Lines(Clock(), lambda got: None)
    lines.connectionMade()
    for _ in range(MAX_LINE // 65536 + 1):
        lines.dataReceived(b"x" * 65536)
    with pytest.raises(BadAnswer):
        await lines.done


@pytest_twisted.ensureDeferred
async def test_lines_come_whole_however_they_were_cut_and_silence_ends_them() -> None:
    clock, got = Clock(), list[Any]()
    lines = _Lines(clock, got.extend)
    lines.connectionMade()
    stream = b'{"type":"A","data":{"name":"\xc3\xa4"},"ack":"A|1"}\n' * 3
    for place in range(0, len(stream), 7):
        lines.dataReceived(stream[place : place + 7])
    assert got == [{"type": "A", "data": {"name": "ä"}, "ack": "A|1"}] * 3
    clock.advance(61)
    with pytest.raises(Unreachable):
        await lines.done


def test_a_motion_part_that_changes_changes_the_folder_of_its_still() -> None:
    version, alice = "3.1.0", owner_of_session("3.1.0", "sync", "token-alice")
    tables = Tables(raw_id(alice), 1000, count(1))
    for _, _, lines in steps(version, "sync")[:1]:
        tables.apply(lines)
        tables.finish()
    still = next(one for one in tables.assets.values() if one.live is not None)
    part = next(one for one in tables.assets.values() if one.id == still.live)
    album = next(iter(tables.albums.values()))
    tables.link(album, still)
    before = album.revision
    data = {"assetId": text_id(part.id), "fileSizeInByte": 77, "description": None, "rating": None}
    line = {"type": "AssetExifV1", "data": data, "ack": "AssetExifV1|1"}
    tables.apply([line])
    assert album.revision > before and part.value().size == 77
    before = album.revision
    tables.apply([line])
    assert album.revision == before
    tables.apply([{"type": "AssetDeleteV1", "data": {"assetId": text_id(part.id)}, "ack": "A|1"}])
    assert album.revision > before and part.id not in tables.assets
