"""What the service asks of its process."""

from __future__ import annotations

import gc
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from immich_conch.process import DESCRIPTORS, YOUNG_OBJECTS, prepare
from immich_conch.service import TIDY_SECONDS, SFTPService


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold, limits = gc.get_threshold(), resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    gc.set_threshold(*threshold)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("before", "after"),
    [(700, YOUNG_OBJECTS), (YOUNG_OBJECTS + 1, YOUNG_OBJECTS + 1), (0, 0)],
)
def test_what_is_held_for_a_moment_is_not_taken_for_something_that_stays(
    before: int, after: int
) -> None:
    gc.set_threshold(before, 11, 12)
    prepare()
    assert gc.get_threshold()[:2] == (after, 11)


def test_as_many_files_as_allowed_may_be_open() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, hard))
    prepare()
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)


def test_what_only_refers_to_itself_does_not_wait_for_thousands_of_others(tmp_path: Path) -> None:
    class Knot:
        me: Any = None

    clock = Clock()
    clock.callWhenRunning = lambda call: None  # type: ignore[attr-defined]
    accounts = SimpleNamespace(
        settings=SimpleNamespace(session_check=0.0),
        recover=lambda: None,
        sweep=lambda: None,
        spool=SimpleNamespace(directory=str(tmp_path)),
    )
    service = SFTPService(None, accounts, clock)  # type: ignore[arg-type]
    gc.disable()
    try:
        service.startService()
        knot = Knot()
        knot.me = knot
        kept = weakref.ref(knot)
        del knot
        assert kept() is not None
        clock.pump([1.0] * int(TIDY_SECONDS))
        assert kept() is None
    finally:
        gc.enable()
        for call, _ in service._calls:
            call.stop()
