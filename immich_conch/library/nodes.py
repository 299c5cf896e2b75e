"""What stands at a path of the tree, and what a `stat` tells of it."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from attrs import frozen

from immich_conch.immich.model import Album, Asset
from immich_conch.library.albums import Branch
from immich_conch.library.naming import File
from immich_conch.library.pending import IPendingFile

#: SFTP v3 has 32 bits for a time (section 2: clamped to what it can say).
MAX_TIME = 0xFFFFFFFF


@frozen
class Info:
    """What a `stat` tells: st_mode with its type, bytes (None: not known), POSIX seconds."""

    mode: int
    size: int | None
    modified: int

    @property
    def is_dir(self) -> bool:
        """Whether this is a folder."""
        return stat.S_ISDIR(self.mode)


@frozen(eq=False)
class RootNode:
    """`/`."""


@frozen(eq=False)
class AlbumNode:
    """An album's folder; `branch` is its place in the tree."""

    album: Album
    branch: Branch


@frozen(eq=False)
class FolderNode:
    """A folder on the way to albums that is no album to put files into.

    `modified` is the newest change below.  It is `sealed` where it is a hidden album: nothing can
    be put into it.
    """

    branch: Branch
    modified: float
    sealed: bool


@frozen(eq=False)
class FileNode:
    """An asset in an album."""

    album: Album
    file: File


@frozen(eq=False)
class PendingNode:
    """A file in flight into an album."""

    album: Album
    pending: IPendingFile


#: The names and attributes of what is in a folder.
Entries: TypeAlias = list[tuple[str, Info]]

#: Gives a folder's later entries, some at each call, none at the end.
More: TypeAlias = Callable[[], Awaitable[Entries]]

Node: TypeAlias = RootNode | AlbumNode | FolderNode | FileNode | PendingNode
#: Those that are folders below the root.
FOLDER_NODES = (AlbumNode, FolderNode)


def asset_key(asset: Asset) -> tuple[str, object]:
    """The lock key of an asset: its checksum where that is one of its bytes, else its id."""
    return ("id", asset.id) if asset.checksum is None else ("sha1", asset.checksum)


def clamp_time(seconds: float) -> int:
    """A time as SFTP v3 can say it."""
    return min(max(int(seconds // 1), 0), MAX_TIME)
