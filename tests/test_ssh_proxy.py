"""The PROXY protocol: headers of both versions in any pieces, who is believed, and who is not.

Headers are checked byte by byte in memory; a whole service is asked over the loopback.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import paramiko
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from rig import until
from ssh_server import World, host_keys
from test_guard import lines
from test_ssh_transport import Socket
from test_tap import Greeting, options
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import ClientCreator
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from immich_conch import healthcheck
from immich_conch.ssh.proxy import (
    HEADER_DEADLINE,
    MAX_HEADER_BYTES,
    MAX_WAITING,
    BadHeader,
    ProxyFactory,
    read_header,
)
from immich_conch.tap import makeService

__all__ = ["host_keys", "lines"]

PREFIX = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY = IPv4Address("TCP", "10.0.0.2", 4000)


def v2(source: str, port: int = 1234, command: int = 0x21, more: bytes = b"") -> bytes:
    """A header of version 2 for a connection of `source`."""
    packed = ip_address(source).packed
    family = 0x11 if len(packed) == 4 else 0x21
    body = packed + packed + struct.pack("!HH", port, 22) + more
    return PREFIX + struct.pack("!BBH", command, family, len(body)) + body


V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 1234 22\r\n"
GOOD = [
    (V1, "203.0.113.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 22\r\n", "2001:db8::7"),
    (v2("203.0.113.7"), "203.0.113.7"),
    (v2("2001:db8::7"), "2001:db8:0:0:0:0:0:7"),
    (v2("203.0.113.7", more=b"\x04\x00\x10" + bytes(16)), "203.0.113.7"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2("203.0.113.7", command=0x20), None),
    (PREFIX + b"\x21\x31" + struct.pack("!H", 216) + bytes(216), None),
    (PREFIX + b"\x20\x00\x00\x00", None),
    (PREFIX + b"\x21\x10\x00\x0c" + bytes(12), None),
]
BAD = [
    b"SSH-2.0-OpenSSH\r\n",
    b"PROXY TCP4 nonsense 198.51.100.1 1234 22\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 99999 22\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 x 22\r\n",
    b"PROXY TCP4 203.0.113.7\r\n",
    b"PROXY TCP9 203.0.113.7 198.51.100.1 1234 22\r\n",
    b"PROXY TCP4 \xff 198.51.100.1 1234 22\r\n",
    b"PROXY " + b"x" * 200,
    b"PROXYTCP4\r\n",
    PREFIX + b"\x11\x11\x00\x0c" + bytes(12),
    PREFIX + b"\x25\x11\x00\x0c" + bytes(12),
    PREFIX + b"\x21\x77\x00\x0c" + bytes(12),
    PREFIX + b"\x21\x11\x00\x03" + bytes(3),
    PREFIX + b"\x21\x11" + struct.pack("!H", MAX_HEADER_BYTES),
]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_header_is_read_in_any_pieces(header: bytes, client: str | None) -> None:
    for end in range(len(header)):
        assert read_header(header[:end]) is None
    for rest in (b"", b"SSH-2.0-x\r\n"):
        found = read_header(header + rest)
        assert found is not None
        address, size = found
        assert size == len(header)
        assert getattr(address, "host", None) == client
        assert getattr(address, "port", None) == (1234 if client else None)


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeader):
        read_header(data)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", PREFIX, PREFIX + b"!"]),
)
def test_no_bytes_do_anything_but_wait_be_read_or_be_refused(data: bytes, head: bytes) -> None:
    try:
        found = read_header(head + data)
    except BadHeader:
        return
    assert found is None or 0 < found[1] <= len(head + data)


class Proxied:
    """A factory behind proxies at 10.0.0.*, and one connection of a proxy."""

    def __init__(self, keys: Any) -> None:
        self.world, self.clock = World(), Clock()
        self.factory = ProxyFactory(
            self.world.factory(keys, self.clock),
            lambda host: host.startswith("10.0.0."),
            self.clock,
        )

    def connect(self, peer: Any = PROXY) -> tuple[Any, Socket] | None:
        protocol = self.factory.buildProtocol(peer)
        if protocol is None:
            return None
        tcp = Socket(peerAddress=peer)
        protocol.makeConnection(tcp)
        return protocol, tcp


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("header", [V1, v2("203.0.113.7")])
def test_the_transport_knows_the_client_and_not_the_proxy(
    host_keys: Any, header: bytes, size: int
) -> None:
    proxied = Proxied(host_keys)
    connected = proxied.connect()
    assert connected is not None
    protocol, tcp = connected
    assert tcp.value() == b"", "nothing is said before the client is known"
    data = header + b"SSH-2.0-x\r\n"
    for start in range(0, len(data), size):
        protocol.dataReceived(data[start : start + size])
    (server,) = proxied.world.opened
    assert server.peer == "203.0.113.7 port 1234" and server.gotVersion
    assert tcp.value().startswith(b"SSH-2.0-")
    protocol.connectionLost()
    assert proxied.world.closed == [server]
    assert proxied.clock.getDelayedCalls() == [] and not proxied.factory.waiting


def test_a_proxys_own_health_check_is_greeted_and_is_nobodys_address(host_keys: Any) -> None:
    proxied = Proxied(host_keys)
    connected = proxied.connect()
    assert connected is not None
    protocol, tcp = connected
    protocol.dataReceived(PREFIX + b"\x20\x00\x00\x00")
    assert tcp.value().startswith(b"SSH-2.0-")
    (server,) = proxied.world.opened
    assert server.client is None and server.peer == "10.0.0.2 port 4000"
    protocol.connectionLost()


def test_the_containers_health_check_is_greeted_but_speaks_for_nobody(
    host_keys: Any, lines: list[str]
) -> None:
    proxied = Proxied(host_keys)
    here = IPv4Address("TCP", "127.0.0.1", 5)
    check, pretender = proxied.connect(here), proxied.connect(here)
    assert check is not None and pretender is not None
    check[0].dataReceived(b"PROXY UNKNOWN\r\n")
    assert check[1].value().startswith(b"SSH-2.0-")
    pretender[0].dataReceived(V1 + b"SSH-2.0-x\r\n")
    assert pretender[1].aborted and pretender[1].value() == b""
    assert len(proxied.world.opened) == 1 and "may not speak for others" in lines[-1]
    check[0].connectionLost()
    assert proxied.clock.getDelayedCalls() == []


def test_who_is_no_trusted_proxy_is_closed_and_costs_few_lines(
    host_keys: Any, lines: list[str]
) -> None:
    proxied = Proxied(host_keys)
    for _ in range(100):
        assert proxied.connect(IPv4Address("TCP", "203.0.113.7", 5)) is None
    assert len(lines) == 1 and "no trusted proxy" in lines[0]
    assert proxied.connect(UNIXAddress("/run/sftp")) is not None


def test_slow_loris_a_header_has_a_deadline_and_a_length(host_keys: Any, lines: list[str]) -> None:
    proxied = Proxied(host_keys)
    for begun in (b"", b"PROXY TCP4", PREFIX + b"\x21"):
        connected = proxied.connect()
        assert connected is not None
        protocol, tcp = connected
        protocol.dataReceived(begun)
        proxied.clock.advance(HEADER_DEADLINE - 0.1)
        assert not tcp.aborted
        proxied.clock.advance(0.1)
        assert tcp.aborted
        protocol.dataReceived(V1)
        protocol.connectionLost()
    assert proxied.world.opened == [] and not proxied.factory.waiting
    connected = proxied.connect()
    assert connected is not None
    connected[0].dataReceived(b"SSH-2.0-x\r\n")
    assert connected[1].aborted
    assert proxied.clock.getDelayedCalls() == []
    assert len(lines) == 4


def test_only_so_many_headers_are_waited_for_and_a_stop_waits_for_none(host_keys: Any) -> None:
    proxied = Proxied(host_keys)
    connected = [proxied.connect() for _ in range(MAX_WAITING)]
    assert None not in connected and proxied.connect() is None
    proxied.factory.doStart()
    proxied.factory.doStop()
    assert all(one is not None and one[1].aborted for one in connected)


async def greeted(port: int, header: bytes) -> bytes:
    """What the service says to a proxy that sends this header."""
    client = await ClientCreator(reactor, Greeting).connectTCP("127.0.0.1", port)
    client.transport.write(header)
    await until(lambda: b"\n" in client.heard or client.gone.called)
    if not client.gone.called:
        client.transport.loseConnection()
        await client.gone
    return bytes(client.heard)


@pytest.mark.parametrize(
    ("networks", "client", "inside"),
    [
        ("127.0.0.0/8", "203.0.113.7", True),
        ("10.0.0.0/8", "203.0.113.7", False),
        ("127.0.0.0/8", "198.51.100.1", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_service_behind_haproxy_bans_clients_and_not_the_proxy(
    tmp_path: Path, lines: list[str], networks: str, client: str, inside: bool
) -> None:
    service: Any = makeService(
        options(
            tmp_path,
            "--demo",
            "--endpoint=haproxy:tcp:0:interface=127.0.0.1",
            f"--proxy-networks={networks}",
            "--deny-networks=198.51.100.0/24",
        ),
        reactor,
    )
    service.privilegedStartService()
    service.startService()
    listener = [s for s in service if hasattr(s, "endpoint")][-1]
    port = listener._waitingForPort.result.getHost().port
    # The health check of the container is heard, whoever may speak for others.
    endpoint = f"haproxy:tcp:{port}:interface=127.0.0.1"
    assert (await deferToThread(healthcheck.check, endpoint)).startswith("SSH-2.0-")
    heard = await greeted(port, v2(client))
    assert heard.startswith(b"SSH-2.0-") is inside
    if client.startswith("198"):
        assert heard == b"Not allowed at this time\r\n"
        assert f"turned away, a denied network: {client} port 1234" in lines
    await maybeDeferred(service.stopService)


def guess(port: int, client: str, user: str, password: str) -> str:
    """Log in by way of a proxy; what came of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as tcp:
        tcp.sendall(v2(client))
        ssh = paramiko.Transport(tcp)
        try:
            ssh.start_client(timeout=20)
            ssh.auth_password(user, password)
        except paramiko.AuthenticationException:
            return "refused"
        except (paramiko.SSHException, EOFError):
            return "turned away"
        finally:
            ssh.close()
        return "in"


