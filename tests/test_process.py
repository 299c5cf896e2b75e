"""What the service asks of its process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import select
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from immich_conch.process import DESCRIPTORS, YOUNG_OBJECTS, give_back, prepare
from immich_conch.service import GIVE_BACK_SECONDS, TIDY_SECONDS, SFTPService

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


def idle(tmp_path: Path, clock: Clock, in_thread: Callable[[Any], Any]) -> SFTPService:
    """A service with nothing to do but its regular tasks."""
    clock.callWhenRunning = lambda call: None  # type: ignore[attr-defined]
    accounts = SimpleNamespace(
        settings=SimpleNamespace(session_check=0.0),
        recover=lambda: None,
        sweep=lambda: None,
        in_thread=in_thread,
        spool=SimpleNamespace(directory=str(tmp_path)),
    )
    return SFTPService(None, accounts, clock)  # type: ignore[arg-type]


def test_what_only_refers_to_itself_does_not_wait_for_thousands_of_others(tmp_path: Path) -> None:
    class Knot:
        me: Any = None

    clock = Clock()
    service = idle(tmp_path, clock, lambda work: None)
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


HEAP = """
from immich_conch.process import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

# Uploads that wait: each came in buffers, of which nothing is left, and is itself a small thing.
buffers, stay = [], []
for _ in range(400):
    buffers.append(bytes(100_000))
    stay.append(bytes(1_000))
buffers.clear()
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other heaps, other habits")
def test_what_is_free_between_small_things_goes_back_to_the_system() -> None:
    # Of a fixed threshold, or the buffers would not be in the heap at all.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(
        [sys.executable, "-c", HEAP],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=True,
    )
    assert int(done.stdout) > 20_000_000, done.stdout


def test_the_service_gives_memory_back_in_a_thread(tmp_path: Path) -> None:
    jobs: list[Any] = []
    clock = Clock()
    service = idle(tmp_path, clock, jobs.append)
    service.startService()
    try:
        jobs.clear()
        clock.pump([GIVE_BACK_SECONDS / 2] * 4)
        assert jobs == [give_back, give_back]
    finally:
        for call, _ in service._calls:
            call.stop()
