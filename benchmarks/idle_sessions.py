"""Memory of idle sessions: `python -m benchmarks.idle_sessions`.

Five hundred connections log in, open the SFTP subsystem, list the root and an album, and stay;
once as one user, once as fifty, whose mirrors are in the figure.  What is counted is by how much
the resident memory of the service grows from the first session on.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import asyncssh
import attrs

from benchmarks import curves
from benchmarks.clients import expect
from benchmarks.curves import Curve
from benchmarks.harness import arguments_of, reported, status_of
from benchmarks.peers import PASSWORD, Immich, Login, demo, ours
from benchmarks.process import resident_mib
from benchmarks.raw_sftp import PATIENCE, connect
from benchmarks.tables import Figure, Limit, Report, Series

SUMMARY = (__doc__ or "").splitlines()[0]
RUNS, QUICK_RUNS = 3, 1
SESSIONS, QUICK_SESSIONS = 500, 100
USERS = (1, 50)
#: Files of each user, in one album.
FILES = 20
#: Log-ins at once.
AT_ONCE = 4
#: Seconds after which nothing of a log-in is left but the session.
SETTLE = 3.0
MARK = 300.0
ALBUM = "Rome"


def fill(server: Immich, users: int) -> list[str]:
    """So many users with a few files each; their e-mail addresses."""
    emails = [f"user{number}of{users}@example.com" for number in range(users)]
    for email in emails:
        user = {"email": email, "password": PASSWORD, "name": email.partition("@")[0]}
        server.call("POST", "/control/users", user)
        entries = [
            {"name": f"IMG_{number:03d}.jpg", "size": 1000 + number, "modified": 1.5e9 + number}
            for number in range(FILES)
        ]
        ids = server.call("POST", "/control/assets", {"email": email, "assets": entries})["ids"]
        server.call("POST", "/control/albums", {"email": email, "name": ALBUM, "assets": ids})
    return emails


async def session(login: Login, email: str) -> asyncssh.SSHClientConnection:
    """Logged in, one channel open, one listing made."""
    connection = await connect(attrs.evolve(login, user=email))
    sftp = await asyncio.wait_for(connection.start_sftp_client(), PATIENCE)
    for path, count in (("/", 1), (f"/{ALBUM}", FILES)):
        names = await asyncio.wait_for(sftp.listdir(path), PATIENCE)
        expect(f"{path} of {email}", len([name for name in names if name[0] != "."]), count)
    return connection


async def grown(login: Login, emails: Sequence[str], count: int, curve: Curve) -> tuple[float, ...]:
    """KiB that each session takes, and what of it stays when all have gone."""
    connections = [await session(login, emails[0])]
    await asyncio.sleep(SETTLE)
    before = resident_mib(login.pid)
    watcher = asyncio.create_task(curve.watch(login.pid))
    waiting = iter(range(count))

    async def worker() -> None:
        for number in waiting:
            connections.append(await session(login, emails[number % len(emails)]))

    try:
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        await asyncio.sleep(SETTLE)
        full = resident_mib(login.pid)
        here = sum(not connection.is_closed() for connection in connections)
        expect("sessions that are still there", here, count + 1)
        for connection in connections[1:]:
            connection.close()
        await asyncio.sleep(SETTLE)
        empty = resident_mib(login.pid)
    finally:
        watcher.cancel()
        for connection in connections:
            connection.abort()
    return (full - before) * 1024 / count, (empty - before) * 1024 / count


def measure(runs: int, quick: bool, out: Path) -> Report:
    """Take all measures, each run with a new service."""
    count = QUICK_SESSIONS if quick else SESSIONS
    found: list[Curve] = []
    with reported("idle", out) as report, ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(demo(place))
        for users in USERS:
            emails = fill(server, users)
            each: list[float] = []
            left: list[float] = []
            whose = "one user" if users == 1 else f"{users} users, with their mirrors"
            for number in range(runs):
                curve = Curve(f"{whose}, run {number}")
                found.append(curve)
                with (
                    tempfile.TemporaryDirectory(dir=place) as own,
                    # A user has a hundred connections by default; here one has five hundred.
                    ours(Path(own), server, "--max-per-user", "0") as login,
                ):
                    full, empty = asyncio.run(grown(login, emails, count, curve))
                each.append(full)
                left.append(empty)
            name = f"{count} idle sessions of {whose}: memory of each"
            report.add(Limit(name, Series("ours", tuple(each), "KiB"), MARK))
            report.add(Figure(f"{name}, after it has gone", Series("ours", tuple(left), "KiB")))
        out.mkdir(parents=True, exist_ok=True)
        curves.write(out / "idle-points.csv", found)
        report.note(curves.draw(out / "idle.png", found))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it, the CSV and a plot; 1 if a mark is missed, 2 for no measure."""
    options = arguments_of(arguments, "benchmarks.idle_sessions", SUMMARY, RUNS, QUICK_RUNS)
    return status_of(lambda: measure(options.runs, options.quick, options.out))


if __name__ == "__main__":
    sys.exit(main())
