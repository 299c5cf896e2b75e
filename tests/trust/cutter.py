"""A TCP proxy that ends each connection after so many bytes, as a phone on a train does."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

from attrs import define, field

_PIECE = 65536


@define(eq=False)
class Cutter:
    """Stands before a port of 127.0.0.1; `budgets` are bytes from the client, one a connection.

    A connection that comes when no budget is left is not cut.  `cuts` counts those that were.
    """

    target: int
    budgets: list[int]
    cuts: int = 0
    port: int = field(init=False)
    _listener: socket.socket = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            budget = self.budgets.pop(0) if self.budgets else None
            for arguments in ((client, server, budget), (server, client, None)):
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if budget is not None:
                    budget -= len(piece)
                    if budget <= 0:
                        self.cuts += 1
                        break
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                if budget is not None and budget <= 0:
                    # A reset, not an orderly end.
                    linger = struct.pack("ii", 1, 0)
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
