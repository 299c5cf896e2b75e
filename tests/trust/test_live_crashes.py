"""`kill -9` of the service at random moments of a sync, again and again: nothing is lost.

rclone syncs a folder into an album; the service is killed in the middle, started on the same spool,
and killed again.  In the end a sync has nothing left to do, and Immich has each file once.  The
moments come from a seed, which a failure tells.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import define, field
from harness import Service, User, World, eventually, photo, sha1
from rawsftp import Raw
from rclone import remote

SEED = int(os.environ.get("IMMICH_CONCH_TEST_SEED", "20"))
#: Files of one sync, kills in it, and syncs: (in every run, in the whole).
FILES, KILLS, SYNCS = (30, 300), (5, 10), (3, 21)
#: Seconds of a sync before which and within which the service is killed.
FIRST, LONGEST = 0.15, (1.2, 4.0)
#: Worlds side by side.
LANES = 3
#: Syncs without a kill after which there has to be nothing left to do.
CALM = 6
#: Seconds that rclone is given to see that the service is gone.
GRACE = 0.5
THEN = 1_400_000_000


@define(eq=False)
class Syncing:
    """A folder on its way into an album, and the rclone that brings it there."""

    directory: Path
    service: Service
    user: User
    contents: dict[str, bytes] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.source.mkdir(parents=True)
        self.config.write_text(remote(self.service, self.user) + "disable_hashcheck = true\n")

    @property
    def source(self) -> Path:
        """The folder."""
        return self.directory / "source"

    @property
    def config(self) -> Path:
        """rclone's configuration."""
        return self.directory / "rclone.conf"

    def fill(self, count: int, numbers: random.Random) -> None:
        """Make the files, 1 to 300 KiB each, with times of their own."""
        for number in range(count):
            name = f"IMG {number:04}.jpg"
            size = int(1024 * 300 ** numbers.random())
            self.contents[name] = photo(size, (numbers.random(), number))
            (self.source / name).write_bytes(self.contents[name])
            os.utime(self.source / name, (THEN + number, THEN + number))

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Begin to sync."""
        return subprocess.Popen(
            [
                *("rclone", "--config", str(self.config), "--cache-dir", str(self.directory)),
                *("--retries", "1", "--low-level-retries", "1", "--contimeout", "10s"),
                *("--transfers", "4", "--checkers", "2", "--stats", "0", "-v"),
                *options,
                *("sync", str(self.source), "there:Album"),
            ],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def sync(self, *options: str) -> list[str]:
        """Sync once; what rclone said that it did."""
        process = self.start(*options)
        try:
            _, said = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("rclone did not end")
        done = re.findall(r": (Copied|Updated|Deleted|Moved|Failed|Removed|Corrupted).*", said)
        return done if process.returncode == 0 else [*done, said[-2000:]]

    def killed(self, moment: float) -> None:
        """Sync, and end the service after so many seconds."""
        process = self.start()
        time.sleep(moment)
        self.service.kill()
        try:
            process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            # rclone 1.60 may wait for ever for answers on a connection that is gone.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self.service.start_again()

    def wrong(self) -> list[str]:
        """What Immich has too much, too little, or otherwise than it was sent."""
        found = sorted((asset["name"], asset["sha1"]) for asset in self.user.inside("Album"))
        expected = sorted((name, sha1(data)) for name, data in self.contents.items())
        lost = [f"lost: {name}" for name, digest in expected if (name, digest) not in found]
        more = [f"made up: {name}" for name, digest in found if (name, digest) not in expected]
        twice = [f"twice: {name}" for name, digest in found if found.count((name, digest)) > 1]
        return lost + more + twice


@pytest.fixture
def rclone() -> Iterator[None]:
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    yield


def one_sync(syncing: Syncing, kills: int, longest: float, numbers: random.Random) -> int:
    """Sync with so many kills, and then until nothing is left to do; how many files there are."""
    service, user = syncing.service, syncing.user
    for _ in range(kills):
        syncing.killed(FIRST + longest * numbers.random())
        with Raw(service, user) as there:
            unknown = set(there.names("/Album")) - syncing.contents.keys()
            assert not unknown, f"shown, and never uploaded: {unknown}"
    syncing.sync()
    # A file that lost its client between CLOSE and SETSTAT has the time of its arrival, and
    # Immich cannot change that: what counts from here on is what is missing.
    for _ in range(CALM):
        left = syncing.sync("--size-only")
        if not left:
            break
    else:
        pytest.fail(f"there is always something left to do: {left}")
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")
    assert not syncing.wrong(), syncing.wrong()
    assert {asset["name"] for asset in user.everything().values()} == syncing.contents.keys()
    with Raw(service, user) as there:
        assert there.names("/Album") == sorted(syncing.contents)
        for name in numbers.sample(sorted(syncing.contents), 5):
            assert there.read(f"/Album/{name}") == syncing.contents[name]
    return len(syncing.contents)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("rclone")
def test_the_service_may_be_killed_at_any_moment_of_a_sync(
    tmp_path: Path, new_world: Callable[..., World], full: bool
) -> None:
    # Without syncs: what is tested is a killed process, not a power cut, and it is quicker.
    options = ("--settle", "1", "--spool-sync", "off")
    worlds = [new_world() for _ in range(LANES)]
    services = [world.service("killed", *options) for world in worlds]

    def lane(number: int) -> int:
        checked = 0
        for sync in range(number, SYNCS[full], LANES):
            numbers = random.Random(f"{SEED} {sync}")
            user = worlds[number].user()
            syncing = Syncing(tmp_path / f"sync-{sync}", services[number], user)
            user.album("Album")
            syncing.fill(FILES[full], numbers)
            try:
                checked += one_sync(syncing, KILLS[full], LONGEST[full], numbers)
            except (AssertionError, pytest.fail.Exception) as error:
                raise AssertionError(f"seed {SEED}, sync {sync}: {error}") from error
        return checked

    with ThreadPoolExecutor(LANES) as pool:
        checked = sum(pool.map(lane, range(LANES)))
    print(f"kills: {KILLS[full] * SYNCS[full]}, files checked: {checked}, lost: 0")
