"""How quickly a library is walked, listed and asked for: `python -m benchmarks.catalog`.

The demo Immich holds 15,000 assets in 200 albums and runs as its own process; OpenSSH's server has
a local directory tree of as many files.  Each measure is taken with the same client, ours and the
peer's in turn.  With `--immich URL --login EMAIL` it is the user's own library on a real server,
which is only read; see README.rst beside this for what the rows mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import define

from benchmarks import changes, costs, raw
from benchmarks.clients import Client, expect, files_in, openssh, rclone, timed
from benchmarks.libraries import Library, look_at, make_up
from benchmarks.peers import (
    PASSWORD_VARIABLE,
    CannotMeasure,
    Immich,
    Login,
    demo,
    need,
    ours,
    sshd,
)
from benchmarks.process import busy, load, machine, resident_mb
from benchmarks.tables import Figure, Limit, Ratio, Report, Series

#: Files and albums of the demo.
MADE, QUICK_MADE = (15_000, 200), (1500, 20)
#: STATs in a run, and in flight at once.
STATS = 1000
#: How many times as often as there are runs the short ones are taken.
SHORT = 3
#: Seconds that a service is left alone to see what it does by itself.
IDLE, QUICK_IDLE = 10.0, 3.0
#: Seconds within which a change from outside has to show.
OUTSIDE = 2.0
RESULTS = Path(__file__).with_name("results")
SUMMARY = (__doc__ or "").splitlines()[0]

Pair = tuple[Callable[[], float], Callable[[], float]]


@define(eq=False)
class Bench:
    """The library, the peers, and what was found."""

    place: Path
    server: Immich
    runs: int
    idle: float
    dialect: int
    report: Report
    may_write: bool = True
    #: How many files and albums to make up; None for a user's own library.
    made: tuple[int, int] | None = None

    def service(self, stack: ExitStack, place: Path) -> Login:
        """Our service, new; it refuses to write to what is not the demo's unless allowed."""
        options = () if self.may_write else ("--read-only",)
        return stack.enter_context(ours(place, self.server, *options))

    def run(self) -> None:
        """Everything."""
        with ExitStack() as stack:
            library = self.library()
            self.report.note(f"Library: {library}")
            peer = stack.enter_context(sshd(self.place, library.place))
            self.cold(peer, library)
            login = self.service(stack, self.place)
            client, other = Client(login), Client(peer)
            stack.callback(client.close)
            stack.callback(other.close)
            unused = costs.idle(login.pid, self.idle, self.runs)
            empty = resident_mb(login.pid)
            expect("a walk of sshd's", files_in(other.tree()), library.files)
            expect("a walk of ours", files_in(client.tree()), library.files)
            self.warm(client, other, library)
            self.stats(client, other, library)
            self.report.add(costs.unused(unused))
            costs.deltas(self.report, self.server, self.dialect, client, self.idle, self.runs)
            grown = Series("ours", (resident_mb(login.pid),), "MB")
            self.report.add(Figure(f"memory of the service, {empty:.1f} MB before", grown))
            self.changes(client, library)

    def library(self) -> Library:
        """What is measured."""
        tree = self.place / "tree"
        if self.made is not None:
            return make_up(self.server, tree, *self.made)
        with ExitStack() as stack:
            client = Client(self.service(stack, self.place))
            stack.callback(client.close)
            return look_at(self.server, client, tree)

    def interleaved(
        self, pair: Pair, times: int = 1
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Ours and the peer's in turn, so that a busy minute hits both; who begins changes.

        `times` more often than there are runs, for what takes less time than the noise.
        """
        mine, theirs = [], []
        for number in range(self.runs * times):
            if number % 2:
                theirs.append(pair[1]())
                mine.append(pair[0]())
            else:
                mine.append(pair[0]())
                theirs.append(pair[1]())
        return tuple(mine), tuple(theirs)

    def compare(self, measure: str, pair: Pair, peer: str, bound: float, times: int = 1) -> None:
        """One row of times."""
        mine, theirs = self.interleaved(pair, times)
        self.report.add(Ratio(measure, Series("ours", mine), Series(peer, theirs), bound))

    # -- nothing is known yet ----------------------------------------------------------------------

    def cold(self, peer: Login, library: Library) -> None:
        """A service, and a session, of its own for each run."""

        def afresh(work: Callable[[Login], float]) -> float:
            with tempfile.TemporaryDirectory(dir=self.place) as place, ExitStack() as stack:
                return work(self.service(stack, Path(place)))

        streams: list[float] = []

        for name, work in self.walks(library).items():

            def bound(work: Callable[[Login], float] = work) -> float:
                streams.append(raw.whole_stream(self.server, self.dialect))
                return 1.3 * streams[-1] + work(peer)

            def mine(work: Callable[[Login], float] = work) -> float:
                return afresh(work)

            self.compare(f"whole tree, cold, {name}", (mine, bound), "1.3 x raw stream + sshd", 1.0)

        self.report.add(Figure("whole stream, raw", Series("raw API", tuple(streams))))

        def one_folder(login: Login) -> float:
            client = Client(login)
            try:
                return timed(lambda: client.folder(library.big))
            finally:
                client.close()

        count = len(library.big_files)
        self.compare(
            f"folder of {count}, cold, paramiko",
            (
                lambda: afresh(one_folder),
                lambda: raw.folder(self.server, self.dialect, library.big_id, count),
            ),
            "raw API",
            1.3,
        )

    def walks(self, library: Library) -> dict[str, Callable[[Login], float]]:
        """The clients that walk the whole tree; each returns its seconds."""

        def paramiko(login: Login) -> float:
            client = Client(login)
            try:
                return timed(lambda: expect(login.name, files_in(client.tree()), library.files))
            finally:
                client.close()

        return {
            "paramiko": paramiko,
            "rclone lsf -R": lambda login: timed(rclone(login, self.place, library.entries)),
            "OpenSSH sftp": lambda login: timed(
                openssh(login, self.place, library.folders, library.files)
            ),
        }

    # -- everything is known -----------------------------------------------------------------------

    def warm(self, client: Client, other: Client, library: Library) -> None:
        """The same client on both."""
        for name, work in self.walks(library).items():

            def mine(work: Callable[[Login], float] = work) -> float:
                return work(client.login)

            def theirs(work: Callable[[Login], float] = work) -> float:
                return work(other.login)

            self.compare(f"whole tree, warm, {name}", (mine, theirs), "sshd", 1.0, SHORT)
        self.compare(
            f"folder of {len(library.big_files)}, warm, paramiko",
            (
                lambda: timed(lambda: client.folder(library.big)),
                lambda: timed(lambda: other.folder(library.big)),
            ),
            "sshd",
            1.0,
            SHORT,
        )

    def stats(self, client: Client, other: Client, library: Library) -> None:
        """STATs of files all over the largest folder, one in flight and a thousand."""
        step = max(1, len(library.big_files) // STATS)
        names = (library.big_files[::step] * STATS)[:STATS]

        def paths(whose: Client) -> list[str]:
            return [whose.login.path(f"{library.big}/{name}") for name in names]

        slowest: list[float] = []

        def mean(whose: Client, worst: list[float]) -> float:
            seconds = whose.stats(paths(whose))
            worst.append(max(seconds) * 1000)
            return sum(seconds) / len(seconds) * 1000

        pair = (lambda: mean(client, slowest), lambda: mean(other, []))
        mine, theirs = self.interleaved(pair, SHORT)
        self.report.add(
            Ratio(
                "stat, warm, one in flight: mean latency",
                Series("ours", mine, "ms"),
                Series("sshd", theirs, "ms"),
                2.0,
            )
        )
        worst = Series("ours", tuple(slowest), "ms")
        self.report.add(Figure(f"stat, warm: the slowest of {STATS}", worst))

        def throughput(whose: Client) -> float:
            wanted = paths(whose)
            return STATS / timed(lambda: whose.stats_at_once(wanted))

        mine, theirs = self.interleaved(
            (lambda: throughput(client), lambda: throughput(other)), SHORT
        )
        self.report.add(
            Ratio(
                f"stat, warm, {STATS} in flight: throughput",
                Series("ours", mine, "/s"),
                Series("sshd", theirs, "/s"),
                0.5,
                at_most=False,
            )
        )

    def changes(self, client: Client, library: Library) -> None:
        """When a change made by another client of Immich shows, and one of our own."""
        if not self.may_write:
            self.report.note(
                "Skipped: how soon changes show, which needs --may-write (it makes and deletes "
                "albums, and uploads files of 64 bytes that end in the trash)."
            )
            return
        theirs: list[float] = []
        mine: list[float] = []
        with self.server.session() as session:
            asset_id = changes.some_asset(session)
            for number in range(self.runs):
                name = f"immich-conch benchmark {os.getpid()} {number}"
                theirs += changes.from_outside(session, client, name, asset_id)
                mine += changes.own(client, f"{name} own")
        self.report.add(
            Limit(
                "a change from outside shows after",
                Series("ours", tuple(theirs)),
                OUTSIDE,
                of_worst=True,
            )
        )
        self.report.add(
            Limit(
                "an own change shows in listing number",
                Series("ours", tuple(mine), "listings"),
                1,
                of_worst=True,
            )
        )


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; what is wrong ends the program with a line that says so."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalog", description=SUMMARY)
    parser.add_argument("--quick", action="store_true", help="a tenth of the files, three runs")
    parser.add_argument("--runs", type=int, help="how often each measure is taken (5, quick 3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for table and CSV")
    parser.add_argument("--version", choices=("2.5.6", "3.1.0"), help="the demo's (3.1.0)")
    parser.add_argument("--immich", metavar="URL", help="a real server instead of the demo")
    parser.add_argument(
        "--login", metavar="EMAIL", help=f"its user; the password is taken from {PASSWORD_VARIABLE}"
    )
    parser.add_argument(
        "--may-write", action="store_true", help="measure changes on the real server, too"
    )
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = 3 if options.quick else 5
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.immich is None:
        if options.login or options.may_write:
            parser.error("--login and --may-write are for --immich")
        options.version = options.version or "3.1.0"
    else:
        if options.version:
            parser.error("--version is the demo's; a real server has its own")
        if not options.immich.startswith(("http://", "https://")):
            parser.error("--immich must be a URL like http://127.0.0.1:2283")
        if not options.login:
            parser.error("--immich needs --login EMAIL")
        if not os.environ.get(PASSWORD_VARIABLE):
            parser.error(f"--immich needs the password in {PASSWORD_VARIABLE}")
        options.immich = options.immich.rstrip("/").removesuffix("/api")
    return options


def server_of(options: argparse.Namespace, stack: ExitStack, place: Path) -> Immich:
    """The demo, started, or the real server, if the user may log in there."""
    if options.immich is None:
        return stack.enter_context(demo(place, options.version))
    server = Immich(options.immich, options.login, os.environ[PASSWORD_VARIABLE])
    try:
        with server.session():
            return server
    except urllib.error.HTTPError as error:
        raise CannotMeasure(f"{options.login} cannot log in there: {error}") from error
    except urllib.error.URLError as error:
        raise CannotMeasure(f"{options.immich} is not reachable: {error.reason}") from error


def measure(options: argparse.Namespace) -> int:
    """Take all measures; 1 if a mark is missed."""
    need("rclone", "sftp")
    report = Report("catalog", options.out)
    began, warning = load(), busy(os.getloadavg()[0])
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = server_of(options, stack, place)
        version = server.version()
        real = options.immich is not None
        report.note(f"Immich {version}, {'a real server' if real else 'the demo'}; {machine()}")
        Bench(
            place=place,
            server=server,
            runs=options.runs,
            idle=QUICK_IDLE if options.quick else IDLE,
            dialect=raw.major(version),
            report=report,
            may_write=options.may_write or not real,
            made=None if real else QUICK_MADE if options.quick else MADE,
        ).run()
    report.note(f"Load of the machine (1, 5, 15 minutes): {began} before, {load()} after")
    if warning:
        report.note(warning)
    return report.finish()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it and the CSV; 1 if a mark is missed, 2 if nothing was measured."""
    options = arguments_of(arguments)
    try:
        return measure(options)
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
