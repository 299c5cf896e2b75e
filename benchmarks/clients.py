"""The SFTP clients that do the same work on our service and on OpenSSH's server."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]
from attrs import define, field

from benchmarks.peers import PASSWORD_VARIABLE, CannotMeasure, Login

CLIENT_SECONDS = 600

#: The folders of a tree, each as its path and what is in it.
Tree = list[tuple[str, list[Any]]]


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def is_folder(entry: Any) -> bool:
    """Whether paramiko's attributes are those of a folder."""
    return stat.S_ISDIR(entry.st_mode or 0)


def files_in(tree: Tree) -> int:
    """How many files a tree has."""
    return sum(not is_folder(entry) for _, entries in tree for entry in entries)


def expect(what: str, found: int, expected: int) -> None:
    """A listing that lacks something is no measurement; raises CannotMeasure."""
    if found != expected:
        raise CannotMeasure(f"{what}: {found} entries instead of {expected}")


@define(eq=False)
class Client:
    """One session of paramiko; every call that asks is timed by the caller."""

    login: Login
    transport: Any = field(init=False)
    sftp: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        login = self.login
        self.transport = paramiko.Transport(("127.0.0.1", login.port))
        if login.password is not None:
            self.transport.connect(username=login.user, password=login.password)
        else:
            key = paramiko.Ed25519Key.from_private_key_file(login.key)
            self.transport.connect(username=login.user, pkey=key)
        self.sftp = paramiko.SFTPClient.from_transport(self.transport)
        self.sftp.get_channel().settimeout(CLIENT_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self.transport.close()

    def tree(self) -> Tree:
        """List every folder with all attributes."""
        found: Tree = []
        waiting = [""]
        while waiting:
            path = waiting.pop()
            entries = self.sftp.listdir_attr(self.login.path(path))
            found.append((path, entries))
            prefix = f"{path}/" if path else ""
            waiting += [prefix + entry.filename for entry in entries if is_folder(entry)]
        return found

    def folder(self, path: str) -> list[Any]:
        """List one folder."""
        return list(self.sftp.listdir_attr(self.login.path(path)))

    def names(self, path: str = "") -> list[str]:
        """The names in a folder."""
        return list(self.sftp.listdir(self.login.path(path)))

    def stats(self, paths: Sequence[str]) -> list[float]:
        """One STAT after the other; the seconds of each."""
        seconds = []
        for path in paths:
            start = time.perf_counter()
            self.sftp.stat(path)
            seconds.append(time.perf_counter() - start)
        return seconds

    def stats_at_once(self, paths: Sequence[str]) -> None:
        """As many STATs in flight as there are paths."""
        # paramiko has no public call that sends without waiting.
        wanted = {
            self.sftp._async_request(type(None), paramiko.sftp.CMD_STAT, path.encode())
            for path in paths
        }
        while wanted:
            kind, data = self.sftp._read_packet()
            if kind != paramiko.sftp.CMD_ATTRS:
                raise CannotMeasure("a STAT was refused")
            wanted.discard(int.from_bytes(data[:4], "big"))


def _environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != PASSWORD_VARIABLE} | more


def rclone_remote(login: Login, place: Path) -> tuple[Path, dict[str, str]]:
    """A configuration file with a remote `p:`, and the environment that belongs to it."""
    config = place / f"rclone-{login.name}.conf"
    lines = ["[p]", "type = sftp", "host = 127.0.0.1", f"port = {login.port}"]
    lines += [f"user = {login.user}", "shell_type = none", "disable_hashcheck = true"]
    environment = _environment()
    if login.password is not None:
        # Neither on a disk nor on a command line.
        environment["RCLONE_CONFIG_P_PASS"] = subprocess.run(
            ["rclone", "obscure", "-"],
            check=True,
            capture_output=True,
            text=True,
            input=login.password,
        ).stdout.strip()
    else:
        lines.append(f"key_file = {login.key}")
    config.write_text("\n".join(lines) + "\n")
    return config, environment


def rclone(login: Login, place: Path, entries: int) -> Callable[[], None]:
    """`rclone lsf -R`, connection and log-in included; it has to list so many files and folders."""
    config, environment = rclone_remote(login, place)
    command = ["rclone", "--config", str(config), "lsf", "-R", f"p:{login.root}"]

    def work() -> None:
        done = subprocess.run(
            command, check=True, timeout=CLIENT_SECONDS, stdout=subprocess.PIPE, env=environment
        )
        expect(f"rclone on {login.name}", done.stdout.count(b"\n"), entries)

    return work


def quoted(path: str) -> str:
    """A path as a word of OpenSSH sftp's batch file; it escapes what is a pattern by itself."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def openssh_options(login: Login, place: Path) -> tuple[list[str], dict[str, str]]:
    """What OpenSSH's clients have to be told to log in, and the environment that belongs to it."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    environment = _environment()
    if login.password is not None:
        asks = place / "askpass"
        asks.write_text("#!/bin/sh\nprintf '%s\\n' \"$BENCH_ASKPASS\"\n")
        asks.chmod(0o700)
        environment |= {"SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}
        environment["BENCH_ASKPASS"] = login.password
        options += ["BatchMode=no", "PubkeyAuthentication=no"]
    else:
        options += [f"IdentityFile={login.key}", "IdentitiesOnly=yes"]
    options += [f"User={login.user}", f"Port={login.port}"]
    return [word for option in options for word in ("-o", option)], environment


def openssh_command(login: Login, place: Path, batch: str) -> tuple[list[str], dict[str, str]]:
    """`sftp` with its default settings on a batch file, and the environment that belongs to it."""
    options, environment = openssh_options(login, place)
    # Behind the options: `-b` brings a BatchMode of its own, and the first one counts.
    return ["sftp", "-q", *options, "-b", batch, "127.0.0.1"], environment


def openssh(login: Login, place: Path, folders: Sequence[str], files: int) -> Callable[[], None]:
    """`sftp` with an `ls -l` for each folder, connection and log-in included."""
    batch = place / f"{login.name}.batch"
    batch.write_text("".join(f"ls -la {quoted(login.path(name))}\n" for name in folders))
    command, environment = openssh_command(login, place, str(batch))

    def work() -> None:
        done = subprocess.run(
            command, check=True, timeout=CLIENT_SECONDS, stdout=subprocess.PIPE, env=environment
        )
        found = sum(line.startswith(b"-") for line in done.stdout.splitlines())
        expect(f"sftp on {login.name}", found, files)

    return work
