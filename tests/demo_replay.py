"""Replays recordings of real Immich servers against the demo and says where they differ.

The scenarios were recorded one after the other on one server, so they are replayed in that order
on one demo: what an earlier scenario left behind is there for the later ones, and the sync
streams can be compared whole.  Two things happened on the real server outside of the recordings
and are made up for: other users were there before (they show in the streams), and some of
Alice's assets were trashed between `live_tags` and `sync` (`_trash_before_sync`).

A label (`uuid-0001`, `token-alice`) stands for whatever the demo answers where the label first
appears; from then on it must be the same.  A label that first appears in a request is an id that
never existed, except for the user an album is shared with, which is Bob.

Values are compared as they are, but for: times of the recording's own day (their format is
compared, and of an album's `updatedAt` whether it moved), `thumbhash`, avatar
colours (made of an address that the recordings masked), the first thumbnail of several assets
(the database's choice), figures of the server's disk and build.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import uuid
from copy import deepcopy
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from immich_conch.demo import DemoImmich

RECORDINGS = Path(__file__).parent / "recordings"

ORDER = (
    "auth",
    "albums",
    "server",
    "upload",
    "membership",
    "download",
    "trash",
    "sharing",
    "quota",
    "live_tags",
    "sync",
    "sync_shared",
    "asset_metadata",
    "visibility",
)

RECORDED_AT = 1795347000.0
"""A moment of the day of the recordings, in POSIX seconds."""

NOT_EXTRACTED_YET = {("upload", step) for step in range(2, 24)} | {("sync", 4)}
"""Steps that came so soon after an upload that Immich had not read its EXIF data yet."""

SHAPE_ONLY = {
    "avatarColor": "made of the user's address, which is masked in the recordings",
    "thumbhash": "made by an image library, some time after the upload",
    "correlationId": "random",
    "diskAvailable": "of the machine",
    "diskAvailableRaw": "of the machine",
    "diskSize": "of the machine",
    "diskSizeRaw": "of the machine",
    "diskUse": "of the machine",
    "diskUseRaw": "of the machine",
    "diskUsagePercentage": "of the machine",
    "nodejs": "of the build",
    "exiftool": "of the build",
    "ffmpeg": "of the build",
    "libvips": "of the build",
    "imagemagick": "of the build",
}
"""Fields of which only the type is compared, and why."""

RACED = {("2.5.6", "sync", 5): ("AssetV1", "AssetExifV1")}
"""Lines that may come too much: the real server was just reading that asset's EXIF data, and a
row that changes while a stream is under way comes with the next one."""

_LABEL = re.compile(r"uuid-\d{4}|token-[a-z]+(?:-\d+)?|key-[a-z]+")
_TIME = re.compile(r"(\d{4})-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_EXACT_HEADERS = (
    "content-type",
    "content-range",
    "accept-ranges",
    "content-disposition",
    "last-modified",
    "cache-control",
    "transfer-encoding",
)


def steps_of(version: str, scenario: str) -> list[dict[str, Any]]:
    text = (RECORDINGS / version / f"{scenario}.json").read_text("utf-8")
    steps: list[dict[str, Any]] = json.loads(text)["steps"]
    return steps


def exchange(
    demo: DemoImmich, method: str, path: str, headers: dict[str, str], body: bytes, chunked: bool
) -> tuple[int, dict[str, str], bytes]:
    """One request over one connection in memory, through the demo's own site."""
    lines = [f"{method} {path} HTTP/1.1", "Host: demo", *(f"{k}: {v}" for k, v in headers.items())]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        portions = [body[at : at + 100] for at in range(0, len(body), 100)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in portions) + b"0\r\n\r\n"
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    transport = StringTransport()
    protocol = demo.site().buildProtocol(None)
    protocol.makeConnection(transport)
    protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + body)

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(transport.value())

    response = HTTPResponse(Socket(), method=method)  # type: ignore[arg-type]
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def multipart(body: dict[str, Any]) -> tuple[str, bytes]:
    """The recorded form as bytes."""
    boundary = "-----------recorded"
    fields = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in body["fields"].items()
    ]
    files = [
        f'Content-Disposition: form-data; name="{name}"; filename="{file["filename"]}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + base64.b64decode(file["content"])
        for name, file in body["files"].items()
    ]
    parts = files + fields if body.get("fields_after_file") else fields + files
    marker = f"--{boundary}\r\n".encode()
    text = b"".join(marker + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", text


class Replay:
    """One version's recordings against one demo.  `differences` is by scenario."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.clock = Clock()
        self.clock.advance(RECORDED_AT)
        self.demo = DemoImmich(version, self.clock)
        self.differences: dict[str, list[str]] = {}
        self.compared = 0
        self.labels: dict[str, str] = {}
        self.stamps: dict[str, dict[str, str]] = {}
        self._scenario = ""
        self._add_users()

    def run(self) -> None:
        for scenario in ORDER:
            self._scenario = scenario
            self.labels = {}
            found = self.differences[scenario] = []
            if scenario == "sync":
                self._trash_before_sync()
            if scenario != "auth":
                for name, password in (("alice", 1), ("bob", 2), ("carol", 3)):
                    self.labels[f"token-{name}"] = self._log_in(name, password)
            for number, step in enumerate(steps_of(self.version, scenario)):
                if (scenario, number) not in NOT_EXTRACTED_YET:
                    self.clock.advance(0.6)
                for difference in self._step(step, RACED.get((self.version, scenario, number), ())):
                    found.append(f"[{number}] {step['note']}: {difference}")
                self.compared += 1
        self.demo.close()

    # What was there before

    def _add_users(self) -> None:
        masked = {"alice-run000@example.com", "bob-run000@example.com", "carol-run000@example.com"}
        for line in steps_of(self.version, "sync")[0]["response"]["body"]["text"].splitlines():
            entry = json.loads(line)
            if entry["type"] == "UserV1" and entry["data"]["email"] not in masked:
                self.demo.add_user(entry["data"]["email"], "x", entry["data"]["name"])
        # Carol's quota and the order are the recordings' own.
        self.demo.add_user("alice-run000@example.com", "correct horse 1", "Alice")
        self.demo.add_user("bob-run000@example.com", "correct horse 2", "Bob")
        self.demo.add_user("carol-run000@example.com", "correct horse 3", "Carol", quota=2000)

    def _log_in(self, name: str, password: int) -> str:
        body = {"email": f"{name}-run000@example.com", "password": f"correct horse {password}"}
        headers = {"Content-Type": "application/json"}
        _, _, answer = exchange(
            self.demo, "POST", "/api/auth/login", headers, json.dumps(body).encode(), False
        )
        token: str = json.loads(answer)["accessToken"]
        return token

    def _trash_before_sync(self) -> None:
        own = {
            asset.name: asset
            for asset in self.demo.state.assets.values()
            if asset.deleted is None
            and asset.owner_id == self.demo.user("alice-run000@example.com").id
        }
        for line in steps_of(self.version, "sync")[0]["response"]["body"]["text"].splitlines():
            entry = json.loads(line)
            data = entry["data"]
            if entry["type"].startswith("AssetV") and data["deletedAt"] is not None:
                asset = own.get(data["originalFileName"])
                if asset is not None:
                    self.demo.core.assets.delete([asset], force=False)

    # One step

    def _real(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            label = match[0]
            if label not in self.labels:
                self.labels[label] = str(uuid.uuid4())
            return self.labels[label]

        return _LABEL.sub(value, text)

    def _step(self, step: dict[str, Any], raced: tuple[str, ...]) -> list[str]:
        request, expected = step["request"], step["response"]
        headers = {key: self._real(value) for key, value in request["headers"].items()}
        recorded, body, chunked = request.get("body"), b"", False
        if isinstance(recorded, dict) and "files" in recorded:
            fields = {key: self._real(value) for key, value in recorded["fields"].items()}
            headers["Content-Type"], body = multipart({**recorded, "fields": fields})
            chunked = bool(recorded.get("chunked"))
        elif recorded is not None:
            for entry in recorded.get("albumUsers", ()):
                bob = self.demo.user("bob-run000@example.com")
                self.labels.setdefault(entry["userId"], bob.id)
            headers["Content-Type"] = "application/json"
            body = self._real(json.dumps(recorded)).encode()
        status, got, answer = exchange(
            self.demo, request["method"], self._real(request["path"]), headers, body, chunked
        )
        if status != expected["status"]:
            return [f"status {status}, not {expected['status']}: {answer[:300]!r}"]
        return [
            *self._compare_headers(expected["headers"], got),
            *self._compare_body(expected.get("body"), answer, raced),
        ]

    def _compare_headers(self, expected: dict[str, str], got: dict[str, str]) -> list[str]:
        found = [
            f"{name}: {got.get(name)!r}, not {expected.get(name)!r}"
            for name in _EXACT_HEADERS
            if expected.get(name) != got.get(name)
        ]
        etag = expected.get("etag")
        if (etag is None) != ("etag" not in got) or (
            etag is not None and etag.startswith("W/") and etag != got["etag"]
        ):
            found.append(f"etag: {got.get('etag')!r}, not {etag!r}")
        return found

    def _compare_body(self, expected: Any, answer: bytes, raced: tuple[str, ...]) -> list[str]:
        if expected is None:
            return [f"a body: {answer[:100]!r}"] if answer else []
        if isinstance(expected, dict) and expected.keys() == {"bytes", "sha1"}:
            sha1 = base64.b64encode(hashlib.sha1(answer).digest()).decode()
            if len(answer) != expected["bytes"]:
                return [f"{len(answer)} bytes, not {expected['bytes']}"]
            # A 2.5.6 error carries a random correlationId; its length is all there is to compare.
            error = b"correlationId" in answer
            return [] if error or sha1 == expected["sha1"] else ["other bytes"]
        if isinstance(expected, dict) and expected.keys() == {"text"}:
            lines = answer.decode().splitlines()
            return self._compare_lines(expected["text"].splitlines(), lines, raced)
        return self._compare(expected, json.loads(answer), "")

    def _compare_lines(
        self, expected: list[str], got: list[str], raced: tuple[str, ...]
    ) -> list[str]:
        """Each recorded line against the first line of the answer that it can be."""
        left = [json.loads(line) for line in got]
        found = []
        for line in expected:
            wanted = json.loads(line)
            for number, candidate in enumerate(left):
                before, stamps = dict(self.labels), deepcopy(self.stamps)
                if not self._compare(wanted, candidate, ""):
                    del left[number]
                    break
                self.labels, self.stamps = before, stamps
            else:
                found.append(f"missing: {line[:300]}")
        left = [line for line in left if line["type"] not in raced]
        return found + [f"too much: {json.dumps(line)[:300]}" for line in left]

    def _compare(self, expected: Any, got: Any, path: str) -> list[str]:
        if isinstance(expected, dict) and isinstance(got, dict):
            found = [
                f"{path}: {word} {sorted(keys)}"
                for word, keys in (
                    ("lacks", expected.keys() - got.keys()),
                    ("has", got.keys() - expected.keys()),
                )
                if keys
            ]
            if "updatedAt" in expected and {"albumName", "thumbnailAssetId"} & expected.keys():
                found += self._compare_move(expected, got)
            for key in expected.keys() & got.keys():
                found += self._compare(expected[key], got[key], f"{path}.{key}")
            return found
        if isinstance(expected, list) and isinstance(got, list):
            if len(expected) != len(got):
                return [f"{path}: {len(got)} entries, not {len(expected)}"]
            pairs = enumerate(zip(expected, got, strict=True))
            return [d for n, (e, g) in pairs for d in self._compare(e, g, f"{path}[{n}]")]
        if path.rpartition(".")[2] in SHAPE_ONLY:
            same = got is None or expected is None or type(expected) is type(got)
            return [] if same else [f"{path}: {type(got)}, not {type(expected)}"]
        if type(expected) is type(got) is str:
            return (
                []
                if self._same_text(expected, got, path)
                else [f"{path}: {got!r}, not {expected!r}"]
            )
        if type(expected) is not type(got) or expected != got:
            return [f"{path}: {got!r}, not {expected!r}"]
        return []

    def _compare_move(self, expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
        """An album's `updatedAt` moves where the real one moved, and only there."""
        stamps = self.stamps.setdefault(str(got.get("id")), {})
        recorded, actual = expected["updatedAt"], str(got.get("updatedAt"))
        known = stamps.get(recorded)
        if known is None and actual in stamps.values():
            return [f"updatedAt should have moved, {recorded}"]
        if known is not None and known != actual:
            return [f"updatedAt should not have moved, {recorded}"]
        stamps[recorded] = actual
        return []

    def _same_text(self, expected: str, got: str, path: str) -> bool:
        time = _TIME.fullmatch(expected)
        if time is not None and int(time[1]) >= 2026:
            actual = _TIME.fullmatch(got)
            return actual is not None and actual[3] == time[3]
        if path.endswith(".albumThumbnailAssetId") and self._scenario == "visibility":
            return got in {self.labels[f"uuid-{n:04}"] for n in (1, 2, 3)}
        if path.endswith(".originalPath"):
            expected = re.sub(r"/[0-9a-f]{2}/[0-9a-f]{2}/", "/xx/xx/", expected)
            got = re.sub(r"/[0-9a-f]{2}/[0-9a-f]{2}/", "/xx/xx/", got)
        labels = _LABEL.findall(expected)
        if not labels:
            return expected == got
        pattern = ""
        for number, literal in enumerate(_LABEL.split(expected)):
            pattern += re.escape(literal)
            if number < len(labels):
                label = labels[number]
                known = self.labels.get(label)
                fresh = f"({_UUID})" if label.startswith("uuid") else "(.+)"
                pattern += fresh if known is None else f"({re.escape(known)})"
        match = re.fullmatch(pattern, got)
        if match is None:
            return False
        for label, value in zip(labels, match.groups(), strict=True):
            if self.labels.setdefault(label, value) != value:
                return False
        return True
