"""Channels message by message: windows, stale messages, and how a session ends.

The transport underneath only notes what is sent; the traps are those of Conch's channels.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.ssh import connection as numbers
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from immich_conch.ssh.session import (
    CHANNEL_PACKET_BYTES,
    FURTHER_WINDOW_BYTES,
    WINDOW_BYTES,
    Connection,
)
from immich_conch.ssh.wire import PacketError

STALE = [
    numbers.MSG_CHANNEL_WINDOW_ADJUST,
    numbers.MSG_CHANNEL_DATA,
    numbers.MSG_CHANNEL_EXTENDED_DATA,
    numbers.MSG_CHANNEL_EOF,
    numbers.MSG_CHANNEL_CLOSE,
    numbers.MSG_CHANNEL_REQUEST,
    numbers.MSG_CHANNEL_SUCCESS,
    numbers.MSG_CHANNEL_FAILURE,
    numbers.MSG_CHANNEL_OPEN_CONFIRMATION,
    numbers.MSG_CHANNEL_OPEN_FAILURE,
]


def ns(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


class Echo(Protocol):
    """Knows nothing of windows and half-closing."""

    lost = False

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        assert not self.lost
        self.lost = True


@implementer(IHalfCloseableProtocol)
class Slow(Echo):
    """Reports what it has dealt with, and says goodbye only when told."""

    reports_consumed = True
    ended = False

    def __init__(self) -> None:
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None:
        raise AssertionError


class Avatar:
    def __init__(self) -> None:
        self.protocols: list[Any] = []
        self.subsystemLookup = {b"echo": self._make(Echo), b"slow": self._make(Slow)}

    def _make(self, kind: Any) -> Any:
        def make(data: bytes, avatar: Any) -> Any:
            assert avatar is self
            self.protocols.append(kind())
            return self.protocols[-1]

        return make


@define(eq=False)
class Wire:
    """An SSH transport without SSH, with the client's side of the messages."""

    avatar: Any = field(factory=Avatar)
    can_write: bool = True
    peer: str = "a test"
    sent: list[tuple[int, bytes]] = field(factory=list)
    disconnected: bytes = b""
    connection: Any = None

    @classmethod
    def with_channel(cls, window: int = 2**20, **options: Any) -> Wire:
        wire = cls()
        wire.connection = Connection(**options)
        wire.connection.transport = wire
        wire.connection.serviceStarted()
        wire.open(window)
        wire.sent.clear()
        return wire

    def send_pieces(self, number: int, pieces: Any) -> None:
        self.sendPacket(number, b"".join(pieces))

    def sendPacket(self, number: int, payload: bytes) -> None:
        self.sent.append((number, payload))

    def sendDisconnect(self, reason: int, text: bytes) -> None:
        self.disconnected = text

    def sendUnimplemented(self) -> None:
        self.sent.append((3, b""))

    def open(self, window: int, largest: int = 32768, kind: bytes = b"session") -> None:
        rest = struct.pack("!LLL", 77, window, largest)
        self.connection.packetReceived(numbers.MSG_CHANNEL_OPEN, ns(kind) + rest)

    def get(self, number: int, body: bytes = b"", channel: int = 0) -> None:
        self.connection.packetReceived(number, struct.pack("!L", channel) + body)

    def request(self, kind: bytes, data: bytes = b"") -> None:
        self.get(numbers.MSG_CHANNEL_REQUEST, ns(kind) + b"\x01" + data)

    def subsystem(self, name: bytes) -> Any:
        self.request(b"subsystem", ns(name))
        assert self.kinds() == [numbers.MSG_CHANNEL_SUCCESS]
        self.sent.clear()
        return self.avatar.protocols[-1]

    def kinds(self) -> list[int]:
        return [number for number, _ in self.sent]

    def data(self) -> bytes:
        return b"".join(
            payload[8:] for number, payload in self.sent if number == numbers.MSG_CHANNEL_DATA
        )

    def adjusted(self) -> int:
        return sum(
            struct.unpack("!LL", payload)[1]
            for number, payload in self.sent
            if number == numbers.MSG_CHANNEL_WINDOW_ADJUST
        )


GOODBYE = [numbers.MSG_CHANNEL_REQUEST, numbers.MSG_CHANNEL_EOF, numbers.MSG_CHANNEL_CLOSE]


