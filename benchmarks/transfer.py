"""How quickly one large file moves: `python -m benchmarks.transfer`.

Ours beside OpenSSH's sshd, with OpenSSH's client: with the bytes in memory (the SSH side alone),
and end to end over an Immich that is quicker than either; on the loopback and over a long wire.
Other servers and clients are there to compare.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from attrs import define, evolve, field

from benchmarks import bulk_immich, peers, transfer_peers
from benchmarks.clients import Client
from benchmarks.content import MIB, Content
from benchmarks.fit import NoPlot
from benchmarks.movers import (
    Moved,
    curl_get,
    curl_put,
    matches,
    paramiko_get,
    paramiko_put,
    rclone_copy,
    sftp,
)
from benchmarks.peers import USER, CannotMeasure, Immich, Login
from benchmarks.process import busy, load, machine
from benchmarks.tables import Beside, Figure, Ratio, Report, Series
from benchmarks.transfer_plot import draw

RESULTS = Path(__file__).with_name("results")
SUMMARY = (__doc__ or "").splitlines()[0]
SHARED_MEMORY = Path("/dev/shm")

RUNS, QUICK_RUNS = 5, 2
SIZE, QUICK_SIZE = 1024 * MIB, 128 * MIB
LONG_SIZE, LONG_QUICK_SIZE = 256 * MIB, 64 * MIB
#: Times a long wire is tried, and clients and servers that have no mark.
LONG_RUNS, OTHER_RUNS = 3, 1
#: What `first` opens, and how often.
HUGE, OPENS, QUICK_OPENS = 4096 * MIB, 31, 11
FIRST_BYTES = 32_768

FILE, LONG_FILE, HUGE_FILE = "bulk.mp4", "long.mp4", "huge.mp4"
GCM = "aes128-gcm@openssh.com"

#: Millions of bytes a second: what a real Immich gives, and 1 Gbit/s.
PACE, WIRE = 150.0, 125.0
ROUND_TRIP = 0.1

BEATS, NOT_SLOWER = 1.2, 1.0
PACED_MARK, UPLOAD_MARK, FIRST_MARK = 0.95, 0.8, 3.0
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


@define(eq=False)
class Bench:
    """What all rows share: the servers, the files, and how much of it."""

    report: Report
    place: Path
    runs: int
    size: int
    long_size: int
    opens: int
    server: Immich
    session: Immich
    ids: dict[str, str]
    sshd: Login
    source: Path
    _number: int = 0
    _logins: dict[str, Login] = field(factory=dict)

    def fresh(self, size: int | None = None) -> Path:
        """The file to upload, with bytes that no server has."""
        self._number += 1
        path = self.source
        if size is not None and size != self.size:
            path = self.source.with_name("long-source.mp4")
        with path.open("r+b") as file:
            file.write(os.urandom(16))
        return path

    def name(self) -> str:
        """A name that no server has."""
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
        self,
        login: Login,
        folder: str,
        times: bool = False,
        size: int | None = None,
        arrives: bool = False,
    ) -> Work:
        """Upload by OpenSSH's client, by a new session each time.

        With `arrives` it has to be in Immich once it is answered, and what is missing of that
        counts.
        """

        def work() -> Moved:
            source, name = self.fresh(size), self.name()
            with sftp(login, self.place) as client:
                start = time.perf_counter()
                moved = client.put(source, folder + name, times)
                if arrives:
                    answered = time.perf_counter()
                    self.wait_for(name)
                    late = time.perf_counter() - answered
                    moved = evolve(moved, seconds=moved.seconds + late)
                    assert time.perf_counter() >= start
            self.clean()
            return moved

        return work

    def wait_for(self, name: str) -> None:
        """Return when a file is in Immich's album."""
        limit = time.monotonic() + ARRIVAL_SECONDS
        while name not in self.in_album():
            if time.monotonic() > limit:
                raise CannotMeasure(f"{name} was answered, but is not in Immich")
            time.sleep(0.01)

    def in_album(self) -> dict[str, str]:
        """Names and SHA-1 of what Immich has in the album."""
        state = self.server.call("GET", "/control/state")
        return {
            asset["name"]: asset["sha1"] for album in state["albums"] for asset in album["assets"]
        }


