"""Real processes for the tests of real clients: a demo Immich, a twistd before it, a user at it.

Nothing here knows SFTP.  A `Demo` is `python -m immich_conch.demo --control`, a `Service` is
`twistd immich-sftp`; both write their log to a file.  A `World` is one demo and the services
before it, and a `User` is somebody with an account of their own there, so that tests can share the
processes.  What a test wants to know it asks the demo's state, never the service.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from attrs import define, field

ROOT = Path(__file__).resolve().parents[2]

#: Seconds that a process may take to be ready, and to end.
READY, END = 30.0, 20.0
#: Seconds that one call of a client may take; one that takes longer waits for ever.
CLIENT = 60.0
#: Seconds without a SETSTAT after which a service commits: soon, and later than any test lasts.
SOON, LATER = 0.5, 300.0
#: Seconds that something in the background may take on a slow machine.
EVENTUALLY = 20.0
#: A session's token as the demo makes it, and nothing else of that length.
TOKEN = re.compile(r"(?<![\w+/:-])[\w-]{43}(?![\w+/-])")

T = TypeVar("T")


def photo(size: int, seed: object = None) -> bytes:
    """Bytes of a made-up file, other ones at each call unless the seed is the same."""
    numbers = random.Random(secrets.token_hex(8) if seed is None else repr(seed))
    return numbers.randbytes(size)


def sha256(data: bytes | Path) -> str:
    """The SHA-256 of bytes or of a file."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha1(data: bytes | Path) -> str:
    """The SHA-1 of bytes or of a file, as Immich writes it."""
    if isinstance(data, bytes):
        return base64.b64encode(hashlib.sha1(data).digest()).decode()
    with data.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha1").digest()).decode()


