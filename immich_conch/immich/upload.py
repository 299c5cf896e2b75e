"""An upload's body: multipart form data written piece by piece while the file may still grow.

Rules this keeps: strings first and the file last where they are known (Immich can then refuse
before the bytes come), the file first where they are not; never more than one piece in memory;
nothing is read from the file while the connection does not take it; and an answer that comes
before the body has ended is heard, which Twisted alone does not do (see `Multipart.watch`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from immich_conch.errors import Refused
from immich_conch.immich.dialects import Dialect
from immich_conch.immich.http import Silence
from immich_conch.immich.interfaces import IUploadBody
from immich_conch.immich.limits import UPLOAD_ANSWER_TIMEOUT, UPLOAD_PIECE, UPLOAD_WATCH
from immich_conch.immich.model import NewAsset

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_214_400
_DEVICE = "immich-conch"


def iso_time(seconds: float, zone: tzinfo) -> str:
    """A POSIX time as ISO 8601 with milliseconds and `Z` or an offset of whole minutes."""
    bounded = min(max(seconds, _YEAR_1 + 86_400), _YEAR_9999)
    moment = (_EPOCH + timedelta(milliseconds=round(bounded * 1000))).astimezone(zone)
    offset = moment.utcoffset() or timedelta()
    if offset % timedelta(minutes=1):
        # Local mean times before 1900 have seconds in their offset, which ISO 8601 has not.
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def form_fields(new: NewAsset, dialect: Dialect, zone: tzinfo) -> list[tuple[str, str]]:
    """The text fields of `POST /assets` (FACTS.md, Upload).

    The real name goes into `filename`, which is UTF-8 safe; a part's own name is not.
    """
    fields = [
        ("filename", new.name),
        ("fileCreatedAt", iso_time(new.created, zone)),
        ("fileModifiedAt", iso_time(new.modified, zone)),
    ]
    if dialect.device_fields:
        fields += [("deviceAssetId", new.checksum.hex()), ("deviceId", _DEVICE)]
    if new.metadata:
        items = [dict(item) for item in new.metadata]
        fields.append(("metadata", json.dumps(items, ensure_ascii=False)))
    return fields


def placeholder(extension: str) -> str:
    """An ASCII name for the file's part: Immich judges the type by it where `filename` is late."""
    suffix = extension.removeprefix(".")
    return f"upload.{suffix}" if suffix.isascii() and suffix.isalnum() else "upload"