def status_of(wire: Wire) -> int:
    (payload,) = (body for number, body in wire.sent if number == numbers.MSG_CHANNEL_REQUEST)
    assert payload[4:-4] == ns(b"exit-status") + b"\x00"
    return int.from_bytes(payload[-4:], "big")


@pytest.mark.parametrize("number", STALE)
def test_trap_12_messages_for_a_closed_channel_are_dropped(number: int) -> None:
    wire = Wire.with_channel()
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    assert wire.kinds() == [numbers.MSG_CHANNEL_CLOSE]
    wire.sent.clear()
    wire.get(number, struct.pack("!L", 1) + ns(b"exec") + b"\x01")
    assert wire.sent == []


@pytest.mark.parametrize("number", STALE)
def test_messages_for_a_channel_that_never_was_break_the_protocol(number: int) -> None:
    wire = Wire.with_channel()
    with pytest.raises(PacketError):
        wire.get(number, channel=1)
    with pytest.raises(PacketError):
        wire.connection.packetReceived(number, b"\x00")


def test_answers_to_nothing_and_log_ins_after_the_log_in_are_dropped() -> None:
    wire = Wire.with_channel()
    for number in (numbers.MSG_REQUEST_SUCCESS, numbers.MSG_REQUEST_FAILURE, 50, 61):
        wire.connection.packetReceived(number, b"")
    assert wire.sent == []
    wire.connection.packetReceived(
        numbers.MSG_GLOBAL_REQUEST, ns(b"keepalive@openssh.com") + b"\x01"
    )
    wire.connection.packetReceived(120, b"")
    assert wire.kinds() == [numbers.MSG_REQUEST_FAILURE, 3]


def test_only_sessions_are_opened_and_only_so_many() -> None:
    wire = Wire.with_channel(max_channels=2)
    wire.open(0, kind=b"direct-tcpip")
    wire.open(0, largest=10)
    wire.open(0)
    wire.open(0)
    assert wire.kinds() == [92, 92, 91, 92]
    reasons = [body[4:8][-1] for number, body in wire.sent if number == 92]
    assert reasons == [3, 1, 4]
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    wire.open(0)
    assert wire.kinds()[-1] == numbers.MSG_CHANNEL_OPEN_CONFIRMATION
    numbers_in = struct.unpack("!4L", wire.sent[-1][1])
    # The first has the large window, the others what is enough for little things.
    assert numbers_in == (77, 2, FURTHER_WINDOW_BYTES, CHANNEL_PACKET_BYTES)
    wire.get(numbers.MSG_CHANNEL_CLOSE, channel=1)
    wire.get(numbers.MSG_CHANNEL_CLOSE, channel=2)
    wire.open(0)
    numbers_in = struct.unpack("!4L", wire.sent[-1][1])
    assert numbers_in == (77, 3, WINDOW_BYTES, CHANNEL_PACKET_BYTES)


def test_trap_10_output_waits_for_the_peers_window_in_order_and_counted() -> None:
    wire = Wire.with_channel(window=10)
    echo = wire.subsystem(b"echo")
    drained: list[int] = []
    echo.transport.on_drain(lambda: drained.append(echo.transport.buffered))
    for n in range(100):
        echo.transport.write(b"%05d" % n)
    assert wire.data() == b"0000000001"
    assert echo.transport.buffered == 490
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 7))
    assert wire.data() == b"00000000010000200"
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 2**32 - 1))
    assert wire.data() == b"".join(b"%05d" % n for n in range(100))
    assert drained == [483, 0]


def test_output_waits_for_the_tcp_connection_too() -> None:
    wire = Wire.with_channel()
    echo = wire.subsystem(b"echo")
    wire.can_write = False
    echo.transport.write(b"x" * 100_000)
    assert wire.sent == [] and echo.transport.buffered == 100_000
    wire.connection.resume_writing()
    assert wire.sent == []
    wire.can_write = True
    wire.connection.resume_writing()
    assert [len(body) - 8 for _, body in wire.sent] == [32768, 32768, 32768, 1696]


