"""The processes a measurement runs against: the demo Immich, our service, OpenSSH's server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

USER, PASSWORD = "bench@example.com", "bench mark"
#: Where the password for a real server is taken from; never handed on to another process.
PASSWORD_VARIABLE = "IMMICH_CONCH_BENCH_PASSWORD"
ROOT = Path(__file__).parents[1]
START_SECONDS = 20.0
CALL_SECONDS = 300.0
FAREWELL_SECONDS = 1.0
SSHD = "/usr/sbin/sshd"
#: `twistd`, without the script, which another environment may have lent us no copy of.
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")


class CannotMeasure(Exception):
    """Something that a measurement needs is not there; the text says what."""


@frozen
class Login:
    """How to reach an SFTP server; a password, or a private key's file."""

    name: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)
    key: str | None = None
    root: str = "/"
    #: The process of the server.
    pid: int = 0

    def path(self, relative: str) -> str:
        """An absolute path of something in the tree."""
        return f"{self.root.rstrip('/')}/{relative}"


def need(*programs: str) -> None:
    """Raise CannotMeasure unless these can be started."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise CannotMeasure(f"not installed: {', '.join(missing)}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_banner(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Return when an SSH server greets; raises CannotMeasure with the end of its log."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.1)
    end = "\n".join(log.read_text().splitlines()[-5:])
    raise CannotMeasure(f"nothing greets on port {port}:\n{end}")


@contextmanager
def running(command: Sequence[str], log: Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=more.pop("stdout", output), stderr=output, text=True, **more
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@define(eq=False)
class Immich:
    """An Immich server's API and one of its users: the demo, or a real one."""

    url: str
    email: str = USER
    password: str = field(default=PASSWORD, repr=False)
    token: str = field(default="", repr=False)
    #: The demo's process; 0 for a server of somebody else's.
    pid: int = 0

    @property
    def counted(self) -> bool:
        """Whether it tells what it was asked, as the demo does."""
        return bool(self.pid)

    def call(self, method: str, path: str, data: Any = None) -> Any:
        """One JSON call; raises urllib's errors."""
        body = self.read(method, path, data)
        return json.loads(body) if body else None

    def read(self, method: str, path: str, data: Any = None) -> bytes:
        """One call; the bytes of the answer."""
        with self.open(method, path, data) as answer:
            return bytes(answer.read())

    def open(self, method: str, path: str, data: Any = None) -> Any:
        """One call whose answer is read by the caller."""
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=CALL_SECONDS)

    @contextmanager
    def session(self) -> Iterator[Immich]:
        """The same server with a session of its own, which ends with the block."""
        login = {"email": self.email, "password": self.password}
        session = evolve(self, token=self.call("POST", "/api/auth/login", login)["accessToken"])
        try:
            yield session
        finally:
            session.call("POST", "/api/auth/logout")

    def version(self) -> str:
        """`3.1.0`."""
        told = self.call("GET", "/api/server/version")
        return f"{told['major']}.{told['minor']}.{told['patch']}"

    def streams(self) -> int:
        """How many sync streams the demo was asked for so far."""
        return int(self.call("GET", "/control/state")["requests"].get("POST /sync/stream", 0))


@contextmanager
def demo(place: Path, version: str = "3.1.0") -> Iterator[Immich]:
    """A demo Immich in a process of its own, with one user and nothing else."""
    command = [sys.executable, "-m", "immich_conch.demo", "--port", "0", "--version", version]
    command += ["--control", "--empty"]
    with running(command, place / "demo.log", stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        server = Immich(url, pid=process.pid)
        user = {"email": USER, "password": PASSWORD, "name": "Bench"}
        server.call("POST", "/control/users", user)
        yield server


@contextmanager
def ours(place: Path, server: Immich, *options: str) -> Iterator[Login]:
    """Our service before an Immich server, new, with what IMMICH_CONCH_… says around it."""
    port = free_port()
    command = [*TWISTD, "-n", "--pidfile=", "immich-sftp"]
    command += ["--immich-host", server.url, "--endpoint", f"tcp:{port}:interface=127.0.0.1"]
    command += ["--host-key-dir", str(place / "keys"), "--spool-dir", str(place / "spool")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(PASSWORD_VARIABLE, None)
    log = place / "ours.log"
    with running([*command, *options], log, env=environment, cwd=place) as process:
        wait_for_banner(port, process, log)
        yield Login("ours", port, server.email, server.password, pid=process.pid)
        if not server.counted:
            # Whoever has just hung up is logged out, and stays no longer in the list of devices.
            time.sleep(FAREWELL_SECONDS)


@contextmanager
def sshd(place: Path, root: Path, *options: str) -> Iterator[Login]:
    """OpenSSH's server with internal-sftp, by key, on a local directory."""
    need(SSHD, "ssh-keygen")
    home = place / "sshd"
    home.mkdir(exist_ok=True)
    for name in ("host", "client"):
        if not (home / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True
            )
    shutil.copy(home / "client.pub", home / "authorized")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    settings = {
        "ListenAddress": "127.0.0.1",
        "HostKey": home / "host",
        "AuthorizedKeysFile": home / "authorized",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
        "UsePAM": "no",
        "PidFile": "none",
        "MaxStartups": "100",
        "Subsystem": "sftp internal-sftp",
    }
    command = [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port)]
    for key, value in settings.items():
        command += ["-o", f"{key}={value}"]
    log = place / "sshd.log"
    environment = {key: value for key, value in os.environ.items() if key != PASSWORD_VARIABLE}
    with running([*command, *options], log, env=environment) as process:
        wait_for_banner(port, process, log)
        user = os.environ.get("USER") or "root"
        key = str(home / "client")
        yield Login("sshd", port, user, key=key, root=str(root), pid=process.pid)
