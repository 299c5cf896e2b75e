"""The Immich servers the contract suite runs on: the demo, joined on in three ways, or a real one.

In memory the real client and the real Site of the demo are joined without a socket; over the
loopback the connections are real, kept and pooled.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from attrs import frozen
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import LoopingCall

from immich_conch.demo import DemoImmich
from immich_conch.immich.client import ImmichServer, connect

URL = os.environ.get("IMMICH_CONCH_TEST_URL", "")
ADMIN = os.environ.get("IMMICH_CONCH_TEST_ADMIN", "")

DEMO_ADMIN = ("admin@example.com", "correct horse 1")
FLUSH = 0.001
"""Seconds between pumpings of the connections in memory, for answers that come later."""

SERVERS = ["memory-2.5.6", "memory-3.1.0", "loopback-2.5.6", "loopback-3.1.0"]
if URL and ADMIN:
    SERVERS.append("real")


@frozen
class Target:
    """A server, its administrator's e-mail and password, and whether it outlives the test."""

    server: ImmichServer
    admin: tuple[str, str]
    close: Callable[[], Awaitable[object]]
    lasting: bool = False


def real() -> Target:
    """The server that the environment names."""
    email, _, password = ADMIN.partition(":")
    server = connect(reactor, URL)
    return Target(server, (email, password), _pool_of(server).closeCachedConnections, lasting=True)


def in_memory(version: str) -> Target:
    """The demo without a socket."""
    demo = _demo(version)
    agent = RequestTraversalAgent(demo.resource())
    pump = LoopingCall(agent.flush)
    pump.start(FLUSH, now=False)

    async def close() -> None:
        pump.stop()
        demo.close()

    return Target(ImmichServer("http://immich.invalid/", agent, reactor), DEMO_ADMIN, close)


def over_loopback(version: str) -> Target:
    """The demo behind a real port."""
    demo = _demo(version)
    port = reactor.listenTCP(0, demo.site(), interface="127.0.0.1")  # type: ignore[attr-defined]
    server = connect(reactor, f"http://127.0.0.1:{port.getHost().port}/api/")

    async def close() -> None:
        await _pool_of(server).closeCachedConnections()
        await maybeDeferred(port.stopListening)
        demo.close()

    return Target(server, DEMO_ADMIN, close)


def opened(name: str) -> Target:
    """The server of that name in SERVERS."""
    way, _, version = name.partition("-")
    return {"memory": in_memory, "loopback": over_loopback}[way](version) if version else real()


def _demo(version: str) -> DemoImmich:
    demo = DemoImmich(version)
    demo.add_user(*DEMO_ADMIN, "Admin", admin=True)
    return demo


def _pool_of(server: ImmichServer):  # type: ignore[no-untyped-def]
    return server.http.agent._pool  # type: ignore[attr-defined]
