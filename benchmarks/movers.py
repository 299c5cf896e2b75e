"""The clients that move one large file: OpenSSH's `sftp`, rclone, paramiko, and curl beside them.

Each call has a limit, `CLIENT_SECONDS` where there is a mark and `OTHER_SECONDS` where there is
none, and raises CannotMeasure at its end.  What is timed does not contain the log-in, but for
rclone, whose connection is part of what it does.
"""

from __future__ import annotations

import json
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]
from attrs import define, field, frozen

from benchmarks.clients import (
    CLIENT_SECONDS,
    Client,
    openssh_command,
    quoted,
    rclone_remote,
    timed,
)
from benchmarks.content import Content
from benchmarks.peers import CannotMeasure, Immich, Login
from benchmarks.process import tree_cpu_seconds

NULL = "/dev/null"
OTHER_SECONDS = 60


@frozen
class Moved:
    """What one transfer took: seconds, and CPU seconds of whoever is looked at."""

    seconds: float
    cpu: float = 0.0


@define(eq=False)
class Sftp:
    """OpenSSH's `sftp`, logged in, waiting for commands."""

    login: Login
    process: subprocess.Popen[str] = field(repr=False)

    def run(self, command: str) -> Moved:
        """Seconds of one command, and the CPU seconds of the server meanwhile.

        `pwd` behind it is answered by the client itself, when the command has come to its end.
        """
        timer = threading.Timer(CLIENT_SECONDS, self.process.kill)
        timer.start()
        try:
            before = tree_cpu_seconds(self.login.pid)
            start = time.perf_counter()
            self._ask(command)
            seconds = time.perf_counter() - start
            return Moved(seconds, tree_cpu_seconds(self.login.pid) - before)
        finally:
            timer.cancel()

    def _ask(self, command: str) -> None:
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{command}\npwd\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("Remote working directory"):
                return
        process.wait()
        raise CannotMeasure(f"sftp on {self.login.name}: {command!r} failed")

    def get(self, path: str, target: str = NULL) -> Moved:
        """Download, to where it costs nothing."""
        return self.run(f"get {quoted(self.login.path(path))} {quoted(target)}")

    def put(self, source: Path, path: str, times: bool = False) -> Moved:
        """Upload; with `times` as `put -p`, which our service answers when Immich has it."""
        flag = "-p " if times else ""
        return self.run(f"put {flag}{quoted(str(source))} {quoted(self.login.path(path))}")


@contextmanager
def sftp(login: Login, place: Path) -> Iterator[Sftp]:
    """One session with default settings."""
    command, environment = openssh_command(login, place, "-")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        session = Sftp(login, process)
        session.run("")
        yield session
    finally:
        process.terminate()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


def rclone_copy(login: Login, place: Path, source: str, target: str) -> Moved:
    """`rclone copyto`; a remote path begins with `p:`."""
    config, environment = rclone_remote(login, place)
    command = ["rclone", "--config", str(config), "copyto", "--ignore-times", "--retries", "1"]
    before = tree_cpu_seconds(login.pid)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, source, target],
            timeout=OTHER_SECONDS,
            env=environment,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"not done after {OTHER_SECONDS} s") from None
    seconds = time.perf_counter() - start
    if done.returncode:
        raise CannotMeasure(done.stderr.strip().rpartition("\n")[2])
    return Moved(seconds, tree_cpu_seconds(login.pid) - before)


class Sink(RawIOBase):
    """Takes everything."""

    def write(self, data: Any) -> int:
        """Drop it."""
        return len(data)


def _by_paramiko(login: Login, work: Callable[[Any], object]) -> Moved:
    client = Client(login)
    ended = threading.Event()

    def give_up() -> None:
        ended.set()
        client.close()

    timer = threading.Timer(OTHER_SECONDS, give_up)
    timer.start()
    try:
        before = tree_cpu_seconds(login.pid)
        seconds = timed(lambda: work(client.sftp))
        return Moved(seconds, tree_cpu_seconds(login.pid) - before)
    except (OSError, EOFError, paramiko.SSHException) as error:
        late = f"not done after {OTHER_SECONDS} s"
        raise CannotMeasure(late if ended.is_set() else str(error)) from error
    finally:
        timer.cancel()
        client.close()


def paramiko_get(login: Login, path: str) -> Moved:
    """`SFTPClient.getfo` to nowhere."""
    return _by_paramiko(login, lambda client: client.getfo(login.path(path), Sink()))


def paramiko_put(login: Login, source: Path, path: str) -> Moved:
    """`SFTPClient.put`, without the STAT at its end, which not every peer can answer."""
    return _by_paramiko(
        login, lambda client: client.put(str(source), login.path(path), confirm=False)
    )


def _curl(server: Immich, path: str, *options: str) -> tuple[Moved, str]:
    command = ["curl", "-sS", "--fail", "-K", "-", "-m", str(CLIENT_SECONDS), "-o", NULL]
    command += ["-w", "%{json}", *options, server.url + path]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        # The token: not on a command line.
        input=f'header = "Authorization: Bearer {server.token}"\n',
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = json.loads(done.stdout)
    return Moved(float(said["time_total"]), cpu), str(said["size_download"])


def curl_get(server: Immich, asset_id: str, size: int) -> Moved:
    """An original to nowhere; CPU seconds are curl's own."""
    moved, got = _curl(server, f"/api/assets/{asset_id}/original")
    if int(float(got)) != size:
        raise CannotMeasure(f"curl got {got} bytes of {size}")
    return moved


def curl_put(server: Immich, source: Path, name: str) -> Moved:
    """A multipart upload; CPU seconds are curl's own."""
    fields = {"filename": name, "fileCreatedAt": "2024-05-01T10:00:00.000Z"}
    fields["fileModifiedAt"] = fields["fileCreatedAt"]
    options = [word for key, value in fields.items() for word in ("-F", f"{key}={value}")]
    moved, _ = _curl(server, "/api/assets", *options, "-F", f"assetData=@{source};filename={name}")
    return moved


def matches(path: Path, content: Content) -> None:
    """A file has to have these bytes; raises CannotMeasure."""
    with path.open("rb") as file:
        for piece in content.pieces():
            if file.read(len(piece)) != piece:
                raise CannotMeasure(f"{path.name} has not the bytes of {content.name}")
        if file.read(1):
            raise CannotMeasure(f"{path.name} is longer than {content.name}")
