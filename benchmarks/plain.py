"""A plain client of Immich's API: no SFTP, connections that are kept, so many requests in flight.

It makes the same calls for a file as our service does, in the same order, and looks at nothing
but whether they succeed.  How many of each that are is counted by the demo, not believed.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen

from benchmarks.peers import CALL_SECONDS, CannotMeasure, Immich

CHECK, UPLOAD, ADD = "POST /assets/bulk-upload-check", "POST /assets", "PUT /albums/{id}/assets"
ASSET, ME, ORIGINAL = "GET /assets/{id}", "GET /users/me", "GET /assets/{id}/original"
LIST = "POST /search/metadata"
#: Calls that are made for a session and now and then, not for a file.
OTHERS = frozenset(
    (
        "POST /sync/stream",
        "POST /sync/ack",
        "POST /auth/login",
        "POST /auth/logout",
        "GET /server/version",
        "GET /server/features",
        "GET /server/media-types",
    )
)
#: The parts of a call for each file from which on it counts as one that a file needs.
EACH = 0.1
PAGE = 1000


@frozen
class Calls:
    """How often each route was asked for a number of files."""

    counts: Mapping[str, int]
    files: int

    def each(self, route: str) -> int:
        """How often for one file, in whole numbers."""
        return round(self.counts.get(route, 0) / self.files)

    @property
    def batch(self) -> int:
        """Files in one call that adds to the album."""
        return max(1, round(self.files / max(1, self.counts.get(ADD, 0))))

    def expect_only(self, known: Sequence[str]) -> None:
        """Raise CannotMeasure if files needed a call that this client does not make."""
        for route, count in self.counts.items():
            if route not in known and route not in OTHERS and count > EACH * self.files:
                raise CannotMeasure(f"{count} x {route}, which the plain client does not make")

    def __str__(self) -> str:
        return ", ".join(f"{count} x {route}" for route, count in sorted(self.counts.items()))


def counts(server: Immich) -> dict[str, int]:
    """How often each route was asked so far."""
    requests = server.call("GET", "/control/state")["requests"]
    return {route: int(count) for route, count in requests.items()}


@contextmanager
def counting(server: Immich, files: int) -> Iterator[list[Calls]]:
    """A list that has, after the block, what was asked meanwhile."""
    before = counts(server)
    found: list[Calls] = []
    yield found
    after = counts(server)
    more = {route: count - before.get(route, 0) for route, count in after.items()}
    found.append(Calls({route: count for route, count in more.items() if count}, files))


@define(eq=False)
class Plain:
    """So many kept connections of one session, one request on each."""

    session: Immich
    at_once: int
    _idle: SimpleQueue[http.client.HTTPConnection] = field(factory=SimpleQueue, init=False)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.session.url)
        for _ in range(self.at_once):
            self._idle.put(
                http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CALL_SECONDS)
            )

    def close(self) -> None:
        """Hang up; the next call connects again."""
        connections = [self._idle.get() for _ in range(self.at_once)]
        for connection in connections:
            connection.close()
            self._idle.put(connection)

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """One call; the body of a successful answer."""
        headers = {"authorization": f"Bearer {self.session.token}"}
        if body is not None:
            headers["content-type"] = kind
        connection = self._idle.get()
        try:
            connection.request(method, f"/api{path}", body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            self._idle.put(connection)
        if answer.status >= 400:
            raise CannotMeasure(f"{method} {path}: {answer.status} {data[:200]!r}")
        return data

    def tell(self, method: str, path: str, data: Any) -> Any:
        """One call with JSON in both directions."""
        answer = self.ask(method, path, json.dumps(data).encode())
        return json.loads(answer) if answer else None

    def each(self, work: Callable[[Any], object], items: Sequence[Any]) -> None:
        """Work on all items, as many at once as there are connections."""
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(work, items))

    # -- up ----------------------------------------------------------------------------------------

    def upload(self, files: Sequence[Path], album: str, calls: Calls) -> float:
        """Seconds until all files are in a new album, with as many calls as were counted."""
        calls.expect_only((CHECK, UPLOAD, ADD, ASSET, ME, "POST /albums"))
        self.close()  # an idle connection may have been closed by the server
        start = time.perf_counter()
        album_id = self.tell("POST", "/albums", {"albumName": album})["id"]
        batch = calls.batch
        groups = [files[at : at + batch] for at in range(0, len(files), batch)]
        if batch == 1:
            self.each(lambda file: self._put([self._send(file, calls)], album_id, calls), files)
            return time.perf_counter() - start
        # Connections are for files: a group is added by whoever sends its last one.
        for group in _waves(groups, self.at_once):
            ids: list[str] = []
            self.each(lambda file, ids=ids: ids.append(self._send(file, calls)), group)
            for at in range(0, len(ids), batch):
                self._put(ids[at : at + batch], album_id, calls)
        return time.perf_counter() - start

    def _send(self, file: Path, calls: Calls) -> str:
        data = file.read_bytes()
        checksum = hashlib.sha1(data).digest()
        wanted = {"assets": [{"id": "1", "checksum": base64.b64encode(checksum).decode()}]}
        for _ in range(calls.each(ME)):
            self.ask("GET", "/users/me")
        for _ in range(calls.each(CHECK)):
            self.tell("POST", "/assets/bulk-upload-check", wanted)
        body, kind = multipart(file.name, file.stat().st_mtime, data)
        return str(json.loads(self.ask("POST", "/assets", body, kind))["id"])

    def _put(self, ids: Sequence[str], album_id: str, calls: Calls) -> None:
        reads = calls.each(ASSET)
        for asset_id in ids if reads > 1 else ():
            for _ in range(reads - 1):
                self.ask("GET", f"/assets/{asset_id}")
        for word in self.tell("PUT", f"/albums/{album_id}/assets", {"ids": list(ids)}):
            if not word["success"]:
                raise CannotMeasure(f"a file was not added: {word}")
        for asset_id in ids if reads else ():
            self.ask("GET", f"/assets/{asset_id}")

    # -- down --------------------------------------------------------------------------------------

    def download(self, album_id: str, count: int, place: Path) -> float:
        """Seconds to list an album and get all its originals into files."""
        self.close()
        start = time.perf_counter()
        found: list[dict[str, Any]] = []
        for page in range(1, -(-count // PAGE) + 1):
            wanted = {"albumIds": [album_id], "withExif": True, "size": PAGE, "page": page}
            found += self.tell("POST", "/search/metadata", wanted)["assets"]["items"]
        if len(found) != count:
            raise CannotMeasure(f"{len(found)} files in the album instead of {count}")

        def get(asset: Mapping[str, Any]) -> None:
            data = self.ask("GET", f"/assets/{asset['id']}/original")
            (place / asset["originalFileName"]).write_bytes(data)

        self.each(get, found)
        return time.perf_counter() - start


def _waves(groups: Sequence[Sequence[Path]], at_once: int) -> Iterator[list[Path]]:
    """Whole groups, together at least as many files as may be in flight."""
    wave: list[Path] = []
    for group in groups:
        wave += group
        if len(wave) >= at_once:
            yield wave
            wave = []
    if wave:
        yield wave


def multipart(name: str, modified: float, data: bytes) -> tuple[bytes, str]:
    """The body of an upload and its type, with the fields that 2.x and 3.x need."""
    moment = datetime.fromtimestamp(modified, UTC).isoformat(timespec="milliseconds")
    fields = {
        "fileCreatedAt": moment,
        "fileModifiedAt": moment,
        "filename": name,
        "deviceAssetId": name,
        "deviceId": "benchmark",
    }
    boundary = uuid.uuid4().hex
    lines = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    lines.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="assetData"; filename="{name}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    body = "".join(lines).encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
