"""What a mirror makes of bad days, and of own changes that a delta does not know yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import pytest_twisted
from attrs import define

from immich_conch.errors import MirrorTooLarge, NoMirror, NotFound, SessionRevoked, Unreachable
from immich_conch.library.follower import HELD_LINES, REFUSAL_KEPT
from immich_conch.library.mirror import Mirror
from immich_conch.library.tables import METADATA_KEY
from tests.test_mirror import VERSIONS, Person, World, agree, raises, started, until, world

STREAM = {"method": "POST", "route": "/sync/stream"}


async def library(w: World, files: int = 3, **options: Any) -> tuple[Person, Any, list[str]]:
    """Alice with one album of some files, and the mirror whole."""
    alice = await w.enter("alice", **options)
    ids = [await w.photo(alice, f"f{number}.jpg") for number in range(files)]
    album = await alice.session.create_album("Rome")
    await alice.session.add_to_album(album.id, ids)
    return alice, album, ids


async def shown(person: Person, album: Any) -> set[str]:
    return {asset.id for asset in await person.mirror.assets(album) if asset.listed}


def streams(w: World) -> int:
    return w.demo.requests["POST /sync/stream"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_thousand_looks_share_one_delta(version: str) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        before = streams(w)
        w.later()
        waiting = [started(alice.mirror.assets(album)) for _ in range(1000)]
        for one in waiting:
            assert len(await one) == len(ids)
        await alice.mirror.albums()
        assert streams(w) == before + 1


@pytest_twisted.ensureDeferred
async def test_a_change_free_delta_acknowledges_nothing() -> None:
    async with world("3.1.0") as w:
        alice, _, _ = await library(w)
        await alice.mirror.albums()
        w.later()
        await alice.mirror.albums()
        before = w.demo.requests["POST /sync/ack"]
        w.later()
        await alice.mirror.albums()
        assert w.demo.requests["POST /sync/ack"] == before
        w.clock.advance(4000)
        await alice.mirror.albums()
        assert w.demo.requests["POST /sync/ack"] == before + 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("after", [0, 1, 700, 3000])
@pytest_twisted.ensureDeferred
async def test_a_load_that_is_cut_shows_nothing(version: str, after: int) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w, files=20)
        w.demo.faults.add("cut-response", after=after, count=4, **STREAM)
        await raises(Unreachable, alice.mirror.assets(album))
        w.demo.faults.clear()
        assert await shown(alice, album) == set(ids)
        await agree(w, alice)


@pytest.mark.parametrize("files", [20, HELD_LINES + 10])
@pytest_twisted.ensureDeferred
async def test_a_delta_that_is_cut_is_an_error_and_then_made_up_for(files: int) -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        assert await shown(alice, album) == set(ids)
        more = [await w.photo(alice, f"n{number}.jpg") for number in range(files)]
        await alice.session.add_to_album(album.id, more)
        w.later()
        # The last lines are missing: nothing may be shown of what came before.
        w.demo.faults.add("cut-response", after=files * 550, count=1, **STREAM)
        await raises(Unreachable, alice.mirror.assets(album))
        assert await shown(alice, album) == {*ids, *more}
        await agree(w, alice)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_lost_acknowledgement_changes_nothing(version: str) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        await alice.session.remove_from_album(album.id, ids[:1])
        w.later()
        w.demo.faults.add("status", status=500, count=1, method="POST", route="/sync/ack")
        await raises(Unreachable, alice.mirror.albums())
        await alice.session.add_to_album(album.id, ids[:1])
        await agree(w, alice)
        assert await shown(alice, album) == set(ids)


@define(eq=False)
class Listener:
    """A session that notes the types of the lines of each stream."""

    real: Any
    streams: list[list[str]]

    async def sync_stream(self, take: Any, reset: bool = False, only: Any = ()) -> None:
        kinds: list[str] = []
        self.streams.append(kinds)

        def some(lines: Sequence[dict[str, Any]]) -> None:
            kinds.extend(line["type"] for line in lines)
            take(lines)

        await self.real.sync_stream(some, reset, only)

    async def sync_ack(self, acks: Sequence[str]) -> None:
        await self.real.sync_ack(acks)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_what_was_told_is_not_told_again(version: str) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        bob = await w.enter("bob")
        other = await alice.session.create_album("Oslo")
        await alice.session.add_to_album(other.id, ids)
        await bob.session.create_album("Bob's")
        await bob.mirror.albums()
        ears = Listener(bob.following[-1], [])
        bob.following.append(ears)  # type: ignore[arg-type]

        async def told() -> set[str]:
            """What the next delta tells; the one after it has nothing to tell."""
            w.later()
            ears.streams.clear()
            await bob.mirror.albums()
            first = {kind for stream in ears.streams for kind in stream}
            w.later()
            ears.streams.clear()
            await bob.mirror.albums()
            assert ears.streams == [["SyncCompleteV1"]]
            return first - {"SyncCompleteV1"}

        # Another session begins from nothing.
        assert await told()
        form = "V2" if version == "3.1.0" else "V1"
        # What is in the older album lies before the checkpoints when that is shared, too.
        for shared in (other, album):
            entry = {"userId": bob.user.id, "role": "editor"}
            path = f"/albums/{shared.id}/users"
            await alice.session._done("PUT", path, data={"albumUsers": [entry]})
            kinds = await told()
            assert f"Album{form}" in kinds and "SyncAckV1" in kinds
        # It came as backfills of several types, and `SyncAckV1` is where each of them ended.
        assert {f"AlbumAssetBackfill{form}", "AlbumToAssetBackfillV1"} <= kinds
        await alice.session.remove_from_album(album.id, ids[:1])
        assert "AlbumToAssetDeleteV1" in await told()
        await alice.session.trash([ids[1]])
        assert f"AlbumAssetUpdate{form}" in await told()
        new = await w.photo(bob, "new.jpg")
        await bob.session.add_to_album(album.id, [new, ids[0]])
        assert {"AlbumToAssetV1", f"Asset{form}"} <= await told()
        await alice.session.delete_album(other.id)
        assert "AlbumDeleteV1" in await told()
        await agree(w, bob)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_reset_and_a_revoked_session_are_not_noticed(version: str) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        assert await shown(alice, album) == set(ids)
        w.demo.reset_sync(alice.user)
        await agree(w, alice)
        await alice.following[-1].log_out()
        await alice.session.remove_from_album(album.id, ids[:1])
        await agree(w, alice)
        assert len(alice.following) == 2
        assert await shown(alice, album) == set(ids[1:])


@pytest_twisted.ensureDeferred
async def test_without_any_session_there_is_no_answer() -> None:
    async with world("3.1.0") as w:
        alice, album, _ = await library(w)
        await alice.mirror.albums()

        async def none(revoked: Any) -> Any:
            raise SessionRevoked

        alice.mirror._follower.lend = none
        w.later()
        await raises(SessionRevoked, alice.mirror.assets(album))


@pytest_twisted.ensureDeferred
async def test_api_keys_and_too_many_assets_are_left_to_the_listings() -> None:
    async with world("3.1.0") as w:
        alice, _, _ = await library(w, max_assets=2)
        await raises(MirrorTooLarge, alice.mirror.albums())
        before = streams(w)
        await raises(MirrorTooLarge, alice.mirror.albums())
        assert streams(w) == before
        key = await w.server.use_key(w.demo.add_key(alice.user))

        async def lend(revoked: Any) -> Any:
            return key

        by_key = Mirror(alice.user.id, lend, w.clock)
        await raises(NoMirror, by_key.albums())


@define(eq=False)
class Odd:
    """A session that puts lines of its own into the stream, and counts how often it is asked."""

    real: Any
    lines: list[dict[str, Any]]
    resets: list[bool]

    async def sync_stream(self, take: Any, reset: bool = False, only: Any = ()) -> None:
        self.resets.append(reset)
        odd, self.lines = self.lines, []

        def some(lines: Sequence[dict[str, Any]]) -> None:
            take([*odd, *lines])
            odd.clear()

        await self.real.sync_stream(some, reset, only)

    async def sync_ack(self, acks: Sequence[str]) -> None:
        await self.real.sync_ack(acks)


@pytest.mark.parametrize(
    "line",
    [
        {"type": "AlbumVanishedV1", "data": {"albumId": "x"}, "ack": "AlbumVanishedV1|1"},
        {"type": "AlbumDeleteV1", "data": {}, "ack": "AlbumDeleteV1|1"},
        {"type": "AlbumDeleteV1", "data": {"albumId": "x"}, "ack": "AlbumDeleteV1|1"},
        {"type": "AssetV1", "data": {"id": 1}, "ack": "AssetV1|1"},
        {"type": "SyncResetV1", "data": {}, "ack": "SyncResetV1|reset"},
    ],
    ids=lambda line: json.dumps(line["data"]) + line["type"],
)
@pytest_twisted.ensureDeferred
async def test_a_line_that_is_not_understood_starts_everything_over(line: dict[str, Any]) -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        odd = Odd(alice.following[-1], [], [])
        alice.following.append(odd)  # type: ignore[arg-type]
        assert await shown(alice, album) == set(ids)
        w.later()
        assert await shown(alice, album) == set(ids)
        odd.resets.clear()
        odd.lines = [line]
        w.later()
        assert await shown(alice, album) == set(ids)
        assert odd.resets == [False, True, False]


@pytest_twisted.ensureDeferred
async def test_a_stream_never_understood_is_given_up_for_a_while() -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        line = {"type": "AlbumVanishedV1", "data": {}, "ack": "AlbumVanishedV1|1"}
        odd = Odd(alice.following[-1], [line], [])
        alice.following.append(odd)  # type: ignore[arg-type]
        w.later()
        await raises(NoMirror, alice.mirror.albums())
        await raises(NoMirror, alice.mirror.albums())
        assert odd.resets == [True]
        w.clock.advance(REFUSAL_KEPT)
        assert await shown(alice, album) == set(ids)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_own_changes_are_there_at_once_and_a_late_delta_does_not_undo_them(
    version: str,
) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        new = await w.photo(alice, "new.jpg")
        asset = await alice.session.asset(new)
        # In Immich the file goes and comes; the delta under way has only seen the first.
        await alice.session.remove_from_album(album.id, ids[:2])
        w.later()
        w.demo.faults.add("slow", rate=2000, count=1, **STREAM)
        begun = streams(w)
        late = started(alice.mirror.albums())
        await until(lambda: streams(w) > begun)
        await alice.session.add_to_album(album.id, [ids[0], new])
        back = await alice.session.asset(ids[0])
        alice.mirror.changed(album.id, [back, asset], [ids[1]])
        renamed = await alice.session.rename_album(album.id, "Roma")
        alice.mirror.album_changed(renamed)
        other = await alice.session.create_album("Other")
        alice.mirror.album_changed(other)
        await alice.session.set_metadata(ids[2], METADATA_KEY, {"v": 1})
        alice.mirror.noted(ids[2], {"v": 1})
        assert not late.called
        first = {one.id: one for one in await late}
        assert first[album.id].name == "Roma" and first[other.id].asset_count == 0
        assert first[album.id].asset_count == 3
        assert await shown(alice, album) == {ids[0], ids[2], new}
        assert await alice.mirror.notes(ids) == {ids[2]: {"v": 1}}
        await agree(w, alice)
        assert not alice.mirror._own.members and not len(alice.mirror._own.albums)
        assert not len(alice.mirror._own.notes)


@pytest_twisted.ensureDeferred
async def test_a_file_trashed_by_us_and_restored_in_immich_comes_back() -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        await alice.session.trash(ids[:1])
        alice.mirror.changed(album.id, [], ids[:1])
        assert await shown(alice, album) == set(ids[1:])
        await agree(w, alice)
        await alice.session.restore(ids[:1])
        await agree(w, alice)
        assert await shown(alice, album) == set(ids)


@pytest_twisted.ensureDeferred
async def test_what_others_do_after_our_change_shows_in_two_deltas() -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        await alice.mirror.albums()
        await alice.session.delete_album(album.id)
        alice.mirror.album_gone(album.id)
        assert await alice.mirror.albums() == []
        await raises(NotFound, alice.mirror.assets(album))
        w.later()
        assert await alice.mirror.albums() == []
        # We say that it is there, but it is not.
        alice.mirror.album_changed(album)
        w.later()
        await alice.mirror.albums()
        w.later()
        assert await alice.mirror.albums() == []
        assert ids


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_validator_changes_with_whatever_the_folder_shows(version: str) -> None:
    async with world(version) as w:
        alice, album, ids = await library(w)
        bob = await w.enter("bob")

        async def validator() -> Any:
            w.later()
            return next(a for a in await alice.mirror.albums() if a.id == album.id).validator

        async def share(role: str) -> None:
            entry = {"userId": bob.user.id, "role": role}
            await alice.session._done(
                "PUT", f"/albums/{album.id}/users", data={"albumUsers": [entry]}
            )

        s = alice.session
        changes = [
            lambda: s.remove_from_album(album.id, ids[:1]),
            lambda: s.add_to_album(album.id, ids[:1]),
            lambda: s.update_asset(ids[0], visibility="archive"),
            lambda: s.trash([ids[1]]),
            lambda: s.restore([ids[1]]),
            lambda: s.set_metadata(ids[2], METADATA_KEY, {"v": 2}),
            lambda: s.delete_metadata(ids[2], METADATA_KEY),
            lambda: s.update_asset(ids[0], description="x"),
            lambda: s.rename_album(album.id, "Roma"),
            lambda: share("viewer"),
        ]
        before = await validator()
        assert await validator() == before
        for change in changes:
            await change()
            after = await validator()
            assert after != before and len(after) == 1
            assert await validator() == after
            before = after


@pytest_twisted.ensureDeferred
async def test_the_age_of_files_of_one_name_is_asked_for_once_on_2_x() -> None:
    async with world("2.5.6") as w:
        alice, album, ids = await library(w)
        twins = [await w.photo(alice, "F0.jpg"), await w.photo(alice, "other.jpg")]
        await alice.session.add_to_album(album.id, twins)
        for _ in range(2):
            found = {asset.id: asset for asset in await alice.mirror.assets(album)}
        for twin in (ids[0], twins[0]):
            assert found[twin].created == (await alice.session.asset(twin)).created
        assert found[twins[1]].created == 0.0
        before = w.demo.requests.copy()
        assert set(await alice.mirror.created([*twins, ids[0]])) == {*twins, ids[0]}
        assert (w.demo.requests - before).total() == 1


@pytest_twisted.ensureDeferred
async def test_deltas_ahead_of_time_spare_the_wait_and_rest_when_told() -> None:
    async with world("3.1.0") as w:
        alice, album, ids = await library(w)
        alice.mirror.keep_fresh()
        w.clock.advance(0)
        follower = alice.mirror._follower
        await until(lambda: follower._ahead is not None)
        for _ in range(5):
            before = streams(w)
            w.clock.advance(0.5)
            await until(lambda: follower._ahead is not None)
            assert streams(w) > before
        before = streams(w)
        assert await shown(alice, album) == set(ids)
        assert streams(w) == before
        w.demo.faults.add("status", status=500, count=1, **STREAM)
        w.clock.advance(0.5)
        await until(lambda: follower._ahead is not None)
        assert follower._failures == 1
        w.clock.advance(2.0)
        await until(lambda: follower._failures == 0)
        alice.mirror.rest()
        assert not w.clock.getDelayedCalls()
        assert await shown(alice, album) == set(ids)
        assert attrs.asdict(album)["name"] == "Rome"
