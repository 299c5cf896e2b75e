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

from attrs import define, frozen

USER, PASSWORD = "bench@example.com", "bench mark"
ROOT = Path(__file__).parents[1]
START_SECONDS = 20.0
SSHD = "/usr/sbin/sshd"


@frozen
class Login:
    """How to reach an SFTP server; a password, or a private key's file."""

    name: str
    port: int
    user: str
    password: str | None = None
    key: str | None = None
    root: str = "/"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_banner(port: int) -> None:
    """Return when an SSH server greets; raises TimeoutError."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing greets on port {port}")


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
    """An Immich server's API: the demo, or a real one."""

    url: str
    token: str = ""

    def call(self, method: str, path: str, data: Any = None) -> Any:
        """One JSON call; raises urllib's errors."""
        with self.open(method, path, data) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def open(self, method: str, path: str, data: Any = None) -> Any:
        """One call whose answer is read by the caller."""
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=300)

    def log_in(self) -> Immich:
        """The same server with a session of its own."""
        answer = self.call("POST", "/api/auth/login", {"email": USER, "password": PASSWORD})
        return Immich(self.url, answer["accessToken"])


@contextmanager
def demo(place: Path, version: str = "3.1.0") -> Iterator[Immich]:
    """A demo Immich in a process of its own, with one user and nothing else."""
    command = [sys.executable, "-m", "immich_conch.demo", "--port", "0", "--version", version]
    command += ["--control", "--empty"]
    with running(command, place / "demo.log", stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        server = Immich(url)
        user = {"email": USER, "password": PASSWORD, "name": "Bench"}
        server.call("POST", "/control/users", user)
        yield server


@contextmanager
def ours(place: Path, url: str, *options: str) -> Iterator[Login]:
    """Our service before an Immich server."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "immich-sftp"]
    command += ["--immich-host", url, "--endpoint", f"tcp:{port}:interface=127.0.0.1"]
    command += ["--host-key-dir", str(place / "keys"), "--spool-dir", str(place / "spool")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running([*command, *options], place / "ours.log", env=environment, cwd=place):
        wait_for_banner(port)
        yield Login("ours", port, USER, PASSWORD)


@contextmanager
def sshd(place: Path, root: Path, *options: str) -> Iterator[Login]:
    """OpenSSH's server with internal-sftp, by key, on a local directory."""
    home = place / "sshd"
    home.mkdir(exist_ok=True)
    for name in ("host", "client"):
        if not (home / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True
            )
    shutil.copy(home / "client.pub", home / "authorized")
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
    with running([*command, *options], place / "sshd.log"):
        wait_for_banner(port)
        user = os.environ.get("USER") or "root"
        yield Login("sshd", port, user, key=str(home / "client"), root=str(root))
