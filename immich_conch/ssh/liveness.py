"""Whether a logged-in client is still there, and whether it still wants anything.

A peer that has vanished without a word (a phone out of reach, a laptop that sleeps) looks like one
that is quiet.  Who has been silent for a while is asked with a global request that every SSH
implementation has to answer (RFC 4254, section 4); whatever it sends counts as life, and so does
data of ours that its side takes: over a very slow line our question waits behind a download.  Who
is quiet but there is left alone, unless the administrator has set a limit for idle clients.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport

KEEPALIVE_SECONDS = 30.0
"""Seconds between looks.  Who has said nothing between two of them is asked, and is gone after
UNANSWERED more: from the last word to the end it is four to five times this, at most 150 s."""

UNANSWERED = 3
"""Questions without an answer after which a client is gone; OpenSSH's ClientAliveCountMax."""

TAKEN_BYTES = 1024
"""What a peer's side has to take between two looks to count as alive without a word.  The
questions themselves are far less; the kernel of a machine whose client hangs takes those."""

IDLE_LOOKS = 8
"""Looks in the time that a client may be idle: it is cut off at most an eighth of it late."""

TCP_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence, seconds between probes, probes: a machine that is gone is noticed after two
minutes, also before log-in and where our own questions are switched off.  The system's own
figures are two hours and more."""

# struct tcp_info of Linux: `tcpi_bytes_acked` follows 8 bytes, 24 words and two long words.
_ACKED_AT = 120
_ACKED = struct.Struct("=Q")


def keep_alive(tcp: Any) -> None:
    """Have the kernel probe a quiet TCP connection, as often as the platform lets us say."""
    if not ITCPTransport.providedBy(tcp):
        return
    tcp.setTcpKeepAlive(True)
    handle: Any = tcp.getHandle()  # type: ignore[attr-defined]
    for name, value in TCP_KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def acknowledged(tcp: Any) -> int:
    """Bytes that the peer's side has taken so far; 0 where that cannot be known."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not ITCPTransport.providedBy(tcp):
        return 0
    try:
        handle: Any = tcp.getHandle()  # type: ignore[attr-defined]
        info = handle.getsockopt(socket.IPPROTO_TCP, option, _ACKED_AT + _ACKED.size)
    except OSError:
        return 0
    return int(_ACKED.unpack_from(info, _ACKED_AT)[0]) if len(info) >= _ACKED_AT + 8 else 0


@define(eq=False)
class Liveness:
    """Looks after one logged-in connection; times are seconds, 0 is never.

    The transport sets `heard` with whatever arrives and its service `stirred` with what is no mere
    sign of life; `busy` tells whether anything is open or under way.
    """

    transport: Any
    clock: IReactorTime
    keepalive: float
    idle_timeout: float
    _unanswered: int = 0
    _taken: int = 0
    _quiet_looks: int = 0
    _look: IDelayedCall | None = None
    _idle_look: IDelayedCall | None = None

    def start(self) -> None:
        """The client has logged in."""
        if self.keepalive:
            self._taken = acknowledged(self.transport.transport)
            self._look = self.clock.callLater(self.keepalive, self._is_it_there)
        if self.idle_timeout:
            self._wait_idle()

    def stop(self) -> None:
        """The connection ends."""
        for call in (self._look, self._idle_look):
            if call is not None and call.active():
                call.cancel()
        self._look = self._idle_look = None

    def _is_it_there(self) -> None:
        transport = self.transport
        taken = acknowledged(transport.transport)
        if transport.heard or taken >= self._taken + TAKEN_BYTES:
            self._unanswered = 0
        elif self._unanswered >= UNANSWERED:
            self._look = None
            transport.give_up()
            return
        else:
            self._unanswered += 1
            transport.ask_for_life()
        transport.heard, self._taken = False, taken
        self._look = self.clock.callLater(self.keepalive, self._is_it_there)

    def _wait_idle(self) -> None:
        self._idle_look = self.clock.callLater(self.idle_timeout / IDLE_LOOKS, self._is_it_idle)

    def _is_it_idle(self) -> None:
        service = self.transport.service
        if service.stirred or service.busy:
            service.stirred = False
            self._quiet_looks = 0
        else:
            self._quiet_looks += 1
        if self._quiet_looks < IDLE_LOOKS:
            self._wait_idle()
        else:
            self._idle_look = None
            self.transport.too_idle()
