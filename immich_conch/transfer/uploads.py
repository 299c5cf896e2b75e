"""All uploads in flight of one user: who sees them, when they are committed, what is retried.

This is the timing half of section 5: CLOSE, SETSTAT and RENAME decide when a file gets into
Immich and who hears the result.  What an upload is is `upload.py`'s, its commits with their
timers and retries are `commits.py`'s.  Uploads are keyed by album and name, for clients send the
time or the RENAME on another connection of the same user (CLIENTS.md, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define
from zope.interface import implementer

from immich_conch.errors import (
    ConchError,
    Denied,
    NotEmpty,
    NotFound,
    Refused,
)
from immich_conch.immich.model import Album
from immich_conch.library import names
from immich_conch.library.pending import IPending
from immich_conch.transfer.commit import check_content
from immich_conch.transfer.commits import WAITING, Commits
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upload import Base, State, Upload


@implementer(IPending)
@define(eq=False)
class Uploads(Commits):
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

    def hidden_assets(self, album_id: str) -> Iterator[str]:
        """Assets that a commit under way has made but not yet handed over to the catalog."""
        for upload in self._places:
            if upload.album_id == album_id and upload.asset_id is not None:
                yield upload.asset_id

    def __len__(self) -> int:
        return len(self._places)

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
        try:
            file = self.spool.create()
        except ConchError:
            if base is not None:
                base.close()
            raise
        upload = Upload(
            album_id=album.id,
            name=name,
            lease=lease.hold(),
            file=file,
            arrived=self.now(),
            base=base,
            session=session,
        )
        self._places.enter(upload)
        self.counters.add("uploads.opened")
        return upload

    def reopen(self, upload: Upload, session: object) -> None:
        """Write on in a parked file that nobody is busy with, as WinSCP does when it resumes."""
        upload.go(State.OPEN)
        upload.session = session
        upload.reopened = True

    async def close(self, upload: Upload) -> None:
        """CLOSE: everything that can fail fails here, or the file is safe (rule 1)."""
        self._places.in_order(upload)
        async with self._alone(upload):
            try:
                if upload.poison is not None:
                    raise upload.poison
                if upload.removed:
                    self._drop(upload)
                    return
                if upload.base is None or upload.changed:
                    await self._whole(upload)
                    return
                self._drop(upload)
            except BaseException:
                self._drop(upload)
                raise
        # Nothing was written: at most the time of what lies under it changes.
        under = self.find(upload.album_id, upload.name)
        if under is not None and upload.time is not None:
            await self.set_time(under, upload.time)

    async def _whole(self, upload: Upload) -> None:
        if upload.base is not None:
            await upload.fill()
        if upload.size == 0:
            upload.go(State.PARKED)
        elif await self.check_type(upload.lease, upload.name):
            await self._seal(upload, State.PARKED)
            self._supersede(upload)
        else:
            await self._ready(upload, State.OPEN)

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
            for upload in self._places
            if upload.state in (State.SEALED, State.COMMITTING) and upload is not but
        )

    def abort(self, upload: Upload) -> None:
        """The connection dropped before CLOSE: nothing is committed."""
        self._log.info("upload of {name!r} was cut off by the client", name=upload.name)
        self.counters.add("uploads.cut")
        if upload.reopened and not upload.removed and upload.poison is None:
            upload.go(State.PARKED)
            return
        self._drop(upload)

    def session_ended(self, session: object) -> None:
        """Files that stayed empty go with the session that made them."""
        for upload in self._places:
            if upload.state is State.PARKED and not upload.size and upload.session is session:
                self._log.info("{name!r} stayed empty and is dropped", name=upload.name)
                self._drop(upload)

    # -- what clients say about a file that is closed --------------------------------------------

    async def set_time(self, upload: Upload, time: float) -> None:
        """SETSTAT of a time: settles the upload and hears the result."""
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                return
            _must_be_here(upload)
            upload.time = time
            if upload.state is State.SEALED:
                await self._commit(upload, on_error=State.SEALED)

    async def rename(self, upload: Upload, album: Album, name: str) -> None:
        """RENAME of a file in flight; under a final name it settles, and hears what fails.

        The caller has looked after whatever the new name showed.
        """
        temporary = await self.check_type(upload.lease, name)
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                raise NotFound("The file came into Immich under its old name just now.")
            _must_be_here(upload)
            old = upload.album_id, upload.name, upload.asset_id
            before = upload.state
            self._stop_timer(upload)
            self._places.move(upload, album.id, name)
            self._places.in_order(upload)
            upload.asset_id = None
            if before is State.OPEN or upload.size == 0:
                return
            try:
                if temporary:
                    await self._seal(upload, State.PARKED)
                    self._supersede(upload)
                else:
                    await self._ready(upload, before)
            except BaseException:
                if upload.state in WAITING:
                    self._places.move(upload, *old[:2])
                    upload.asset_id = old[2]
                    if upload.state is State.SEALED:
                        self._settle(upload)
                raise

    async def remove(self, upload: Upload) -> bool:
        """REMOVE of a file in flight; whether what it was to overwrite has to go too.

        While it is still being written only the new bytes go: a client whose upload failed takes
        back its half, and the photo below must not go with that.
        """
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                return True
            if upload.state is State.DROPPED:
                return False
            self._log.info("{name!r} was removed before it was in Immich", name=upload.name)
            if upload.state is State.OPEN:
                # Its handle is still there: it writes on into nothing.
                upload.removed = True
                self._places.leave(upload)
                return False
            self._drop(upload)
            return True

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
        reason = "" if upload.refusal is None else f" {upload.refusal.text}"
        raise Refused(f"Immich did not take this file.{reason}")
