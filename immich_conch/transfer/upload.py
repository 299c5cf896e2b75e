"""One upload: its states, its bytes, and what lies under it.

==========  =====================================  ================================================
state       meaning                                goes to
==========  =====================================  ================================================
open        a client writes                        partial, parked, sealed, committing, dropped
partial     the client left before its CLOSE       open, dropped
parked      closed under a temporary name, empty   open, sealed, committing, dropped
sealed      durable; waits for a time or a retry   parked, committing, dropped
committing  Immich is being told                   committed, sealed, parked, refused, dropped
committed   in Immich                              --
refused     Immich said no; the bytes are kept     sealed, dropped
dropped     gone, and the client knows             --
==========  =====================================  ================================================

Every state but committed and dropped is in the journal; a crash while committing is found again
as sealed, for each step of a commit can be done again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from immich_conch.errors import ConchError, NotFound, Refused, once_more
from immich_conch.immich.interfaces import IUploadBody
from immich_conch.library.pending import IPendingFile
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.overlap import Overlap
from immich_conch.transfer.spool_file import SpoolFile

#: Bytes copied at once from what lies under an edited file.
FILL_CHUNK = 256 * 1024
SHA1_BYTES = 20


class State(Enum):
    """Where an upload stands; the module's docstring has the table."""

    OPEN = "open"
    PARTIAL = "partial"
    PARKED = "parked"
    SEALED = "sealed"
    COMMITTING = "committing"
    COMMITTED = "committed"
    REFUSED = "refused"
    DROPPED = "dropped"


NEXT: dict[State, frozenset[State]] = {
    State.OPEN: frozenset(
        (State.PARTIAL, State.PARKED, State.SEALED, State.COMMITTING, State.DROPPED)
    ),
    State.PARTIAL: frozenset((State.OPEN, State.DROPPED)),
    State.PARKED: frozenset((State.OPEN, State.SEALED, State.COMMITTING, State.DROPPED)),
    State.SEALED: frozenset((State.PARKED, State.COMMITTING, State.DROPPED)),
    State.COMMITTING: frozenset(
        (State.COMMITTED, State.SEALED, State.PARKED, State.REFUSED, State.DROPPED)
    ),
    State.COMMITTED: frozenset(),
    State.REFUSED: frozenset((State.SEALED, State.DROPPED)),
    State.DROPPED: frozenset(),
}

#: What a journal's state is after a restart.
FOUND_AS: dict[str, State] = {
    # Files laid over others have the state "edited" in their entry and are not taken up.
    "open": State.PARTIAL,
    "partial": State.PARTIAL,
    "parked": State.PARKED,
    "sealed": State.SEALED,
    "committing": State.SEALED,
    "refused": State.REFUSED,
}


@define(eq=False)
class Base:
    """What an edited file starts from: `size` bytes that `read(offset, length)` gives."""

    size: int
    read: Callable[[int, int], bytes | Awaitable[bytes]]
    close: Callable[[], None]


