"""The body of an upload, read fast: off the wire, out of its chunks, through SHA-1, and dropped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

from immich_conch.demo.storage import Storage
from immich_conch.demo.upload import UploadBody, UploadedFile

READ_BYTES = 2**18
#: Bytes at the end of a body in which the file's end is looked for: some fields may follow it.
TAIL_BYTES = 2**16
_FILE_HEADER = re.compile(rb'name="assetData".*?\r\n\r\n', re.DOTALL)


def body_pieces(stream: BufferedIOBase, headers: Any) -> Iterator[memoryview]:
    """A request's body as it comes; each piece is good until the next is asked for.

    Raises ConnectionResetError where it ends early.
    """
    buffer = memoryview(bytearray(READ_BYTES))
    if (headers.get("Transfer-Encoding") or "").lower() != "chunked":
        yield from _exactly(stream, int(headers.get("Content-Length") or 0), buffer)
        return
    while size := int(stream.readline().partition(b";")[0] or b"-1", 16):
        if size < 0:
            raise ConnectionResetError
        yield from _exactly(stream, size, buffer)
        stream.readline()
    while stream.readline().strip():
        pass


def _exactly(stream: BufferedIOBase, left: int, buffer: memoryview) -> Iterator[memoryview]:
    while left:
        got = stream.readinto(buffer[: min(left, READ_BYTES)])
        if not got:
            raise ConnectionResetError
        left -= got
        yield buffer[:got]


class Received:
    """Takes a multipart body piece by piece; what is left of it is an `UploadBody` of the demo.

    Only what comes before and after the file's bytes goes through the demo's parser.
    """

    def __init__(self, storage: Storage, content_type: str) -> None:
        self._parsed = UploadBody(storage, content_type)
        self._boundary = b"\r\n--" + content_type.rpartition("boundary=")[2].strip('"').encode()
        self._sha1 = hashlib.sha1()
        self._size = 0
        #: What came before the file's first byte; None since that.
        self._head: bytearray | None = bytearray()
        self._tail = bytearray()

    def write(self, piece: memoryview) -> None:
        """The next bytes."""
        if self._head is not None:
            self._head += piece
            found = _FILE_HEADER.search(self._head)
            if found is None:
                return
            piece = memoryview(bytes(self._head[found.end() :]))
            self._parsed.write(bytes(self._head[: found.end()]))
            self._head = None
        if len(piece) < TAIL_BYTES:
            self._tail += piece
            if len(self._tail) > 8 * TAIL_BYTES:
                self._take(bytes(self._tail[:-TAIL_BYTES]))
                del self._tail[:-TAIL_BYTES]
        else:
            self._take(bytes(self._tail))
            self._take(piece[:-TAIL_BYTES])
            self._tail = bytearray(piece[-TAIL_BYTES:])

    def _take(self, data: bytes | memoryview) -> None:
        self._sha1.update(data)
        self._size += len(data)

    def finish(self) -> UploadBody:
        """The body is over."""
        parsed = self._parsed
        if self._head is not None:
            parsed.write(bytes(self._head))
            return parsed
        end = self._tail.find(self._boundary)
        if end < 0:
            parsed.error = True
            return parsed
        self._take(bytes(self._tail[:end]))
        parsed.write(bytes(self._tail[end:]))
        parsed.finish()
        if parsed.file is not None:
            checksum = base64.b64encode(self._sha1.digest()).decode()
            file = parsed.file
            parsed.file = UploadedFile(file.name, file.path, self._size, checksum)
        return parsed
