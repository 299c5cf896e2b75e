"""An answer on its way out, with back-pressure, and with what a fault makes of it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import Request
from zope.interface import implementer

from immich_conch.demo.faults import Fault
from immich_conch.demo.routing import Answer
from immich_conch.demo.state import Clock

_TICK = 0.1
"""Seconds between two writes of a slowed answer."""


def encode(answer: Answer) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer in JSON; no body for 204."""
    if answer.status == 204:
        return b"", dict(answer.headers)
    body = json.dumps(answer.json, ensure_ascii=False, separators=(",", ":")).encode()
    digest = base64.b64encode(hashlib.sha1(body).digest()).decode().rstrip("=")
    return body, {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "ETag": f'"{len(body):x}-{digest}"',
        **answer.headers,
    }


def cut(request: Request, flush: bool = False) -> None:
    """Close the connection; with `flush` what was written still goes out."""
    channel: Any = request.channel
    if channel is None:
        return
    transport = channel.transport
    if flush or not hasattr(transport, "abortConnection"):
        transport.loseConnection()
    else:
        transport.abortConnection()


@implementer(IPushProducer)
class Body:
    """A body that flows as fast as the client takes it."""

    def __init__(
        self, request: Request, pieces: Iterator[bytes], fault: Fault | None, clock: Clock
    ) -> None:
        self._request = request
        self._pieces = pieces
        self._clock = clock
        self._left = fault.after if fault is not None and fault.kind == "cut-response" else None
        self._rate = fault.rate if fault is not None and fault.kind == "slow" else None
        self._rest = b""
        self._paused = False
        self._running = False
        self._over = False

    def start(self) -> None:
        """Begin to write."""
        self._request.notifyFinish().addErrback(self._lost)
        self._request.registerProducer(self, True)
        self._run()

    def _lost(self, _reason: object) -> None:
        self.stopProducing()

    def _run(self) -> None:
        # A write may pause and resume this producer before it returns; one loop is enough.
        if self._running:
            return
        self._running = True
        while not self._paused and not self._over:
            self._step()
        self._running = False

    def _step(self) -> None:
        piece = self._rest or next(self._pieces, None)
        self._rest = b""
        if piece is None:
            self._end()
            self._request.finish()
            return
        if self._rate is not None:
            portion = max(1, int(self._rate * _TICK))
            piece, self._rest = piece[:portion], piece[portion:]
            self._paused = True
            self._clock.callLater(_TICK, self.resumeProducing)
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        self._request.write(piece)
        if self._left == 0:
            self._end()
            cut(self._request, flush=True)

    def _end(self) -> None:
        self._over = True
        self._request.unregisterProducer()
        self._close()

    def _close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The socket takes more."""
        if not self._over:
            self._paused = False
            self._run()

    def stopProducing(self) -> None:
        """The client has gone."""
        if not self._over:
            self._over = True
            self._close()


def send(request: Request, answer: Answer, fault: Fault | None, clock: Clock) -> None:
    """Write an answer to a request."""
    pieces: Iterator[bytes]
    if answer.pieces is None:
        body, headers = encode(answer)
        pieces = iter((body,) if body else ())
    else:
        pieces, headers = answer.pieces, dict(answer.headers)
        if answer.length is not None:
            headers["Content-Length"] = str(answer.length)
    request.setResponseCode(answer.status)
    for name, value in headers.items():
        request.setHeader(name.encode(), value.encode("utf-8"))
    if request.method == b"HEAD":
        request.write(b"")
        request.finish()
        return
    if fault is not None and fault.kind == "cut-response" and fault.after == 0:
        # Not even the head of the answer would go out without a first write.
        request.write(b"")
        cut(request, flush=True)
        return
    Body(request, pieces, fault, clock).start()


def early(answer: Answer, close: bool) -> bytes:
    """A whole answer as bytes, for the time before a request is complete."""
    body, headers = encode(answer)
    if close:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} OK", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def query(args: dict[bytes, list[bytes]]) -> dict[str, str]:
    """The last value of each parameter of a query."""
    return {key.decode(): values[-1].decode("utf-8", "replace") for key, values in args.items()}


def header_of(request: Any, name: str) -> str | None:
    """A header as text."""
    value = request.getHeader(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