def encode_fields(boundary: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Text fields as parts, each with its leading boundary and trailing line end."""
    return b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    )


def file_header(boundary: str, filename: str) -> bytes:
    """What comes before the file's bytes."""
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="assetData"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


@implementer(IBodyProducer)
class Multipart:
    """The body of one upload.

    `head` comes before the file's bytes; `tail` is awaited once they have ended and gives what
    comes after them.  With `tail_size` and the file's size known, so is the length.
    """

    def __init__(
        self,
        head: bytes,
        body: IUploadBody,
        tail: Callable[[], Awaitable[bytes]],
        tail_size: int | None,
    ) -> None:
        self._head = head
        self._body = body
        self._tail = tail
        self._size: int | None = body.size
        if self._size is None or tail_size is None:
            self.length: Any = UNKNOWN_LENGTH
        else:
            self.length = len(head) + self._size + tail_size
        self.complete = False
        self._consumer: Any = None
        self._silence: Silence | None = None
        self._running: Deferred[None] | None = None
        self._gate: Deferred[None] | None = None
        self._paused = False
        self._stopped = False
        self._waiting = False
        self._reading = False
        self._poke: LoopingCall | None = None

    def watch(self, silence: Silence) -> None:
        """Take the silence timer, and start looking for an early answer.

        Twisted's parser stops reading from the connection at the end of an answer's headers and
        reads on only once the request is written; a server that says no and takes no more of the
        body would then never be heard (test: an early refusal in two pieces is heard).
        """
        self._silence = silence
        silence.heard()
        self._poke = LoopingCall(self._read_on)
        self._poke.clock = silence.clock
        self._poke.start(UPLOAD_WATCH, now=False)

    def finish(self) -> None:
        """The request has its answer, or failed: stop, and close a connection left half-way.

        Twisted would ask for all the rest of the body before closing; the answer has been read
        to its end by then, so nothing is lost.
        """
        if self._poke is not None and self._poke.running:
            self._poke.stop()
        if not self.complete:
            self.stopProducing()
            transport = self._transport()
            if transport is not None and hasattr(transport, "abortConnection"):
                transport.abortConnection()

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body; the Deferred fails with what `read` or the tail raised."""
        self._consumer = consumer
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._running = Deferred.fromCoroutine(self._run())

        def ended(result: Failure | None) -> None:
            if not self._stopped and not done.called:
                done.callback(result)

        self._running.addBoth(ended)
        return done

    def pauseProducing(self) -> None:
        """The connection takes no more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The connection takes more."""
        self._paused = False
        if self._silence is not None and self._expecting():
            self._silence.heard()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.callback(None)

    def stopProducing(self) -> None:
        """Nobody wants the rest; the Deferred of `startProducing` need not fire (Twisted)."""
        if self._stopped:
            return
        self._stopped = True
        # Called from within a write it is not waiting, and sees the flag itself.
        if self._running is not None and self._waiting:
            self._running.cancel()

    async def _run(self) -> None:
        await self._write(self._head)
        sent = 0
        while piece := await self._wait(self._body.read(UPLOAD_PIECE)):
            sent += len(piece)
            if self._size is not None and sent > self._size:
                break
            await self._write(piece)
        if self._size is not None and sent != self._size:
            raise Refused("The file changed while it was uploaded.")
        await self._write(await self._wait(self._tail()))
        self.complete = True
        if self._silence is not None:
            self._silence.heard(UPLOAD_ANSWER_TIMEOUT)

    async def _wait(self, value: bytes | Awaitable[bytes]) -> bytes:
        """The next bytes; while they are waited for, Immich's silence means nothing."""
        if isinstance(value, bytes):
            return value
        if self._silence is not None:
            self._silence.stop()
        self._waiting = self._reading = True
        try:
            got = await value
        finally:
            self._waiting = self._reading = False
        if self._silence is not None and not self._stopped:
            self._silence.heard()
        return got

    async def _write(self, data: bytes) -> None:
        if self._stopped:
            raise CancelledError
        if self._silence is not None:
            self._silence.heard()
        if data:  # an empty chunk would end the body
            self._consumer.write(data)
        while self._paused:
            self._gate = Deferred()
            self._waiting = True
            try:
                await self._gate
            finally:
                self._waiting = False
        if self._stopped:
            raise CancelledError

    def _expecting(self) -> bool:
        """Whether Immich is the one to move while the body is on its way."""
        return not (self._stopped or self.complete or self._reading)

    def _transport(self) -> Any:
        """The connection under Twisted's encoder (chunked) or length enforcer."""
        consumer = self._consumer
        return getattr(consumer, "transport", None) or getattr(consumer, "_consumer", None)

    def _read_on(self) -> None:
        transport = self._transport()
        if transport is not None and not self.complete and hasattr(transport, "resumeProducing"):
            transport.resumeProducing()


def multipart(
    body: IUploadBody,
    new: NewAsset | Callable[[], Awaitable[NewAsset]],
    extension: str,
    dialect: Dialect,
    zone: tzinfo,
) -> tuple[Multipart, dict[str, str]]:
    """The body of an upload and the headers that belong to it."""
    boundary = secrets.token_hex(16)
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    end = f"\r\n--{boundary}--\r\n".encode()
    if isinstance(new, NewAsset):
        _, dot, suffix = new.name.rpartition(".")
        head = encode_fields(boundary, form_fields(new, dialect, zone))
        head += file_header(boundary, placeholder(dot + suffix))
        headers["x-immich-checksum"] = new.checksum.hex()

        async def just_the_end() -> bytes:
            return end

        return Multipart(head, body, just_the_end, len(end)), headers

    async def fields_at_last() -> bytes:
        fields = form_fields(await new(), dialect, zone)
        return b"\r\n" + encode_fields(boundary, fields) + f"--{boundary}--\r\n".encode()

    return Multipart(
        file_header(boundary, placeholder(extension)), body, fields_at_last, None
    ), headers
