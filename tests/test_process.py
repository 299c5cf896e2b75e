"""What the service asks of its process."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator

import pytest

from immich_conch.process import DESCRIPTORS, YOUNG_OBJECTS, prepare


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
