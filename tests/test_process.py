"""What the service asks of its process."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from immich_conch.process import DESCRIPTORS, YOUNG_OBJECTS, prepare
from immich_conch.service import TIDY_SECONDS, SFTPService

ROOT = Path(__file__).parent.parent
NOBODY = 65_534
#: PR_GET_DUMPABLE and PR_SET_DUMPABLE of prctl(2).
GET_DUMPABLE, SET_DUMPABLE = 3, 4


def prctl(*arguments: int) -> int:
    return int(ctypes.CDLL(None).prctl(*arguments, 0, 0, 0))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold, limits = gc.get_threshold(), resource.getrlimit(resource.RLIMIT_NOFILE)
    dumpable = prctl(GET_DUMPABLE, 0)
    yield
    prctl(SET_DUMPABLE, dumpable)
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


PRIVATE = """
import ctypes, os, sys
sys.path[:0] = [{root!r}]
from immich_conch.process import prepare
if os.geteuid() == 0:
    os.setgid({nobody})
    os.setuid({nobody})
    # Whoever changes its user is not dumpable at first.
    ctypes.CDLL(None).prctl({set}, 1, 0, 0, 0)
if {prepared}:
    prepare()
print(os.geteuid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("prepared", [False, True])
def test_memory_and_environment_are_nobodys_business(prepared: bool) -> None:
    """The files in /proc are root's; the same user may not open them, nor does it get a dump."""
    code = PRIVATE.format(nobody=NOBODY, set=SET_DUMPABLE, root=str(ROOT), prepared=prepared)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        user = int(process.stdout.readline())
        owners = {
            os.stat(f"/proc/{process.pid}/{name}").st_uid for name in ("mem", "environ", "maps")
        }
        assert user != 0
        assert owners == ({0} if prepared else {user})
    finally:
        process.communicate(timeout=30)


def test_there_are_no_core_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    prepare()
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert prctl(GET_DUMPABLE, 0) == 0


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
