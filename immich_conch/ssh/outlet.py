"""The way from sealed packets to the TCP connection.

Twisted keeps what is written until the event loop comes round to it: for an answer of some dozens
of bytes that is two changes of what epoll watches and a turn of the loop, as much work as the
answer itself.  So what is said while a read is handled goes out together, and what is little goes
to the socket at once if nothing waits before it.  What is much is left to Twisted, which sends many
packets in one call and pushes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.tcp import Connection

AT_ONCE_BYTES = 2**15
"""Less than this goes out at once: the answer with a small file, but no packet of a large one."""


class Outlet:
    """Where one connection's packets go, in their order.

    Between `hold` and `release` up to AT_ONCE_BYTES are kept here; at any other time nothing is.
    """

    __slots__ = ("_held", "_holds", "_is_socket", "_size", "_tcp")

    def __init__(self, tcp: Any) -> None:
        self._tcp = tcp
        # Anything else, a transport over TLS or one of a test, decides by itself when to send.
        self._is_socket = isinstance(tcp, Connection) and not tcp.TLS
        self._holds = False
        self._held: list[bytes] = []
        self._size = 0

    def hold(self) -> None:
        """More is about to be said."""
        self._holds = True

    def release(self) -> None:
        """That was all."""
        self._holds = False
        held = self._held
        if held:
            self._held, self._size = [], 0
            self._send(b"".join(held))

    def write(self, pieces: Sequence[bytes]) -> None:
        """Send pieces, in one go with those that are held."""
        self._held += pieces
        for piece in pieces:
            self._size += len(piece)
        if self._size >= AT_ONCE_BYTES:
            held, self._held, self._size = self._held, [], 0
            self._tcp.writeSequence(held)
        elif not self._holds:
            self.release()

    def _send(self, data: bytes) -> None:
        tcp = self._tcp
        # Nothing may overtake what waits; a connection that has gone or is going is Twisted's.
        if (
            self._is_socket
            and tcp.connected
            and not tcp.disconnecting
            and not tcp.dataBuffer
            and not tcp._tempDataBuffer
        ):
            sent = tcp.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):
                data = data[sent:]
            # Else the connection is lost: Twisted will find out by itself, and tell everyone.
        tcp.write(data)
