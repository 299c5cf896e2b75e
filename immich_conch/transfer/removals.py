"""Removals that were answered OK and are held back, because a RENAME may be about to follow.

WinSCP and gvfs overwrite by REMOVE of the old file and RENAME of the new one (CLIENTS.md, 5).
Done at once the old photo would be in the trash with all that hangs on it before its successor is
in the album; held back, the RENAME becomes an overwrite.  The name is gone for every session in the
meantime; the removal is in the journal, and comes true by itself if nothing takes the name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from immich_conch.errors import ConchError, NotFound, SessionRevoked, Unreachable
from immich_conch.library import names
from immich_conch.library.locks import Locks
from immich_conch.library.naming import File
from immich_conch.library.nodes import asset_key
from immich_conch.library.notes import Notes
from immich_conch.library.removal import Tell
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.spool import Spool

#: Seconds between tries while Immich cannot be reached.
RETRY = 30.0
#: What a session must be allowed for a removal to be held back on its behalf.
PERMISSIONS = ("asset.delete", "albumAsset.delete")


@define(eq=False)
class _Held:
    """One removal that waits."""

    id: str
    album_id: str
    name: str
    asset_id: str
    #: The name that the asset wants there; `name` is the one it was shown under.
    link: str
    lease: Lease | None
    #: The live photo that the asset was shown there by, as its motion part.
    still: str | None = None
    timer: IDelayedCall | None = None
    #: Whether it is being carried out, and who waits for the end of that.
    busy: bool = False
    waiting: list[Deferred[None]] = field(factory=list)


@define(eq=False)
class Removals:
    """The held-back removals of one user.

    `taken(album, name)` says whether an upload under that name is on its way; `live` gives a
    session of the user that may change things; `pause` is the settle time in seconds.
    """

    user_id: str
    spool: Spool
    clock: IReactorTime
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    locks: Locks
    notes: Notes
    tell: Tell
    live: Callable[[], Lease | None]
    taken: Callable[[str, str], bool]
    pause: float = 5.0
    final_delete: bool = False
    _held: dict[str, _Held] = field(factory=dict)

    _log = Logger()

    def __len__(self) -> int:
        return len(self._held)

    def hidden(self, album_id: str) -> Iterator[tuple[str, str]]:
        """Assets and the folded names of theirs that are gone from an album already."""
        for held in list(self._held.values()):
            if held.album_id == album_id:
                yield held.asset_id, names.fold(held.name)

    def may(self, lease: Lease) -> bool:
        """Whether a session could carry a removal out later on."""
        return not lease.revoked and all(map(lease.immich.allowed, PERMISSIONS))

    def find(self, album_id: str, name: str) -> str | None:
        """The asset whose removal is held back under a name."""
        for held in self._held.values():
            if held.album_id == album_id and names.fold(held.name) == names.fold(name):
                return held.asset_id
        return None

    async def hold(self, lease: Lease, album_id: str, file: File) -> None:
        """Journal a removal and let it wait; raises NoSpace or Refused."""
        name, link = file.name, file.link.name
        still = None if file.still is None else file.still.id
        held = _Held(
            self.spool.random_id(), album_id, name, file.asset.id, link, lease.hold(), still
        )
        entry = {
            "kind": "removal",
            "user": self.user_id,
            "album": album_id,
            "name": name,
            "asset": file.asset.id,
            "link": link,
            "still": still,
        }
        try:
            await self.in_thread(partial(self.spool.note, held.id, entry))
        except BaseException:
            lease.release()
            raise
        self._held[held.id] = held
        self._arm(held, self.pause)

    def found(self, entry: Mapping[str, Any]) -> None:
        """A removal of an earlier run; it waits for a session."""
        self._held[entry["id"]] = _Held(
            entry["id"],
            entry["album"],
            entry["name"],
            entry["asset"],
            entry.get("link", entry["name"]),
            None,
            entry.get("still"),
        )

    def welcome(self) -> None:
        """A session of the user is here."""
        for held in list(self._held.values()):
            if held.timer is None and not held.busy:
                self._arm(held, self.pause)

    def landed(self, album_id: str, name: str, asset_ids: Sequence[str]) -> None:
        """An upload took an asset's place, or brought its bytes back: its removal is over."""
        for held in list(self._held.values()):
            same = held.album_id == album_id and names.fold(held.name) == names.fold(name)
            if same and held.asset_id in asset_ids:
                self._over(held)

    async def finish(self, album_id: str, name: str | None = None) -> bool:
        """Carry out now what is held under a name, or in a whole album; whether all is done."""
        for held in list(self._held.values()):
            if held.album_id == album_id and (
                name is None or names.fold(held.name) == names.fold(name)
            ):
                self._disarm(held)
                await self._carry_out(held)
        return not any(
            held.album_id == album_id
            and (name is None or names.fold(held.name) == names.fold(name))
            for held in self._held.values()
        )

    def drop(self, held_id: str) -> bool:
        """An administrator gives a removal up: the file is shown again; whether there was one."""
        held = self._held.get(held_id)
        if held is not None:
            self._over(held)
        return held is not None

    def _arm(self, held: _Held, pause: float) -> None:
        self._disarm(held)
        held.timer = self.clock.callLater(pause, self._expire, held)

    def _disarm(self, held: _Held) -> None:
        if held.timer is not None and held.timer.active():
            held.timer.cancel()
        held.timer = None

    def _expire(self, held: _Held) -> None:
        held.timer = None
        if self.taken(held.album_id, held.name):
            self._arm(held, self.pause)
            return

        def crashed(failure: Failure) -> None:
            self._log.failure("removal of {name!r}", failure=failure, name=held.name)
            self._over(held)

        Deferred.fromCoroutine(self._carry_out(held)).addErrback(crashed)

    async def _carry_out(self, held: _Held) -> None:
        if held.busy or held.id not in self._held:
            return
        held.busy = True
        try:
            if held.still is None or await self._still_first(held):
                await self._try(held)
            elif held.id in self._held:
                self._arm(held, RETRY)
        finally:
            held.busy = False
            waiting, held.waiting = held.waiting, []
            for end in waiting:
                end.callback(None)

    async def _try(self, held: _Held) -> None:
        if held.lease is None or held.lease.revoked:
            self._let_go(held)
            lease = self.live()
            if lease is None or not self.may(lease):
                return  # `welcome` takes it up again
            held.lease = lease.hold()
        # Held once more: an upload that brings the same bytes back ends the removal meanwhile.
        lease = held.lease.hold()
        try:
            await self._remove(held, lease)
        except (Unreachable, SessionRevoked) as error:
            if isinstance(error, SessionRevoked):
                lease.revoked = True
            if held.id in self._held:
                self._log.warn(
                    "removal of {name!r} waits: {reason}", name=held.name, reason=error.text
                )
                self._arm(held, RETRY)
            return
        except ConchError as error:
            self._log.error(
                "{name!r} could not be removed after all and is shown again: {reason}",
                name=held.name,
                reason=error.text,
            )
        finally:
            lease.release()
        self._over(held)

    async def _still_first(self, held: _Held) -> bool:
        """A motion part goes along with its still where both are removed; whether that is done.

        So the two are one in Immich's trash, too.
        """
        for other in list(self._held.values()):
            if other.album_id == held.album_id and other.asset_id == held.still:
                if other.busy:
                    end: Deferred[None] = Deferred()
                    other.waiting.append(end)
                    await end
                else:
                    self._disarm(other)
                    await self._carry_out(other)
                return other.id not in self._held
        return True

    async def _remove(self, held: _Held, lease: Lease) -> None:
        immich = lease.immich
        try:
            asset = await immich.asset(held.asset_id)
            async with self.locks.hold(asset_key(asset)):
                if held.id not in self._held:
                    return  # an upload brought the same bytes back
                trashed = await self.notes.drop(
                    immich, held.album_id, asset, held.link, final_delete=self.final_delete
                )
                if trashed is not None:
                    self.tell(held.album_id, [], [asset.id])
            await self.notes.pin_siblings(immich, lease.catalog, held.album_id, held.name)
        except NotFound:
            self.tell(held.album_id, [], [held.asset_id])

    def _over(self, held: _Held) -> None:
        if self._held.pop(held.id, None) is None:
            return
        self._disarm(held)
        self._let_go(held)
        self.spool.forget(held.id)

    def _let_go(self, held: _Held) -> None:
        lease, held.lease = held.lease, None
        if lease is not None:
            lease.release()

    def stop(self) -> None:
        """Wait no longer; the journal keeps what is held."""
        for held in self._held.values():
            self._disarm(held)
            self._let_go(held)