def test_trap_11_the_window_opens_only_by_what_is_dealt_with() -> None:
    wire = Wire.with_channel()
    slow = wire.subsystem(b"slow")
    for _ in range(WINDOW_BYTES // CHANNEL_PACKET_BYTES):
        wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x" * CHANNEL_PACKET_BYTES))
    assert wire.sent == [] and len(slow.got) == WINDOW_BYTES
    slow.transport.consumed(WINDOW_BYTES - 1)
    assert wire.adjusted() == WINDOW_BYTES - 1
    wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x"))


def test_a_protocol_that_does_not_report_gets_its_window_back_at_once() -> None:
    wire = Wire.with_channel()
    wire.subsystem(b"echo")
    for _ in range(WINDOW_BYTES // CHANNEL_PACKET_BYTES * 3):
        wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x" * CHANNEL_PACKET_BYTES))
    assert wire.adjusted() > WINDOW_BYTES * 2
    assert numbers.MSG_CHANNEL_CLOSE not in wire.kinds()


@pytest.mark.parametrize("size", [CHANNEL_PACKET_BYTES + 1, WINDOW_BYTES + 1])
def test_more_data_than_allowed_closes_the_channel(size: int) -> None:
    wire = Wire.with_channel()
    slow = wire.subsystem(b"slow")
    wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x" * size))
    assert wire.kinds() == [numbers.MSG_CHANNEL_CLOSE] and slow.lost
    wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x"))
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    assert wire.kinds() == [numbers.MSG_CHANNEL_CLOSE] and not wire.connection.channels


def test_at_eof_the_subsystem_finishes_then_status_eof_and_close_follow() -> None:
    wire = Wire.with_channel(window=3)
    slow = wire.subsystem(b"slow")
    wire.get(numbers.MSG_CHANNEL_EOF)
    assert slow.ended and wire.sent == []
    slow.transport.write(b"answer")
    slow.transport.loseConnection()
    slow.transport.write(b"too late")
    assert wire.data() == b"ans" and not slow.lost
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 100))
    assert wire.data() == b"answer" and slow.lost
    assert wire.kinds()[-3:] == GOODBYE and status_of(wire) == 0
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    assert not wire.connection.channels


def test_a_close_of_the_client_ends_a_channel_whose_window_is_shut() -> None:
    wire = Wire.with_channel(window=0)
    slow = wire.subsystem(b"slow")
    slow.transport.write(b"never taken")
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    assert wire.kinds() == [numbers.MSG_CHANNEL_CLOSE]
    assert slow.lost and not wire.connection.channels


def test_the_end_of_the_connection_ends_the_subsystems() -> None:
    wire = Wire.with_channel()
    slow = wire.subsystem(b"slow")
    wire.connection.serviceStopped()
    assert slow.lost and not wire.connection.channels


def test_a_subsystem_that_fails_loses_only_its_channel(logged_errors: Any) -> None:
    wire = Wire.with_channel()
    slow = wire.subsystem(b"slow")
    slow.dataReceived = None
    wire.open(100)
    wire.get(numbers.MSG_CHANNEL_DATA, ns(b"x"))
    assert len(logged_errors.flush(TypeError)) == 1
    assert slow.lost and len(wire.connection.channels) == 2
    assert not wire.connection.channels[1].localClosed and not wire.disconnected


def test_a_session_ends_the_whole_connection_when_asked_to() -> None:
    wire = Wire.with_channel(window=0)
    slow = wire.subsystem(b"slow")
    slow.transport.write(b"bye")
    slow.transport.disconnect()
    assert not wire.disconnected
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 100))
    assert wire.data() == b"bye" and wire.disconnected


def test_a_session_runs_one_thing_and_knows_only_its_subsystems() -> None:
    wire = Wire.with_channel()
    wire.request(b"subsystem", ns(b"nonsense"))
    wire.request(b"env", ns(b"LANG") + ns(b"C"))
    wire.request(b"auth-agent-req@openssh.com")
    wire.request(b"x11-req")
    assert wire.kinds() == [numbers.MSG_CHANNEL_FAILURE] * 4
    wire.sent.clear()
    wire.subsystem(b"slow")
    wire.request(b"exec", ns(b"ls"))
    wire.request(b"shell")
    wire.request(b"subsystem", ns(b"slow"))
    assert wire.kinds() == [numbers.MSG_CHANNEL_FAILURE] * 3


def test_a_command_is_refused_after_it_was_accepted() -> None:
    wire = Wire.with_channel()
    wire.avatar.exec_refusal = b"No.\r\n"
    wire.request(b"exec", ns(b"ls"))
    assert wire.kinds() == [
        numbers.MSG_CHANNEL_SUCCESS,
        numbers.MSG_CHANNEL_EXTENDED_DATA,
        *GOODBYE,
    ]
    assert wire.sent[1][1] == struct.pack("!LL", 77, 1) + ns(b"No.\r\n")
    assert status_of(wire) == 1