@implementer(IPendingFile)
@define(eq=False)
class Upload:
    """A file between its OPEN and its place in an album.  Times are POSIX seconds."""

    album_id: str
    name: str
    #: The session that commits it; None while no session of the user may.
    lease: Lease | None
    file: SpoolFile
    #: When it was opened, and when a client last did something to it.
    arrived: float
    base: Base | None = None
    #: The client's time, once it has told one.
    time: float | None = None
    state: State = State.OPEN
    #: Whether a REMOVE came while a client was still writing: CLOSE then keeps nothing.
    removed: bool = False
    #: Whether it was parked before it was opened again; a dropped connection parks it again.
    reopened: bool = False
    #: Whether anything but a time was changed; an upload without a base is a change by itself.
    changed: bool = False
    poison: ConchError | None = None
    asset_id: str | None = None
    checksum: bytes = b""
    attempts: int = 0
    #: When the last try failed, by the clock of this run; it is not in the journal.
    failed_at: float = float("-inf")
    #: Tries that wait for others to end.
    queued: int = 0
    timer: IDelayedCall | None = None
    #: When it was closed or renamed, among all uploads of its user: of two under one name the
    #: later one is what the user wants.
    order: int = 0
    #: A later one under the same name is whole, but this one was busy then and could not go.
    superseded: bool = False
    #: Refused, and its name taken by another file or removed: only an administrator sees it.
    shelved: bool = False
    #: What Immich said when it refused the file.
    refusal: str = ""
    #: The folder's name and the user's address as they were, for whoever reads journal or log.
    folder: str = ""
    user: str = ""
    #: The asset that had the name when the client took it; no other one is replaced.
    replaces: str | None = None
    #: The SSH session that wrote it, while it is empty: the session's end drops it.
    session: object = field(default=None, repr=False)
    #: The upload to Immich that runs beside the writing, if one does.
    overlap: Overlap | None = field(default=None, repr=False)
    #: Begins such an upload where that is worth it; called after each WRITE until it answers.
    begin_overlap: Callable[[], Overlap | None] | None = field(default=None, repr=False)
    #: Whether CLOSE or RENAME heard that Immich does not know these bytes, and nobody tried yet.
    unknown: bool = False
    #: The SHA-1 of the asset that lies under it, while it is a copy of that and nothing else.
    copy_of: bytes | None = None
    #: How far into the base a hole still shows the base; FSETSTAT of a smaller size lowers it.
    _base_reach: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        if self.base is not None:
            self._base_reach = self.base.size

    def go(self, state: State) -> None:
        """Change the state; a change that the table lacks is a defect and raises."""
        if state not in NEXT[self.state]:
            raise AssertionError(f"an upload cannot go from {self.state} to {state}")
        self.state = state

    @property
    def size(self) -> int:
        """Bytes it has so far."""
        return max(self.file.size, self._base_reach)

    @property
    def untouched(self) -> bool:
        """Whether it is as OPEN made it: nothing was written, and nothing lies under it."""
        return self.state is State.OPEN and self.base is None and not (self.changed or self.size)

    @property
    def modified(self) -> float:
        """The time it shows: the client's, else the time of arrival."""
        return self.arrived if self.time is None else self.time

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """A WRITE; a failure poisons the upload."""
        self.write_pieces(offset, (memoryview(data),))

    def write_pieces(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """A WRITE, in pieces that follow each other."""
        if self.poison is not None:
            raise once_more(self.poison)
        try:
            self.file.write_pieces(offset, pieces)
        except ConchError as error:
            self.poison = error
            raise
        self.changed = True
        self.copy_of = None
        if self.overlap is not None:
            if self.overlap.wrote(offset):
                self.overlap = None
        elif self.begin_overlap is not None:
            self.overlap = self.begin_overlap()
            if self.overlap is not None:
                self.begin_overlap = None

    def truncate(self, size: int) -> None:
        """FSETSTAT of a size."""
        if self.poison is not None:
            raise once_more(self.poison)
        if size == self.size:
            return
        try:
            if size < self.file.size or size > self._base_reach:
                self.file.truncate(size)
        except ConchError as error:
            self.poison = error
            raise
        self._base_reach = min(self._base_reach, size)
        self.changed = True
        self.copy_of = None
        if self.overlap is not None and self.overlap.wrote(size):
            self.overlap = None

    def lay_under(self, base: Base, checksum: bytes) -> None:
        """Make an untouched upload a copy of what Immich has under this SHA-1."""
        self.stop_overlap()
        self.base, self._base_reach = base, base.size
        self.copy_of = checksum
        self.changed = True

    def spoil(self, error: Exception) -> None:
        """What was to be written could not be had: CLOSE keeps nothing."""
        if self.poison is None and self.state is State.OPEN:
            self.poison = error if isinstance(error, ConchError) else Refused("A copy failed.")

    def stop_overlap(self) -> None:
        """The upload beside the writing is not wanted any more."""
        overlap, self.overlap, self.begin_overlap = self.overlap, None, None
        if overlap is not None:
            overlap.abort()

    def read(self, offset: int, length: int) -> bytes | Coroutine[Any, Any, bytes]:
        """Bytes as they are now, the base shining through where nothing was written.

        Raises NotFound where the base is needed and was let go because the upload was dropped.
        """
        if not self._base_reach:
            return self.file.read(offset, length)
        return self._read_over(offset, length)

    async def _read_over(self, offset: int, length: int) -> bytes:
        base = self.base
        if base is None:
            raise NotFound("The file is gone.")
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        reach = min(offset + length, self._base_reach)
        result = bytearray(self.file.read(offset, length))
        result.extend(bytes(length - len(result)))
        try:
            for low, high in self.file.written.gaps(reach):
                low = max(low, offset)
                if low < high:
                    piece = await _base_bytes(base, low, high - low)
                    result[low - offset : low - offset + len(piece)] = piece
        except ConchError:
            if self.base is base or self._base_reach:
                raise
            # CLOSE filled the file from the base meanwhile and let go of it: all is here now.
            return self.file.read(offset, length)
        return bytes(result)

    async def fill(self, breathe: Callable[[], Awaitable[None]]) -> None:
        """Copy what still shines through from the base, so that the spool file is whole.

        `breathe` lets others have their turn between two pieces.
        """
        assert self.base is not None
        self.copy_of = None
        for low, high in self.file.written.gaps(self._base_reach):
            while low < high:
                piece = await _base_bytes(self.base, low, min(FILL_CHUNK, high - low))
                self.file.write(low, piece)
                low += len(piece)
                await breathe()
        self._base_reach = 0
        self.drop_base()

    def drop_base(self) -> None:
        """Let go of what lies under the file."""
        if self.base is not None:
            self.base.close()
            self.base = None

    def let_session_go(self) -> None:
        """Immich is not asked for anything more on its behalf."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def body(self) -> IUploadBody:
        """The bytes for Immich, from the start; raises NotFound for a copy, which has none."""
        if self.copy_of is not None:
            raise NotFound("The file that was to be copied is gone.")
        return SpoolBody(self.file, self.file.size)

    def entry(self, user_id: str) -> dict[str, Any]:
        """The journal entry."""
        return {
            "kind": "upload",
            "user": user_id,
            "email": self.user,
            "album": self.album_id,
            "folder": self.folder,
            "name": self.name,
            "time": self.time,
            "arrived": self.arrived,
            "size": self.file.size,
            "sha1": self.checksum.hex(),
            "state": self.state.value,
            "asset": self.asset_id,
            "replaces": self.replaces,
            "order": self.order,
            "shelved": self.shelved,
            "attempts": self.attempts,
            "reason": self.refusal,
        }

    @classmethod
    def found(cls, entry: Mapping[str, Any], file: SpoolFile) -> Upload:
        """An upload of an earlier run; raises ValueError for an entry that makes no sense."""
        state = FOUND_AS.get(entry["state"])
        if state is None:
            raise ValueError(f"there is no state {entry['state']!r}")
        checksum = bytes.fromhex(entry["sha1"])
        if state in (State.SEALED, State.REFUSED) and len(checksum) != SHA1_BYTES:
            raise ValueError("it has no SHA-1")
        return cls(
            album_id=entry["album"],
            name=entry["name"],
            lease=None,
            file=file,
            arrived=float(entry["arrived"]),
            folder=str(entry.get("folder", "")),
            user=str(entry.get("email", "")),
            time=None if entry["time"] is None else float(entry["time"]),
            state=state,
            checksum=checksum,
            asset_id=entry.get("asset"),
            replaces=entry.get("replaces"),
            shelved=bool(entry.get("shelved")),
            attempts=int(entry.get("attempts", 0)),
            refusal=str(entry.get("reason", "")) if state is State.REFUSED else "",
        )


async def _base_bytes(base: Base, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        answer = base.read(offset, min(length, FILL_CHUNK))
        piece = answer if isinstance(answer, bytes) else await answer
        if not piece:
            raise ConchError("The file that is being edited ended early.")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


@implementer(IUploadBody)
@define(eq=False)
class SpoolBody:
    """A sealed spool file as the body of an upload."""

    file: SpoolFile
    size: int
    _at: int = 0

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        piece = self.file.read(self._at, min(size, self.size - self._at))
        self._at += len(piece)
        return piece
