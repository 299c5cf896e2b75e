"""When uploads are committed, and again after a failure; what else is done to one at a time.

An upload that was answered OK is tried again with growing pauses until Immich has it or refuses it
for good.  Which requests of a client lead to a commit is `uploads.py`'s business; what a commit
does is `landing.py`'s.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Protocol, TypeVar

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.counters import Counters
from immich_conch.errors import ConchError, NotFound, Refused, SessionRevoked, Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.gather import gather
from immich_conch.library.locks import Locks
from immich_conch.library.naming import File
from immich_conch.library.notes import Noted, Notes
from immich_conch.library.pairs import Pairs
from immich_conch.library.removal import Tell
from immich_conch.transfer.landing import Landing
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.places import Places
from immich_conch.transfer.removals import Removals
from immich_conch.transfer.spool import Spool
from immich_conch.transfer.syncer import Syncer
from immich_conch.transfer.upload import State, Upload

#: Pauses between tries of a commit that nobody waits for: from, factor, to (seconds).
RETRY_FIRST, RETRY_FACTOR, RETRY_MOST = 1.0, 2.0, 300.0
#: Commits side by side when the service stops.
STOP_PARALLEL = 4
#: Commits of one user side by side that nobody waits for, as after a log-in.
QUIET_PARALLEL = 4

#: States of what is closed and not on its way into Immich this moment.
WAITING = frozenset((State.PARKED, State.SEALED))

T = TypeVar("T")


class Threads(Protocol):
    """Runs blocking work in a thread."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


