"""Servers for the tests of the Immich client: a scripted site, and a raw peer that misbehaves.

Both listen on the loopback; the client on top is the real one, with a `Clock` in place of time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_twisted
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from immich_conch.immich.client import ImmichServer

ME = {"id": "u-1", "email": "ann@example.com", "name": "Ann"}


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor turn until something is so; pytest's time limit ends a wait in vain."""
    while not condition():
        await deferLater(reactor, 0.001)


async def turns(number: int = 20) -> None:
    """Let the reactor turn a few times, for what has to arrive over the loopback."""
    for _ in range(number):
        await deferLater(reactor, 0.001)


def owner(user_id: str = "u-1") -> dict[str, Any]:
    return {"user": {"id": user_id}, "role": "owner"}


def album(album_id: str = "a-1", count: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": album_id,
        "albumName": album_id,
        "description": "",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "updatedAt": "2026-01-01T00:00:00.000Z",
        "assetCount": count,
        "albumUsers": [owner()],
        **more,
    }


def album2(album_id: str = "a-1", count: int = 0, **more: Any) -> dict[str, Any]:
    """An album as 2.x gives it."""
    return album(album_id, count, **{"albumUsers": [], "ownerId": "u-1", **more})


def asset(asset_id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": asset_id,
        "originalFileName": f"{asset_id}.jpg",
        "ownerId": "u-1",
        "fileModifiedAt": "2026-01-01T00:00:00.000Z",
        "fileCreatedAt": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "visibility": "timeline",
        "isTrashed": False,
        "checksum": "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        "libraryId": None,
        "type": "IMAGE",
        "exifInfo": {"fileSizeInByte": 5},
        **more,
    }


@define(eq=False)
class Seen:
    """One request as the scripted site saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@define(eq=False)
class Script(Resource):
    """Answers by `METHOD /path`: a value, or a list of which each request takes the next."""

    isLeaf = True
    answers: dict[str, Any] = field(factory=dict)
    seen: list[Seen] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        Resource.__init__(self)

    def paths(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.seen]

    def render(self, request: Any) -> Any:
        one = Seen(
            request.method.decode(),
            request.path.decode().removeprefix("/api"),
            {key.decode(): values[0].decode() for key, values in request.args.items()},
            {
                key.decode().lower(): values[0].decode("latin-1")
                for key, values in request.requestHeaders.getAllRawHeaders()
            },
            request.content.read(),
        )
        self.seen.append(one)
        told = self.answers.get(f"{one.method} {one.path}", (404, {"message": "Cannot"}))
        if isinstance(told, list):
            told = told.pop(0) if len(told) > 1 else told[0]
        if callable(told):
            told = told(one)
        if told is NOT_DONE_YET:
            return NOT_DONE_YET
        if told == "drop":
            request.transport.abortConnection()
            return NOT_DONE_YET
        request.setResponseCode(told[0])
        for name, value in (told[2] if len(told) > 2 else {}).items():
            request.setHeader(name, value)
        return told[1] if isinstance(told[1], bytes) else json.dumps(told[1]).encode()


@define(eq=False)
class Peer(Protocol):
    """A raw connection: what came in, and what the test says to it."""

    came: bytes = b""
    lost: bool = False
    greedy: bool = True

    def connectionMade(self) -> None:
        if not self.greedy:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.came += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def say(self, text: bytes) -> None:
        self.transport.write(text)  # type: ignore[union-attr]


@define(eq=False)
class Peers(Factory):
    """All raw connections so far."""

    greedy: bool = True
    all: list[Peer] = field(factory=list)

    def buildProtocol(self, addr: Any) -> Peer:
        peer = Peer(greedy=self.greedy)
        self.all.append(peer)
        return peer

    async def next(self, number: int = 0) -> Peer:
        """The connection of that number once its request's head is there."""
        await until(lambda: len(self.all) > number)
        peer = self.all[number]
        await until(lambda: b"\r\n\r\n" in peer.came or not peer.greedy)
        return peer


@define(eq=False)
class Rig:
    """A client over the loopback with its clock; `stop` ends it all."""

    server: ImmichServer
    clock: Clock
    port: Any
    pool: HTTPConnectionPool

    @classmethod
    def on(cls, factory: Factory, **more: Any) -> Rig:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        pool = HTTPConnectionPool(reactor)
        clock = Clock()
        url = f"http://127.0.0.1:{port.getHost().port}"
        server = ImmichServer(
            url, Agent(reactor, pool=pool), clock, **{"jitter": lambda: 0.0, **more}
        )
        return cls(server, clock, port, pool)

    @classmethod
    def scripted(cls, script: Script, **more: Any) -> Rig:
        return cls.on(Site(script), **more)

    async def stop(self) -> None:
        await self.pool.closeCachedConnections()
        await maybeDeferred(self.port.stopListening)


def started(coroutine: Any) -> tuple[Deferred[Any], list[Any]]:
    """A coroutine set off, and the list its result or failure will be in."""
    result: list[Any] = []
    running = Deferred.fromCoroutine(coroutine)
    running.addBoth(result.append)
    return running, result


def version(major: int, minor: int = 1) -> dict[str, Any]:
    """What every script needs: the version, a log-in and its user."""
    return {
        "GET /server/version": (200, {"major": major, "minor": minor, "patch": 0}),
        "POST /auth/login": (201, {"accessToken": "tok-secret-123"}),
        "GET /users/me": (200, ME),
    }


@pytest_twisted.async_yield_fixture
async def scripted() -> AsyncIterator[tuple[Rig, Script]]:
    """The client before a server that answers as it is told; at first only its version."""
    script = Script()
    script.answers.update(version(3))
    made = Rig.scripted(script)
    yield made, script
    await made.stop()