@pytest_twisted.ensureDeferred
async def test_guessing_through_a_proxy_bans_the_guesser_alone(
    tmp_path: Path, lines: list[str]
) -> None:
    service: Any = makeService(
        options(
            tmp_path,
            "--demo",
            "--endpoint=haproxy:tcp:0:interface=127.0.0.1",
            "--proxy-networks=127.0.0.1",
            "--login-delay=0.02",
            "--ban-scores=unknown-user=60,no-auth=0",
        ),
        reactor,
    )
    service.privilegedStartService()
    service.startService()
    listener = [s for s in service if hasattr(s, "endpoint")][-1]
    port = listener._waitingForPort.result.getHost().port

    def guesses() -> list[str]:
        return [
            guess(port, "203.0.113.7", "root", "x"),
            # The one that is too much ends the connection instead of being answered.
            guess(port, "203.0.113.7", "root", "x"),
            guess(port, "203.0.113.7", "demo@example.com", "demo"),
            guess(port, "198.51.100.1", "demo@example.com", "demo"),
        ]

    try:
        assert await deferToThread(guesses) in (
            ["refused", "turned away", "turned away", "in"],
            ["refused", "refused", "turned away", "in"],
        )
    finally:
        await maybeDeferred(service.stopService)
    assert "banned 203.0.113.7 for 600 s (ban 1)" in lines
    refused = [line for line in lines if line.startswith("refused")]
    assert len(refused) == 2 and all(" 203.0.113.7 port 1234: " in line for line in refused)
    assert any(line.startswith("accepted 198.51.100.1 port 1234: ") for line in lines)


def test_haproxy_without_networks_of_proxies_does_not_start(tmp_path: Path) -> None:
    parsed = options(tmp_path, "--demo", "--endpoint=haproxy:tcp:0:interface=127.0.0.1")
    with pytest.raises(SystemExit, match="--proxy-networks"):
        makeService(parsed, reactor)