@define(eq=False, repr=False)
class Commits:
    """The half of a user's uploads that talks to the spool, the clock and Immich.

    `tell` enters an album's own changes (added, removed) into every catalog of the user;
    `settle` is in seconds.
    """

    user_id: str
    spool: Spool
    clock: IReactorTime
    now: Callable[[], float]
    in_thread: Threads
    tell: Tell
    #: Enters what is noted of an asset into every catalog of the user.
    noted: Noted
    counters: Counters
    #: Syncs of all users go through one queue.
    syncer: Syncer
    #: A session of the user that may upload, if one is here.
    live: Callable[[], Lease | None]
    #: The lease of an Immich session of the user.
    session_of: Callable[[IImmich], Lease | None]
    #: What the catalogs know of live photos: the stills of a part, an asset's files in a folder.
    stills: Callable[[str], Sequence[str]] = lambda part_id: ()
    shown: Callable[[str, str], Sequence[File]] = lambda album_id, asset_id: ()
    settle: float = 5.0
    final_delete: bool = False
    #: Bytes from which on a file goes to Immich while it is still written; 0 is never.
    overlap_from: int = 0
    patterns: Sequence[str] = names.DEFAULT_TEMPORARY
    ignore_case: bool = False
    random: Callable[[], float] = random.random
    locks: Locks = field(factory=Locks)
    _places: Places = Factory(lambda self: Places(self.ignore_case), takes_self=True)
    pairs: Pairs = Factory(
        lambda self: Pairs(self.tell, self.clock.seconds, self.stills, self.shown), takes_self=True
    )
    notes: Notes = Factory(lambda self: Notes(self.locks, self.noted, self.pairs), takes_self=True)
    _landing: Landing = Factory(
        lambda self: Landing(
            self.locks,
            self.notes,
            lambda album_id, name, asset_id: self.removals.landed(album_id, name, [asset_id]),
            self.final_delete,
        ),
        takes_self=True,
    )
    removals: Removals = Factory(
        lambda self: Removals(
            user_id=self.user_id,
            spool=self.spool,
            clock=self.clock,
            in_thread=self.in_thread,
            locks=self.locks,
            notes=self.notes,
            tell=self.tell,
            live=self.live,
            taken=lambda album_id, name: self._places.find(album_id, name) is not None,
            pause=self.settle,
            final_delete=self.final_delete,
        ),
        takes_self=True,
    )
    #: Whether Immich takes an extension, as it was asked last.
    _takes: Callable[[str], bool] = field(default=lambda extension: False)
    _slots: DeferredSemaphore = Factory(lambda: DeferredSemaphore(QUIET_PARALLEL))

    _log = Logger()

    # -- one thing at a time --------------------------------------------------------------------

    def _alone(self, upload: Upload) -> AbstractAsyncContextManager[None]:
        return self.locks.hold(("upload", upload.file.id))

    def _busy(self, upload: Upload) -> bool:
        return self.locks.busy(("upload", upload.file.id))

    async def idle(self, upload: Upload) -> bool:
        """Wait until nothing is being done with an upload; whether there was anything."""
        busy = self._busy(upload)
        if busy:
            async with self._alone(upload):
                pass
        return busy

    async def in_file(self, upload: Upload, work: Callable[[], T]) -> T:
        """Work on an upload's file in a thread, which keeps the descriptor open."""
        file = upload.file
        file.use()
        try:
            return await self.in_thread(work)
        finally:
            file.close()

    async def _breathe(self) -> None:
        """Let others have their turn."""
        turn: Deferred[None] = Deferred()
        self.clock.callLater(0, turn.callback, None)
        await turn

    # -- the spool

    async def _hash(self, upload: Upload) -> None:
        file = upload.file
        before = upload.checksum
        upload.checksum = file.sha1() if file.hash_ready else await self.in_file(upload, file.sha1)
        if before and upload.checksum != before:
            upload.checksum = before
            raise Refused("The bytes in the spool are not what they were when they were sealed.")

    async def _seal(self, upload: Upload, state: State) -> None:
        await self._hash(upload)
        entry = {**upload.entry(self.user_id), "state": state.value}
        upload.file.use()
        try:
            await self.syncer.seal(upload.file, entry)
        finally:
            upload.file.close()
        if upload.state is not state:
            upload.go(state)

    def _supersede(self, upload: Upload) -> None:
        """What the same name showed before this upload was whole is not wanted any more."""
        for older in self._places.overtaken(upload):
            if self._busy(older):
                # It finds out when it comes to its commit.
                older.superseded = True
            elif older.state in WAITING:
                self._drop(older)
            elif older.state is State.REFUSED:
                self._shelve(older)

    def _shelve(self, upload: Upload) -> None:
        """Keep what Immich refused for the administrator; its name is somebody else's."""
        upload.shelved = True
        self._places.shelve(upload)
        with suppress(ConchError):  # a restart shows it again, which loses nothing
            self.spool.journal(upload.file, upload.entry(self.user_id))

    def _drop(self, upload: Upload) -> None:
        if upload.state in (State.DROPPED, State.COMMITTED):
            return
        upload.go(State.DROPPED)
        self._discard(upload)

    def _discard(self, upload: Upload) -> None:
        self._stop_timer(upload)
        upload.stop_overlap()
        upload.drop_base()
        self._places.leave(upload)
        try:
            self.spool.discard(upload.file)
        finally:
            upload.let_session_go()

    # -- commits --------------------------------------------------------------------------------

    def _settle(self, upload: Upload, pause: float | None = None) -> None:
        self._stop_timer(upload)
        upload.timer = self.clock.callLater(
            self.settle if pause is None else pause, self._commit_quietly, upload
        )

    def lease_of(self, upload: Upload) -> Lease:
        """A session that can speak for an upload; raises SessionRevoked if there is none."""
        lease = upload.lease
        if lease is None or lease.revoked:
            upload.let_session_go()
            lease = self.live()
            if lease is None:
                raise SessionRevoked("No session of the user is here that may upload.")
            upload.lease = lease.hold()
            upload.user = lease.immich.user.email
        return lease

    async def with_session(self, upload: Upload, work: Callable[[Lease], Awaitable[T]]) -> T:
        """Work on Immich for an upload, by another session where one turns out to be revoked."""
        while True:
            lease = self.lease_of(upload)
            try:
                return await work(lease)
            except SessionRevoked:
                lease.revoked = True
                if self.live() is None:
                    raise

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
        try:
            await self._commit_now(upload)
        except Exception as error:
            if on_error is State.PARKED:
                upload.go(State.PARKED)
            elif on_error is State.SEALED:
                await self._failed(upload, error)
            raise

    def _commit_quietly(self, upload: Upload) -> None:
        async def work() -> None:
            # The slot first: whoever waits for one must not keep a SETSTAT from the upload.
            upload.queued += 1
            try:
                await self._slots.acquire()
            finally:
                upload.queued -= 1
            try:
                async with self._alone(upload):
                    # Who was busy with it may have set another time for this, or dropped it.
                    if upload.state is State.SEALED and upload.timer is None:
                        upload.unknown = False  # what CLOSE heard is some time ago
                        await self._commit(upload, on_error=State.SEALED)
            except ConchError:
                return  # _failed has said it
            finally:
                self._slots.release()

        def crashed(failure: Failure) -> None:
            self._log.failure("commit of {name!r}", failure=failure, name=upload.name)

        upload.timer = None
        Deferred.fromCoroutine(work()).addErrback(crashed)

    async def _failed(self, upload: Upload, error: Exception) -> None:
        """A commit of what was answered OK did not work: it is tried again, or kept."""
        if upload.superseded:
            self._drop(upload)
            return
        upload.stop_overlap()
        upload.attempts += 1
        upload.failed_at = self.clock.seconds()
        reason = error.text if isinstance(error, ConchError) else repr(error)
        # NotFound: the asset vanished between two calls; the next try uploads it again.
        again = (Unreachable, SessionRevoked, NotFound)
        if not isinstance(error, ConchError) or isinstance(error, again):
            upload.go(State.SEALED)
            if isinstance(error, SessionRevoked):
                await self._journal(upload)
                self._without_session(upload)
                return
            pause = min(RETRY_MOST, RETRY_FIRST * RETRY_FACTOR ** min(upload.attempts - 1, 16))
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
        else:
            upload.go(State.REFUSED)
            # No more than the text: the error holds on to the session that ran into it.
            upload.refusal = error.text
            self.counters.add("uploads.refused")
            self._log.error(
                "Immich refused {folder}/{name} of user {user}; its bytes are kept in the spool "
                "as {id}: {reason}",
                folder=upload.folder,
                name=upload.name,
                user=upload.user,
                id=upload.file.id,
                reason=reason,
            )
        await self._journal(upload)
        if upload.state is State.REFUSED:
            upload.let_session_go()

    def _without_session(self, upload: Upload) -> None:
        """Its session is over: go on with another one at once, or at the user's next log-in."""
        if upload.lease is not None:
            upload.lease.revoked = True
        upload.let_session_go()
        if self.live() is not None:
            self._settle(upload, 0)
            return
        self._log.warn(
            "upload of {folder}/{name} waits for the next log-in of {user}",
            folder=upload.folder,
            name=upload.name,
            user=upload.user,
        )

    async def _journal(self, upload: Upload) -> None:
        """Note what has changed since it was sealed; the entry that is there stays if it fails."""
        work = partial(self.spool.journal, upload.file, upload.entry(self.user_id))
        try:
            await self.in_file(upload, work)
        except ConchError as error:
            self._log.error(
                "the journal of {name!r} keeps an old entry: {reason}",
                name=upload.name,
                reason=error.text,
            )

    async def _commit_now(self, upload: Upload) -> None:
        place = self._places.key(upload.album_id, upload.name)
        async with self.locks.hold(("name", *place)):
            if upload.superseded:
                # A later upload of this name is whole, or in Immich already.
                self._drop(upload)
                return
            if not upload.file.hash_ready:
                await self._hash(upload)  # of an earlier run: a disk may have lost bytes since
            landed = await self.with_session(upload, partial(self._landing.run, upload))
            if landed.in_album:
                self._now_there(upload, landed.asset)
                replaced = [landed.replaced.id] if landed.replaced is not None else []
                gone = replaced if landed.left else []
                if replaced:
                    # Whoever had the name is gone only now: the asset is named once more.
                    gone = [*gone, landed.asset.id]
                # A motion part is in the album by its still.
                there = landed.asset if landed.still is None else landed.still
                self.tell(upload.album_id, [there], gone)
                if replaced:
                    await self.with_session(upload, partial(self._pin_siblings, upload))
                self.removals.landed(upload.album_id, upload.name, replaced)
            upload.go(State.COMMITTED)
            self._supersede(upload)
            self._discard(upload)
        self.counters.add("uploads.committed")
        self._log.info(
            "user {user} uploaded {name!r}, {size} bytes, asset {asset}",
            user=upload.user,
            name=upload.name,
            size=landed.asset.size,
            asset=landed.asset.id,
        )

    async def _pin_siblings(self, upload: Upload, lease: Lease) -> None:
        """The name was freed and taken again: what also wants it keeps what it is shown as."""
        await self.notes.pin_siblings(lease.immich, lease.catalog, upload.album_id, upload.name)

    def _now_there(self, upload: Upload, asset: Asset) -> None:
        """Uploads that were begun over this one overwrite what has become of it."""
        for other in self._places.beside(upload):
            other.replaces = asset.id
            if other.state in WAITING and not self._busy(other):
                with suppress(ConchError):  # a restart then keeps both files
                    self.spool.journal(other.file, other.entry(self.user_id))

    async def stop(self) -> None:
        """Commit what is sealed, whatever time it has; for the end of the service."""

        async def commit(upload: Upload) -> None:
            async with self._alone(upload):
                if upload.state is not State.SEALED:
                    return
                try:
                    await self._commit(upload, on_error=State.SEALED)
                except ConchError:
                    return

        self.removals.stop()
        waiting = [upload for upload in self._places if upload.state is not State.OPEN]
        await gather([partial(commit, upload) for upload in waiting], STOP_PARALLEL)
