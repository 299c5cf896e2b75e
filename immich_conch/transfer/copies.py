"""Copying within the server: what `copy-data` puts into an upload.

Bytes that Immich has already are not moved: an upload that nothing else was written to becomes a
link to the source's asset when it is closed, by the commit that known bytes always take.  Until
then the source lies under the upload as under an edited file, so whatever a client does to it
next finds the bytes there.  Everything else is read from the source and written to the spool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, frozen

from immich_conch.errors import Denied, NotFound, Refused
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.transfer.commit import check_content
from immich_conch.transfer.landing import wanted_link
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.upkeep import Upkeep
from immich_conch.transfer.upload import Base, State, Upload

#: Bytes read and written at once.
CHUNK = 256 * 1024


@frozen(eq=False)
class Source:
    """What can be copied or hashed: `size` bytes that `read(offset, length)` gives.

    `checksum` is the SHA-1 of all of them where it is known; `owned` says that Immich has them
    under it as an asset of this user.
    """

    size: int
    read: Callable[[int, int], bytes | Awaitable[bytes]]
    close: Callable[[], None]
    checksum: bytes | None = None
    owned: bool = False

    async def piece(self, offset: int, length: int) -> bytes:
        """At least one byte from `offset`; raises Refused where there should be one and is none."""
        found = self.read(offset, min(length, CHUNK))
        data = found if isinstance(found, bytes) else await found
        if not data:
            raise Refused("The file became shorter while it was read.")
        return data


@define(eq=False, repr=False)
class Copies(Upkeep):
    """The half of a user's uploads that gets its bytes from here."""

    def is_temporary(self, name: str, takes: Callable[[str], bool]) -> bool:
        """Whether a name says that a RENAME will follow."""
        return names.is_temporary(name, self.patterns, takes)

    async def check_type(self, lease: Lease, name: str) -> bool:
        """Whether the name is a temporary one; raises Denied for a type Immich does not take."""
        types = await lease.immich.server.media_types()
        self._takes = types.takes
        if self.is_temporary(name, types.takes):
            return True
        extension = names.split_extension(name)[1]
        if not types.takes(extension):
            raise Denied(f"Immich takes no files of the type {extension or '(none)'}.")
        return False

    async def bring_in(self, upload: Upload) -> bool:
        """Bring a sealed upload into Immich now; False for one that is not sealed."""
        async with self._alone(upload):
            if upload.state is State.COMMITTED:
                return True
            if upload.state is not State.SEALED:
                return False
            await self._commit(upload, on_error=State.SEALED)
            return True

    async def can_be_shown(self, lease: Lease, upload: Upload, known: Asset | None) -> None:
        """Raise where bytes that Immich has could not be shown as an upload wants them."""
        if known is not None:
            file = await lease.catalog.find_file(upload.album_id, upload.name)
            wanted = wanted_link(upload, known, file)
            await self.notes.may_take(lease.immich, upload.album_id, known, wanted, file)

    async def copy_into(
        self, upload: Upload, at: int, source: Source, start: int, length: int
    ) -> None:
        """Put `length` bytes (0: all to the end) of a source from `start` into an upload at `at`.

        Takes the source over.  Raises NotFound if the upload or the source goes away meanwhile,
        and what reading and writing raise; a copy that failed poisons the upload.
        """
        whole = start == at == 0 and (length == 0 or length >= source.size)
        if whole and source.owned and source.checksum is not None and upload.untouched:
            self._lay_under(upload, source, source.checksum)
            return
        session = upload.session
        try:
            end = source.size if length == 0 else min(source.size, start + length)
            while start < end:
                piece = await source.piece(start, end - start)
                # It may have been cut off, and taken up again by another session.
                if upload.state is not State.OPEN or upload.session is not session:
                    raise NotFound("The file is gone.")
                upload.write(at, piece)
                start += len(piece)
                at += len(piece)
                await self._breathe()
        except Exception as error:
            if upload.session is session:
                upload.spoil(error)
            raise
        finally:
            source.close()

    def _lay_under(self, upload: Upload, source: Source, checksum: bytes) -> None:
        upload.lay_under(Base(source.size, source.read, source.close), checksum)
        # What a crash finds from here on has holes that are not its own.
        self.spool.journal(upload.file, {**upload.entry(self.user_id), "state": "edited"})

    async def _commit_copy(self, upload: Upload) -> bool:
        """CLOSE of an upload that is a copy and nothing else; False if it needs its bytes."""
        checksum = upload.copy_of
        if checksum is None or await self.check_type(self.lease_of(upload), upload.name):
            return False

        async def check(lease: Lease) -> bool:
            known = await check_content(lease.immich, 0, checksum)
            await self.can_be_shown(lease, upload, known)
            return known is not None

        if not await self.with_session(upload, check):
            return False
        upload.checksum = checksum
        await self._commit(upload, on_error=State.OPEN)
        return True


def known_checksum(upload: Upload) -> bytes | None:
    """The SHA-1 of an upload as it is now where that needs no look at its bytes, else None."""
    if upload.copy_of is not None:
        return upload.copy_of
    if upload.state is not State.OPEN and upload.checksum:
        return upload.checksum
    if upload.base is None and upload.file.hash_ready:
        return upload.file.sha1()
    return None


def source_of(upload: Upload) -> Source:
    """An upload as it is now as something to copy or hash."""
    file = upload.file
    file.use()
    return Source(upload.size, upload.read, file.close, known_checksum(upload))
