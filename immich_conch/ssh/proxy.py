"""The PROXY protocol in front of the transport: whose connection it is, told by the proxy.

Twisted's `haproxy:` endpoint believes whoever connects, waits for the header without end, and makes
the protocol before the header is there, so that the protocol sees the proxy's address; its version
2 parser fails where the first read is short.  Here only trusted peers are heard, the header has a
length and a deadline, and the transport is made when the client's address is known.  Twisted's
parsers read the header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._info import ProxyInfo
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.python.failure import Failure

from immich_conch.ssh.networks import parse_networks, within

HEADER_DEADLINE = 5.0
"""Seconds for the header; a proxy sends it in its first packet, ahead of the client's bytes."""

MAX_HEADER_BYTES = 4096
"""Version 1 ends after 107; version 2 has at most 232 and what a proxy adds (TLS, unique ids)."""

MAX_V1_BYTES = 107
MAX_WAITING = 1000
"""Connections whose header is not there; beyond, new ones are dropped."""

_V1_UNKNOWN = b"PROXY UNKNOWN"
_V2_HEAD = 16
_LOOPBACK = parse_networks("127.0.0.0/8,::1")


class BadHeader(Exception):
    """What came is no PROXY header; the text says why."""


def read_header(data: bytes) -> tuple[IAddress | None, int] | None:
    """The client's address and the header's length, or None if it is not all there.

    The address is None where the proxy tells none: its own health check, a protocol unknown to it.
    Raises BadHeader.
    """
    try:
        if data.startswith(V2Parser.PREFIX):
            return _version_2(data)
        if data.startswith(V1Parser.PROXYSTR):
            return _version_1(data)
    except (InvalidProxyHeader, ValueError, KeyError) as error:
        raise BadHeader(f"a header that cannot be read ({type(error).__name__})") from None
    if V2Parser.PREFIX.startswith(data) or V1Parser.PROXYSTR.startswith(data):
        return None
    raise BadHeader("no header")


def _version_1(data: bytes) -> tuple[IAddress | None, int] | None:
    line, end, _ = data[:MAX_V1_BYTES].partition(V1Parser.NEWLINE)
    if end and line == _V1_UNKNOWN:
        return None, len(line) + len(end)  # Twisted's wants a blank after it; the protocol does not
    if end:
        return _client(V1Parser.parse(line)), len(line) + len(end)
    if len(data) >= MAX_V1_BYTES:
        raise BadHeader("a header that is too long")
    return None


def _version_2(data: bytes) -> tuple[IAddress | None, int] | None:
    if len(data) < _V2_HEAD:
        return None
    (more,) = struct.unpack_from("!H", data, 14)
    size = _V2_HEAD + more
    if size > MAX_HEADER_BYTES:
        raise BadHeader("a header that is too long")
    return (_client(V2Parser.parse(data[:size])), size) if len(data) >= size else None


def _client(info: ProxyInfo) -> IAddress | None:
    source = info.source
    if isinstance(source, (IPv4Address, IPv6Address)):
        host = source.host.decode() if isinstance(source.host, bytes) else source.host
        if not 0 <= source.port < 2**16:
            raise ValueError("no port")
        kind = IPv6Address if ip_address(host).version == 6 else IPv4Address
        return kind("TCP", host, source.port)
    return None


class _Waiting(Protocol):
    """A connection of a proxy; once the client is known it only hands bytes on."""

    factory: ProxyFactory
    _log = Logger()

    def __init__(self, believed: bool) -> None:
        self._believed = believed
        self._inner: Any = None
        self._head = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        factory = self.factory
        factory.waiting.add(self)
        self._timer = factory.clock.callLater(HEADER_DEADLINE, self._refuse, "no header in time")

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self._timer is None:
            return  # refused already
        self._head += data
        try:
            found = read_header(self._head)
        except BadHeader as error:
            self._refuse(str(error))
            return
        if found is not None:
            client, size = found
            if client is not None and not self._believed:
                self._refuse("it may not speak for others")
                return
            rest, self._head = self._head[size:], b""
            self._begin(client, rest)

    def _begin(self, client: IAddress | None, rest: bytes) -> None:
        self._stop_waiting()
        self._inner = self.factory.inner.buildProtocol(client)
        self._inner.makeConnection(self.transport)
        if rest:
            self._inner.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        self._stop_waiting()
        self._head = b""
        assert self.transport is not None
        self._log.info(
            "the proxy at {peer} is cut off: {why}", peer=self.transport.getPeer(), why=why
        )
        self.abort()

    def _stop_waiting(self) -> None:
        self.factory.waiting.discard(self)
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connectionLost(reason)


class ProxyFactory(ServerFactory):
    """Listens for proxies; `inner` makes the protocols, with the clients' addresses.

    `trusted` says of a peer's address, as text, whether its header is believed.  Who has access to
    a UNIX socket is trusted by the rights on it.  This machine's own health check is let in, with a
    header that names nobody.
    """

    noisy = False
    _log = Logger()

    def __init__(self, inner: Any, trusted: Callable[[str], bool], clock: IReactorTime) -> None:
        self.inner = inner
        self.trusted = trusted
        self.clock = clock
        self.waiting: set[_Waiting] = set()
        self._told = -HEADER_DEADLINE

    def doStart(self) -> None:
        """The inner factory starts with us."""
        self.inner.doStart()
        super().doStart()

    def doStop(self) -> None:
        """And ends with us."""
        self.inner.doStop()
        super().doStop()

    def stopFactory(self) -> None:
        """Nobody is waited for any more."""
        for one in list(self.waiting):
            one.abort()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """None, which closes the connection, for whoever is no trusted proxy."""
        host = str(getattr(addr, "host", ""))
        believed = isinstance(addr, UNIXAddress) or self.trusted(host)
        trusted = believed or within(host, _LOOPBACK)
        if trusted and len(self.waiting) < MAX_WAITING:
            waiting = _Waiting(believed)
            waiting.factory = self
            return waiting
        now = self.clock.seconds()
        if now - self._told >= HEADER_DEADLINE:  # a flood is no flood of lines
            self._told = now
            self._log.warn(
                "{peer} is {what}: closed",
                peer=addr,
                what="one proxy's connection too many" if trusted else "no trusted proxy",
            )
        return None
