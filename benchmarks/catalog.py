"""How quickly a library is walked, listed and asked for: `python -m benchmarks.catalog`.

The demo Immich holds 15,000 assets in 200 albums and runs as its own process; OpenSSH's server has
a local directory tree of as many files.  Each measure is taken with the same client, ours and the
peer's in turn, and shown as a ratio of medians.  `--quick` takes a tenth of the files and fewer
runs; `--immich URL` walks the user's library of a real server instead of the demo's.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import paramiko
from attrs import define, field

from benchmarks.peers import USER, Immich, Login, demo, ours, sshd
from benchmarks.tables import Row, Series, write_csv

TAKEN = 1_500_000_000.0
CLIENT_SECONDS = 600
SYNC_TYPES = {
    3: "AlbumsV2 AlbumUsersV1 AlbumToAssetsV1 AlbumAssetsV2 AlbumAssetExifsV1 AssetsV2 "
    "AssetExifsV1 AssetMetadataV1",
    2: "AlbumsV1 AlbumUsersV1 AlbumToAssetsV1 AlbumAssetsV1 AlbumAssetExifsV1 AssetsV1 "
    "AssetExifsV1 AssetMetadataV1",
}


def connect(login: Login) -> paramiko.Transport:
    """A logged-in paramiko transport."""
    transport = paramiko.Transport(("127.0.0.1", login.port))
    if login.password is not None:
        transport.connect(username=login.user, password=login.password)
    else:
        key = paramiko.Ed25519Key.from_private_key_file(login.key or "")
        transport.connect(username=login.user, pkey=key)
    return transport


@define(eq=False)
class Client:
    """One SFTP session; every call that asks is timed by the caller."""

    login: Login
    transport: paramiko.Transport = field(init=False)
    sftp: paramiko.SFTPClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.transport = connect(self.login)
        client = paramiko.SFTPClient.from_transport(self.transport)
        assert client is not None
        client.get_channel().settimeout(CLIENT_SECONDS)  # type: ignore[union-attr]
        self.sftp = client

    def close(self) -> None:
        """Hang up."""
        self.transport.close()

    def walk(self) -> int:
        """List every folder with all attributes; how many files there are."""
        files = 0
        for entry in self.sftp.listdir_attr(self.login.root):
            if stat.S_ISDIR(entry.st_mode or 0):
                files += len(self.sftp.listdir_attr(f"{self.login.root}/{entry.filename}"))
        return files

    def folder(self, name: str) -> int:
        """List one folder."""
        return len(self.sftp.listdir_attr(f"{self.login.root}/{name}"))

    def stats(self, paths: Sequence[str]) -> None:
        """One STAT after the other."""
        for path in paths:
            self.sftp.stat(path)

    def stats_at_once(self, paths: Sequence[str]) -> None:
        """As many STATs in flight as there are paths."""
        numbers = [
            self.sftp._async_request(type(None), paramiko.sftp.CMD_STAT, path.encode())  # type: ignore[attr-defined,arg-type]
            for path in paths
        ]
        wanted = set(numbers)
        while wanted:
            kind, data = self.sftp._read_packet()
            assert kind == paramiko.sftp.CMD_ATTRS  # type: ignore[attr-defined]
            wanted.discard(int.from_bytes(data[:4], "big"))


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rclone(login: Login, place: Path) -> Callable[[], object]:
    """`rclone lsf -R`, connection and log-in included."""
    config = place / f"rclone-{login.name}.conf"
    lines = ["[p]", "type = sftp", "host = 127.0.0.1", f"port = {login.port}"]
    lines += [f"user = {login.user}", "shell_type = none", "disable_hashcheck = true"]
    if login.password is not None:
        hidden = subprocess.run(
            ["rclone", "obscure", login.password], check=True, capture_output=True, text=True
        )
        lines.append(f"pass = {hidden.stdout.strip()}")
    else:
        lines.append(f"key_file = {login.key}")
    config.write_text("\n".join(lines) + "\n")
    command = ["rclone", "--config", str(config), "lsf", "-R", f"p:{login.root}"]
    return lambda: subprocess.run(
        command, check=True, timeout=CLIENT_SECONDS, stdout=subprocess.DEVNULL
    )


def openssh(login: Login, place: Path, folders: Sequence[str]) -> Callable[[], object]:
    """`sftp` with an `ls -l` for each folder, connection and log-in included."""
    batch = place / f"{login.name}.batch"
    batch.write_text("".join(f'ls -l "{login.root}/{name}"\n' for name in folders))
    command = ["sftp", "-q"]
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    environment = dict(os.environ)
    if login.password is not None:
        asks = place / "askpass"
        asks.write_text(f"#!/bin/sh\nprintf '%s\\n' '{login.password}'\n")
        asks.chmod(0o700)
        environment |= {"SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}
        options += ["BatchMode=no", "PubkeyAuthentication=no"]
    else:
        options += [f"IdentityFile={login.key}", "IdentitiesOnly=yes"]
    for option in [*options, f"User={login.user}"]:
        command += ["-o", option]
    # Behind the options: `-b` brings a BatchMode of its own, and the first one counts.
    command += ["-b", str(batch), "-P", str(login.port)]
    return lambda: subprocess.run(
        [*command, "127.0.0.1"],
        check=True,
        timeout=CLIENT_SECONDS,
        stdout=subprocess.DEVNULL,
        env=environment,
    )


def raw_sync(server: Immich, major: int) -> float:
    """The whole sync stream, read to its end by a new session."""
    session = server.log_in()
    types = SYNC_TYPES[major].split()

    def read() -> None:
        with session.open("POST", "/api/sync/stream", {"types": types}) as answer:
            for line in answer:
                json.loads(line)

    seconds = timed(read)
    session.call("POST", "/api/auth/logout")
    return seconds


def raw_delta(session: Immich, major: int) -> float:
    """A stream in which nothing has changed."""
    types = SYNC_TYPES[major].split()

    def read() -> None:
        with session.open("POST", "/api/sync/stream", {"types": types}) as answer:
            answer.read()

    return timed(read)


def raw_folder(server: Immich, major: int, album_id: str, count: int) -> float:
    """The fastest raw way to read one album: search pages side by side, or its one answer."""
    session = server.log_in()

    def page(number: int) -> None:
        wanted = {"albumIds": [album_id], "withExif": True, "size": 1000, "page": number}
        session.call("POST", "/api/search/metadata", wanted)

    def read() -> None:
        if major < 3:
            session.call("GET", f"/api/albums/{album_id}")
            return
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(page, range(1, count // 1000 + 2)))

    seconds = timed(read)
    session.call("POST", "/api/auth/logout")
    return seconds


@define(eq=False)
class Bench:
    """The library, the peers, and the rows of the table."""

    place: Path
    files: int
    albums: int
    runs: int
    version: str
    rows: list[Row] = field(factory=list)
    notes: list[str] = field(factory=list)

    @property
    def major(self) -> int:
        """The dialect."""
        return int(self.version.partition(".")[0])

    def fill(self, server: Immich) -> tuple[list[str], str, int]:
        """Two thirds of the assets in one album, the rest over the others, and as local files."""
        big = self.files * 2 // 3
        names = [f"IMG_{number:05d}.jpg" for number in range(self.files)]
        ids = server.call(
            "POST",
            "/control/assets",
            {
                "email": USER,
                "assets": [
                    {"name": name, "size": 1000 + number, "modified": TAKEN + number}
                    for number, name in enumerate(names)
                ],
            },
        )["ids"]
        share = (self.files - big) // (self.albums - 1)
        cuts = [("Big", 0, big)]
        cuts += [
            (f"Album {n:03d}", big + n * share, big + (n + 1) * share)
            for n in range(self.albums - 1)
        ]
        big_id = ""
        for name, low, high in cuts:
            made = server.call(
                "POST", "/control/albums", {"email": USER, "name": name, "assets": ids[low:high]}
            )
            big_id = big_id or made["id"]
            folder = self.place / "tree" / name
            folder.mkdir(parents=True)
            for number in range(low, high):
                path = folder / names[number]
                with path.open("wb") as file:
                    file.truncate(1000 + number)
                os.utime(path, (TAKEN + number, TAKEN + number))
        return [name for name, _, _ in cuts], big_id, big

    def run(self) -> None:
        """Everything."""
        with ExitStack() as stack:
            server = stack.enter_context(demo(self.place, self.version))
            folders, big_id, big = self.fill(server)
            peer = stack.enter_context(sshd(self.place, self.place / "tree"))
            self.cold(server, peer, big_id, big)
            warm = stack.enter_context(ours(self.place, server.url))
            client, other = Client(warm), Client(peer)
            expected = other.walk()
            found = client.walk()
            if found != expected:
                raise SystemExit(f"walked {found} files instead of {expected}")
            self.warm(client, other, warm, peer, folders)
            self.stats(client, other, big)
            self.changes(server, client)
            client.close()
            other.close()

    def cold(self, server: Immich, peer: Login, big_id: str, big: int) -> None:
        """Nothing is known yet: a service and a session of its own for each run."""
        tree: list[float] = []
        tree_bound: list[float] = []
        folder: list[float] = []
        folder_raw: list[float] = []
        for number in range(self.runs):
            place = self.place / f"cold-{number}"
            place.mkdir()
            with ours(place, server.url) as login:
                client = Client(login)
                tree.append(timed(client.walk))
                client.close()
            other = Client(peer)
            tree_bound.append(1.3 * raw_sync(server, self.major) + timed(other.walk))
            other.close()
            with ours(place, server.url) as login:
                client = Client(login)
                folder.append(timed(lambda client=client: client.folder("Big")))  # type: ignore[misc]
                client.close()
            ways = (raw_folder(server, self.major, big_id, big), raw_sync(server, self.major))
            folder_raw.append(min(ways))
        self.add("whole tree, cold, paramiko", tree, "1.3 x stream + sshd", tree_bound, 1.0)
        self.add(f"folder of {big}, cold, paramiko", folder, "raw API", folder_raw, 1.3)

    def warm(
        self, client: Client, other: Client, login: Login, peer: Login, folders: Sequence[str]
    ) -> None:
        """Everything is known: the same client on both."""
        pairs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("whole tree, warm, paramiko", client.walk, other.walk),
            (
                "whole tree, warm, rclone lsf -R",
                rclone(login, self.place),
                rclone(peer, self.place),
            ),
            (
                "whole tree, warm, OpenSSH sftp",
                openssh(login, self.place, folders),
                openssh(peer, self.place, folders),
            ),
            (
                "the big folder, warm, paramiko",
                lambda: client.folder("Big"),
                lambda: other.folder("Big"),
            ),
        ]
        for measure, mine, theirs in pairs:
            values = [(timed(mine), timed(theirs)) for _ in range(self.runs)]
            self.add(measure, [a for a, _ in values], "sshd", [b for _, b in values], 1.0)

    def stats(self, client: Client, other: Client, big: int) -> None:
        """STATs, one in flight and a thousand."""
        names = [f"Big/IMG_{number:05d}.jpg" for number in range(0, big, max(1, big // 1000))][
            :1000
        ]
        mine = [f"{client.login.root}/{name}" for name in names]
        theirs = [f"{other.login.root}/{name}" for name in names]
        one = [
            (timed(lambda: client.stats(mine)), timed(lambda: other.stats(theirs)))
            for _ in range(self.runs)
        ]
        per = len(names)
        self.add(
            "stat, one in flight", [a / per for a, _ in one], "sshd", [b / per for _, b in one], 2.0
        )
        many = [
            (timed(lambda: client.stats_at_once(mine)), timed(lambda: other.stats_at_once(theirs)))
            for _ in range(self.runs)
        ]
        self.add(f"stat, {per} in flight", [a for a, _ in many], "sshd", [b for _, b in many], 2.0)

    def changes(self, server: Immich, client: Client) -> None:
        """When a change made by another client of Immich shows, and one of our own."""
        session = server.log_in()
        theirs = []
        for number in range(self.runs):
            name = f"From outside {number}"
            session.call("POST", "/api/albums", {"albumName": name})
            start = time.perf_counter()
            while name not in client.sftp.listdir("/"):
                time.sleep(0.02)
            theirs.append(time.perf_counter() - start)
        own = []
        for number in range(self.runs):
            name = f"Own {number}"
            client.sftp.mkdir(f"/{name}")
            start = time.perf_counter()
            assert name in client.sftp.listdir("/")
            own.append(time.perf_counter() - start)
        # A first stream and its acks, so that the next one is a delta.
        delta = Series("delta", tuple(raw_delta(session, self.major) for _ in range(self.runs)))
        self.notes.append(f"a change from outside shows after {Series('outside', tuple(theirs))}")
        self.notes.append(f"an own change shows after {Series('own', tuple(own))}")
        self.notes.append(f"a stream without acks, raw: {delta}")
        session.call("POST", "/api/auth/logout")

    def add(
        self, measure: str, mine: Sequence[float], who: str, theirs: Sequence[float], bound: float
    ) -> None:
        """One more row, shown at once."""
        row = Row(
            measure, Series("ours", tuple(mine)), Series(who, tuple(theirs)), f"<= {bound:g}", bound
        )
        self.rows.append(row)
        print(row, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write the CSV; 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the files, three runs")
    parser.add_argument("--version", default="3.1.0", choices=("2.5.6", "3.1.0"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"))
    options = parser.parse_args(arguments)
    files, albums, runs = (1500, 20, 3) if options.quick else (15_000, 200, 5)
    options.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), files, albums, runs, options.version)
        bench.run()
    for note in bench.notes:
        print(note)
    write_csv(options.out / "catalog.csv", bench.rows)
    missed = [row.measure for row in bench.rows if not row.met]
    print(f"{len(bench.rows) - len(missed)} marks met, {len(missed)} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
