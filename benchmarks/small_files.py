"""Many small files, up and down, by rclone: `python -m benchmarks.small_files`.

A thousand files of 20 KiB with times go into a new album and come out of it again, eight at a time.
The peer is a plain client that makes the same API calls to the same demo, as many at a time, by
threads of this process; beside it stands what rclone makes of OpenSSH's server.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from attrs import Factory, define

from benchmarks.clients import CLIENT_SECONDS, expect, rclone_remote, timed
from benchmarks.harness import arguments_of, in_turn, reported, status_of
from benchmarks.peers import CannotMeasure, Immich, Login, demo, need, ours, sshd
from benchmarks.plain import ADD, ORIGINAL, UPLOAD, Calls, Plain, counting
from benchmarks.process import cpu_seconds
from benchmarks.tables import Figure, Ratio, Report, Series

SUMMARY = (__doc__ or "").splitlines()[0]
RUNS, QUICK_RUNS = 5, 3
FILES, QUICK_FILES = 1000, 200
SIZE = 20 * 1024
TRANSFERS = 8
#: POSIX seconds of the first file.
TAKEN = 1_500_000_000
MARK = 0.8


def make_files(place: Path, count: int, seed: int) -> list[Path]:
    """Files of which no two are the same, a minute apart."""
    place.mkdir(parents=True)
    dice = random.Random(seed)
    made = []
    for number in range(count):
        path = place / f"IMG_{seed:03d}_{number:05d}.jpg"
        path.write_bytes(b"\xff\xd8" + dice.randbytes(SIZE - 2))
        os.utime(path, (TAKEN + 60 * number, TAKEN + 60 * number))
        made.append(path)
    return made


def copy(login: Login, place: Path, source: str, target: str) -> float:
    """Seconds of `rclone copy --transfers 8`, with all log-ins; raises CannotMeasure."""
    config, environment = rclone_remote(login, place)
    command = [
        "rclone",
        "--config",
        str(config),
        "copy",
        "--transfers",
        str(TRANSFERS),
        "--retries",
        "1",
        source,
        target,
    ]

    def work() -> None:
        done = subprocess.run(
            command, timeout=CLIENT_SECONDS, capture_output=True, text=True, env=environment
        )
        if done.returncode:
            end = "\n".join(done.stderr.splitlines()[-3:])
            raise CannotMeasure(f"rclone on {login.name}:\n{end}")

    return timed(work)


def came_in(server: Immich, album: str, files: Sequence[Path]) -> str:
    """The id of the album; raises CannotMeasure unless Immich has in it what these files are."""
    albums = server.call("GET", "/control/state")["albums"]
    [found] = [one for one in albums if one["name"] == album]
    here = {(one["name"], one["size"], one["fileModifiedAt"][:19]) for one in found["assets"]}
    wanted = {(file.name, SIZE, moment(file.stat().st_mtime)) for file in files}
    expect(f"files of {album} that are in Immich with their times", len(here & wanted), len(files))
    return str(found["id"])


def moment(seconds: float) -> str:
    """As Immich writes it, without the part after the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def came_out(place: Path, files: Sequence[Path]) -> None:
    """Raise CannotMeasure unless a directory holds the same bytes, and then empty it."""
    same = [file for file in files if (place / file.name).read_bytes() == file.read_bytes()]
    expect(f"the same files in {place.name}", len(same), len(files))
    for path in place.iterdir():
        path.unlink()


