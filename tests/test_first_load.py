"""Looking at a library whose mirror is still being loaded: by password, over the real client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import pytest_twisted
from attrs import define
from twisted.internet.task import Clock

from immich_conch.errors import Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.library.catalog import Catalog
from immich_conch.library.first_load import HOLD, RACE_ASSETS, FirstLoad
from immich_conch.library.listing_source import ListingSource
from immich_conch.library.live_source import LiveSource
from immich_conch.library.tables import METADATA_KEY
from tests.test_mirror import VERSIONS, Person, World, raises, started, until, world

T = TypeVar("T")
METADATA = "GET /assets/{id}/metadata"


@define(eq=False)
class Look:
    """A catalog over both ways to know, as a password session has it."""

    w: World
    person: Person
    catalog: Catalog

    async def ls(self, album: str | None = None) -> dict[str, Any]:
        """Names, with sizes and times for an album's files."""
        if album is None:
            return dict.fromkeys(await self.catalog.albums())
        found = (await self.catalog.albums()).get(album)
        assert found is not None
        files = (await self.catalog.folder(found.id)).files
        return {name: (file.asset.size, file.modified) for name, file in files.items()}

    async def whole(self) -> None:
        """Wait for the load that is under way."""
        await self.person.mirror.albums()

    def asked(self, route: str) -> int:
        return self.w.demo.requests[route]


async def look(w: World, name: str = "alice") -> Look:
    person = await w.enter(name)

    async def ask(work: Callable[[IImmich], Awaitable[T]], /) -> T:
        return await work(person.session)

    source = LiveSource(person.mirror, ListingSource(ask, w.clock))
    return Look(w, person, Catalog(source, w.clock, freshness=0.25))


async def album(at: Look, name: str, *files: str) -> Any:
    ids = [await at.w.photo(at.person, file) for file in files]
    made = await at.person.session.create_album(name)
    await at.person.session.add_to_album(made.id, ids)
    return made, ids


class Gate:
    """Holds the stream of everything back until it is told to go on; deltas pass."""

    def __init__(self, at: Look) -> None:
        self.begun = 0
        self.open = False
        self.error: Exception | None = None
        follower = at.person.mirror._follower
        real = follower.lend
        gate = self

        @define(eq=False)
        class Held:
            session: Any

            async def sync_stream(self, take: Any, reset: bool = False, only: Any = ()) -> None:
                if reset and not only:
                    gate.begun += 1
                    await until(lambda: gate.open)
                    if gate.error is not None:
                        raise gate.error
                await self.session.sync_stream(take, reset, only)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.session, name)

        held: dict[Any, Any] = {}

        async def lend(revoked: Any) -> Any:
            session = await real(None if revoked is None else revoked.session)
            return held.setdefault(session, Held(session))

        follower.lend = lend


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_folders_are_listed_while_the_stream_still_runs(version: str) -> None:
    async with world(version) as w:
        at = await look(w)
        await album(at, "Rome", "a.jpg", "b.jpg", "b.jpg")
        _, (noted,) = await album(at, "Oslo", "c.jpg")
        rome, oslo = (a for a in await at.person.session.albums())
        if rome.name != "Rome":
            rome, oslo = oslo, rome
        value = {"v": 1, "albums": {oslo.id: [{"name": "fjord.jpg", "time": 77}]}}
        await at.person.session.set_metadata(noted, METADATA_KEY, value)
        gate = Gate(at)
        assert set(await at.ls()) == {"Rome", "Oslo"}
        early = {name: await at.ls(name) for name in ("Rome", "Oslo")}
        await until(lambda: gate.begun == 1)
        assert len(early["Rome"]) == 3
        assert list(early["Oslo"]) == ["fjord.jpg"]
        assert early["Oslo"]["fjord.jpg"][1] == 77
        # What is noted came at one go.
        assert at.asked(METADATA) == 0
        gate.open = True
        await at.whole()
        searches = at.asked("POST /search/metadata"), at.asked("GET /albums/{id}")
        w.later()
        assert set(await at.ls()) == {"Rome", "Oslo"}
        assert {name: await at.ls(name) for name in ("Rome", "Oslo")} == early
        assert (at.asked("POST /search/metadata"), at.asked("GET /albums/{id}")) == searches


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_own_changes_made_meanwhile_are_in_both(version: str) -> None:
    async with world(version) as w:
        at = await look(w)
        made, (first, _) = await album(at, "Rome", "a.jpg", "b.jpg")
        gate = Gate(at)
        assert set(await at.ls("Rome")) == {"a.jpg", "b.jpg"}
        await until(lambda: gate.begun == 1)
        new = await w.photo(at.person, "new.jpg")
        await at.person.session.add_to_album(made.id, [new])
        await at.person.session.remove_from_album(made.id, [first])
        asset = await at.person.session.asset(new)
        at.catalog.assets_changed(made.id, [asset], [first])
        assert set(await at.ls("Rome")) == {"b.jpg", "new.jpg"}
        w.clock.advance(0.5)
        assert set(await at.ls("Rome")) == {"b.jpg", "new.jpg"}
        gate.open = True
        await at.whole()
        for _ in range(3):
            w.later()
            assert set(await at.ls("Rome")) == {"b.jpg", "new.jpg"}


