"""The servers that a transfer is held against, each as a process that ends with the block."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve

from benchmarks.peers import (
    PASSWORD,
    ROOT,
    USER,
    CannotMeasure,
    Immich,
    Login,
    free_port,
    need,
    running,
    wait_for_banner,
)


@contextmanager
def memory(place: Path, server: Immich) -> Iterator[Login]:
    """Ours, with the bytes in memory."""
    port, home = free_port(), place / "memory"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.memory_service", "--immich", server.url]
    command += ["--port", str(port), "--place", str(home)]
    log = place / "memory.log"
    with running(command, log, cwd=ROOT) as process:
        wait_for_banner(port, process, log)
        yield Login("ours", port, USER, PASSWORD, pid=process.pid)


@contextmanager
def conch(place: Path, files: Mapping[str, int]) -> Iterator[Login]:
    """Conch unmodified, with the bytes in memory."""
    port, log = free_port(), place / "conch.log"
    command = [sys.executable, "-m", "benchmarks.other_servers", "conch", "--port", str(port)]
    for name, size in files.items():
        command += ["--file", f"{name}:{size}"]
    with running(command, log, cwd=ROOT) as process:
        wait_for_banner(port, process, log)
        yield Login("Conch", port, USER, PASSWORD, pid=process.pid)


@contextmanager
def asyncssh(place: Path, root: Path) -> Iterator[Login]:
    """asyncssh's server on a local directory."""
    if importlib.util.find_spec("asyncssh") is None:
        raise CannotMeasure("not installed: asyncssh (pip install 'immich-conch[bench]')")
    port, log = free_port(), place / "asyncssh.log"
    command = [sys.executable, "-m", "benchmarks.other_servers", "asyncssh", "--port", str(port)]
    with running([*command, "--root", str(root)], log, cwd=ROOT) as process:
        wait_for_banner(port, process, log)
        yield Login("asyncssh", port, USER, PASSWORD, pid=process.pid)


@contextmanager
def rclone(place: Path, root: Path, host_key: Path) -> Iterator[Login]:
    """`rclone serve sftp` on a local directory, with its defaults."""
    need("rclone")
    port, log = free_port(), place / "rclone.log"
    command = ["rclone", "--config", str(place / "rclone-serve.conf"), "serve", "sftp", str(root)]
    command += ["--addr", f"127.0.0.1:{port}", "--user", USER, "--pass", PASSWORD]
    command += ["--key", str(host_key), "--cache-dir", str(place / "rclone-cache")]
    with running(command, log) as process:
        wait_for_banner(port, process, log)
        yield Login("rclone serve", port, USER, PASSWORD, pid=process.pid)


@contextmanager
def relayed(place: Path, login: Login, round_trip: float, rate: float) -> Iterator[Login]:
    """A server at the other end of a long wire; seconds, and millions of bytes a second."""
    command = [sys.executable, "-m", "benchmarks.relay", "--to", str(login.port)]
    command += ["--round-trip", str(round_trip), "--rate", str(rate)]
    log = place / f"relay-{login.name}.log"
    with running(command, log, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CannotMeasure(f"the relay does not start:\n{log.read_text()}")
        yield evolve(login, port=int(line.split()[-1]))