def test_a_command_that_is_left_alone_is_cancelled() -> None:
    wire = Wire.with_channel()
    cancelled: list[object] = []
    wire.avatar.run_command = lambda command, out, err: Deferred(cancelled.append)
    wire.request(b"exec", ns(b"sha1sum /a"))
    wire.get(numbers.MSG_CHANNEL_EOF)
    assert wire.kinds() == [numbers.MSG_CHANNEL_SUCCESS]
    wire.get(numbers.MSG_CHANNEL_CLOSE)
    assert len(cancelled) == 1


def test_a_commands_output_waits_for_the_window_and_its_status_for_the_output() -> None:
    wire = Wire.with_channel(window=0)

    def run(command: bytes, out: Any, err: Any) -> int:
        out(b"to stdout")
        err(b"to stderr")
        return 3

    wire.avatar.run_command = run
    wire.request(b"exec", ns(b"both"))
    assert wire.kinds() == [numbers.MSG_CHANNEL_SUCCESS]
    wire.sent.clear()
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 4))
    assert wire.sent == [
        (numbers.MSG_CHANNEL_EXTENDED_DATA, struct.pack("!LL", 77, 1) + ns(b"to s"))
    ]
    wire.sent.clear()
    wire.get(numbers.MSG_CHANNEL_WINDOW_ADJUST, struct.pack("!L", 100))
    assert wire.kinds() == [
        numbers.MSG_CHANNEL_EXTENDED_DATA,
        numbers.MSG_CHANNEL_DATA,
        *GOODBYE,
    ]
    assert wire.sent[0][1].endswith(ns(b"tderr")) and wire.sent[1][1].endswith(ns(b"to stdout"))
    assert status_of(wire) == 3


@given(
    st.lists(
        st.one_of(
            st.lists(st.binary(max_size=700), max_size=4),
            st.integers(1, 900).map(lambda more: ("window", more)),
            st.booleans().map(lambda can: ("tcp", can)),
        ),
        max_size=25,
    ),
    st.integers(0, 900),
)
def test_whatever_is_written_goes_out_in_order_and_as_far_as_the_window_allows(
    steps: list[Any], window: int
) -> None:
    wire = Wire.with_channel(window=window)
    protocol = wire.subsystem(b"slow")
    said, allowed = b"", window
    for step in steps:
        if isinstance(step, list):
            said += b"".join(step)
            protocol.transport.writeSequence(step)
        elif step[0] == "window":
            allowed += step[1]
            adjust(wire, struct.pack("!LL", 0, step[1]), fast=bool(len(said) % 2))
        else:
            wire.can_write = step[1]
            if wire.can_write:
                wire.connection.resume_writing()
        heads = [struct.unpack("!LL", body[:8]) for _, body in wire.sent]
        assert all(0 < size <= 32768 and head == 77 for head, size in heads)
        out = b"".join(body[8:] for _, body in wire.sent)
        assert said.startswith(out)
        assert protocol.transport.buffered == len(said) - len(out)
        if wire.can_write:
            assert len(out) == min(len(said), allowed)


def adjust(wire: Wire, body: bytes, fast: bool) -> None:
    """A MSG_CHANNEL_WINDOW_ADJUST by the short way or by the one for all messages."""
    if fast:
        wire.connection.window_adjusted(b"..." + body + b"...", 3, 3 + len(body))
    else:
        wire.connection.packetReceived(numbers.MSG_CHANNEL_WINDOW_ADJUST, body)


@given(
    st.one_of(
        st.binary(max_size=12), st.integers(0, 2**32 - 1).map(lambda n: struct.pack("!LL", 0, n))
    )
)
def test_an_adjusted_window_means_the_same_by_the_short_way(body: bytes) -> None:
    outcomes = []
    for fast in (False, True):
        wire = Wire.with_channel(window=10)
        wire.subsystem(b"slow").transport.write(b"x" * 50)
        wire.connection.stirred = False
        try:
            adjust(wire, body, fast)
        except PacketError as error:
            outcomes.append((str(error), wire.sent))
            continue
        outcomes.append(
            (wire.connection.stirred, wire.connection.channels[0].remoteWindowLeft, wire.sent)
        )
    assert outcomes[0] == outcomes[1]
