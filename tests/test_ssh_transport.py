"""The transport and the log-in, message by message on a Clock: deadlines, counters, bad messages.

The client is Conch's own client transport, joined to the server in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ssh_server import PASSWORD, World, host_keys
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import (
    MSG_KEX_DH_GEX_REQUEST,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    SSHClientTransport,
    SSHServerTransport,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher

from immich_conch.ssh.transport import FAILURE_DELAY, LINGER, LOGIN_DEADLINE

__all__ = ["host_keys"]


def ns(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


class Socket(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Client(SSHClientTransport):
    """Logs nothing in by itself; notes what the server says."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def verifyHostKey(self, key: bytes, fingerprint: bytes) -> Deferred[int]:
        return succeed(1)

    def connectionSecure(self) -> None:
        self.setService(_Listener(self.got))

    def ssh_SERVICE_ACCEPT(self, packet: bytes) -> None:
        self.got.append(6)

    def receiveError(self, reason: int, text: bytes) -> None:
        self.got.append(1)
        self.goodbye = text


class _Listener(SSHService):
    name = b"ssh-userauth"

    def __init__(self, got: list[int]) -> None:
        self.got = got

    def packetReceived(self, number: int, packet: bytes) -> None:
        self.got.append(number)


class Link:
    """A client and a server, and the bytes between them."""

    make_client: Callable[[], Any] = Client

    def __init__(self, world: World, keys: Any, **options: Any) -> None:
        self.world = world
        self.clock = Clock()
        self.factory = world.factory(keys, self.clock, **options)
        self.server: Any = self.factory.buildProtocol(None)
        self.client: Any = type(self).make_client()
        self.up, self.down = Socket(), Socket()
        self.server.makeConnection(self.down)
        self.client.makeConnection(self.up)

    def pump(self) -> None:
        """Carry bytes both ways until there are none."""
        while self.up.value() or self.down.value():
            up, down = self.up.value(), self.down.value()
            self.up.clear()
            self.down.clear()
            self.server.dataReceived(up)
            self.client.dataReceived(down)

    def secure(self) -> Link:
        self.pump()
        assert self.server.isEncrypted("both")
        self.service()
        return self

    def service(self) -> None:
        self.client.sendPacket(MSG_SERVICE_REQUEST, ns(b"ssh-userauth"))
        self.pump()

    def send(self, number: int, payload: bytes) -> None:
        self.client.sendPacket(number, payload)

    def guess(self, password: str = "wrong", method: bytes = b"password") -> None:
        rest = b"\x00" + ns(password.encode()) if method == b"password" else b""
        self.send(50, ns(b"ann") + ns(b"ssh-connection") + ns(method) + rest)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pump()


