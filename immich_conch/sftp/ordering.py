"""Which request has to wait for which.

SFTP leaves the order of answers open, but clients pipeline requests that only make sense one
after the other: SETSTAT behind CLOSE (WinSCP), LSTAT behind OPEN (sshfs).  So requests on one
handle or on paths that touch each other run in the order they came, except where both only look.
This module keeps the unfinished ones and answers who blocks whom; it starts nothing itself.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from attrs import define, field

Path = tuple[str, ...]
Entry = bytes | tuple[bytes, bytes, Mapping[str, Any]]
"""Name, longname and attributes of one file in a listing."""
Answer = bytes | tuple[bytes, ...]
"""A packet for the client, whole or in pieces that follow each other."""


class Touch(Enum):
    """What a request does to its paths."""

    LOOK = auto()
    CHANGE = auto()
    # A file being committed is visible already, so looking does not wait for it.
    CLOSE = auto()


def normalise(path: bytes) -> Path:
    """The parts of a path, comparable: absolute, without dots, composed, without case.

    Taking too much for the same only makes a request wait that need not have.
    """
    parts: list[str] = []
    text = unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape")).casefold()
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def _touching(one: Path, other: Path) -> bool:
    """Whether two paths are the same, or one lies below the other."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


@define(eq=False)
class Handle:
    """An open file or directory: what the client calls `id`.

    `target` is the file or directory object, `path` the name it was opened under.  `closing` is
    set once CLOSE has come, `closed` once it has been passed on.
    """

    id: bytes
    target: Any
    path: bytes
    is_directory: bool = False
    # Entries of a listing that it keeps in memory.
    entries: int = 0
    closing: bool = False
    closed: bool = False
    # Entries of a directory that did not fit the last answer, and whether there are no more.
    left: deque[Entry] = field(factory=deque)
    ended: bool = False
    # Unfinished requests: the last one that had to be alone, and those that share since then.
    alone: Request | None = None
    sharing: dict[Request, None] = field(factory=dict)

    @property
    def idle(self) -> bool:
        """Whether no request on it is unfinished."""
        return self.alone is None and not self.sharing


@define(eq=False)
class Request:
    """One request: how it is carried out and answered, and what it touches.

    `call` gives a result, a Deferred or a coroutine; `reply` turns the result into an answer;
    `late`, if any, takes the result when there is nobody left to answer.  `size` are the bytes of
    data it holds, `cost` those of the channel's window that it gives back when it is finished.
    """

    id: int
    call: Callable[[], Any]
    reply: Callable[[Any], Answer]
    handles: tuple[Handle, ...] = ()
    shares: bool = False
    names: tuple[bytes, ...] = ()
    touch: Touch = Touch.LOOK
    late: Callable[[Any], None] | None = None
    is_read: bool = False
    is_data: bool = False
    size: int = 0
    cost: int = 0
    known: bool = False
    finished: bool = False
    waits_for: int = 0
    waiting: list[Request] = field(factory=list)
    _paths: tuple[Path, ...] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its names, normalised; worked out only when something is unfinished."""
        if self._paths is None:
            self._paths = tuple(map(normalise, self.names))
        return self._paths

    def conflicts(self, earlier: Request) -> bool:
        """Whether it has to wait for an earlier one because of their paths."""
        if self.touch is Touch.LOOK and earlier.touch in (Touch.LOOK, Touch.CLOSE):
            return False
        return any(_touching(mine, theirs) for mine in self.paths for theirs in earlier.paths)


@define(eq=False)
class Order:
    """The unfinished requests of one session, with what they cost."""

    operations: int = 0
    transfers: int = 0
    transfer_bytes: int = 0
    _with_paths: dict[Request, None] = field(factory=dict)

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished."""
        return not self.operations and not self.transfers

    def blockers(self, request: Request) -> set[Request]:
        """The unfinished requests that this new one has to wait for."""
        found: set[Request] = set()
        for handle in request.handles:
            if handle.sharing and not request.shares:
                found.update(handle.sharing)
            elif handle.alone is not None:
                found.add(handle.alone)
        if request.names and self._with_paths:
            found.update(other for other in self._with_paths if request.conflicts(other))
        return found

    def add(self, request: Request) -> None:
        """Keep an unfinished request, in the order of arrival."""
        request.known = True
        if request.is_data:
            self.transfers += 1
            self.transfer_bytes += request.size
        else:
            self.operations += 1
        if request.names:
            self._with_paths[request] = None
        for handle in request.handles:
            if request.shares:
                handle.sharing[request] = None
            else:
                # Whoever comes later waits for this one, and with it for all before it.
                handle.alone = request
                handle.sharing.clear()

    def remove(self, request: Request) -> list[Request]:
        """Forget a finished request; the ones that can start now, in the order of arrival."""
        if request.known:
            request.known = False
            if request.is_data:
                self.transfers -= 1
                self.transfer_bytes -= request.size
            else:
                self.operations -= 1
            self._with_paths.pop(request, None)
            for handle in request.handles:
                handle.sharing.pop(request, None)
                if handle.alone is request:
                    handle.alone = None
        ready = []
        for other in request.waiting:
            other.waits_for -= 1
            if not other.waits_for:
                ready.append(other)
        request.waiting.clear()
        return ready
