"""Users who are here: what their sessions share, and how long it lives.

All sessions of a user share the uploads in flight, whatever they logged in with.  Catalogs are
shared by credential: password sessions of one user share one, each API key has its own, for a key
must not see through somebody's password what its own permissions do not allow.  A catalog outlives
its last session for a while, so that names once shown stay as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from immich_conch.account import Account, Sessions, Shared
from immich_conch.counters import Counters
from immich_conch.errors import ConchError, NotFound, SessionRevoked, Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.library import names
from immich_conch.library.gather import gather
from immich_conch.library.listing_source import ListingSource
from immich_conch.library.live_source import LiveSource
from immich_conch.library.lookup import OVERWRITE_PERMISSIONS
from immich_conch.library.mirror import Mirror
from immich_conch.library.source import ISource
from immich_conch.library.tree import Tree
from immich_conch.library.view_catalog import ViewCatalog
from immich_conch.library.view_tree import ViewTree
from immich_conch.library.views import Views
from immich_conch.settings import Settings
from immich_conch.transfer.commits import Threads
from immich_conch.transfer.lease import UPLOAD_PERMISSIONS, Lease
from immich_conch.transfer.spool import Found, Spool
from immich_conch.transfer.syncer import Syncer
from immich_conch.transfer.uploads import Uploads

#: Seconds that a user's catalog is kept after the last session.
KEEP = 1800.0
#: Users whose uploads are committed side by side when the service stops.
STOP_PARALLEL = 8

#: The credential of all password sessions of a user.
PASSWORD = "password"  # noqa: S105 -- the name of a kind, not one of them


@define(eq=False, repr=False)
class Accounts:
    """All users who are here.  `now` is POSIX seconds, `clock` measures."""

    settings: Settings
    spool: Spool
    clock: IReactorTime
    now: Callable[[], float]
    in_thread: Threads
    counters: Counters
    _accounts: dict[str, Account] = field(factory=dict)
    _goodbyes: set[Deferred[Any]] = field(factory=set)
    _syncer: Syncer = Factory(lambda self: Syncer(self.spool, self.in_thread), takes_self=True)

    _log = Logger()

    def enter(self, immich: IImmich, credential: str) -> Lease:
        """A new session of a user; the caller holds the lease.

        `credential` is PASSWORD or what `key_credential` makes of an API key.
        """
        self._forget_idle()
        account = self._account(immich.user.id)
        shared = account.shared.get(credential)
        if shared is None:
            shared = account.shared[credential] = self._new_shared(immich, credential)
        lease = Lease(immich, shared.catalog, self._idle, on_release=partial(self._left, shared))
        shared.sessions.leases.append(lease)
        lease.hold()
        shared.stay()
        if self._may_upload(lease):
            account.uploads.welcome()
        return lease

    def _may_upload(self, lease: Lease) -> bool:
        allowed = lease.immich.allowed
        return not self.settings.read_only and all(map(allowed, UPLOAD_PERMISSIONS))

    def _live(self, user_id: str) -> Lease | None:
        """The newest session of a user that may upload, if one is here."""
        able = [
            lease
            for lease in self._leases(user_id)
            if lease.holders and not lease.revoked and self._may_upload(lease)
        ]
        # One that may overwrite too, if there is such a one: a key may upload and not delete.
        for lease in able:
            if all(map(lease.immich.allowed, OVERWRITE_PERMISSIONS)):
                return lease
        return able[0] if able else None

    def _leases(self, user_id: str) -> list[Lease]:
        account = self._accounts.get(user_id)
        shared = account.shared.values() if account is not None else ()
        return [lease for one in shared for lease in reversed(one.sessions.leases)]

    def _session_of(self, user_id: str, immich: IImmich) -> Lease | None:
        return next((one for one in self._leases(user_id) if one.immich is immich), None)

    def _account(self, user_id: str) -> Account:
        account = self._accounts.get(user_id)
        if account is None:
            settings = self.settings
            uploads = Uploads(
                user_id=user_id,
                spool=self.spool,
                clock=self.clock,
                now=self.now,
                in_thread=self.in_thread,
                tell=lambda *change: self._accounts[user_id].tell(*change),
                noted=lambda *note: self._accounts[user_id].noted(*note),
                stills=lambda part_id: self._accounts[user_id].stills(part_id),
                shown=lambda *place: self._accounts[user_id].shown(*place),
                counters=self.counters,
                syncer=self._syncer,
                live=lambda: self._live(user_id),
                session_of=lambda immich: self._session_of(user_id, immich),
                settle=settings.settle,
                final_delete=settings.final_delete,
                overlap_from=settings.overlap_from,
                patterns=names.DEFAULT_TEMPORARY
                if settings.temporary is None
                else settings.temporary,
                ignore_case=settings.ignore_case,
            )
            account = self._accounts[user_id] = Account(uploads)
        return account

    def _new_shared(self, immich: IImmich, credential: str) -> Shared:
        settings = self.settings
        sessions = Sessions()
        listings = ListingSource(sessions.ask, self.clock)
        source: ISource = listings
        mirror, freshness = None, 2 * settings.freshness
        if credential == PASSWORD and settings.mirror_max_assets:
            mirror = Mirror(
                immich.user.id,
                sessions.lend,
                self.clock,
                freshness=settings.freshness,
                max_assets=settings.mirror_max_assets,
            )
            # The mirror keeps its own bound; what is above it must not add as much again.
            source, freshness = LiveSource(mirror, listings), settings.freshness / 4
        views = Views(
            sessions.ask,
            self.clock,
            immich.user.id,
            frozenset(settings.views),
            freshness=2 * settings.freshness,
            ignore_case=settings.ignore_case,
        )
        catalog = ViewCatalog(
            source,
            self.clock,
            freshness=freshness,
            ignore_case=settings.ignore_case,
            separator=settings.album_separator,
            views=views,
        )
        return Shared(catalog, sessions, mirror)

    def _left(self, shared: Shared, lease: Lease) -> None:
        """Somebody left: once only the mirror is there, it waits for so long and goes."""
        if shared.sessions.deserted and shared.parting is None:
            if shared.mirror is not None:
                shared.mirror.rest()
            if not self.settings.mirror_keep:
                self._part(shared)
                return
            shared.parting = self.clock.callLater(self.settings.mirror_keep, self._part, shared)

    def _part(self, shared: Shared) -> None:
        shared.parting = None

        async def part() -> None:
            if shared.mirror is not None:
                await shared.mirror.quiet()
            if shared.sessions.deserted:
                shared.sessions.give_back()

        self._see_out(Deferred.fromCoroutine(part()))

    def uploads(self, lease: Lease) -> Uploads:
        """The uploads in flight of a session's user."""
        return self._accounts[lease.immich.user.id].uploads

    def tree(self, lease: Lease) -> Tree:
        """A session's view of its user's library."""
        account = self._accounts[lease.immich.user.id]
        return ViewTree(
            immich=lease.immich,
            catalog=lease.catalog,
            pending=account.uploads,
            locks=account.uploads.locks,
            notes=account.uploads.notes,
            tell=account.tell,
            tell_album=account.tell_album,
            read_only=self.settings.read_only,
            final_delete=self.settings.final_delete,
        )

    def _idle(self, lease: Lease) -> None:
        """Nobody needs the session any more: log it out."""
        for shared in self._accounts[lease.immich.user.id].shared.values():
            if lease in shared.sessions.leases:
                shared.sessions.leases.remove(lease)
                shared.idle_since = self.clock.seconds()
                self._left(shared, lease)
        self._see_out(Deferred.fromCoroutine(lease.immich.log_out()))

    def _see_out(self, goodbye: Deferred[Any]) -> None:
        """Let a stop wait for it."""
        self._goodbyes.add(goodbye)

        def gone(result: Any) -> None:
            self._goodbyes.discard(goodbye)

        goodbye.addBoth(gone)

    def _forget_idle(self) -> None:
        """Free what nobody has used for KEEP seconds; done when somebody comes."""
        limit = self.clock.seconds() - KEEP
        for user_id, account in list(self._accounts.items()):
            for credential, shared in list(account.shared.items()):
                if not shared.sessions.leases and shared.idle_since <= limit:
                    del account.shared[credential]
            if not account.shared and not account.uploads.busy:
                del self._accounts[user_id]

    async def check_sessions(self) -> None:
        """Ask Immich once for each session whether it knows it; who is idle would not notice.

        One after the other, some 3 ms each, and no further where Immich cannot be reached.
        """
        leases = [lease for user_id in self._accounts for lease in self._leases(user_id)]
        checking = Deferred.fromCoroutine(self._check_all(leases))
        # A stop waits for it, for it may hold a session that is to be logged out.
        self._see_out(checking)
        await checking

    async def _check_all(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if not lease.holders or lease.revoked:
                continue
            lease.hold()
            try:
                await lease.immich.me()
            except SessionRevoked:
                lease.revoked = True
            except Unreachable:
                return
            except ConchError as error:
                # Immich answered, and not that it does not know the session.
                self._log.debug("a session could not be checked: {reason}", reason=error.text)
            finally:
                lease.release()

    # -- the spool beyond single requests ---------------------------------------------------------

    def recover(self) -> None:
        """Take up what an earlier run left in the spool; call it once, before clients come."""
        self.spool.evict = self._evict
        taken = 0
        # Of two under one name the one that was closed last is what the user wants.
        for found in sorted(self.spool.scan(), key=_order):
            try:
                self._account(str(found.entry["user"])).uploads.recover(found)
                taken += 1
            except (ValueError, TypeError, KeyError) as error:
                self.spool.set_aside(found, str(error))
        if taken:
            self._log.info("{count} uploads of an earlier run are in the spool", count=taken)

    def sweep(self) -> None:
        """Drop what was under a temporary name, or cut off, for too long."""
        settings = self.settings
        for account in list(self._accounts.values()):
            account.uploads.sweep(settings.keep_parked, settings.keep_partial)

    def _evict(self, user_id: str | None, needed: int) -> None:
        """Make room in the spool: what was cut off goes, the oldest first."""
        victims = [
            (upload.arrived, upload.file.size, account.uploads, upload)
            for owner, account in self._accounts.items()
            if user_id in (None, owner)
            for upload in account.uploads.partials()
        ]
        for _, size, uploads, upload in sorted(victims, key=lambda victim: victim[0]):
            if needed <= 0:
                return
            uploads.evict(upload)
            needed -= size

    async def command(self, file_id: str, action: str) -> None:
        """An administrator's `retry` or `drop`; raises NotFound or Refused."""
        for account in list(self._accounts.values()):
            upload = account.uploads.by_id(file_id)
            if upload is not None:
                await account.uploads.command(upload, action)
            elif action != "drop" or not account.uploads.removals.drop(file_id):
                continue
            self._log.info("an administrator said {action} {id}", action=action, id=file_id)
            return
        raise NotFound("There is no such upload.")

    async def stop(self) -> None:
        """Commit what is sealed and let the sessions' log-outs finish."""
        await gather([account.uploads.stop for account in self._accounts.values()], STOP_PARALLEL)
        for account in list(self._accounts.values()):
            for shared in account.shared.values():
                if shared.parting is not None:
                    shared.parting.cancel()
                    shared.parting = None
                if shared.mirror is not None:
                    shared.mirror.rest()
                    await shared.mirror.quiet()
                shared.sessions.give_back()
        while self._goodbyes:
            await next(iter(self._goodbyes))


def _order(found: Found) -> tuple[float, float]:
    """When it was closed or renamed, as the journal has it."""
    entry = found.entry
    order, arrived = entry.get("order", 0), entry.get("arrived", 0)
    return (order if isinstance(order, int) else 0), arrived


def key_credential(key: str) -> str:
    """What tells API keys apart without keeping them."""
    return "key " + hashlib.sha256(key.encode()).hexdigest()
