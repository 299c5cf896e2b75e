"""A plain client for tests of the demo itself: one request, one connection in memory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from attrs import define, field
from demo_replay import exchange, multipart
from twisted.internet.task import Clock

from immich_conch.demo import DemoImmich

NOW = 1_700_000_000.0
WHEN = "2020-02-03T04:05:06.000Z"


@define
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@define
class Client:
    """Sends a user's token (or a key) along."""

    demo: DemoImmich
    headers: dict[str, str] = field(factory=dict)

    def __call__(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        sent = {**self.headers, **(headers or {})}
        body = b""
        if data is not None:
            body = json.dumps(data).encode()
            sent["Content-Type"] = "application/json"
        return Reply(*exchange(self.demo, method, "/api" + path, sent, body, False))

    def form(self, name: str, content: bytes, **fields: str) -> tuple[str, bytes]:
        usual = {"fileCreatedAt": WHEN, "fileModifiedAt": WHEN}
        device = {"deviceAssetId": "a", "deviceId": "b"}
        file = {"filename": name, "content": base64.b64encode(content).decode()}
        return multipart({"fields": usual | device | fields, "files": {"assetData": file}})

    def upload(
        self,
        name: str,
        content: bytes,
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> Reply:
        kind, body = self.form(name, content, **fields)
        sent = {**self.headers, "Content-Type": kind, **(headers or {})}
        return Reply(*exchange(self.demo, "POST", "/api/assets", sent, body, False))


def make_demo(version: str = "3.1.0", **options: Any) -> tuple[DemoImmich, Clock]:
    clock = Clock()
    clock.advance(NOW)
    return DemoImmich(version, clock, **options), clock


def log_in(demo: DemoImmich, email: str, password: str) -> Client:
    reply = Client(demo)("POST", "/auth/login", {"email": email, "password": password})
    return Client(demo, {"Authorization": f"Bearer {reply.json['accessToken']}"})


@pytest.fixture
def demo(made: tuple[DemoImmich, Clock]) -> DemoImmich:
    """The demo that a module's `made` makes, with its clock."""
    return made[0]


@pytest.fixture
def ann(demo: DemoImmich) -> Client:
    """Ann, who is one of its users."""
    return log_in(demo, "ann@example.com", "pw")
