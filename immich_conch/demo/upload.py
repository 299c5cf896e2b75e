"""A multipart upload, read while it arrives: the file goes to disk and through SHA-1.

Looks like a file opened for writing, which is what Twisted puts a request's body into.  Memory
does not grow with the upload.
"""

from __future__ import annotations

import base64
import hashlib
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from attrs import define
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)

from immich_conch.demo.storage import Storage

MAX_FIELD = 1024 * 1024
"""Bytes a form field may have; the longest real one is `metadata`."""


@define(eq=False)
class UploadedFile:
    """A file part: what it was called, and where its bytes are."""

    name: str
    path: Path
    size: int
    checksum: str


class UploadBody:
    """The body of `POST /assets`.  `error` is set once it cannot be understood."""

    def __init__(self, storage: Storage, content_type: str) -> None:
        self._storage = storage
        self.fields: dict[str, str] = {}
        self.file: UploadedFile | None = None
        self.error = False
        self.received = 0
        self._segment: MultipartSegment | None = None
        self._field = bytearray()
        self._out: BinaryIO | None = None
        self._path: Path | None = None
        self._sha1 = hashlib.sha1()
        self._size = 0
        header = Message()
        header["Content-Type"] = content_type
        boundary = header.get_boundary()
        self._parser: PushMultipartParser | None = None
        if header.get_content_type() == "multipart/form-data" and boundary:
            self._parser = PushMultipartParser(boundary)

    def write(self, data: bytes) -> int:
        """Take the next bytes of the body."""
        self.received += len(data)
        if self._parser is not None and not self.error and data:
            try:
                for event in self._parser.parse(data):
                    self._take(event)
            except MultipartError:
                self.error = True
        return len(data)

    def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._segment = event
            self._field.clear()
            if event.name == "assetData" and event.filename is not None and self.file is None:
                self._sha1, self._size = hashlib.sha1(), 0
                self._out, self._path = self._storage.incoming()
        elif event is None:
            self._end_part()
        elif self._out is not None:
            self._out.write(event)
            self._sha1.update(event)
            self._size += len(event)
        elif self._segment is not None and self._segment.filename is None:
            self._field += event
            if len(self._field) > MAX_FIELD:
                self.error = True

    def _end_part(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        if self._out is not None and self._path is not None:
            self._out.close()
            self._out = None
            checksum = base64.b64encode(self._sha1.digest()).decode()
            self.file = UploadedFile(segment.filename or "", self._path, self._size, checksum)
        elif segment.filename is None:
            self.fields[segment.name] = self._field.decode("utf-8", "replace")

    def finish(self) -> None:
        """The body is over."""
        if self._parser is not None and not self.error:
            try:
                self._parser.close()
            except MultipartError:
                self.error = True

    def claim(self) -> Path:
        """The file's path, which is the caller's from now on."""
        assert self._path is not None
        path, self._path = self._path, None
        return path

    def close(self) -> None:
        """Forget what nobody claimed; called at the end and when the connection is lost."""
        if self._out is not None:
            self._out.close()
            self._out = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    # What Twisted asks of a request's content.

    def tell(self) -> int:
        """How much arrived."""
        return self.received

    def seek(self, offset: int, whence: int = 0) -> int:
        """There is nothing to go back to."""
        return 0

    def read(self, size: int = -1) -> bytes:
        """There is nothing to read again."""
        return b""