def posix(text: str) -> float:
    """The POSIX seconds of one of Immich's dates."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def eventually(
    look: Callable[[], T | None], what: str | Callable[[], str], limit: float = EVENTUALLY
) -> T:
    """What `look` gives once it is neither None nor False; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > end:
            pytest.fail(f"not within {limit:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    limit: float = CLIENT,
    check: bool = True,
    text: str | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.CompletedProcess[str]:
    """Run a client; one that waits for ever fails the test, as one that fails does if `check`."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "LC_ALL": "C.UTF-8", "TZ": "UTC", **(env or {})},
        stdin=stdin if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(text, timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{command[0]} did not end within {limit:.0f} s\n{out[-2000:]}\n{err[-2000:]}")
    if check and process.returncode:
        pytest.fail(f"{command[0]} failed with {process.returncode}\n{out[-3000:]}\n{err[-3000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Process:
    """A server as a process, with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._command = list(command)
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.log.parent,
                env={
                    **{key: value for key, value in os.environ.items() if "IMMICH" not in key},
                    "PYTHONPATH": str(ROOT),
                    "TZ": "UTC",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it has written this."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.text())
            if found is None and not self.alive:
                self.fail("has ended")
            return found

        return eventually(
            look, lambda: f"{pattern} in the log:\n{self.text()[-3000:]}", limit=READY
        )

    def fail(self, why: str) -> NoReturn:
        """Fail the test with the log."""
        pytest.fail(f"{self.log.stem} {why}:\n{self.text()[-3000:]}")

    def kill(self) -> None:
        """End it as a power cut would, without a word."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; the exit status."""
        if self.alive:
            self._process.terminate()
        try:
            return self._process.wait(END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self.fail("did not stop")


class Demo(Process):
    """A demo Immich without anybody in it."""

    def __init__(self, version: str, directory: Path) -> None:
        directory.mkdir()
        super().__init__(
            [
                *(sys.executable, "-m", "immich_conch.demo", "--port", "0"),
                *("--version", version, "--control", "--empty"),
            ],
            directory / "demo.log",
        )
        self.url = self.wait_for(r"listening on (http://\S+)")[1]

    def ask(self, method: str, route: str, /, **data: Any) -> Any:
        """One request below `/control/`."""
        request = urllib.request.Request(
            f"{self.url}/control/{route}",
            method=method,
            data=json.dumps(data).encode() if data else None,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=EVENTUALLY) as answer:
            return json.load(answer)

    def state(self, email: str = "") -> dict[str, Any]:
        """All that is in it, or what one user has there."""
        found: dict[str, Any] = self.ask("GET", "state", **({"email": email} if email else {}))
        return found

    def counts(self) -> dict[str, Any]:
        """How many `sessions` and `faults` there are, and the `requests` by route so far."""
        found: dict[str, Any] = self.ask("GET", "counts")
        return found

    def fault(self, kind: str, **options: Any) -> None:
        """Let something go wrong; see `demo.faults`."""
        self.ask("POST", "faults", kind=kind, **options)

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self.ask("DELETE", "faults")


class Service(Process):
    """`twistd immich-sftp` on a port of its own."""

    def __init__(self, directory: Path, host_keys: Path, url: str, *options: str) -> None:
        directory.mkdir()
        self.port = free_port()
        self.spool = directory / "spool"
        super().__init__(
            [
                *(str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "immich-sftp"),
                *("--immich-host", url),
                # Sessions are counted after each test; these would outlive it.
                *("--mirror-keep", "0", "--login-memory", "0"),
                *("--endpoint", f"tcp:{self.port}:interface=127.0.0.1"),
                *("--host-key-dir", str(host_keys), "--spool-dir", str(self.spool)),
                *("--login-delay", "0.1", *options),
            ],
            directory / f"{directory.name}.log",
        )
        self._wait_for_greeting()

    def start_again(self) -> None:
        """Start it once more after it ended: same port, same spool, same log."""
        assert not self.alive
        self._start()
        self._wait_for_greeting()

    def _wait_for_greeting(self) -> None:
        eventually(self._greets, lambda: f"an SSH banner:\n{self.text()}", limit=READY)

    def _greets(self) -> bool:
        if not self.alive:
            self.fail("has ended")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(8).startswith(b"SSH-2.0-")
        except OSError:
            return False

    def fingerprints(self) -> list[str]:
        """The host keys' SHA-256 fingerprints."""
        return re.findall(r"host key .*?(SHA256:[\w+/]+)", self.text())

    def spooled(self) -> list[str]:
        """What lies in the spool, but for its lock and what an administrator asked for."""
        return sorted(
            path.name
            for path in self.spool.rglob("*")
            if path.is_file() and path.name != ".lock" and path.parent.name != "control"
        )

    def wait_until_done(self) -> None:
        """Wait until all that clients gave it is in Immich, and nothing is left in the spool."""

        def told() -> str:
            return "\n".join(path.read_text() for path in self.spool.glob("*.json"))

        eventually(lambda: not self.spooled(), lambda: f"an empty spool: {told()}")


@define(eq=False)
class User:
    """Somebody with an account at one demo, and what they have there."""

    world: World
    email: str
    password: str = field(repr=False)

    def key(self, *permissions: str) -> str:
        """A new API key."""
        answer = self.world.demo.ask(
            "POST", "keys", email=self.email, permissions=permissions or ["all"]
        )
        secret = str(answer["secret"])
        self.world.secrets.add(secret)
        return secret

    def asset(
        self, name: str, content: bytes | None = None, modified: float = 1.6e9, size: int = 1000
    ) -> str:
        """Put an asset in; without content it has `size` made-up bytes.  The id."""
        entry: dict[str, Any] = {"name": name, "modified": modified, "size": size}
        if content is not None:
            entry["content"] = base64.b64encode(content).decode()
        answer = self.world.demo.ask("POST", "assets", email=self.email, assets=[entry])
        return str(answer["ids"][0])

    def assets(self, names: Sequence[str], modified: float = 1.6e9, size: int = 1000) -> list[str]:
        """Put many made-up assets in; their ids."""
        entries = [{"name": name, "modified": modified, "size": size} for name in names]
        answer = self.world.demo.ask("POST", "assets", email=self.email, assets=entries)
        return [str(found) for found in answer["ids"]]

    def album(
        self,
        name: str,
        assets: Sequence[str] = (),
        description: str = "",
        shared: Mapping[str, str] | None = None,
    ) -> str:
        """Make an album; the id."""
        answer = self.world.demo.ask(
            "POST",
            "albums",
            email=self.email,
            name=name,
            assets=list(assets),
            description=description,
            shared=dict(shared or {}),
        )
        return str(answer["id"])

    def albums(self) -> list[dict[str, Any]]:
        """The albums that belong to this user."""
        state = self.world.demo.state(self.email)
        return [album for album in state["albums"] if album["owner"] == self.email]

    def inside(self, album: str) -> list[dict[str, Any]]:
        """The assets of an own album that are not in the trash."""
        found = [entry for entry in self.albums() if entry["name"] == album]
        assert found, f"{self.email} has no album {album!r}"
        return [asset for entry in found for asset in entry["assets"] if not asset["trashed"]]

    def names(self, album: str) -> list[str]:
        """The names of the assets in an own album."""
        return sorted(asset["name"] for asset in self.inside(album))

    def everything(self) -> dict[str, dict[str, Any]]:
        """All assets of this user by id, trashed ones too."""
        state = self.world.demo.state(self.email)
        everywhere = [asset for album in state["albums"] for asset in album["assets"]]
        return {
            asset["id"]: asset
            for asset in [*everywhere, *state["loose"]]
            if asset["owner"] == self.email
        }

    def keeps(self, contents: Iterable[bytes | Path]) -> None:
        """Fail unless Immich has each of these contents, if only in the trash."""
        there = {asset["sha1"] for asset in self.everything().values()}
        lost = [
            content if isinstance(content, Path) else f"{content[:12]!r}…"
            for content in contents
            if sha1(content) not in there
        ]
        assert not lost, f"Immich has lost {lost}"

    def uploaded(self, album: str, name: str, content: bytes | Path) -> dict[str, Any]:
        """Wait for an asset with this name and these bytes; fails unless it is there, once."""
        digest = sha1(content)

        def look() -> list[dict[str, Any]] | None:
            return [
                asset
                for asset in self.inside(album)
                if asset["name"] == name and asset["sha1"] == digest
            ] or None

        found = eventually(look, lambda: f"{name!r} in {album!r}: {self.inside(album)}")
        assert len(found) == 1
        return found[0]


@define(eq=False)
class World:
    """One demo Immich and the services before it, each started when it is first asked for."""

    version: str
    directory: Path
    host_keys: Path
    demo: Demo = field(init=False)
    secrets: set[str] = field(factory=set, repr=False)
    _services: dict[str, Service] = field(factory=dict)
    _read: dict[str, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir()
        self.demo = Demo(self.version, self.directory / "demo")

    def service(self, name: str, *options: str, url: str = "") -> Service:
        """The service of this name, started if need be."""
        if name not in self._services:
            self._services[name] = Service(
                self.directory / name, self.host_keys, url or self.demo.url, *options
            )
        return self._services[name]

    @property
    def soon(self) -> Service:
        """Commits what has no time after half a second."""
        return self.service("soon", "--settle", str(SOON))

    @property
    def later(self) -> Service:
        """Never commits for want of a time during a test: only what a client says does it."""
        return self.service("later", "--settle", str(LATER))

    @property
    def read_only(self) -> Service:
        """Changes nothing."""
        return self.service("read-only", "--read-only")

    def user(self, quota: int | None = None, password: str = "") -> User:
        """Somebody new."""
        password = password or "secret-" + secrets.token_hex(8)
        email = f"{secrets.token_hex(4)}@example.com"
        self.secrets.add(password)
        self.demo.ask("POST", "users", email=email, password=password, quota=quota)
        return User(self, email, password)

    def sessions(self) -> int:
        """Log-ins at Immich that nobody has logged out."""
        return int(self.demo.counts()["sessions"])

    def complaints(self) -> list[str]:
        """What must not be in the services' logs, since this was asked last."""
        found = []
        for name, service in self._services.items():
            with service.log.open("rb") as log:
                log.seek(self._read.get(name, 0))
                new = log.read().decode(errors="replace")
                self._read[name] = log.tell()
            if not service.alive:
                found.append(f"{name} has ended:\n{service.text()[-3000:]}")
            if "Traceback" in new or "#critical" in new:
                found.append(f"{name} logged an error:\n{new[-6000:]}")
            told = [secret for secret in self.secrets if secret in new]
            told += [match[0] for match in TOKEN.finditer(new)]
            if told:
                lines = [line for line in new.splitlines() if any(word in line for word in told)]
                found.append(f"{name} logged a secret:\n" + "\n".join(lines[:5]))
        return found

    def close(self) -> None:
        """Stop everything, the demo last."""
        statuses = {name: service.stop() for name, service in self._services.items()}
        complaints = self.demo_complaints()
        self.demo.stop()
        # twistd stops in order and then ends by the signal that it got.
        wrong = {name: status for name, status in statuses.items() if status != -signal.SIGTERM}
        assert not wrong, f"exit statuses {wrong}"
        assert not complaints, complaints

    def demo_complaints(self) -> str:
        """Errors of the demo itself, which would make every other finding doubtful."""
        text = self.demo.text()
        at = text.find("Traceback")
        return text[at : at + 3000] if at >= 0 else ""
