"""All uploads in flight of one user: who sees them, when they are committed, what is retried.

This is the timing half of section 5: CLOSE, SETSTAT and RENAME decide when a file gets into
Immich and who hears the result.  What a commit does is `commit.py`'s, what an upload is is
`upload.py`'s.  Uploads are keyed by album and name, for clients send the time or the RENAME on
another connection of the same user (CLIENTS.md, section 5).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.counters import Counters
from immich_conch.errors import (
    ConchError,
    Denied,
    NotEmpty,
    NotFound,
    SessionRevoked,
    Unreachable,
)
from immich_conch.immich.model import Album, Asset
from immich_conch.library import names
from immich_conch.library.gather import Shared, gather
from immich_conch.library.locks import Locks
from immich_conch.library.pending import IPending
from immich_conch.library.removal import remove_asset
from immich_conch.library.tree import asset_key
from immich_conch.transfer.commit import Commit, Content, carry_over, check_content
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.spool import Spool
from immich_conch.transfer.upload import Base, State, Upload

#: Pauses between tries of a commit that nobody waits for: from, factor, to (seconds).
RETRY_FIRST, RETRY_FACTOR, RETRY_MOST = 1.0, 2.0, 300.0
#: Commits side by side when the service stops.
STOP_PARALLEL = 4

T = TypeVar("T")

_WAITING = frozenset((State.PARKED, State.SEALED))


class Threads(Protocol):
    """Runs blocking work in a thread."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


Tell = Callable[[str, Sequence[tuple[Asset, str | None]], Sequence[str]], None]


