"""A client of the soak: a thread with an album of its own that notes what it is told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from harness import Service, User, photo, sha1
from openssh import OPTIONS

from .ledger import ABSENT, Ledger
from .weather import Weather

#: Seconds that one call of a client may take, or one answer in a library.
LIMIT = 60.0
#: Files that an actor keeps; beyond it removes some.
MOST = 12
#: The album that everybody reads, and nobody changes.
LIBRARY = "Library"


class Told(Exception):
    """The client was told of an error, or told it itself; the text says which."""


class TooLong(Exception):
    """The client did not end in time."""


def call(
    command: Sequence[str | Path],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> str:
    """Run a client to its end; its output.  Raises Told or TooLong."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "LC_ALL": "C.UTF-8", "TZ": "UTC", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise TooLong(f"{command[0]} did not end within {limit:.0f} s: {out} {err}") from None
    if process.returncode:
        raise Told(f"{command[0]} ended with {process.returncode}: {out} {err}")
    return out


@define(eq=False)
class Actor:
    """One client at work; `step` is what it does again and again."""

    service: Service
    user: User
    ledger: Ledger
    weather: Weather
    dice: random.Random
    directory: Path
    library: dict[str, bytes]
    album: str = ""
    pause: float = 0.5
    kept: dict[str, bytes] = field(factory=dict)
    _number: int = 0
    _stop: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir()
        if not self.album:
            self.album = self.kind
            self.user.album(self.album)
        self.askpass = self.directory / "askpass"
        self.askpass.write_text('#!/bin/sh\nprintf "%s\\n" "$CLIENT_PASSWORD"\n')
        self.askpass.chmod(0o700)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def kind(self) -> str:
        """What to call it."""
        return type(self).__name__

    @property
    def place(self) -> tuple[str, str]:
        """Its album in the ledger."""
        return self.user.email, self.album

    def start(self) -> None:
        """Work until told to stop."""
        self._thread.start()

    def stop(self) -> None:
        """No further steps."""
        self._stop.set()

    def join(self, limit: float) -> bool:
        """Whether it has ended."""
        self._thread.join(limit)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.step()
            except (Told, TooLong) as error:
                self._judge(error, began)
            except BaseException as error:  # a thread that dies unseen would prove nothing
                self.ledger.found(f"{self.kind}: {type(error).__name__}: {error}"[:1500])
            self.ledger.count(f"steps of {self.kind}")
            self._stop.wait(self.pause * self.dice.uniform(0.5, 1.5))

    def _judge(self, error: Exception, began: float) -> None:
        reason = self.weather.explains(began)
        late = "too long" if isinstance(error, TooLong) else "errors"
        if reason:
            self.ledger.count(f"{late}, explained by faults")
        else:
            self.ledger.found(f"{self.kind}, in fine weather: {error}"[:1500])

    def step(self) -> None:
        """Do something."""
        raise NotImplementedError

    # -- what all of them need

    def new(self, large: bool = False) -> tuple[str, bytes]:
        """A name that nobody has used, and bytes that nobody has."""
        self._number += 1
        size = 3 * 2**20 if large else self.dice.choice((100, 5_000, 60_000, 300_000))
        return f"{self.kind}-{self._number:05}.jpg", photo(size)

    def tell(self, files: Mapping[str, bytes], sure: bool) -> None:
        """Note what was said of uploads."""
        for name, data in files.items():
            self.ledger.told(self.place, name, sha1(data), sure=sure)
            if sure:
                self.kept[name] = data
                self.ledger.count("uploads answered OK")

    def uploading(self, files: Mapping[str, bytes], work: Callable[[], Any], listens: bool) -> None:
        """Upload by `work`; a client that does not listen to CLOSE is sure in fine weather only."""
        began = time.monotonic()
        try:
            work()
        except BaseException:
            self.tell(files, False)
            raise
        self.tell(files, listens or not self.weather.explains(began))

    def removing(self, names: Sequence[str], work: Callable[[], Any]) -> None:
        """Remove by `work`."""
        sure = False
        try:
            work()
            sure = True
        finally:
            for name in names:
                self.kept.pop(name, None)
                self.ledger.told(self.place, name, ABSENT, sure=sure)

    def same(self, name: str, found: bytes, wanted: bytes) -> None:
        """Bytes that a client took for the file have to be those of the file."""
        self.ledger.count("downloads")
        self.ledger.count("bytes down", len(found))
        if found != wanted:
            self.ledger.found(f"{self.kind}: {name} came as {len(found)} bytes, not {len(wanted)}")

    def listed(self, names: Sequence[str]) -> None:
        """A listing that was no error has to be right."""
        self.ledger.count("listings")
        for wrong in self.ledger.settle(self.place, names):
            self.ledger.found(f"{self.kind}: in a listing {wrong}")

    def surplus(self) -> list[str]:
        """What to remove."""
        return sorted(self.kept)[: max(0, len(self.kept) - MOST)]

    def environment(self) -> dict[str, str]:
        """How ssh learns the password."""
        return {
            "SSH_ASKPASS": str(self.askpass),
            "SSH_ASKPASS_REQUIRE": "force",
            "CLIENT_PASSWORD": self.user.password,
        }

    def sftp(self, commands: str, limit: float = LIMIT) -> str:
        """OpenSSH's sftp."""
        return call(self.sftp_command(commands), self.directory, self.environment(), limit)

    def sftp_command(self, commands: str, *options: str) -> list[str]:
        """Its command line."""
        batch = self.directory / "batch"
        batch.write_text(commands + "\n")
        return [
            *("sftp", "-q", "-o", "BatchMode=no", *OPTIONS, *options),
            *("-P", str(self.service.port), "-o", f"User={self.user.email}"),
            *("-b", str(batch), "127.0.0.1"),
        ]
