"""A client takes back an upload that was answered OK and is on its way.

Its bytes are in the spool and nowhere else, so they go last: what lies beneath, which the upload is
to overwrite, leaves Immich before.  Where that fails the REMOVE fails, and the upload is what it
was; where the service dies in between, it finds the upload again and brings it in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define

from immich_conch.errors import NotFound
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album
from immich_conch.library.naming import File
from immich_conch.library.pending import IPendingFile
from immich_conch.transfer.commits import WAITING
from immich_conch.transfer.copies import Copies
from immich_conch.transfer.upload import State, Upload


@define(eq=False, repr=False)
class Withdrawals(Copies):
    """The half of a user's uploads that REMOVE leads to."""

    async def remove(self, upload: Upload, beneath: Callable[[], Awaitable[None]]) -> None:
        """REMOVE of a file in flight; `beneath` removes what it was to overwrite, or raises.

        While it is still being written only the new bytes go: a client whose upload failed takes
        back its half, and the photo below must not go with that.  Raises NotFound if a RENAME was
        quicker: nobody asked to remove what the upload is called now.
        """
        place = self._places.key(upload.album_id, upload.name)
        async with self._alone(upload):
            if upload.state is State.DROPPED:
                return
            if place != self._places.key(upload.album_id, upload.name):
                raise NotFound
            if upload.state is State.OPEN:
                # Its handle is still there: it writes on into nothing.
                self._log.info("{name!r} was removed while it was written", name=upload.name)
                upload.removed = True
                self._places.leave(upload)
                return
            # An older upload of this name may be on its way into Immich: it lies beneath then.
            async with self.locks.hold(("name", *place)):
                await beneath()
            if upload.state is State.REFUSED:
                self._shelve(upload)  # its bytes stay until an administrator drops them
            elif upload.state in WAITING:
                self.spool.withdraw(upload.file)  # may raise, and then it is still there
                self._drop(upload)
            else:
                return
            self._log.info("{name!r} was removed before it was in Immich", name=upload.name)

    async def hold_removal(
        self, immich: IImmich, album: Album, file: File, but: IPendingFile | None = None
    ) -> bool:
        """Hold a removal back where a RENAME may follow: while an upload waits in the album.

        `but` is an upload that is being removed itself.
        """
        waits = any(
            upload.album_id == album.id
            and upload.state in WAITING
            and upload.size
            and upload is not but
            for upload in self._places
        )
        session = self.session_of(immich)
        if not waits or session is None or not self.removals.may(session):
            return False
        await self.removals.hold(session, album.id, file)
        return True
