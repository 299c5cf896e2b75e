"""How quickly one large file moves: `python -m benchmarks.transfer`.

Ours beside OpenSSH's sshd, with OpenSSH's client: with the bytes in memory (the SSH side alone),
and end to end over an Immich that is quicker than either; on the loopback and over a long wire.
Other servers and clients are there to compare.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers, transfer_peers
from benchmarks.content import MIB, Content
from benchmarks.first_byte import FIRST_BYTES, Subsystem, raw_first, subsystem
from benchmarks.fit import NoPlot
from benchmarks.movers import (
    Moved,
    curl_get,
    curl_put,
    paramiko_get,
    paramiko_put,
    rclone_copy,
)
from benchmarks.peers import CannotMeasure, Login
from benchmarks.process import busy, load, machine
from benchmarks.tables import Beside, Figure, Ratio, Report, Series
from benchmarks.transfer_bench import (
    FILE,
    HUGE,
    HUGE_FILE,
    LONG_FILE,
    Bench,
    Work,
    cpu,
    in_album,
    interleaved,
    rate,
    set_up,
    slower,
)
from benchmarks.transfer_plot import draw

RESULTS = Path(__file__).with_name("results")
SUMMARY = (__doc__ or "").splitlines()[0]

RUNS, QUICK_RUNS = 5, 2
SIZE, QUICK_SIZE = 1024 * MIB, 128 * MIB
LONG_SIZE, LONG_QUICK_SIZE = 256 * MIB, 64 * MIB
#: At most so often is measured what has a pace.
PACED_RUNS = 3
OPENS, QUICK_OPENS = 31, 11
GCM = "aes128-gcm@openssh.com"

#: Millions of bytes a second: what a real Immich gives, and 1 Gbit/s.
PACE, WIRE = 150.0, 125.0
ROUND_TRIP = 0.1

BEATS, NOT_SLOWER = 1.2, 1.0
PACED_MARK, UPLOAD_MARK, FIRST_MARK = 0.95, 0.8, 3.0


def add_ssh_side(bench: Bench) -> None:
    """The bytes in memory, beside sshd with its defaults and held to AES-GCM."""
    report, size, folder = bench.report, bench.size, in_album("")
    with ExitStack() as stack:
        ours = stack.enter_context(transfer_peers.memory(bench.place, bench.server))
        other = bench.place / "gcm"
        other.mkdir()
        held = peers.sshd(other, Path(bench.sshd.root), "-o", f"Ciphers={GCM}")
        gcm = stack.enter_context(held)
        bench.check_get(ours, in_album(FILE), Content(FILE, size))
        bench.check_get(bench.sshd, FILE, Content(FILE, size))
        bench.check_put(ours, folder)
        bench.check_put(bench.sshd, "")
        downloads = interleaved(
            bench.runs,
            bench.get(ours, in_album(FILE)),
            bench.get(bench.sshd, FILE),
            bench.get(gcm, FILE),
        )
        uploads = interleaved(
            bench.runs,
            bench.put(ours, folder, size),
            bench.put(bench.sshd, "", size),
            bench.put(gcm, "", size),
        )
    names = ("ours", "sshd", "sshd with GCM")
    for what, moves in (("download", downloads), ("upload", uploads)):
        mine, sshd, held_to = (rate(who, size, m) for who, m in zip(names, moves, strict=True))
        name = f"{what}, SSH side alone"
        report.add(Ratio(name, mine, sshd, BEATS, at_most=False))
        report.add(Ratio(f"{name}, sshd held to GCM", mine, held_to, NOT_SLOWER, at_most=False))
        mine, sshd, held_to = (cpu(who, size, m) for who, m in zip(names, moves, strict=True))
        report.add(Beside(f"{name}: CPU of the server", mine, sshd))
        report.add(Beside(f"{name}, sshd held to GCM: CPU of the server", mine, held_to))


def add_end_to_end(bench: Bench) -> None:
    """Through our real service, from and to an Immich over HTTP."""
    report, size, session = bench.report, bench.size, bench.session
    with peers.ours(bench.place, bench.server) as ours:
        bench.check_get(ours, in_album(FILE), Content(FILE, size))
        bench.check_arrival(ours)
        through = bench.get(ours, in_album(FILE))

        def straight() -> Moved:
            return curl_get(session, bench.ids[FILE], size)

        def straight_up() -> Moved:
            return curl_put(session, bench.fresh(size), bench.name())

        session.call("POST", "/bench", {"rate": PACE})
        paced = interleaved(min(bench.runs, PACED_RUNS), through, straight)
        session.call("POST", "/bench", {"rate": None})
        unpaced = interleaved(bench.runs, through, straight, bench.get(bench.sshd, FILE))
        up = interleaved(
            bench.runs,
            bench.put(ours, in_album(""), size, times=True, arrives=True),
            straight_up,
            bench.put(bench.sshd, "", size, times=True),
        )
    names = ("ours", "curl", "sshd")
    mine, curl = (rate(who, size, m) for who, m in zip(names[:2], paced, strict=True))
    name = f"download over HTTP at {PACE:g} MB/s"
    report.add(Ratio(name, mine, curl, PACED_MARK, at_most=False))
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
        report.add(Beside(f"{name}, the quicker peer", mine, sshd if peer is curl else curl))
        mine, curl, sshd = (cpu(who, size, m) for who, m in zip(names, moves, strict=True))
        report.add(Beside(f"{name}: CPU of the server", mine, sshd))
        report.add(Figure(f"{name}: CPU of curl", curl))


def add_long_wire(bench: Bench) -> None:
    """End to end, with the client 100 ms away, and sshd the same."""
    size, report, runs = bench.long_size, bench.report, min(bench.runs, PACED_RUNS)
    with ExitStack() as stack:
        service = stack.enter_context(peers.ours(bench.place, bench.server))
        ours, sshd = (
            stack.enter_context(transfer_peers.relayed(bench.place, login, ROUND_TRIP, WIRE))
            for login in (service, bench.sshd)
        )
        down = interleaved(runs, bench.get(ours, in_album(LONG_FILE)), bench.get(sshd, LONG_FILE))
        up = interleaved(
            runs,
            bench.put(ours, in_album(""), size, times=True, arrives=True),
            bench.put(sshd, "", size, times=True),
        )
    for what, moves in (("download", down), ("upload", up)):
        mine, theirs = (rate(who, size, m) for who, m in zip(("ours", "sshd"), moves, strict=True))
        name = f"{what}, {ROUND_TRIP * 1000:g} ms and 1 Gbit/s"
        report.add(Ratio(name, mine, theirs, NOT_SLOWER, at_most=False))


def add_first_byte(bench: Bench) -> None:
    """How soon something comes of a file of 4 GiB."""
    expected = Content(HUGE_FILE, HUGE).read(0, FIRST_BYTES)

    def through(client: Subsystem) -> Moved:
        moved, got = client.first(in_album(HUGE_FILE))
        if got != expected[: len(got)] or not got:
            raise CannotMeasure("the first bytes are not the file's")
        return moved

    with (
        peers.ours(bench.place, bench.server) as login,
        subsystem(login, bench.place) as client,
    ):
        # The first one waits for the listing of the album, too.
        through(client)
        moves = interleaved(
            bench.opens,
            lambda: through(client),
            lambda: raw_first(bench.session, bench.ids[HUGE_FILE]),
        )
    ours, raw = (
        Series(name, tuple(1000 * moved.seconds for moved in found), "ms")
        for name, found in zip(("ours", "raw request"), moves, strict=True)
    )
    bench.report.add(Ratio("first bytes of 4 GiB", ours, raw, FIRST_MARK))


def add_others(bench: Bench) -> None:
    """Each client on each server, once, to compare."""
    report, size, root = bench.report, bench.long_size, Path(bench.sshd.root)
    host_key = bench.place / "sshd" / "host"
    with ExitStack() as stack:
        ours = stack.enter_context(transfer_peers.memory(bench.place, bench.server))
        logins = [(ours, in_album("")), (bench.sshd, "")]
        for name, server in (
            ("rclone serve", transfer_peers.rclone(bench.place, root, host_key)),
            ("asyncssh", transfer_peers.asyncssh(bench.place, root)),
            ("Conch", transfer_peers.conch(bench.place, {LONG_FILE: size})),
        ):
            try:
                logins.append((stack.enter_context(server), ""))
            except CannotMeasure as error:
                report.note(f"Without {name}: {error}")
        for login, folder in logins:
            for name, work in moves_of(bench, login, folder):
                title = f"{name}: {login.name}"
                try:
                    report.add(Figure(title, rate(login.name, size, [work()])))
                except CannotMeasure as error:
                    # What a peer cannot do says nothing of ours.
                    report.note(f"{title} failed: {error}")


def moves_of(bench: Bench, login: Login, folder: str) -> Iterator[tuple[str, Work]]:
    """What each client does on a server, by name."""
    size, target = bench.long_size, bench.place / "other"
    path = folder + LONG_FILE

    def up(work: Callable[[Path, str], Moved]) -> Work:
        def run() -> Moved:
            source = bench.fresh(size)
            moved = work(source, folder + bench.name())
            bench.clean()
            return moved

        return run

    def rclone_up(source: Path, name: str) -> Moved:
        return rclone_copy(login, bench.place, str(source), f"p:{login.path(name)}")

    def rclone_down() -> Moved:
        return rclone_copy(login, bench.place, f"p:{login.path(path)}", str(target))

    yield "download, sftp", bench.get(login, path)
    yield "download, rclone", rclone_down
    yield "download, paramiko", lambda: paramiko_get(login, path)
    yield "upload, sftp", bench.put(login, folder, size)
    yield "upload, rclone", up(rclone_up)
    yield "upload, paramiko", up(lambda source, name: paramiko_put(login, source, name))


PARTS = {
    "ssh": add_ssh_side,
    "http": add_end_to_end,
    "long": add_long_wire,
    "first": add_first_byte,
    "others": add_others,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a mark is missed, 2 if something is not there to measure with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=SUMMARY)
    parser.add_argument("--quick", action="store_true", help="128 MiB, two runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    parser.add_argument("--runs", type=int, help=f"times each is measured [{RUNS}]")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the file [1024]")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; repeatable")
    options = parser.parse_args(arguments)
    quick = options.quick
    size = options.size * MIB if options.size else QUICK_SIZE if quick else SIZE
    long_size = LONG_QUICK_SIZE if quick else LONG_SIZE
    runs = options.runs or (QUICK_RUNS if quick else RUNS)
    report = Report("transfer", options.out)
    before = os.getloadavg()[0]
    report.note(f"{machine()}; load before: {load()}")
    report.note(f"{size // MIB} MiB, {runs} runs; long wire and others: {long_size // MIB} MiB")
    # Whoever stops this gets its memory back, and no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with set_up(report, size, long_size, runs, QUICK_OPENS if quick else OPENS) as bench:
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
        print(f"no plot: {error}")
    return status


if __name__ == "__main__":
    sys.exit(main())
