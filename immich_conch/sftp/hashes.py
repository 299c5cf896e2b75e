"""Hashes of files: what Immich knows of them, else what comes of reading them.

The SHA-1 of a whole asset is its checksum at Immich, that of an upload runs along with its
writing; nothing is read for these.  For everything else, an external library's assets among
them, the bytes are read: one file at a time for each user, within a limit of time, and only for as
long as the client is there.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from immich_conch.errors import Malformed, NotFound, Refused, Unsupported
from immich_conch.immich.model import Asset
from immich_conch.library.nodes import FileNode, PendingNode
from immich_conch.library.paths import Path
from immich_conch.library.tree import Tree
from immich_conch.transfer.copies import CHUNK, Source, source_of
from immich_conch.transfer.download import Reader
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upload import Upload
from immich_conch.transfer.uploads import Uploads

#: Seconds that hashing a file may take, the wait for its turn included.
MOST_SECONDS = 1800.0
#: Smallest block that is hashed by itself (the draft of `check-file`), and bytes of an answer.
LEAST_BLOCK = 256
MOST_ANSWER = 128 * 1024

T = TypeVar("T")


class _Crc32:
    """CRC-32 as hashlib has its algorithms."""

    digest_size = 4

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        """Take more bytes."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """The four bytes."""
        return struct.pack("!L", self._value)


def _of_hashlib(name: str) -> Callable[[], Any]:
    return lambda: hashlib.new(name, usedforsecurity=False)


#: What `check-file` may ask for.
ALGORITHMS: dict[str, Callable[[], Any]] = {
    **{name: _of_hashlib(name) for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")},
    "crc32": _Crc32,
}


@define(eq=False, repr=False)
class Hashes:
    """Hashes of what one session sees; also opens files as sources for copies."""

    lease: Lease
    tree: Tree
    uploads: Uploads
    clock: IReactorTime
    _running: set[Deferred[Any]] = field(factory=set, init=False)
    _stopped: bool = field(default=False, init=False)

    # -- files as sources

    async def source_at(self, path: Path) -> Source:
        """The file at a path; raises NotFound, Refused for a folder."""
        node = await self.tree.resolve(path)
        if isinstance(node, PendingNode):
            assert isinstance(node.pending, Upload)
            return source_of(node.pending)
        if not isinstance(node, FileNode):
            raise Refused("This is a folder, not a file.")
        return self.source_of_asset(node.file.asset)

    def source_of_asset(self, asset: Asset) -> Source:
        """An asset; raises Refused for one without a file."""
        if asset.size is None:
            raise Refused("Immich has no file for this asset now (its library is offline).")
        reader = self.reader(asset, asset.size)
        owned = asset.owner_id == self.lease.immich.user.id
        return Source(asset.size, reader.read, reader.close, asset.checksum, owned)

    def reader(self, asset: Asset, size: int) -> Reader:
        """Random reads of an asset."""
        immich = self.lease.immich
        return Reader(
            lambda offset, etag: immich.download(asset.id, offset, etag), size, self.clock
        )

    # -- hashes

    async def sha1(self, path: Path) -> bytes:
        """The SHA-1 of the file at a path."""
        source = await self.source_at(path)
        return (await self.of(source, "sha1", 0, 0, 0))[0]

    async def of(
        self, source: Source, algorithm: str, start: int, length: int, block: int
    ) -> list[bytes]:
        """The hash of `length` bytes (0: to the end) from `start`, or one each `block` (0: all).

        Takes the source over.  Raises Malformed for blocks that are too small, Refused for too many
        of them or where it takes too long.
        """
        try:
            left = max(0, source.size - start)
            length = min(left, length) if length else left
            make = ALGORITHMS.get(algorithm)
            if make is None:
                raise Unsupported("This hash is not known here.")
            if block and block < LEAST_BLOCK:
                raise Malformed(f"A block to be hashed has {LEAST_BLOCK} bytes at least.")
            block = block or max(length, 1)
            if -(-length // block) * make().digest_size > MOST_ANSWER:
                raise Refused("These are too many hashes for one answer; ask for larger blocks.")
            whole = start == 0 and length == source.size and block >= length
            if whole and algorithm == "sha1" and source.checksum is not None:
                return [source.checksum]
            return await self.limited(self._read(source, make, start, start + length, block))
        finally:
            source.close()

    async def _read(
        self, source: Source, make: Callable[[], Any], at: int, end: int, block: int
    ) -> list[bytes]:
        found: list[bytes] = []
        async with self.uploads.locks.hold(("hashing",)):
            while not found or at < end:
                hasher, stop = make(), min(end, at + block)
                while at < stop:
                    piece = await source.piece(at, min(CHUNK, stop - at))
                    hasher.update(piece)
                    at += len(piece)
                    await self._breathe()
                found.append(hasher.digest())
        return found

    async def _breathe(self) -> None:
        """Let others have their turn."""
        turn: Deferred[None] = Deferred()
        call = self.clock.callLater(0, turn.callback, None)
        try:
            await turn
        except CancelledError:
            if call.active():
                call.cancel()
            raise

    # -- long work

    async def limited(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        """Do what may take long: it ends with the session, and after MOST_SECONDS with Refused."""
        running = Deferred.fromCoroutine(work)
        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            running.cancel()

        timer = self.clock.callLater(MOST_SECONDS, too_late)
        self._running.add(running)
        try:
            return await running
        except CancelledError:
            if late:
                raise Refused("This took too long.") from None
            if self._stopped:
                raise NotFound("The session has ended.") from None
            raise
        finally:
            self._running.discard(running)
            if timer.active():
                timer.cancel()

    def stop(self) -> None:
        """The session has ended."""
        self._stopped = True
        for running in list(self._running):
            running.cancel()
