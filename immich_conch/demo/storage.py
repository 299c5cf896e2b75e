"""The assets' bytes: files below one directory, or made up while they are read.

Without a directory of its own a Storage lives in a temporary one that `close` removes.  Made-up
content is a pure function of its seed and the offset, and differs at every 4 KiB block, so that
a read from a wrong place is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from immich_conch.demo.entities import Asset

CHUNK = 64 * 1024
"""Bytes read at a time: what one write to a socket takes."""

_BLOCK = 4096
_SEED = 48
_PATTERN = hashlib.shake_256(b"demo").digest(_BLOCK - _SEED - 16)


def synthetic(seed: str, size: int, start: int, count: int) -> bytes:
    """At most `count` bytes from `start` of the made-up content of `size` bytes."""
    end = min(start + count, size)
    if start >= end:
        return b""
    head = hashlib.sha256(seed.encode()).hexdigest()[:_SEED].encode()
    first = start // _BLOCK
    blocks = b"".join(
        b"%s%016x%s" % (head, number, _PATTERN) for number in range(first, (end - 1) // _BLOCK + 1)
    )
    return blocks[start - first * _BLOCK : end - first * _BLOCK]


def synthetic_sha1(seed: str, size: int) -> bytes:
    """The SHA-1 of made-up content."""
    digest = hashlib.sha1()
    for start in range(0, size, 16 * CHUNK):
        digest.update(synthetic(seed, size, start, 16 * CHUNK))
    return digest.digest()


class Storage:
    """Files of assets below `directory`; None is a temporary directory made at the first need."""

    def __init__(self, directory: Path | None) -> None:
        self._kept = directory is not None
        self._root = directory
        if directory is not None:
            (directory / "upload").mkdir(parents=True, exist_ok=True)
            # What was half received when the last process ended is nobody's any more.
            shutil.rmtree(directory / "incoming", ignore_errors=True)

    @property
    def root(self) -> Path:
        """The directory, made if it is not there yet."""
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="demo-immich-"))
            # Also without a `close`, at the latest when the process ends.
            self._remove = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        return self._root

    def incoming(self) -> tuple[BinaryIO, Path]:
        """A new file for bytes on their way in."""
        folder = self.root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        return os.fdopen(handle, "wb"), Path(name)

    def _path(self, asset_id: str) -> Path:
        return self.root / "upload" / asset_id[:2] / asset_id

    def keep(self, source: Path, asset_id: str) -> None:
        """Make an incoming file the bytes of an asset."""
        target = self._path(asset_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._kept:
            with source.open("rb") as file:
                os.fsync(file.fileno())
        source.replace(target)

    def write(self, asset_id: str, content: bytes) -> None:
        """Store an asset's bytes that are at hand."""
        file, path = self.incoming()
        with file:
            file.write(content)
        self.keep(path, asset_id)

    def copy(self, asset_id: str, source: Path) -> None:
        """Store an asset's bytes from a file, which stays."""
        file, path = self.incoming()
        with file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
        self.keep(path, asset_id)

    def remove(self, asset_id: str) -> None:
        """Drop an asset's bytes, if it has any."""
        self._path(asset_id).unlink(missing_ok=True)

    def has(self, asset: Asset) -> bool:
        """Whether the asset's bytes can be read."""
        return not asset.offline and (asset.synthetic is not None or self._path(asset.id).is_file())

    def size(self, asset: Asset) -> int:
        """How many bytes an asset has here, whatever the tables say of it."""
        if asset.synthetic is not None:
            return asset.size or 0
        return self._path(asset.id).stat().st_size

    def head(self, asset: Asset, count: int) -> bytes:
        """The first bytes; empty where there are none to be had."""
        if asset.offline or asset.synthetic is not None:
            return b""
        with contextlib.suppress(FileNotFoundError), self._path(asset.id).open("rb") as file:
            return file.read(count)
        return b""

    def read(self, asset: Asset, start: int, count: int) -> Iterator[bytes]:
        """`count` bytes from `start`, piece by piece, each read only when it is asked for."""
        if asset.synthetic is not None:
            size = asset.size or 0
            for at in range(start, start + count, CHUNK):
                yield synthetic(asset.synthetic, size, at, min(CHUNK, start + count - at))
            return
        with self._path(asset.id).open("rb") as file:
            file.seek(start)
            while count > 0 and (piece := file.read(min(CHUNK, count))):
                count -= len(piece)
                yield piece

    def close(self) -> None:
        """Remove the temporary directory, if it is one."""
        if not self._kept and self._root is not None:
            self._remove()
            self._root = None