@pytest_twisted.ensureDeferred
async def test_what_a_listing_has_shown_the_mirror_shows_too() -> None:
    async with world("3.1.0") as w:
        at = await look(w)
        made, _ = await album(at, "Rome", "a.jpg")
        gate = Gate(at)
        await at.ls()
        await until(lambda: gate.begun == 1)
        gate.open = True
        await at.whole()
        # A listing that is answered now saw more than the mirror's last delta.
        at.person.mirror._follower._at -= 0.01
        at.person.mirror.seen()
        new = await w.photo(at.person, "new.jpg")
        await at.person.session.add_to_album(made.id, [new])
        assert len(await at.person.mirror.assets(made)) == 2


@pytest_twisted.ensureDeferred
async def test_a_walk_during_a_load_lists_no_more_than_a_page() -> None:
    async with world("3.1.0") as w:
        at = await look(w)
        for number in range(5):
            ids = [
                asset.id
                for asset in w.demo.add_assets(
                    at.person.user, [f"{number}-{n}.jpg" for n in range(RACE_ASSETS // 4)], 1.5e9
                )
            ]
            made = await at.person.session.create_album(f"Album {number}")
            await at.person.session.add_to_album(made.id, ids)
        gate = Gate(at)
        await at.ls()
        await until(lambda: gate.begun == 1)
        for number in range(4):
            assert len(await at.ls(f"Album {number}")) == RACE_ASSETS // 4
        searches = at.asked("POST /search/metadata")
        last = started(at.ls("Album 4"))
        for _ in range(20):
            await until(lambda: True)
        assert not last.called
        gate.open = True
        assert len(await last) == RACE_ASSETS // 4
        assert at.asked("POST /search/metadata") == searches == 4


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_while_the_stream_fails_the_library_is_listed_and_it_is_tried_again(
    version: str,
) -> None:
    async with world(version) as w:
        at = await look(w)
        await album(at, "Rome", "a.jpg", "b.jpg")
        gate = Gate(at)
        gate.error, gate.open = Unreachable("cut"), True
        for _ in range(3):
            assert set(await at.ls("Rome")) == {"a.jpg", "b.jpg"}
        await raises(Unreachable, at.whole())
        begun = gate.begun
        w.clock.advance(0.5)
        # A load that failed is not tried for each look.
        assert set(await at.ls("Rome")) == {"a.jpg", "b.jpg"}
        assert gate.begun <= begun + 1
        gate.error = None
        w.clock.advance(60)
        await at.ls()
        await at.whole()
        assert await at.person.mirror.load() is None


@pytest_twisted.ensureDeferred
async def test_when_both_ways_fail_a_listing_is_an_error() -> None:
    async with world("3.1.0") as w:
        at = await look(w)
        await album(at, "Rome", "a.jpg")
        gate = Gate(at)
        await at.ls("Rome")
        gate.error, gate.open = Unreachable("cut"), True
        await raises(Unreachable, at.whole())
        w.demo.faults.add("status", route="/albums", count=None)
        w.clock.advance(1)
        await raises(Unreachable, at.ls())
        await raises(Unreachable, at.ls("Rome"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_when_everything_starts_over_the_listings_answer(version: str) -> None:
    async with world(version) as w:
        at = await look(w)
        made, _ = await album(at, "Rome", "a.jpg", "a.jpg", "b.jpg")
        gate = Gate(at)
        gate.open = True
        await at.ls()
        await at.whole()
        w.later()
        before = await at.ls("Rome")
        # The session that is followed is gone.
        gate.open = False
        begun = gate.begun
        await at.person.following[-1].log_out()
        new = await w.photo(at.person, "new.jpg")
        await at.person.session.add_to_album(made.id, [new])
        w.later()
        now = await at.ls("Rome")
        await until(lambda: gate.begun > begun)
        assert set(now) == {*before, "new.jpg"}
        assert before.items() <= now.items()
        gate.open = True
        await at.whole()
        w.later()
        assert await at.ls("Rome") == now


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_what_has_changed_is_told_of_what_the_mirror_showed_alone(version: str) -> None:
    async with world(version) as w:
        at = await look(w)
        made, _ = await album(at, "Rome", "a.jpg", "b.jpg")
        source, folders = at.catalog.source, at.catalog._folders
        gate = Gate(at)
        await at.ls("Rome")
        assert folders[made.id].mark is None  # a listing showed it
        gate.open = True
        await at.whole()

        async def comes(name: str) -> None:
            new = await w.photo(at.person, name)
            await at.person.session.add_to_album(made.id, [new])
            w.later()
            assert name in await at.ls("Rome")

        await comes("c.jpg")
        folder, mark = folders[made.id], folders[made.id].mark
        await comes("d.jpg")
        assert folders[made.id] is folder
        assert mark is not None
        assert [one.name for one in (await source.changes(made, mark)).values()] == ["d.jpg"]
        # The session that is followed is gone, and with it what is known.
        gate.open = False
        await at.person.following[-1].log_out()
        await comes("e.jpg")
        assert folders[made.id] is not folder
        assert folders[made.id].mark is None
        assert await source.changes(made, mark) is None
        gate.open = True
        await at.whole()
        assert await source.changes(made, mark) is None
        await comes("f.jpg")
        folder = folders[made.id]
        await comes("g.jpg")
        assert folders[made.id] is folder
        assert set(await at.ls("Rome")) == {f"{letter}.jpg" for letter in "abcdefg"}


@pytest_twisted.ensureDeferred
async def test_what_has_changed_is_not_told_where_a_load_failed() -> None:
    async with world("3.1.0") as w:
        at = await look(w)
        made, _ = await album(at, "Rome", "a.jpg")
        await at.whole()
        source = at.catalog.source
        mark = source.mark(made.id)
        assert mark is not None
        w.later()
        # For one delta only there is no other way; it is an error as it is for the content.
        w.demo.faults.add("cut-response", route="/sync/stream", after=0, count=None)
        await raises(Unreachable, source.changes(made, mark))
        at.person.mirror._follower._forget()
        await raises(Unreachable, at.whole())
        assert at.person.mirror.failing
        assert await source.changes(made, mark) is None
        assert set(await at.ls("Rome")) == {"a.jpg"}


@pytest_twisted.ensureDeferred
async def test_what_is_asked_for_before_the_stream_goes_first_but_not_for_ever() -> None:
    clock = Clock()
    load = FirstLoad(clock)
    assert load.may_list(50_000)
    assert not load.may_list(50_000)
    load.hold()
    turn = started(load.turn())
    clock.advance(HOLD / 2)
    assert not turn.called
    clock.advance(HOLD)
    assert turn.called
    load.release()
    assert not clock.getDelayedCalls()
    other = FirstLoad(clock)
    other.hold()
    turn = started(other.turn())
    other.release()
    assert turn.called
    assert not clock.getDelayedCalls()
    assert other.may_list(RACE_ASSETS)
    assert not other.may_list(1)


@pytest_twisted.ensureDeferred
async def test_a_load_that_ends_before_the_notes_says_so() -> None:
    load = FirstLoad(Clock())
    waiting = started(load.notes())
    load.end()
    assert await waiting is None
    load = FirstLoad(Clock())
    waiting = started(load.notes())
    load.told({})
    assert await waiting == {}