def check_get(bench: Bench, login: Login, path: str, content: Content) -> None:
    """Once, untimed: the bytes that OpenSSH's client gets are the right ones."""
    target = bench.place / "checked"
    with sftp(login, bench.place) as client:
        client.get(path, str(target))
    matches(target, content)
    target.unlink()


def check_put(bench: Bench, login: Login, folder: str) -> None:
    """Once, untimed: what was written is what is read back, from the spool or a directory."""
    source, name, target = bench.fresh(), bench.name(), bench.place / "checked"
    with sftp(login, bench.place) as client:
        client.put(source, folder + name)
        client.get(folder + name, str(target))
    digests = []
    for path in (source, target):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    if digests[0] != digests[1]:
        raise CannotMeasure(f"{login.name} gave back other bytes than were written")
    target.unlink()
    bench.clean()


def in_album(path: str) -> str:
    """A file of the one album."""
    return f"{bulk_immich.ALBUM}/{path}"


def add_ssh_side(bench: Bench) -> None:
    """The bytes in memory, beside sshd with its defaults and held to AES-GCM."""
    report, size, folder = bench.report, bench.size, in_album("")
    content = Content(FILE, size)
    with ExitStack() as stack:
        ours = stack.enter_context(transfer_peers.memory(bench.place, bench.server))
        other = bench.place / "gcm"
        other.mkdir()
        gcm = stack.enter_context(peers.sshd(other, Path(bench.sshd.root), "-o", f"Ciphers={GCM}"))
        check_get(bench, ours, in_album(FILE), content)
        check_get(bench, bench.sshd, FILE, content)
        check_put(bench, ours, folder)
        check_put(bench, bench.sshd, "")
        downloads = interleaved(
            bench.runs,
            bench.get(ours, in_album(FILE)),
            bench.get(bench.sshd, FILE),
            bench.get(gcm, FILE),
        )
        uploads = interleaved(
            bench.runs,
            bench.put(ours, folder),
            bench.put(bench.sshd, ""),
            bench.put(gcm, ""),
        )
    for what, moves in (("download", downloads), ("upload", uploads)):
        series = [
            rate(name, size, moved)
            for name, moved in zip(("ours", "sshd", "sshd with GCM"), moves, strict=True)
        ]
        name = f"{what}, SSH side alone"
        report.add(Ratio(name, series[0], series[1], BEATS, at_most=False))
        report.add(Ratio(f"{name}, GCM", series[0], series[2], NOT_SLOWER, at_most=False))
        costs = [cpu(one.name, size, moved) for one, moved in zip(series, moves, strict=True)]
        report.add(Beside(f"{name}: CPU of the server", costs[0], costs[1]))


def add_end_to_end(bench: Bench) -> None:
    """Through our real service, from and to an Immich over HTTP."""
    report, size = bench.report, bench.size
    with peers.ours(bench.place, bench.server) as ours:
        check_get(bench, ours, in_album(FILE), Content(FILE, size))
        check_arrival(bench, ours)
        through = bench.get(ours, in_album(FILE))

        def straight() -> Moved:
            return curl_get(bench.session, bench.ids[FILE], size)

        bench.session.call("POST", "/bench", {"rate": PACE})
        paced = interleaved(min(bench.runs, 3), through, straight)
        bench.session.call("POST", "/bench", {"rate": None})
        unpaced = interleaved(bench.runs, through, straight, bench.get(bench.sshd, FILE))

        def straight_up() -> Moved:
            return curl_put(bench.session, bench.fresh(), bench.name())

        up = interleaved(
            bench.runs,
            bench.put(ours, in_album(""), times=True, arrives=True),
            straight_up,
            bench.put(bench.sshd, "", times=True),
        )
    series = [rate(*args) for args in zip(("ours", "curl"), (size, size), paced, strict=True)]
    name = f"download over HTTP at {PACE:g} MB/s"
    report.add(Ratio(name, series[0], series[1], PACED_MARK, at_most=False))
    names = ("ours", "curl", "sshd")
    for name, moves, mark in (
        ("download over HTTP, unpaced", unpaced, None),
        ("upload over HTTP", up, UPLOAD_MARK),
    ):
        mine, curl, sshd = (rate(who, size, m) for who, m in zip(names, moves, strict=True))
        peer = slower(curl, sshd)
        if mark is None:
            report.add(Beside(name, mine, peer))
        else:
            report.add(Ratio(name, mine, peer, mark, at_most=False))
        other = sshd if peer is curl else curl
        report.add(Beside(f"{name}, the quicker peer", mine, other))
        mine, curl, sshd = (cpu(who, size, m) for who, m in zip(names, moves, strict=True))
        report.add(Beside(f"{name}: CPU of the server", mine, sshd))
        report.add(Figure(f"{name}: CPU of curl", curl))


