"""All uploads in flight of one user: who sees them, when they are committed, what is retried.

This is the timing half of section 5: CLOSE, SETSTAT and RENAME decide when a file gets into
Immich and who hears the result.  What an upload is is `upload.py`'s, its commits with their
timers and retries are `commits.py`'s.  Uploads are keyed by album and name, for clients send the
time or the RENAME on another connection of the same user (CLIENTS.md, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from attrs import define
from zope.interface import implementer

from immich_conch.errors import (
    ConchError,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
    SessionRevoked,
    once_more,
)
from immich_conch.immich.model import Album
from immich_conch.library import names
from immich_conch.library.pending import IPending
from immich_conch.transfer.commit import check_content
from immich_conch.transfer.commits import WAITING
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upload import Base, State, Upload
from immich_conch.transfer.withdrawals import Withdrawals

#: Seconds that an upload beside the writing waits for the RENAME of its file.
PARKED_OVERLAP = 60.0
#: Uploads of a user that were cut off and are kept to be resumed: each keeps a file open.
MAX_PARTIALS = 256


@implementer(IPending)
@define(eq=False, repr=False)
class Uploads(Withdrawals):
    """The uploads of one user.

    What is done with one upload is done one after the other, whichever session asks: each holds
    `_alone`, and looks at the state once it has it.
    """

    # -- what the tree sees ---------------------------------------------------------------------

    def find(self, album_id: str, name: str) -> Upload | None:
        """The upload that everybody sees under this name."""
        return self._places.find(album_id, name)

    def in_album(self, album_id: str) -> Iterator[Upload]:
        """What is in flight into an album, each name once."""
        return self._places.in_album(album_id)

    def partial(self, album_id: str, name: str) -> Upload | None:
        """The upload to exactly this name that was cut off, if one is kept."""
        return self._places.partial(album_id, name)

    def hidden(self, album_id: str) -> Iterator[tuple[str, str]]:
        """Names of assets that are removed, or made by a commit and not yet in the catalog."""
        yield from self.removals.hidden(album_id)
        for upload in self._places:
            if upload.album_id == album_id and upload.asset_id is not None:
                yield upload.asset_id, names.fold(upload.name)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def busy(self) -> bool:
        """Whether anything of the user is on its way."""
        return bool(len(self._places) or len(self.removals))

    # -- a client writes ------------------------------------------------------------------------

    def open(
        self,
        lease: Lease,
        album: Album,
        name: str,
        base: Base | None,
        session: object,
        replaces: str | None = None,
    ) -> Upload:
        """A new file for a client to write; raises NoSpace.

        `replaces` is the asset that has the name now.  What was cut off under this name before is
        not wanted any more.
        """
        if replaces is None:
            replaces = self.removals.find(album.id, name)
        cut_off = self.partial(album.id, name)
        if cut_off is not None:
            self._drop(cut_off)
        now = self.now()
        entry = {
            "kind": "upload",
            "user": self.user_id,
            "email": lease.immich.user.email,
            "album": album.id,
            "folder": album.name,
            "name": name,
            "time": None,
            "arrived": now,
            "size": 0,
            "sha1": "",
            # What is laid over another file cannot be resumed: its holes are not its own.
            "state": "open" if base is None else "edited",
            "replaces": replaces,
        }
        try:
            file = self.spool.create(self.user_id, entry)
        except ConchError:
            if base is not None:
                base.close()
            raise
        upload = Upload(
            album_id=album.id,
            name=name,
            lease=lease.hold(),
            file=file,
            arrived=now,
            folder=album.name,
            user=lease.immich.user.email,
            base=base,
            replaces=replaces,
            session=session,
        )
        if base is None and self.overlap_from:
            upload.begin_overlap = partial(self._begin_overlap, upload)
        self._places.enter(upload)
        self.counters.add("uploads.opened")
        return upload

    def reopen(self, upload: Upload, lease: Lease, session: object, replaces: str | None) -> None:
        """Write on in a parked file that nobody is busy with, or in one that was cut off."""
        upload.replaces = replaces
        upload.reopened = upload.state is State.PARKED
        self._stop_timer(upload)
        # What a crash finds now is a file that was cut off, whatever its entry said before.
        self.spool.journal(upload.file, {**upload.entry(self.user_id), "state": "open", "sha1": ""})
        upload.go(State.OPEN)
        upload.session = session
        upload.checksum = b""
        if upload.lease is None or upload.lease.revoked:
            upload.let_session_go()
            upload.lease = lease.hold()
            upload.user = lease.immich.user.email
        if not upload.reopened:
            self._places.move(upload, upload.album_id, upload.name)
            self.counters.add("uploads.resumed")

    async def close(self, upload: Upload) -> None:
        """CLOSE: everything that can fail fails here, or the file is safe (rule 1)."""
        self._places.in_order(upload)
        async with self._alone(upload):
            try:
                if upload.poison is not None:
                    raise once_more(upload.poison)
                if upload.removed:
                    self._drop(upload)
                    return
                if await self._commit_copy(upload):
                    return
                if upload.base is None or upload.changed:
                    await self._whole(upload)
                    return
                lease = self.lease_of(upload).hold()
                self._drop(upload)
            except BaseException:
                self._drop(upload)
                raise
        # Nothing was written: at most the time of what lies under it changes.
        try:
            if upload.time is not None:
                await self._set_time_under(upload, upload.time, lease)
        finally:
            lease.release()

    async def _set_time_under(self, upload: Upload, time: float, lease: Lease) -> None:
        under = self.find(upload.album_id, upload.name)
        if under is not None and await self.set_time(under, time):
            return
        file = await lease.catalog.find_file(upload.album_id, upload.name)
        if file is not None:
            await self.notes.retime(lease.immich, upload.album_id, file, time)

    async def _whole(self, upload: Upload) -> None:
        if upload.base is not None:
            await upload.fill(self._breathe)
        upload.arrived = self.now()
        if upload.overlap is not None:
            upload.overlap.closed()
        if upload.size == 0:
            upload.go(State.PARKED)
            return
        # It may wait for days; the SSH session with all that it holds must not.
        upload.session = None
        if await self.check_type(self.lease_of(upload), upload.name):
            await self._park(upload)
        else:
            await self._ready(upload, State.OPEN)

    async def _park(self, upload: Upload) -> None:
        """Keep a whole file under its temporary name."""
        await self._seal(upload, State.PARKED)
        self._supersede(upload)
        if upload.overlap is not None:
            self._stop_timer(upload)
            upload.timer = self.clock.callLater(PARKED_OVERLAP, upload.stop_overlap)
        # It may wait for days; whoever renames it brings a session along.
        upload.let_session_go()

    async def _ready(self, upload: Upload, before: State) -> None:
        """A whole file under its final name: commit it now, or seal it and wait for a time."""
        await self._hash(upload)

        async def check(lease: Lease) -> None:
            album = await lease.catalog.album(upload.album_id)
            if album.role == "viewer":
                raise Denied("You may only look at this album.")
            waiting = self._waiting(upload)
            known = await check_content(lease.immich, upload.size, upload.checksum, waiting)
            await self.can_be_shown(lease, upload, known)
            upload.unknown = known is None

        await self.with_session(upload, check)
        if upload.time is not None:
            await self._commit(upload, on_error=before)
            return
        await self._seal(upload, State.SEALED)
        self._supersede(upload)
        self._settle(upload)

    def abort(self, upload: Upload) -> None:
        """The connection dropped before CLOSE: nothing is committed, what came can be resumed."""
        self._log.info(
            "upload of {folder}/{name} was cut off by the client after {size} bytes",
            folder=upload.folder,
            name=upload.name,
            size=upload.file.size,
        )
        self.counters.add("uploads.cut")
        upload.stop_overlap()
        upload.session = None
        if upload.removed or upload.poison is not None or upload.base is not None:
            self._drop(upload)
            return
        if upload.reopened:
            upload.go(State.PARKED)
            with suppress(ConchError):  # else a restart finds it as one that was cut off
                self.spool.journal(upload.file, {**upload.entry(self.user_id), "sha1": ""})
        elif upload.file.size == 0:
            self._drop(upload)
            return
        else:
            upload.go(State.PARTIAL)
            upload.arrived = self.now()
            older = self._places.set_aside(upload)
            if older is not None:
                self._drop(older)
            for surplus in self._places.partials[:-MAX_PARTIALS]:
                self.evict(surplus)
        upload.let_session_go()
        # A crash from here on finds the entry of its OPEN, which says the same.

    # -- what clients say about a file that is closed --------------------------------------------

    async def set_time(self, upload: Upload, time: float) -> bool:
        """SETSTAT of a time: settles the upload and hears the result.

        False: it has come into Immich meanwhile and is no upload any more.
        """
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                return False
            _must_be_here(upload)
            upload.time = time
            if upload.state is State.SEALED:
                await self._commit(upload, on_error=State.SEALED)
            elif upload.state is State.PARKED and upload.size:
                await self._journal(upload)
            return True

    async def rename(
        self, upload: Upload, album: Album, name: str, replaces: str | None = None
    ) -> bool:
        """RENAME of a file in flight; under a final name it settles, and hears what fails.

        The caller has looked after whatever the new name showed; `replaces` is the asset that
        has it.  False: the file has come into Immich meanwhile and is no upload any more.  Raises
        NotFound if another RENAME was quicker.
        """
        place = self._places.key(upload.album_id, upload.name)
        lease = upload.lease or self.live()
        if lease is None:
            raise SessionRevoked
        temporary = await self.check_type(lease, name)
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                return False
            _must_be_here(upload)
            if place != self._places.key(upload.album_id, upload.name):
                raise NotFound
            old = upload.album_id, upload.name, upload.asset_id, upload.folder, upload.replaces
            upload.folder = album.name
            upload.replaces = replaces or self.removals.find(album.id, name)
            before = upload.state
            self._stop_timer(upload)
            self._places.move(upload, album.id, name)
            self._places.in_order(upload)
            upload.asset_id = None
            if before is State.OPEN or upload.size == 0:
                return True
            try:
                if temporary:
                    await self._park(upload)
                else:
                    await self._ready(upload, before)
            except Exception:
                if upload.state in WAITING:
                    self._places.move(upload, *old[:2])
                    upload.asset_id, upload.folder, upload.replaces = old[2:]
                    if upload.state is State.SEALED:
                        self._settle(upload)
                    if upload.state is State.PARKED:
                        upload.let_session_go()
                    # The new name may have got into the journal before something failed.
                    await self._journal(upload)
                raise
            return True

    async def finish_removals(self, album_id: str, name: str | None = None) -> None:
        """Carry out now what was held back under a name, or in a whole album."""
        if not await self.removals.finish(album_id, name):
            raise Refused("A file that was removed could not leave Immich's album yet.")

    def drop_partial(self, album_id: str, name: str) -> bool:
        """Forget an upload that was cut off; whether there was one."""
        upload = self.partial(album_id, name)
        if upload is not None:
            self._drop(upload)
        return upload is not None

    def may_leave(self, album_id: str) -> None:
        """Raise NotEmpty while uploads into an album are waiting."""
        if any(
            upload.album_id == album_id and upload.state is not State.REFUSED
            for upload in self._places
        ):
            raise NotEmpty("Uploads into this folder are still on their way.")


def _must_be_here(upload: Upload) -> None:
    """Raise for an upload that went away, or was refused, while somebody waited for it."""
    if upload.state is State.DROPPED:
        raise NotFound
    if upload.state is State.REFUSED:
        raise Refused(f"Immich did not take this file. {upload.refusal}".rstrip())