@define(eq=False)
class Bench:
    """The peers, and what was found."""

    place: Path
    server: Immich
    mine: Login
    other: Login
    client: Plain
    report: Report
    files: int
    runs: int
    calls: Calls | None = None
    #: The last album that came in by us: its files, and its id.
    last: tuple[Sequence[Path], str] = ((), "")
    #: CPU milliseconds for each file, of our service and of the demo meanwhile.
    used: list[float] = Factory(list)
    demos: list[float] = Factory(list)

    def source(self, number: int, who: str) -> list[Path]:
        """New files for a run."""
        seed = number * 10 + ("ours", "plain", "least", "sshd").index(who)
        return make_files(self.place / "source" / f"{who}-{number}", self.files, seed)

    def rate(self, seconds: float) -> float:
        """Files a second."""
        return self.files / seconds

    # -- up ----------------------------------------------------------------------------------------

    def up(self, number: int) -> float:
        """By rclone and our service."""
        files, album = self.source(number, "ours"), f"Ours {number}"
        source, target = str(files[0].parent), f"p:{self.mine.path(album)}"
        with counting(self.server, self.files) as counted:
            before = cpu_seconds(self.mine.pid), cpu_seconds(self.server.pid)
            seconds = copy(self.mine, self.place, source, target)
            after = cpu_seconds(self.mine.pid), cpu_seconds(self.server.pid)
        self.used.append((after[0] - before[0]) / self.files * 1000)
        self.demos.append((after[1] - before[1]) / self.files * 1000)
        self.calls = counted[0]
        self.last = files, came_in(self.server, album, files)
        return self.rate(seconds)

    def plain_up(self, number: int) -> float:
        """By the plain client with the calls of our last run; we go first in the first one."""
        assert self.calls is not None
        files, album = self.source(number, "plain"), f"Plain {number}"
        seconds = self.client.upload(files, album, self.calls)
        came_in(self.server, album, files)
        return self.rate(seconds)

    def least_up(self, number: int) -> float:
        """By the plain client with nothing but uploads, and adds of as many as are in flight."""
        files, album = self.source(number, "least"), f"Least {number}"
        counts = {UPLOAD: self.files, ADD: -(-self.files // TRANSFERS)}
        seconds = self.client.upload(files, album, Calls(counts, self.files))
        came_in(self.server, album, files)
        return self.rate(seconds)

    def sshd_up(self, number: int) -> float:
        """By rclone and OpenSSH's server."""
        files = self.source(number, "sshd")
        target = f"p:{self.other.path(f'up-{number}')}"
        seconds = copy(self.other, self.place, str(files[0].parent), target)
        arrived = len(list((Path(self.other.root) / f"up-{number}").iterdir()))
        expect("files on sshd", arrived, self.files)
        return self.rate(seconds)

    # -- down --------------------------------------------------------------------------------------

    def emptied(self, name: str) -> Path:
        """A directory to download to."""
        place = self.place / name
        place.mkdir(exist_ok=True)
        return place

    def down(self, album: str) -> Callable[[int], float]:
        """By rclone and our service."""

        def work(number: int) -> float:
            place = self.emptied("down-ours")
            with counting(self.server, self.files) as counted:
                before = cpu_seconds(self.mine.pid), cpu_seconds(self.server.pid)
                seconds = copy(self.mine, self.place, f"p:{self.mine.path(album)}", str(place))
                after = cpu_seconds(self.mine.pid), cpu_seconds(self.server.pid)
            self.used.append((after[0] - before[0]) / self.files * 1000)
            self.demos.append((after[1] - before[1]) / self.files * 1000)
            self.calls = counted[0]
            came_out(place, self.last[0])
            return self.rate(seconds)

        return work

    def plain_down(self, number: int) -> float:
        """By the plain client: a listing, and the originals."""
        place = self.emptied("down-plain")
        seconds = self.client.download(self.last[1], self.files, place)
        came_out(place, self.last[0])
        return self.rate(seconds)

    def sshd_down(self, number: int) -> float:
        """By rclone and OpenSSH's server, from where the same files lie."""
        place = self.emptied("down-sshd")
        source = f"p:{self.last[0][0].parent}"
        seconds = copy(self.other, self.place, source, str(place))
        came_out(place, self.last[0])
        return self.rate(seconds)

    # -- all ---------------------------------------------------------------------------------------

    def rows(self, what: str, values: Sequence[tuple[float, ...]], peer: str) -> None:
        """The ratio with its mark, and what helps to understand it."""
        mine, theirs, *others = values
        unit = "files/s"
        name = f"{self.files} files of 20 KiB {what}, rclone"
        self.report.add(
            Ratio(name, Series("ours", mine, unit), Series(peer, theirs, unit), MARK, at_most=False)
        )
        for label, more in zip(("rclone on sshd", "only uploads and adds"), others, strict=False):
            self.report.add(Figure(f"{name}: {label}", Series(label, more, unit)))
        for who, used in (("service", self.used), ("demo", self.demos)):
            self.report.add(
                Figure(f"{name}: CPU of the {who} a file", Series(who, tuple(used), "ms"))
            )
        self.used, self.demos = [], []
        if self.calls is not None:
            self.report.note(f"Calls for {self.files} files {what} by our service: {self.calls}")

    def run(self) -> None:
        """Everything."""
        values = in_turn((self.up, self.plain_up, self.sshd_up, self.least_up), self.runs)
        self.rows("up", values, "plain client, same calls")
        if self.calls is not None:
            album = f"Ours {self.runs - 1}"
            values = in_turn((self.down(album), self.plain_down, self.sshd_down), self.runs)
            expected = self.calls.counts.get(ORIGINAL, 0)
            expect("originals that were asked for", expected, self.files)
            self.rows("down", values, "plain client, listing and originals")


def measure(runs: int, quick: bool, out: Path) -> Report:
    """Take all measures."""
    need("rclone")
    files = QUICK_FILES if quick else FILES
    with reported("small", out) as report, ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(demo(place))
        (place / "tree").mkdir()
        other = stack.enter_context(sshd(place, place / "tree"))
        mine = stack.enter_context(ours(place, server))
        client = Plain(stack.enter_context(server.session()), TRANSFERS)
        stack.callback(client.close)
        Bench(place, server, mine, other, client, report, files, runs).run()
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it and the CSV; 1 if a mark is missed, 2 if nothing was measured."""
    options = arguments_of(arguments, "benchmarks.small_files", SUMMARY, RUNS, QUICK_RUNS)
    return status_of(lambda: measure(options.runs, options.quick, options.out))


if __name__ == "__main__":
    sys.exit(main())
