"""What a log-in costs: `python -m benchmarks.logins`.

OpenSSH's client logs in, opens the SFTP subsystem and leaves, one log-in after the other.  On our
service that is by password, which asks the demo Immich, whose own CPU time is not ours; on
OpenSSH's server it is by key.  Both servers have an Ed25519 host key.  sshd's time is that of the
listening process and all its children.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import Factory, define

from benchmarks.clients import openssh_command
from benchmarks.harness import arguments_of, in_turn, reported, status_of
from benchmarks.peers import CannotMeasure, Immich, Login, demo, need, ours, sshd
from benchmarks.process import children, cpu_seconds, family_seconds
from benchmarks.tables import Figure, Ratio, Report, Series

SUMMARY = (__doc__ or "").splitlines()[0]
RUNS, QUICK_RUNS = 5, 3
#: Log-ins in a run: sshd's children are counted in ticks of 10 ms.
LOGINS, QUICK_LOGINS = 20, 10
LOGIN_SECONDS = 30
#: Seconds that what a client left behind may take to end.
END_SECONDS = 10.0
MARK = 1.5
HOST_KEY = "HostKeyAlgorithms=ssh-ed25519"
CIPHER = "Ciphers=aes128-gcm@openssh.com"
#: Key exchanges that the client is held to; none is what it agrees on with each by itself.
KINDS = {
    "curve25519, both": (HOST_KEY, CIPHER, "KexAlgorithms=curve25519-sha256"),
    "the client's defaults": (),
}


@define(eq=False)
class Bench:
    """The servers, and what they agreed on."""

    place: Path
    server: Immich
    mine: Login
    other: Login
    logins: int
    #: Elapsed milliseconds for each log-in.
    elapsed: dict[str, list[float]] = Factory(dict)

    def command(self, login: Login, options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """OpenSSH's `sftp` with nothing to do; of options given twice the first one counts."""
        batch = self.place / "nothing.batch"
        batch.write_text("")
        command, environment = openssh_command(login, self.place, str(batch))
        more = [word for option in options for word in ("-o", option)]
        return [*command[:2], *more, *command[2:]], environment

    def cost(self, login: Login, options: Sequence[str]) -> Callable[[int], float]:
        """CPU milliseconds of the server for each log-in."""
        command, environment = self.command(login, options)
        used = family_seconds if login.name == "sshd" else cpu_seconds
        waits = self.elapsed[login.name] = []

        def once() -> None:
            done = subprocess.run(
                command, timeout=LOGIN_SECONDS, capture_output=True, env=environment, text=True
            )
            if done.returncode:
                raise CannotMeasure(f"log-in at {login.name}: {done.stderr[-300:]}")

        def work(number: int) -> float:
            before = used(login.pid)
            start = time.perf_counter()
            for _ in range(self.logins):
                once()
            waits.append((time.perf_counter() - start) / self.logins * 1000)
            self.settle(login)
            return (used(login.pid) - before) / self.logins * 1000

        once()  # what is done once, such as asking for Immich's version
        self.settle(login)
        return work

    def settle(self, login: Login) -> None:
        """Return when nothing is left of the connections: children, or sessions at Immich."""
        limit = time.monotonic() + END_SECONDS
        while time.monotonic() < limit:
            if login.name == "sshd":
                left = children(login.pid)
            else:
                left = int(self.server.call("GET", "/control/state")["sessions"])
                # The mirror of the last one keeps its session.
                left = max(0, left - 1)
            if not left:
                return
            time.sleep(0.1)
        raise CannotMeasure(f"{left} connections of {login.name} do not end")

    def agreed(self, login: Login, options: Sequence[str]) -> str:
        """Key exchange, host key and cipher of a log-in, as the client tells."""
        verbose = ("LogLevel=DEBUG1", *options)
        command, environment = self.command(login, verbose)
        command.remove("-q")
        done = subprocess.run(
            command, timeout=LOGIN_SECONDS, capture_output=True, env=environment, text=True
        )
        told = {}
        for line in done.stderr.splitlines():
            for key in ("kex: algorithm: ", "kex: host key algorithm: ", "server->client cipher: "):
                if key in line:
                    told[key] = line.partition(key)[2].split()[0]
        return " ".join(told.values())


def measure(runs: int, quick: bool, out: Path) -> Report:
    """Take all measures."""
    need("sftp")
    with reported("logins", out) as report, ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(demo(place))
        (place / "tree").mkdir()
        other = stack.enter_context(sshd(place, place / "tree"))
        mine = stack.enter_context(ours(place, server))
        bench = Bench(place, server, mine, other, QUICK_LOGINS if quick else LOGINS)
        version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
        report.note(f"{version.strip()}; {bench.logins} log-ins a run")
        for kind, options in KINDS.items():
            for login in (mine, other):
                report.note(f"{kind}, {login.name}: {bench.agreed(login, options)}")
            works = (bench.cost(mine, options), bench.cost(other, options))
            mine_values, other_values = in_turn(works, runs)
            name = f"CPU of a log-in, {kind}"
            pair = Series("ours", mine_values, "ms"), Series("sshd", other_values, "ms")
            report.add(Ratio(name, *pair, MARK))
            for who, values in bench.elapsed.items():
                report.add(Figure(f"{name}: elapsed", Series(who, tuple(values), "ms")))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it and the CSV; 1 if a mark is missed, 2 if nothing was measured."""
    options = arguments_of(arguments, "benchmarks.logins", SUMMARY, RUNS, QUICK_RUNS)
    return status_of(lambda: measure(options.runs, options.quick, options.out))


if __name__ == "__main__":
    sys.exit(main())