@pytest.fixture
def link(host_keys: Any) -> Link:
    return Link(World(), host_keys)


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged in a test; nothing of it may be a trace."""
    events: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] >= LogLevel.info and event["log_namespace"].startswith("immich"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)
    assert not [event for event in events if "log_failure" in event]


def test_trap_13_who_never_says_a_word_is_cut_off(link: Link, lines: list[Any]) -> None:
    link.clock.advance(LOGIN_DEADLINE - 0.1)
    assert not link.down.disconnecting
    link.clock.advance(0.1)
    assert link.down.disconnecting and not link.down.aborted
    link.clock.advance(LINGER)
    assert link.down.aborted
    assert len(lines) == 1


def test_trap_13_who_never_logs_in_is_cut_off(link: Link) -> None:
    link.secure()
    link.wait(LOGIN_DEADLINE / 2)
    link.service()
    link.wait(LOGIN_DEADLINE / 2)
    assert link.down.disconnecting


def test_after_the_log_in_there_is_no_deadline(link: Link) -> None:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    assert 52 in link.client.got
    link.wait(LOGIN_DEADLINE * 10)
    assert not link.down.disconnecting
    link.server.connectionLost(None)
    assert link.world.logouts == 1
    assert link.world.opened == link.world.closed == [link.server]
    assert link.clock.getDelayedCalls() == []


def test_trap_13_asking_for_the_service_again_resets_no_counter(link: Link) -> None:
    link.secure()
    for attempt in range(6):
        assert not link.down.disconnecting, attempt
        link.guess()
        link.pump()
        link.wait(FAILURE_DELAY)
        if not link.down.disconnecting:
            link.service()
    assert link.down.disconnecting and link.server.attempts == 6
    assert link.world.tried == [b"wrong"] * 6


def test_trap_13_pipelined_guesses_take_turns(link: Link) -> None:
    link.secure()
    for _ in range(3):
        link.guess()
    link.pump()
    for checked in (1, 2, 3):
        assert len(link.world.tried) == checked
        assert link.client.got.count(51) == checked - 1
        link.wait(FAILURE_DELAY)
    assert link.client.got.count(51) == 3


def test_a_flood_of_guesses_ends_the_connection(link: Link, lines: list[Any]) -> None:
    link.secure()
    for _ in range(20):
        link.guess()
    link.pump()
    assert link.down.disconnecting and len(link.world.tried) == 1
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []
    assert len(lines) == 1


@pytest.mark.parametrize(
    "request_",
    [
        ns(b"ann") + ns(b"ssh-connection") + ns(b"password") + b"\x00" + ns(b"wrong"),
        ns(b"ann") + ns(b"ssh-connection") + ns(b"password") + b"\x01" + ns(PASSWORD.encode()) * 2,
        ns(b"ann") + ns(b"ssh-nonsense") + ns(b"password") + b"\x00" + ns(PASSWORD.encode()),
        ns(b"ann") + ns(b"ssh-connection") + ns(b"publickey") + b"\x00" + ns(b"x") * 2,
        ns(b"ann") + ns(b"ssh-connection") + ns(b"hostbased") + ns(b"") * 2,
        ns(b"ann") + ns(b"ssh-connection") + ns(b"password") + b"\x00" + ns(b"x" * 10000),
    ],
)
def test_every_failure_takes_equally_long_and_counts(link: Link, request_: bytes) -> None:
    link.secure()
    link.send(50, request_)
    link.pump()
    link.wait(FAILURE_DELAY - 0.01)
    assert 51 not in link.client.got
    link.wait(0.01)
    assert link.client.got.count(51) == 1 and link.server.attempts == 1


def test_the_first_question_for_the_methods_is_no_attempt(link: Link) -> None:
    link.secure()
    link.guess(method=b"none")
    link.pump()
    assert link.client.got.count(51) == 1 and link.server.attempts == 0
    link.guess(method=b"none")
    link.pump()
    assert link.client.got.count(51) == 1 and link.server.attempts == 1


def test_a_checker_that_breaks_is_a_refusal_and_a_line_without_the_secret(
    link: Link, lines: list[Any]
) -> None:
    def check(password: bytes) -> Any:
        raise ValueError(f"cannot decode {password!r}")

    link.world.check = check
    link.secure()
    link.guess("hunter2")
    link.pump()
    link.wait(FAILURE_DELAY)
    assert link.client.got.count(51) == 1
    assert len(lines) == 1 and "hunter2" not in repr(lines)


def test_a_drop_while_a_guess_waits_leaves_nothing_behind(link: Link) -> None:
    link.secure()
    link.guess()
    link.pump()
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []
    assert link.world.logouts == 0


@pytest.mark.parametrize(
    ("number", "payload"),
    [
        (50, b"\x00\x00"),
        (50, ns(b"x" * 2000) + ns(b"ssh-connection") + ns(b"none")),
        (50, ns(b"ann") + ns(b"ssh-connection") + ns(b"password")),
        (MSG_SERVICE_REQUEST, b"\xff\xff\xff\xff"),
        (MSG_SERVICE_REQUEST, ns(b"ssh-connection")),
        (MSG_NEWKEYS, b""),
        (MSG_KEX_DH_GEX_REQUEST, struct.pack("!LLL", 2048, 2048, 8192)),
        (30, b""),
        (MSG_KEXINIT, b"\x00" * 16),
        (1, b"\x00"),
    ],
)
def test_a_malformed_message_ends_the_connection_with_one_line(
    link: Link, lines: list[Any], number: int, payload: bytes
) -> None:
    link.secure()
    link.send(number, payload)
    link.pump()
    assert link.down.disconnecting
    assert len(lines) == 1
    link.server.dataReceived(b"more")
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" + b"x" * 5000,
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-x\r\n" + b"\xff" * 100,
        b"SSH-2.0-x\r\n" + struct.pack("!LBB", 12, 10, 21) + bytes(10),
        b"SSH-2.0-x\r\n" + struct.pack("!LBB", 12, 10, 5) + bytes(10),
        b"SSH-2.0-x\r\n" + struct.pack("!LB", 12, 0) + bytes(11),
    ],
)
def test_nonsense_before_the_keys_ends_the_connection(
    link: Link, lines: list[Any], data: bytes
) -> None:
    link.server.dataReceived(data)
    assert link.down.disconnecting and len(lines) == 1


def test_after_the_log_in_no_service_can_be_asked_for(link: Link) -> None:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    link.service()
    assert link.down.disconnecting


def test_a_full_tcp_buffer_holds_the_channels_back(link: Link) -> None:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    assert link.down.producer is link.server and link.server.can_write
    link.server.pauseProducing()
    assert not link.server.can_write
    link.server.resumeProducing()
    assert link.server.can_write
    link.server.sendKexInit()  # while keys are changed nothing of a channel may be sent
    assert not link.server.can_write
    link.pump()
    assert link.server.can_write


@pytest.mark.parametrize("rekeying", [False, True])
def test_who_asks_on_and_takes_no_answer_is_cut_off(
    link: Link, lines: list[Any], rekeying: bool
) -> None:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    if rekeying:
        link.server.sendKexInit()
    else:
        link.server.pauseProducing()
    for _ in range(20_000):
        link.server.dispatchMessage(80, ns(b"keepalive@openssh.com") + b"\x01")
    assert link.down.aborted and len(lines) == 1
    assert len(link.down.value()) < 2**21
    link.server.connectionLost(None)
    assert link.world.logouts == 1


def test_small_answers_pass_a_full_tcp_buffer(link: Link) -> None:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    for _ in range(20):
        link.server.pauseProducing()
        for _ in range(1000):
            link.server.dispatchMessage(80, ns(b"keepalive@openssh.com") + b"\x01")
        link.server.resumeProducing()
    assert not link.down.aborted


def test_trap_14_conchs_own_lists_stay_as_they_are(link: Link) -> None:
    assert b"3des-cbc" not in link.server.algorithms.ciphers
    assert b"3des-cbc" in SSHServerTransport.supportedCiphers
    assert b"ssh-rsa" not in link.server.algorithms.host_keys
    assert b"zlib" not in link.server.algorithms.compressions
    assert link.server.ourVersionString == b"SSH-2.0-immich-conch"