@implementer(IPending)
@define(eq=False)
class Uploads:
    """The uploads of one user.

    `tell` enters an album's own changes (added, removed) into every catalog of the user;
    `settle` is in seconds.
    """

    user_id: str
    spool: Spool
    clock: IReactorTime
    now: Callable[[], float]
    in_thread: Threads
    tell: Tell
    counters: Counters
    settle: float = 5.0
    final_delete: bool = False
    patterns: Sequence[str] = names.DEFAULT_TEMPORARY
    ignore_case: bool = False
    random: Callable[[], float] = random.random
    locks: Locks = field(factory=Locks)
    #: By place, oldest first; the last one is what everybody sees.
    _by_place: dict[tuple[str, str], list[Upload]] = field(factory=dict)

    _log = Logger()

    # -- what the tree sees ---------------------------------------------------------------------

    def _place(self, album_id: str, name: str) -> tuple[str, str]:
        return album_id, names.fold(name, casefold=self.ignore_case)

    def find(self, album_id: str, name: str) -> Upload | None:
        """The upload that everybody sees under this name."""
        stack = self._by_place.get(self._place(album_id, name))
        return stack[-1] if stack else None

    def in_album(self, album_id: str) -> Iterator[Upload]:
        """What is in flight into an album, each name once."""
        for (place_album, _), stack in list(self._by_place.items()):
            if place_album == album_id:
                yield stack[-1]

    def hidden_assets(self, album_id: str) -> Iterator[str]:
        """Assets that a commit under way has made but not yet handed over to the catalog."""
        for (place_album, _), stack in list(self._by_place.items()):
            if place_album == album_id:
                yield from (upload.asset_id for upload in stack if upload.asset_id is not None)

    def __len__(self) -> int:
        return sum(map(len, self._by_place.values()))

    def _enter(self, upload: Upload) -> None:
        self._by_place.setdefault(self._place(upload.album_id, upload.name), []).append(upload)

    def _leave(self, upload: Upload) -> None:
        place = self._place(upload.album_id, upload.name)
        stack = self._by_place.get(place)
        if stack is not None and upload in stack:
            stack.remove(upload)
            if not stack:
                del self._by_place[place]

    def is_temporary(self, name: str, takes: Callable[[str], bool]) -> bool:
        """Whether a name says that a RENAME will follow."""
        return names.is_temporary(name, self.patterns, takes)

    async def check_type(self, lease: Lease, name: str) -> bool:
        """Whether the name is a temporary one; raises Denied for a type Immich does not take."""
        types = await lease.immich.server.media_types()
        if self.is_temporary(name, types.takes):
            return True
        extension = names.split_extension(name)[1]
        if not types.takes(extension):
            raise Denied(f"Immich takes no files of the type {extension or '(none)'}.")
        return False

    # -- a client writes ------------------------------------------------------------------------

    def open(
        self, lease: Lease, album: Album, name: str, base: Base | None, session: object
    ) -> Upload:
        """A new file for a client to write; raises NoSpace."""
        upload = Upload(
            album_id=album.id,
            name=name,
            lease=lease.hold(),
            file=self.spool.create(),
            arrived=self.now(),
            base=base,
            session=session,
        )
        self._enter(upload)
        self.counters.add("uploads.opened")
        return upload

    def reopen(self, upload: Upload, session: object) -> None:
        """Write on in a parked file, as WinSCP does when it resumes."""
        upload.go(State.OPEN)
        upload.session = session
        upload.reopened = True

    async def close(self, upload: Upload) -> None:
        """CLOSE: everything that can fail fails here, or the file is safe (rule 1)."""
        try:
            if upload.poison is not None:
                raise upload.poison
            if upload.removed:
                self._drop(upload)
                return
            if upload.base is not None and not upload.changed:
                # Nothing was written: at most the time of what lies under it changes.
                self._drop(upload)
                under = self.find(upload.album_id, upload.name)
                if under is not None and upload.time is not None:
                    await self.set_time(under, upload.time)
                return
            if upload.base is not None:
                await upload.fill()
            if upload.size == 0:
                upload.go(State.PARKED)
                return
            if await self.check_type(upload.lease, upload.name):
                await self._seal(upload, State.PARKED)
                self._supersede(upload)
                return
            await self._ready(upload, State.OPEN)
        except BaseException:
            self._drop(upload)
            raise

    async def _ready(self, upload: Upload, before: State) -> None:
        """A whole file under its final name: commit it now, or seal it and wait for a time."""
        await self._hash(upload)
        album = await upload.lease.catalog.album(upload.album_id)
        if album.role == "viewer":
            raise Denied("You may only look at this album.")
        await check_content(
            upload.lease.immich, upload.size, upload.checksum, self._waiting(upload)
        )
        if upload.time is not None:
            await self._commit(upload, on_error=before)
            return
        await self._seal(upload, State.SEALED)
        self._supersede(upload)
        self._settle(upload)

    def _waiting(self, but: Upload) -> int:
        """Bytes that are sealed and not yet in Immich, which the quota must still take."""
        return sum(
            upload.size
            for stack in self._by_place.values()
            for upload in stack
            if upload.state in (State.SEALED, State.COMMITTING) and upload is not but
        )

    async def _hash(self, upload: Upload) -> None:
        file = upload.file
        upload.checksum = file.sha1() if file.hash_ready else await self.in_thread(file.sha1)

    async def _seal(self, upload: Upload, state: State) -> None:
        await self._hash(upload)
        entry = {**upload.entry(self.user_id), "state": state.value}
        await self.in_thread(partial(self.spool.seal, upload.file, entry))
        if upload.state is not state:
            upload.go(state)

    def _supersede(self, upload: Upload) -> None:
        """What the same name showed before this upload was whole is not wanted any more."""
        stack = self._by_place.get(self._place(upload.album_id, upload.name), [])
        for older in stack[: stack.index(upload)]:
            if older.state in _WAITING:
                self._drop(older)
            elif older.state is State.REFUSED:
                # Its bytes stay in the spool for the administrator; its name is taken.
                self._leave(older)

    def abort(self, upload: Upload) -> None:
        """The connection dropped before CLOSE: nothing is committed."""
        self._log.info("upload of {name!r} was cut off by the client", name=upload.name)
        self.counters.add("uploads.cut")
        if upload.reopened and not upload.removed:
            upload.go(State.PARKED)
            return
        self._drop(upload)

    def session_ended(self, session: object) -> None:
        """Files that stayed empty go with the session that made them."""
        for stack in list(self._by_place.values()):
            for upload in list(stack):
                if upload.state is State.PARKED and not upload.size and upload.session is session:
                    self._log.info("{name!r} stayed empty and is dropped", name=upload.name)
                    self._drop(upload)

    def _drop(self, upload: Upload) -> None:
        if upload.state in (State.DROPPED, State.COMMITTED):
            return
        upload.go(State.DROPPED)
        self._discard(upload)

    def _discard(self, upload: Upload) -> None:
        self._stop_timer(upload)
        upload.drop_base()
        self._leave(upload)
        self.spool.discard(upload.file)
        upload.lease.release()

    # -- what clients say about a file that is closed --------------------------------------------

    async def set_time(self, upload: Upload, time: float) -> None:
        """SETSTAT of a time: settles the upload and hears the result."""
        if upload.state is State.COMMITTING and upload.run is not None:
            await upload.run.wait()
            return
        upload.time = time
        if upload.state is State.SEALED:
            await self._commit(upload, on_error=State.SEALED)

    async def rename(self, upload: Upload, album: Album, name: str) -> None:
        """RENAME of a file in flight; under a final name it settles, and hears what fails.

        The caller has looked after whatever the new name showed.
        """
        if upload.state is State.COMMITTING and upload.run is not None:
            await upload.run.wait()
            raise NotFound("The file came into Immich under its old name just now.")
        temporary = await self.check_type(upload.lease, name)
        old = upload.album_id, upload.name
        before = upload.state
        self._stop_timer(upload)
        self._move(upload, album.id, name)
        if before is State.OPEN or upload.size == 0:
            return
        try:
            if temporary:
                await self._seal(upload, State.PARKED)
                self._supersede(upload)
            else:
                await self._ready(upload, before)
        except BaseException:
            if upload.state in _WAITING:
                self._move(upload, *old)
                if upload.state is State.SEALED:
                    self._settle(upload)
            raise

    def _move(self, upload: Upload, album_id: str, name: str) -> None:
        self._leave(upload)
        upload.album_id, upload.name = album_id, name
        self._enter(upload)

    async def remove(self, upload: Upload) -> bool:
        """REMOVE of a file in flight; whether what it was to overwrite has to go too.

        While it is still being written only the new bytes go: a client whose upload failed takes
        back its half, and the photo below must not go with that.
        """
        if upload.state is State.COMMITTING and upload.run is not None:
            await upload.run.wait()
            return True
        self._log.info("{name!r} was removed before it was in Immich", name=upload.name)
        if upload.state is State.OPEN:
            # Its handle is still there: it writes on into nothing.
            upload.removed = True
            self._leave(upload)
            return False
        self._drop(upload)
        return True

    def may_leave(self, album_id: str) -> None:
        """Raise NotEmpty while uploads into an album are waiting."""
        if any(upload.state is not State.REFUSED for upload in self.in_album(album_id)):
            raise NotEmpty("Uploads into this folder are still on their way.")

    # -- commits --------------------------------------------------------------------------------

    def _settle(self, upload: Upload, pause: float | None = None) -> None:
        self._stop_timer(upload)
        upload.timer = self.clock.callLater(
            self.settle if pause is None else pause, self._commit_quietly, upload
        )

    def _stop_timer(self, upload: Upload) -> None:
        if upload.timer is not None and upload.timer.active():
            upload.timer.cancel()
        upload.timer = None

    async def _commit(self, upload: Upload, on_error: State) -> None:
        """Commit, for somebody who hears the result.

        After an error the upload is what `on_error` says: OPEN (its caller drops it), PARKED, or
        SEALED, where it had been answered OK before and is tried again.
        """
        self._stop_timer(upload)
        upload.go(State.COMMITTING)
        upload.run = Shared.start(self._commit_now(upload))
        try:
            await upload.run.wait()
        except Exception as error:
            if on_error is State.PARKED:
                upload.go(State.PARKED)
            elif on_error is State.SEALED:
                self._failed(upload, error)
            raise
        finally:
            upload.run = None

    def _commit_quietly(self, upload: Upload) -> None:
        async def work() -> None:
            try:
                await self._commit(upload, on_error=State.SEALED)
            except ConchError:
                return  # _failed has said it
            except Exception:
                self._log.failure("commit of {name!r}", name=upload.name)

        Shared.start(work())

    def _failed(self, upload: Upload, error: Exception) -> None:
        """A commit of what was answered OK did not work: it is tried again, or kept."""
        upload.attempts += 1
        reason = error.text if isinstance(error, ConchError) else repr(error)
        if not isinstance(error, ConchError) or isinstance(error, (Unreachable, SessionRevoked)):
            upload.go(State.SEALED)
            pause = min(RETRY_MOST, RETRY_FIRST * RETRY_FACTOR ** (upload.attempts - 1))
            pause *= 0.75 + self.random() / 2
            if isinstance(error, Unreachable) and error.retry_after is not None:
                pause = max(pause, min(error.retry_after, RETRY_MOST))
            self._log.warn(
                "upload of {name!r} waits {pause:.0f} s for the next try: {reason}",
                name=upload.name,
                pause=pause,
                reason=reason,
            )
            self.counters.add("uploads.retried")
            self._settle(upload, pause)
            return
        upload.go(State.REFUSED)
        self.counters.add("uploads.refused")
        self._log.error(
            "Immich refused {name!r} of user {user}; its bytes are kept in the spool as {id}: "
            "{reason}",
            name=upload.name,
            user=upload.lease.immich.user.email,
            id=upload.file.id,
            reason=reason,
        )
        entry = upload.entry(self.user_id)
        Shared.start(_finished(self.in_thread(partial(self.spool.journal, upload.file, entry))))

    async def _commit_now(self, upload: Upload) -> None:
        lease = upload.lease
        name, album_id = upload.name, upload.album_id
        async with self.locks.hold(("name", *self._place(album_id, name))):
            async with self.locks.hold(("sha1", upload.checksum)):
                asset, in_album = await self._into_immich(upload)
            replaced = None
            if in_album:
                replaced = await self._replace(lease, album_id, name, asset)
            shown = name if names.fold(asset.name) == names.fold(name) else None
            if shown is None:
                self._log.info(
                    "Immich has the bytes of {name!r} under the name {known!r} already",
                    name=name,
                    known=asset.name,
                )
            if in_album:
                self.tell(album_id, [(asset, shown)], [replaced.id] if replaced else [])
            upload.go(State.COMMITTED)
            self._supersede_after_commit(upload)
            self._discard(upload)
        self.counters.add("uploads.committed")
        self._log.info(
            "user {user} uploaded {name!r}, {size} bytes, asset {asset}",
            user=lease.immich.user.email,
            name=name,
            size=asset.size,
            asset=asset.id,
        )

    def _supersede_after_commit(self, upload: Upload) -> None:
        stack = self._by_place.get(self._place(upload.album_id, upload.name), [])
        if upload in stack:
            self._supersede(upload)

    async def _into_immich(self, upload: Upload) -> tuple[Asset, bool]:
        """The asset, and whether its album still exists."""

        async def landed(asset_id: str) -> None:
            upload.asset_id = asset_id

        content = Content(
            name=upload.name,
            modified=upload.modified,
            size=upload.file.size,
            checksum=upload.checksum,
            body=upload.body,
        )
        immich = upload.lease.immich
        try:
            return await Commit(immich, content, upload.album_id, landed).run(), True
        except NotFound:
            try:
                await immich.album(upload.album_id)
            except NotFound:
                self._log.warn(
                    "the album of {name!r} is gone; the file is in Immich without an album",
                    name=upload.name,
                )
                return await Commit(immich, content, None, landed).run(), False
            raise

    async def _replace(self, lease: Lease, album_id: str, name: str, asset: Asset) -> Asset | None:
        """Let the asset that had the name leave, now that its successor is in the album."""
        file = await lease.catalog.find_file(album_id, name)
        if file is None or file.asset.id == asset.id:
            return None
        old = file.asset
        try:
            await carry_over(lease.immich, await lease.immich.asset(old.id), asset)
        except NotFound:
            return old  # gone by another hand
        async with self.locks.hold(asset_key(old)):
            await remove_asset(lease.immich, album_id, old, final_delete=self.final_delete)
        return old

    async def stop(self) -> None:
        """Commit what is sealed, whatever time it has; for the end of the service."""
        sealed = [
            upload
            for stack in self._by_place.values()
            for upload in stack
            if upload.state is State.SEALED
        ]

        async def commit(upload: Upload) -> None:
            try:
                await self._commit(upload, on_error=State.SEALED)
            except ConchError:
                return

        await gather([partial(commit, upload) for upload in sealed], STOP_PARALLEL)


async def _finished(work: Awaitable[Any]) -> None:
    await work
