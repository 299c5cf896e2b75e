"""How soon the first bytes of a large file come: by SFTP, and by a plain HTTP request.

Over SFTP it is an OPEN and a READ, each written to `ssh -s sftp` and its answer read from it: a
client's own way of thinking is not in the figure.
"""

from __future__ import annotations

import http.client
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from attrs import define, field
from twisted.conch.ssh.filetransfer import (
    FXF_READ,
    FXP_CLOSE,
    FXP_DATA,
    FXP_HANDLE,
    FXP_INIT,
    FXP_OPEN,
    FXP_READ,
    FXP_STATUS,
    FXP_VERSION,
)

from benchmarks.clients import CLIENT_SECONDS, openssh_options
from benchmarks.movers import Moved
from benchmarks.peers import CannotMeasure, Immich, Login

FIRST_BYTES = 32_768
VERSION = 3


def string(data: bytes) -> bytes:
    """A field with its length (draft-ietf-secsh-filexfer-02, section 3)."""
    return struct.pack("!L", len(data)) + data


@define(eq=False)
class Subsystem:
    """SFTP by hand, one request at a time."""

    login: Login
    process: subprocess.Popen[bytes] = field(repr=False)
    _number: int = 0

    def ask(self, kind: int, body: bytes, expected: int) -> bytes:
        """One request and the fields of its answer; raises CannotMeasure for another one."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        self._number += 1
        head = b"" if kind == FXP_INIT else struct.pack("!L", self._number)
        process.stdin.write(string(bytes((kind,)) + head + body))
        process.stdin.flush()
        size = process.stdout.read(4)
        answer = process.stdout.read(int.from_bytes(size, "big"))
        if not answer or answer[0] != expected:
            raise CannotMeasure(f"SFTP on {self.login.name}: {answer[:200]!r}")
        return answer[5:]

    def first(self, path: str) -> tuple[Moved, bytes]:
        """OPEN and READ; what came."""
        opening = string(self.login.path(path).encode()) + struct.pack("!LL", FXF_READ, 0)
        start = time.perf_counter()
        handle = self.ask(FXP_OPEN, opening, FXP_HANDLE)
        reading = handle + struct.pack("!QL", 0, FIRST_BYTES)
        got = self.ask(FXP_READ, reading, FXP_DATA)[4:]
        seconds = time.perf_counter() - start
        self.ask(FXP_CLOSE, handle, FXP_STATUS)
        return Moved(seconds), got


@contextmanager
def subsystem(login: Login, place: Path) -> Iterator[Subsystem]:
    """A session that has been greeted, for at most `CLIENT_SECONDS`."""
    options, environment = openssh_options(login, place)
    process = subprocess.Popen(
        ["ssh", *options, "-s", "127.0.0.1", "sftp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    timer = threading.Timer(CLIENT_SECONDS, process.kill)
    timer.start()
    try:
        session = Subsystem(login, process)
        session.ask(FXP_INIT, struct.pack("!L", VERSION), FXP_VERSION)
        yield session
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def raw_first(server: Immich, asset_id: str) -> Moved:
    """The first bytes by a plain HTTP request on a new connection."""
    place = urlsplit(server.url)
    assert place.hostname is not None
    start = time.perf_counter()
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=CLIENT_SECONDS)
    headers = {"Authorization": f"Bearer {server.token}"}
    connection.request("GET", f"/api/assets/{asset_id}/original", headers=headers)
    got = connection.getresponse().read(FIRST_BYTES)
    seconds = time.perf_counter() - start
    connection.close()
    if len(got) != FIRST_BYTES:
        raise CannotMeasure(f"the raw request got {len(got)} bytes")
    return Moved(seconds)