def check_arrival(bench: Bench, login: Login) -> None:
    """Once, untimed: Immich got the bytes that the client sent."""
    source, name = bench.fresh(), bench.name()
    with sftp(login, bench.place) as client:
        client.put(source, in_album(name), times=True)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha1").digest()
    import base64

    bench.wait_for(name)
    if base64.b64decode(bench.in_album()[name]) != digest:
        raise CannotMeasure("Immich got other bytes than were written")


def add_long_wire(bench: Bench) -> None:
    """End to end, with the client 100 ms away, and sshd the same."""
    size, report = bench.long_size, bench.report
    with ExitStack() as stack:
        service = stack.enter_context(peers.ours(bench.place, bench.server))
        ours, sshd = (
            stack.enter_context(transfer_peers.relayed(bench.place, login, ROUND_TRIP, WIRE))
            for login in (service, bench.sshd)
        )
        runs = min(bench.runs, LONG_RUNS)
        down = interleaved(runs, bench.get(ours, in_album(LONG_FILE)), bench.get(sshd, LONG_FILE))
        up = interleaved(
            runs,
            bench.put(ours, in_album(""), True, size, arrives=True),
            bench.put(sshd, "", True, size),
        )
    for what, moves in (("download", down), ("upload", up)):
        mine, theirs = (rate(who, size, m) for who, m in zip(("ours", "sshd"), moves, strict=True))
        name = f"{what}, {ROUND_TRIP * 1000:g} ms and 1 Gbit/s"
        report.add(Ratio(name, mine, theirs, NOT_SLOWER, at_most=False))


def raw_first(server: Immich, asset_id: str) -> Moved:
    """The first bytes by a plain HTTP request."""
    place = urlsplit(server.url)
    assert place.hostname is not None
    start = time.perf_counter()
    connection = http.client.HTTPConnection(place.hostname, place.port)
    headers = {"Authorization": f"Bearer {server.token}"}
    connection.request("GET", f"/api/assets/{asset_id}/original", headers=headers)
    got = connection.getresponse().read(FIRST_BYTES)
    seconds = time.perf_counter() - start
    connection.close()
    if len(got) != FIRST_BYTES:
        raise CannotMeasure(f"the raw request got {len(got)} bytes")
    return Moved(seconds)


def sftp_first(client: Client, path: str) -> Moved:
    """The first bytes by OPEN and READ."""
    start = time.perf_counter()
    file = client.sftp.open(path)
    got = file.read(FIRST_BYTES)
    seconds = time.perf_counter() - start
    file.close()
    if got != Content(HUGE_FILE, HUGE).read(0, FIRST_BYTES):
        raise CannotMeasure(f"{client.login.name} gave other bytes than are in the file")
    return Moved(seconds)


def add_first_byte(bench: Bench) -> None:
    """How soon something comes of a file of 4 GiB."""
    with peers.ours(bench.place, bench.server) as login:
        client = Client(login)
        client.folder(bulk_immich.ALBUM)
        path = login.path(in_album(HUGE_FILE))
        sftp_first(client, path)
        ours, raw = interleaved(
            bench.opens,
            lambda: sftp_first(client, path),
            lambda: raw_first(bench.session, bench.ids[HUGE_FILE]),
        )
        client.close()
    series = [
        Series(name, tuple(1000 * moved.seconds for moved in moves), "ms")
        for name, moves in (("ours", ours), ("raw request", raw))
    ]
    bench.report.add(Ratio("first bytes of 4 GiB", series[0], series[1], FIRST_MARK))


