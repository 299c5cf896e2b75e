"""The files of a view's folder, as they come in: names, waiting, errors."""

from __future__ import annotations

import itertools
import random

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from immich_conch.errors import Unreachable
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.view_listing import Listing


def listing(**more: object) -> Listing:
    return Listing(0.0, names.fold, **more)  # type: ignore[arg-type]


def asset(name: str, number: int) -> Asset:
    return Asset(
        id=f"{number:08x}-0000-4000-8000-000000000000",
        name=name,
        owner_id="me",
        modified=1.5e9,
        taken=1.5e9 + number,
        created=1.5e9,
        visibility="timeline",
        trashed=False,
        size=1,
        checksum=None,
    )


def shown(found: Listing) -> dict[str, str]:
    """Asset's id -> the name it is shown under."""
    return {file.asset.id: name for name, file in found.folder.files.items()}


def test_a_name_that_is_taken_gets_a_mark_of_the_id() -> None:
    found = listing()
    found.take([asset("a.jpg", 1), asset("a.jpg", 2), asset("a ~00000003.jpg", 9)])
    found.take([asset("a.jpg", 3), asset("a.jpg", 1)])
    assert list(found.folder.files) == [
        "a.jpg",
        "a ~00000002.jpg",
        "a ~00000003.jpg",
        "a ~000000030000.jpg",
    ]


def test_whatever_the_pages_are_the_names_are_the_same() -> None:
    chance = random.Random(1)
    assets = [asset(f"{number % 7}.jpg", number) for number in range(60)]
    whole = listing()
    whole.take(assets)
    for _ in range(20):
        paged = listing()
        cuts = sorted(chance.sample(range(1, 60), 4))
        for begin, end in itertools.pairwise([0, *cuts, 60]):
            paged.take(assets[begin:end])
        assert shown(paged) == shown(whole)


def test_names_stay_and_a_name_that_was_freed_is_not_passed_on() -> None:
    before = listing()
    one, two, three = (asset("a.jpg", number) for number in (1, 2, 3))
    before.take([one, two])
    before.end(1.0)
    after = listing(before=before.folder)
    after.take([three, two])
    assert shown(after) == {three.id: "a ~00000003.jpg", two.id: "a ~00000002.jpg"}
    after.end(2.0)
    later = listing(before=after.folder)
    later.take([asset("a.jpg", 4), two, three])
    assert shown(later)[asset("", 4).id] == "a.jpg"


def test_what_we_took_out_does_not_come_back_with_a_later_page() -> None:
    found = listing()
    found.leave(asset("", 1).id)
    found.take([asset("a.jpg", 1), asset("b.jpg", 2)])
    assert list(found.folder.files) == ["b.jpg"]
    found.enter(asset("a.jpg", 1))
    assert list(found.folder.files) == ["b.jpg", "a.jpg"]
    found.leave(asset("", 2).id)
    assert [file.name for file in found.order if found.shows(file)] == ["a.jpg"]


@pytest_twisted.ensureDeferred
async def test_a_name_is_found_once_it_has_come_and_missing_only_at_the_end() -> None:
    found = listing()
    here = Deferred.fromCoroutine(found.find("b.jpg"))
    missing = Deferred.fromCoroutine(found.find("c.jpg"))
    found.take([asset("a.jpg", 1)])
    assert not here.called
    found.take([asset("b.jpg", 2)])
    file = await here
    assert file is not None
    assert file.name == "b.jpg"
    assert not missing.called
    found.end(1.0)
    assert await missing is None


@pytest_twisted.ensureDeferred
async def test_an_error_is_everybodys_but_of_those_who_have_what_they_want() -> None:
    found = listing()
    found.take([asset("a.jpg", 1)])
    waiting = [
        Deferred.fromCoroutine(work)
        for work in (found.find("b.jpg"), found.whole(), found.more_than(1))
    ]
    found.fail(Unreachable())
    for work in [*waiting, found.whole(), found.more_than(0)]:
        with pytest.raises(Unreachable):
            await work
    assert await found.find("a.jpg") is not None


def test_one_who_waits_may_send_another_away() -> None:
    found = listing()
    results: list[object] = []
    second: list[Deferred[bool]] = []
    first = Deferred.fromCoroutine(found.more_than(0))
    first.addCallback(lambda more: (results.append(more), second[0].cancel()))
    second.append(Deferred.fromCoroutine(found.more_than(0)))
    second[0].addErrback(lambda failure: results.append(failure.check(CancelledError)))
    gone = Deferred.fromCoroutine(found.more_than(0))
    gone.addErrback(lambda failure: results.append("left"))
    gone.cancel()
    found.take([asset("a.jpg", 1)])
    assert results == ["left", True, CancelledError]
