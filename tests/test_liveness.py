"""Who is gone, who is idle, and who is only slow: message by message, then with real peers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
import pytest_twisted
from attrs import define, field
from rig import until
from sftp_peer import INIT, OPEN, packet
from ssh_server import PASSWORD, World, host_keys
from test_ssh_rekey import ALIVE, KEEP_ALIVE, Link, answers, logged_in
from test_ssh_transport import lines, ns
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from immich_conch.ssh import liveness
from immich_conch.ssh.liveness import (
    IDLE_LOOKS,
    KEEPALIVE_SECONDS,
    TAKEN_BYTES,
    TCP_KEEPALIVE,
    UNANSWERED,
    acknowledged,
)

__all__ = ["host_keys", "lines"]

THREE_MINUTES = 180.0
ANSWER = 82  # MSG_REQUEST_FAILURE, which is what clients say to a question that they do not know


@pytest.fixture
def link(host_keys: Any) -> Link:
    return logged_in(Link(World(), host_keys))


def asked(link: Link) -> int:
    return int(link.client.got.count(KEEP_ALIVE))


def text(line: dict[str, Any]) -> str:
    return str(line["log_format"].format(**line))


# -- is it there?


def test_a_peer_that_says_nothing_any_more_is_gone_within_three_minutes(
    link: Link, lines: list[Any]
) -> None:
    link.send(KEEP_ALIVE, ALIVE)
    link.pump()
    waited = 0.0
    while not link.down.aborted:
        link.wait(1)
        waited += 1
    assert KEEPALIVE_SECONDS * (UNANSWERED + 1) <= waited < THREE_MINUTES
    assert asked(link) == UNANSWERED
    (line,) = lines
    assert text(line).endswith(": gives no sign of life any more, cutting it off")
    link.server.connectionLost(None)
    assert link.world.logouts == 1 and link.clock.getDelayedCalls() == []


def test_any_word_of_the_client_counts_as_life_and_spares_it_the_question(link: Link) -> None:
    for _ in range(100):
        link.wait(KEEPALIVE_SECONDS * 0.9)
        assert answers(link, 1) == 1
    assert asked(link) == 0 and not link.down.aborted


def test_a_client_that_only_answers_may_stay_for_ever(link: Link) -> None:
    answered = 0
    for _ in range(1000):
        link.wait(KEEPALIVE_SECONDS)
        if asked(link) > answered:
            answered = asked(link)
            link.send(ANSWER, b"")
            link.pump()
    assert answered >= 490 and not link.down.aborted and not link.down.disconnecting


def test_the_count_starts_again_with_each_answer(link: Link) -> None:
    for _ in range(10):
        link.wait(KEEPALIVE_SECONDS * UNANSWERED)
        link.send(ANSWER, b"")
        link.pump()
    assert not link.down.aborted


def test_new_keys_in_between_change_nothing(link: Link) -> None:
    for _ in range(5):
        link.wait(KEEPALIVE_SECONDS)
        link.server.rekey()
        link.pump()
        assert not link.server.changing_keys
        assert answers(link, 1) == 1
    assert not link.down.aborted


def test_a_client_that_vanishes_in_a_key_exchange_is_not_asked_and_gone_as_soon(
    link: Link,
) -> None:
    link.server.rekey()
    link.down.clear()
    link.clock.advance(KEEPALIVE_SECONDS)
    for _ in range(UNANSWERED + 1):
        assert not link.down.aborted
        link.clock.advance(KEEPALIVE_SECONDS)
    assert link.down.aborted
    assert link.server._blockedByKeyExchange == []


def test_who_takes_data_of_ours_is_alive_without_a_word(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    monkeypatch.setattr(liveness, "acknowledged", lambda tcp: taken)
    for _ in range(50):
        taken += TAKEN_BYTES
        link.wait(KEEPALIVE_SECONDS)
    assert not link.down.aborted
    for _ in range(UNANSWERED + 1):
        taken += TAKEN_BYTES - 1  # what a kernel takes whose client hangs
        link.wait(KEEPALIVE_SECONDS)
    assert link.down.aborted


def test_nobody_is_asked_before_the_log_in_or_where_that_is_switched_off(host_keys: Any) -> None:
    early = Link(World(), host_keys, keepalive=1.0).secure()
    early.wait(30)
    assert asked(early) == 0 and not early.down.aborted
    never = logged_in(Link(World(), host_keys, keepalive=0.0))
    never.wait(100_000)
    assert asked(never) == 0 and not never.down.aborted


# -- does it want anything?


def idle_link(host_keys: Any, limit: float = 800.0) -> Link:
    """A client with an SFTP channel, which answers whatever it is asked."""
    link = logged_in(Link(World(), host_keys, idle_timeout=limit))
    link.send(90, ns(b"session") + (0).to_bytes(4, "big") + (2**20).to_bytes(4, "big") * 2)
    link.send(98, bytes(4) + ns(b"subsystem") + b"\x01" + ns(b"sftp"))
    link.send(94, bytes(4) + ns(packet(INIT, (3).to_bytes(4, "big"))))
    link.pump()
    return link


def lasts(link: Link, seconds: int) -> int:
    """Seconds until the connection is ended, or all of them."""
    for second in range(0, seconds, 10):
        if link.down.disconnecting:
            return second
        link.send(ANSWER, b"")
        link.wait(10)
    return seconds


def test_an_idle_client_that_answers_stays_unless_the_administrator_says_otherwise(
    host_keys: Any, lines: list[Any]
) -> None:
    assert lasts(idle_link(host_keys, 0.0), 100_000) == 100_000
    limited = idle_link(host_keys, 800.0)
    assert 800 <= lasts(limited, 2000) <= 800 * (1 + 1 / IDLE_LOOKS) + 10
    assert limited.client.goodbye == b"idle for too long"
    (line,) = lines
    assert text(line).endswith(": disconnecting: idle for too long")


def test_a_request_now_and_then_keeps_a_connection(host_keys: Any) -> None:
    link = idle_link(host_keys)
    for number in range(10):
        assert lasts(link, 700) == 700
        stat = packet(17, number.to_bytes(4, "big") + ns(b"/photo"))
        link.send(94, bytes(4) + ns(stat))
        link.pump()
    assert lasts(link, 2000) < 1000


def test_an_open_file_is_not_idle_until_it_is_closed(host_keys: Any) -> None:
    link = idle_link(host_keys)
    opening = packet(OPEN, bytes(4) + ns(b"/photo") + (0x1A).to_bytes(4, "big") + bytes(4))
    link.send(94, bytes(4) + ns(opening))
    link.pump()
    assert lasts(link, 5000) == 5000
    closing = packet(4, bytes(4) + ns((1).to_bytes(8, "big")))
    link.send(94, bytes(4) + ns(closing))
    link.pump()
    assert lasts(link, 2000) < 1000
    assert link.world.files.called().count("close") == 1


# -- real peers


@define(eq=False)
class Relay:
    """A TCP relay that can swallow everything, or let the server's bytes through slowly."""

    target: int
    swallow: bool = False
    #: Bytes of the server's that are let through at a time, and how often; None is all.
    piece: int | None = None
    pause: float = 0.1
    port: Any = field(init=False)
    ends: list[Any] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        factory = Factory.forProtocol(lambda: _End(self, None))  # type: ignore[arg-type]
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]

    def connect(self, client: _End) -> _End:
        """The connection to the server, with small buffers so that slowness is felt there."""
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", self.target))
            raw.setblocking(False)
            server = _End(self, client)
            reactor.adoptStreamConnection(  # type: ignore[attr-defined]
                raw.fileno(),
                socket.AF_INET,
                Factory.forProtocol(lambda: server),  # type: ignore[arg-type]
            )
        return server

    async def close(self) -> None:
        await self.port.stopListening()
        for end in self.ends:
            end.transport.abortConnection()