def add_others(bench: Bench) -> None:
    """Each client on each server, to compare; once."""
    report, size = bench.report, bench.long_size
    root = Path(bench.sshd.root)
    with ExitStack() as stack:
        logins = [
            (stack.enter_context(transfer_peers.memory(bench.place, bench.server)), True),
            (bench.sshd, False),
        ]
        for name, server in (
            ("rclone", transfer_peers.rclone(bench.place, root, bench.place / "sshd" / "host")),
            ("asyncssh", transfer_peers.asyncssh(bench.place, root)),
            ("Conch", transfer_peers.conch(bench.place, {LONG_FILE: size})),
        ):
            try:
                logins.append((stack.enter_context(server), False))
            except CannotMeasure as error:
                report.note(f"Without {name}: {error}")
        for login, album in logins:
            folder = in_album("") if album else ""
            for name, value in moves_of(bench, login, folder):
                try:
                    moves = [value() for _ in range(OTHER_RUNS)]
                except Exception as error:
                    report.note(f"{name}, {login.name}: {error}")
                    continue
                report.add(Figure(f"{name}, {login.name}", rate(login.name, size, moves)))


def moves_of(bench: Bench, login: Login, folder: str) -> Iterator[tuple[str, Work]]:
    """What each client does on a server, by name."""
    size, target = bench.long_size, bench.place / "other"
    path = login.path(folder + LONG_FILE)

    def up(work: Callable[[Path, str], Moved]) -> Work:
        def run() -> Moved:
            moved = work(bench.fresh(size), folder + bench.name())
            bench.clean()
            return moved

        return run

    yield "download, sftp", bench.get(login, folder + LONG_FILE)
    yield "download, rclone", lambda: rclone_copy(login, bench.place, f"p:{path}", str(target))
    yield "download, paramiko", lambda: paramiko_get(login, folder + LONG_FILE)
    yield "upload, sftp", bench.put(login, folder, size=size)
    yield (
        "upload, rclone",
        up(lambda s, name: rclone_copy(login, bench.place, str(s), f"p:{login.path(name)}")),
    )
    yield "upload, paramiko", up(lambda source, name: paramiko_put(login, source, name))


PARTS = {
    "ssh": add_ssh_side,
    "http": add_end_to_end,
    "long": add_long_wire,
    "first": add_first_byte,
    "others": add_others,
}


@contextmanager
def set_up(report: Report, options: argparse.Namespace) -> Iterator[Bench]:
    """The servers that run all the time, and the files."""
    quick = options.quick
    size = options.size * MIB if options.size else QUICK_SIZE if quick else SIZE
    long_size = LONG_QUICK_SIZE if quick else LONG_SIZE
    peers.need("sftp", "curl", "rclone")
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=where)))
        needed = 5 * size
        if shutil.disk_usage(place).free < needed:
            raise CannotMeasure(f"{place}: less than {needed // MIB} MiB are free")
        root = place / "files"
        root.mkdir()
        files = {FILE: size, LONG_FILE: long_size}
        for name, length in files.items():
            Content(name, length).write(root / name)
        source = place / "source.mp4"
        Content("source", size).write(source)
        Content("source", long_size).write(place / "long-source.mp4")
        server = stack.enter_context(bulk_immich.serving(place, {**files, HUGE_FILE: HUGE}))
        session = stack.enter_context(server.session())
        state = server.call("GET", "/control/state")
        ids = {asset["name"]: asset["id"] for asset in state["albums"][0]["assets"]}
        sshd = stack.enter_context(peers.sshd(place, root))
        yield Bench(
            report=report,
            place=place,
            runs=options.runs or (QUICK_RUNS if quick else RUNS),
            size=size,
            long_size=long_size,
            opens=QUICK_OPENS if quick else OPENS,
            server=server,
            session=session,
            ids=ids,
            sshd=sshd,
            source=source,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a mark is missed, 2 if something is not there to measure with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=SUMMARY)
    parser.add_argument("--quick", action="store_true", help="128 MiB, two runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    parser.add_argument("--runs", type=int, help=f"times each is measured [{RUNS}]")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the file [1024]")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts")
    options = parser.parse_args(arguments)
    report = Report("transfer", options.out)
    before = os.getloadavg()[0]
    report.note(f"{machine()}; load before: {load()}")
    try:
        with set_up(report, options) as bench:
            report.note(f"{bench.size // MIB} MiB, {bench.runs} runs, user {USER}")
            for part in options.only or PARTS:
                PARTS[part](bench)
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    report.note(f"load after: {load()}")
    if warning := busy(before):
        report.note(warning)
    status = report.finish()
    try:
        draw(options.out / "transfer.png", report.rows)
    except NoPlot as error:
        print(error)
    return status


if __name__ == "__main__":
    sys.exit(main())
