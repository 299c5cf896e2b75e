"""What becomes of uploads beside what clients ask: restarts, log-ins, time, an administrator."""

from __future__ import annotations

from attrs import define

from immich_conch.errors import Refused
from immich_conch.library import names
from immich_conch.transfer.commits import Commits
from immich_conch.transfer.overlap import Overlap
from immich_conch.transfer.spool import Found
from immich_conch.transfer.upload import State, Upload

#: Seconds after a try that failed in which no log-in leads to another one.
RETRY_AT_LOGIN = 5.0


@define(eq=False, repr=False)
class Upkeep(Commits):
    """The half of a user's uploads that no request of a client leads to."""

    def _begin_overlap(self, upload: Upload) -> Overlap | None:
        """Start the upload to Immich beside the writing, once the file is large."""
        file = upload.file
        if file.size < self.overlap_from:
            return None
        upload.begin_overlap = None
        extension = names.media_extension(upload.name, self._takes)
        if not file.in_order or upload.base is not None or not extension:
            return None
        if upload.lease is None:
            return None
        self.counters.add("uploads.overlapped")
        return Overlap.start(upload.lease.immich, file, extension)

    def _waiting(self, but: Upload) -> int:
        """Bytes that are sealed and not yet in Immich, which the quota must still take."""
        return sum(
            upload.size
            for upload in self._places
            if upload.state in (State.SEALED, State.COMMITTING) and upload is not but
        )

    def recover(self, found: Found) -> None:
        """Take up what an earlier run left; raises ValueError for what makes no sense."""
        if found.file is None:
            self.removals.found(found.entry)
            return
        if found.entry["state"] == "edited" or found.file.size == 0:
            self.spool.discard(found.file)
            return
        upload = Upload.found(found.entry, found.file)
        if upload.state is State.PARTIAL:
            older = self._places.set_aside(upload)
            if older is not None:
                self._drop(older)
        elif upload.shelved:
            self._places.shelve(upload)
        else:
            self._places.found(upload, int(found.entry.get("order", 0)))
            if upload.state is not State.REFUSED:
                self._supersede(upload)

    def welcome(self) -> None:
        """A session that may upload is here: go on with what waits for one, or failed before."""
        self.removals.welcome()
        for upload in self._places:
            if upload.state is not State.SEALED or upload.queued:
                continue
            if upload.timer is None:
                # A new log-in after a crash is mostly the client starting again: it may have
                # the time of a file still to tell.
                known = upload.time is not None or upload.attempts
                self._settle(upload, 0 if known else None)
            elif upload.attempts:
                # Some clients log in several times a second: they must not hurry every try.
                now = self.clock.seconds()
                due = min(upload.failed_at + RETRY_AT_LOGIN, upload.timer.getTime())
                self._settle(upload, max(0.0, due - now))

    def session_ended(self, session: object) -> None:
        """Files that stayed empty go with the session that made them."""
        for upload in self._places:
            if upload.state is State.PARKED and not upload.size and upload.session is session:
                self._log.info("{name!r} stayed empty and is dropped", name=upload.name)
                self._drop(upload)

    def sweep(self, keep_parked: float, keep_partial: float) -> None:
        """Drop what nobody renamed or resumed for so many seconds."""
        now = self.now()
        for upload in [*self._places, *self._places.partials]:
            if upload.state is State.PARKED and not self._busy(upload):
                old = now - upload.arrived > keep_parked
            else:
                old = upload.state is State.PARTIAL and now - upload.arrived > keep_partial
            if old:
                self._log.warn(
                    "{folder}/{name} of {user}, {size} bytes, {what} for too long: dropped",
                    folder=upload.folder,
                    name=upload.name,
                    user=upload.user,
                    size=upload.size,
                    what="under a temporary name" if upload.state is State.PARKED else "unfinished",
                )
                self.counters.add("uploads.dropped")
                self._drop(upload)

    def partials(self) -> list[Upload]:
        """All that were cut off."""
        return self._places.partials

    def evict(self, upload: Upload) -> None:
        """Drop an upload that was cut off, to make room."""
        self._log.warn(
            "{folder}/{name} of {user}, unfinished, is dropped to make room in the spool",
            folder=upload.folder,
            name=upload.name,
            user=upload.user,
        )
        self._drop(upload)

    def by_id(self, file_id: str) -> Upload | None:
        """An upload by the id that log and journal name."""
        for upload in self._places.everything:
            if upload.file.id == file_id:
                return upload
        return None

    async def command(self, upload: Upload, action: str) -> None:
        """An administrator's `retry` or `drop`; raises Refused where that cannot be."""
        async with self._alone(upload):
            if action == "retry" and upload.shelved:
                raise Refused("Its name was removed or taken by another file; it can be dropped.")
            if action == "drop" and upload.state is not State.OPEN:
                self._drop(upload)
            elif action == "retry" and upload.state in (State.REFUSED, State.SEALED):
                if upload.state is State.REFUSED:
                    upload.go(State.SEALED)
                    upload.refusal = ""
                    await self._journal(upload)
                self._settle(upload, 0)
            else:
                raise Refused(f"It is {upload.state.value}; that cannot be.")