class _End(Protocol):
    def __init__(self, relay: Relay, other: _End | None) -> None:
        self.relay, self.other = relay, other
        self.to_server = other is None

    def connectionMade(self) -> None:
        self.relay.ends.append(self)
        if self.other is None:
            self.other = self.relay.connect(self)
        elif self.relay.piece is not None:
            self.transport.bufferSize = self.relay.piece  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self.relay.swallow:
            return
        assert self.other is not None and self.transport is not None
        self.other.transport.write(data)  # type: ignore[union-attr]
        if not self.to_server and self.relay.piece is not None:
            self.transport.pauseProducing()  # type: ignore[attr-defined]
            reactor.callLater(  # type: ignore[attr-defined]
                self.relay.pause,
                self.transport.resumeProducing,  # type: ignore[attr-defined]
            )

    def connectionLost(self, reason: Any = None) -> None:
        # Who swallows bytes swallows the end as well.
        if not self.relay.swallow and self.other is not None:
            self.other.transport.loseConnection()  # type: ignore[union-attr]


@define(eq=False)
class Real:
    """A server that asks often, and OpenSSH's client with an SFTP channel that stays open."""

    world: World
    port: Any
    place: Path
    processes: list[subprocess.Popen[bytes]] = field(factory=list)

    async def client(self, port: int) -> subprocess.Popen[bytes]:
        ask = self.place / "askpass"
        ask.write_text('#!/bin/sh\necho "$PASSWORD_FOR_TEST"\n')
        ask.chmod(0o700)
        options = ["-F/dev/null", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"]
        process = subprocess.Popen(
            ["ssh", *options, f"-oPort={port}", "ann@127.0.0.1", "-s", "sftp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "SSH_ASKPASS": str(ask),
                "SSH_ASKPASS_REQUIRE": "force",
                "PASSWORD_FOR_TEST": PASSWORD,
            },
        )
        self.processes.append(process)
        await until(lambda: len(self.world.opened) == len(self.processes))
        connection = self.world.opened[-1]
        await until(lambda: getattr(connection.service, "channels", None))
        return process

    @property
    def here(self) -> int:
        """Connections that have not ended."""
        return len(self.world.opened) - len(self.world.closed)


@pytest.fixture
def real(host_keys: Any, tmp_path: Path) -> Iterator[Real]:
    world = World()
    factory = world.factory(host_keys, keepalive=0.3)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    made = Real(world, port, tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()
    pytest_twisted.blockon(port.stopListening())


@pytest_twisted.ensureDeferred
async def test_a_client_process_that_hangs_is_gone_and_one_that_idles_is_not(real: Real) -> None:
    # Three minutes are 1.8 s at this pace.
    port = real.port.getHost().port
    idle = await real.client(port)
    await deferLater(reactor, 2.5)
    assert real.here == 1 and idle.poll() is None
    hung = await real.client(port)
    os.kill(hung.pid, signal.SIGSTOP)
    began = reactor.seconds()  # type: ignore[attr-defined]
    await until(lambda: real.here == 1)
    assert reactor.seconds() - began < 3.0  # type: ignore[attr-defined]
    assert real.world.logouts == 1
    await deferLater(reactor, 1.0)
    assert real.here == 1 and idle.poll() is None
    idle.kill()
    await until(lambda: real.here == 0)


@pytest_twisted.ensureDeferred
async def test_a_peer_whose_bytes_vanish_on_the_way_is_gone(real: Real) -> None:
    relay = Relay(real.port.getHost().port)
    await real.client(relay.port.getHost().port)
    relay.swallow = True
    await until(lambda: real.here == 0)
    assert real.world.logouts == 1
    await relay.close()


@pytest_twisted.ensureDeferred
async def test_a_slow_but_living_download_is_never_cut(real: Real) -> None:
    data = os.urandom(120_000)
    real.world.files.files[b"/photo"] = bytearray(data)
    relay = Relay(real.port.getHost().port)

    def client() -> bytes:
        transport = paramiko.Transport(("127.0.0.1", relay.port.getHost().port))
        try:
            transport.connect(username="ann", password=PASSWORD)
            sftp = paramiko.SFTPClient.from_transport(transport)
            assert sftp is not None
            relay.piece = 2048
            for end in relay.ends:
                if not end.to_server:
                    end.transport.bufferSize = relay.piece
            with sftp.open("/photo") as file:
                # All is asked for at once: nothing more is said until it is there.
                file.prefetch(len(data))
                return file.read()
        finally:
            transport.close()

    began = reactor.seconds()  # type: ignore[attr-defined]
    found = await deferToThread(client)
    assert found == data
    assert reactor.seconds() - began > 3.0, "so slow that silence would have been fatal"  # type: ignore[attr-defined]
    await until(lambda: real.here == 0)
    await relay.close()


@pytest_twisted.ensureDeferred
async def test_the_kernel_asks_as_well_and_tells_what_was_taken(real: Real) -> None:
    process = await real.client(real.port.getHost().port)
    tcp = real.world.opened[-1].transport
    handle = tcp.getHandle()
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for name, value in TCP_KEEPALIVE.items():
        if hasattr(socket, name):
            assert handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    if hasattr(socket, "TCP_INFO"):
        before = acknowledged(tcp)
        assert before > 1000  # the key exchange
        await until(lambda: acknowledged(tcp) > before)
    process.kill()
    await until(lambda: real.here == 0)
