"""How packets get to the socket: at once where they may, through Twisted where they must.

What Twisted alone makes of the same writes is the oracle.
"""

from __future__ import annotations

from errno import ECONNRESET, EWOULDBLOCK
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport

from immich_conch.ssh.outlet import AT_ONCE_BYTES, Outlet


class Socket:
    """Takes as many bytes a call as it is told to; then all."""

    def __init__(self, takes: list[int | None]) -> None:
        self.takes = list(takes)
        self.got = b""
        self.calls = 0

    def setblocking(self, on: bool) -> None:
        assert not on

    def fileno(self) -> int:
        return 99

    def send(self, data: memoryview) -> int:
        self.calls += 1
        most = self.takes.pop(0) if self.takes else len(data)
        if most is None:
            raise OSError(ECONNRESET, "gone")
        if not most:
            raise BlockingIOError(EWOULDBLOCK, "full")
        self.got += bytes(data[:most])
        return min(most, len(data))


class Loop:
    """A reactor that knows who wants to write."""

    def __init__(self) -> None:
        self.writers: list[Any] = []

    def addWriter(self, one: Any) -> None:
        if one not in self.writers:
            self.writers.append(one)

    def removeWriter(self, one: Any) -> None:
        if one in self.writers:
            self.writers.remove(one)

    def turn(self) -> Any:
        return [one.doWrite() for one in list(self.writers)]

    def run(self) -> None:
        while self.writers:
            self.turn()


def connection(takes: list[int | None]) -> tuple[Socket, Loop, Any]:
    socket, loop = Socket(takes), Loop()
    tcp = Connection(socket, Protocol(), loop)  # type: ignore[arg-type]
    tcp.connected = 1
    return socket, loop, tcp


pieces = st.lists(
    st.one_of(
        st.binary(max_size=9), st.integers(1, AT_ONCE_BYTES * 2).map(lambda n: b"%c" % 7 * n)
    ),
    min_size=1,
    max_size=3,
)
steps = st.lists(st.one_of(pieces, st.sampled_from(["hold", "release", "turn"])), max_size=30)
takes = st.lists(st.integers(0, AT_ONCE_BYTES), max_size=12)


@given(steps, takes)
def test_the_same_bytes_go_out_as_through_twisted_alone(
    steps: list[Any], takes: list[int | None]
) -> None:
    socket, loop, tcp = connection(takes)
    outlet = Outlet(tcp)
    plain, plain_loop, plain_tcp = connection(takes)
    said = b""
    for step in steps:
        if step == "hold":
            outlet.hold()
        elif step == "release":
            outlet.release()
        elif step == "turn":
            loop.turn()
            plain_loop.turn()
        else:
            said += b"".join(step)
            outlet.write(tuple(step))
            plain_tcp.writeSequence(step)
        # Nothing overtakes, and no more is held than is little.
        assert said.startswith(socket.got)
        waiting = len(tcp.dataBuffer) - tcp.offset + tcp._tempDataLen
        assert len(said) - len(socket.got) - waiting < AT_ONCE_BYTES
    outlet.release()
    loop.run()
    plain_loop.run()
    assert socket.got == said == plain.got


def test_a_small_answer_does_not_wait_for_the_loop() -> None:
    socket, loop, tcp = connection([])
    Outlet(tcp).write((b"head", b"body"))
    assert (socket.got, socket.calls, loop.writers) == (b"headbody", 1, [])


def test_what_is_said_in_one_go_is_one_piece() -> None:
    socket, loop, tcp = connection([])
    outlet = Outlet(tcp)
    outlet.hold()
    for _ in range(5):
        outlet.write((b"answer",))
    assert socket.calls == 0
    outlet.release()
    assert (socket.got, socket.calls, loop.writers) == (b"answer" * 5, 1, [])


def test_packets_of_a_large_file_are_left_to_twisted_to_be_sent_together() -> None:
    socket, loop, tcp = connection([])
    outlet = Outlet(tcp)
    for _ in range(3):
        outlet.write((b"x" * AT_ONCE_BYTES,))
    assert (socket.calls, loop.writers) == (0, [tcp])
    loop.run()
    assert socket.calls == 1


def test_a_connection_that_broke_is_found_out_by_twisted() -> None:
    _, loop, tcp = connection([None, None])
    Outlet(tcp).write((b"answer",))
    assert loop.turn() == [CONNECTION_LOST]


@pytest.mark.parametrize("end", ["connected", "disconnecting"])
def test_what_has_ended_or_is_ending_is_left_to_twisted(end: str) -> None:
    socket, _, tcp = connection([])
    setattr(tcp, end, not getattr(tcp, end))
    Outlet(tcp).write((b"late",))
    assert socket.calls == 0


def test_a_transport_that_is_no_socket_gets_all_of_it() -> None:
    tcp = StringTransport()
    outlet = Outlet(tcp)
    outlet.hold()
    outlet.write((b"one", b"two"))
    assert tcp.value() == b""
    outlet.release()
    outlet.write((b"three",))
    assert tcp.value() == b"onetwothree"


@pytest_twisted.ensureDeferred
async def test_twisteds_own_connections_send_at_once() -> None:
    left: list[int] = []

    class Server(Protocol):
        def connectionMade(self) -> None:
            tcp: Any = self.transport
            Outlet(tcp).write((b"hello",))
            left.append(len(tcp.dataBuffer) + tcp._tempDataLen)

    class Client(Protocol):
        def __init__(self) -> None:
            self.got: Deferred[bytes] = Deferred()

        def dataReceived(self, data: bytes) -> None:
            self.got.callback(data)
            assert self.transport is not None
            self.transport.loseConnection()

    port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")  # type: ignore[attr-defined]
    client = Client()
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), client)
    assert await client.got == b"hello"
    assert left == [0]
    await port.stopListening()
