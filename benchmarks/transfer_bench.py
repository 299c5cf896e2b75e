"""What the rows of `transfer` share: servers, files, runs that take turns, checks of the bytes."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, evolve

from benchmarks import bulk_immich, peers
from benchmarks.content import MIB, Content
from benchmarks.movers import Moved, matches, sftp
from benchmarks.peers import CannotMeasure, Immich, Login
from benchmarks.tables import Report, Series

FILE, LONG_FILE, HUGE_FILE = "bulk.mp4", "long.mp4", "huge.mp4"
HUGE = 4096 * MIB
SHARED_MEMORY = Path("/dev/shm")
#: Seconds until an upload that was answered must be in Immich.
ARRIVAL_SECONDS = 5.0

Work = Callable[[], Moved]


def interleaved(runs: int, *works: Work) -> list[list[Moved]]:
    """Do all of them so many times; another one goes first each time."""
    found: list[list[Moved]] = [[] for _ in works]
    for run in range(runs):
        for place in range(len(works)):
            number = (run + place) % len(works)
            found[number].append(works[number]())
    return found


def rate(name: str, size: int, moves: Sequence[Moved]) -> Series:
    """Millions of bytes a second."""
    return Series(name, tuple(size / 1e6 / moved.seconds for moved in moves), "MB/s")


def cpu(name: str, size: int, moves: Sequence[Moved]) -> Series:
    """CPU seconds a GiB."""
    return Series(name, tuple(moved.cpu * 2**30 / size for moved in moves), "CPU s/GiB")


def slower(*series: Series) -> Series:
    """The one with the least median."""
    return min(series, key=lambda one: one.median)


def in_album(name: str) -> str:
    """The path of a file in the one album."""
    return f"{bulk_immich.ALBUM}/{name}"


def _digest(path: Path, kind: str) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).digest()


@define(eq=False)
class Bench:
    """The servers that run all the time, the files, and how much is measured."""

    report: Report
    place: Path
    runs: int
    size: int
    #: Bytes of the file for a long wire, and for clients and servers without a mark.
    long_size: int
    opens: int
    server: Immich
    session: Immich
    #: Ids of the assets by name.
    ids: dict[str, str]
    sshd: Login
    _number: int = 0

    def fresh(self, size: int) -> Path:
        """A file to upload, with bytes that no server has."""
        self._number += 1
        path = self.place / f"source-{size}.mp4"
        if not path.exists():
            Content("source", size).write(path)
        with path.open("r+b") as file:
            file.write(os.urandom(16))
        return path

    def name(self) -> str:
        """A name that no server has, for what `fresh` gave."""
        return f"up-{self._number:04}.mp4"

    def clean(self) -> None:
        """Uploads to the local directory go."""
        for path in Path(self.sshd.root).glob("up-*"):
            path.unlink()

    def get(self, login: Login, path: str) -> Work:
        """Download by OpenSSH's client, by a new session each time."""

        def work() -> Moved:
            with sftp(login, self.place) as client:
                return client.get(path)

        return work

    def put(
        self, login: Login, folder: str, size: int, times: bool = False, arrives: bool = False
    ) -> Work:
        """Upload by OpenSSH's client, by a new session each time.

        With `arrives` it has to be in Immich once it is answered; what it takes longer counts.
        """

        def work() -> Moved:
            source, name = self.fresh(size), self.name()
            with sftp(login, self.place) as client:
                moved = client.put(source, folder + name, times)
                if arrives:
                    moved = evolve(moved, seconds=moved.seconds + self.late(name))
            self.clean()
            return moved

        return work

    def late(self, name: str) -> float:
        """Seconds until a file is in Immich's album, 0 if it is; raises CannotMeasure."""
        answered = time.monotonic()
        late = 0.0
        while name not in self.uploaded():
            late = time.monotonic() - answered
            if late > ARRIVAL_SECONDS:
                raise CannotMeasure(f"{name} was answered, but is not in Immich")
            time.sleep(0.01)
        return late

    def uploaded(self) -> dict[str, bytes]:
        """Names and SHA-1 of what Immich has in the album."""
        state = self.server.call("GET", "/control/state")
        return {
            asset["name"]: base64.b64decode(asset["sha1"])
            for album in state["albums"]
            for asset in album["assets"]
        }

    # Once of a kind, and never timed

    def check_get(self, login: Login, path: str, content: Content) -> None:
        """OpenSSH's client gets the right bytes."""
        target = self.place / "checked"
        with sftp(login, self.place) as client:
            client.get(path, str(target))
        matches(target, content)
        target.unlink()

    def check_put(self, login: Login, folder: str) -> None:
        """What was written is what is read back, from the spool or a directory."""
        source, name, target = self.fresh(self.size), self.name(), self.place / "checked"
        with sftp(login, self.place) as client:
            client.put(source, folder + name)
            client.get(folder + name, str(target))
        if _digest(source, "sha256") != _digest(target, "sha256"):
            raise CannotMeasure(f"{login.name} gave back other bytes than were written")
        target.unlink()
        self.clean()

    def check_arrival(self, login: Login) -> None:
        """Immich got the bytes that the client sent."""
        source, name = self.fresh(self.size), self.name()
        with sftp(login, self.place) as client:
            client.put(source, in_album(name), times=True)
        self.late(name)
        if self.uploaded()[name] != _digest(source, "sha1"):
            raise CannotMeasure("Immich got other bytes than were written")


@contextmanager
def set_up(report: Report, size: int, long_size: int, runs: int, opens: int) -> Iterator[Bench]:
    """All of it, in memory where the system has a place for files there."""
    peers.need("sftp", "ssh", "curl", "rclone")
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=where)))
        # The file, one to upload, one that arrives, one in the spool, and one that is checked.
        needed = 5 * size
        if shutil.disk_usage(place).free < needed:
            raise CannotMeasure(f"{place}: less than {needed // MIB} MiB are free")
        root = place / "files"
        root.mkdir()
        files = {FILE: size, LONG_FILE: long_size}
        for name, length in files.items():
            Content(name, length).write(root / name)
        server = stack.enter_context(bulk_immich.serving(place, {**files, HUGE_FILE: HUGE}))
        session = stack.enter_context(server.session())
        state = server.call("GET", "/control/state")
        ids = {asset["name"]: asset["id"] for asset in state["albums"][0]["assets"]}
        sshd = stack.enter_context(peers.sshd(place, root))
        yield Bench(report, place, runs, size, long_size, opens, server, session, ids, sshd)
