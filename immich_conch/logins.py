"""Log-ins as Immich is to see them: not too many, and not again what was verified a moment ago.

rclone, WinSCP and the like open connections by the dozen, each with the same password, and each
would cost Immich a bcrypt and leave a session.  A password that was right is remembered for a
minute at most, by a hash under a key of this process, together with its Immich session; who comes
with it shares that session.  Whether it still holds is asked each time (`GET /users/me`, a few
milliseconds): a session that is no longer accepted, or a user whose row in Immich has changed
since, as it does with a new password, ends the memory.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable

from attrs import Factory, define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from immich_conch.accounts import Accounts
from immich_conch.errors import ConchError, SessionRevoked, Unreachable
from immich_conch.guard.recent import Recent
from immich_conch.guard.throttle import Throttle, TooSoon
from immich_conch.immich.interfaces import IImmich
from immich_conch.library.gather import Shared
from immich_conch.transfer.lease import Lease

#: Passwords that are remembered at once.
MAX_REMEMBERED = 1000

LogIn = Callable[[], Awaitable[tuple[IImmich, str]]]
"""Logs in to Immich; the session, and the credential it shares a catalog by."""


@define(eq=False)
class _Verified:
    """A session that a password opened; the memory holds its lease."""

    lease: Lease
    #: The user's row as it was then.
    updated: str
    timer: IDelayedCall | None = None


@define(eq=False)
class Logins:
    """The way from a password to a lease.  `memory` is seconds, 0 for none."""

    accounts: Accounts
    throttle: Throttle
    clock: IReactorTime
    memory: float
    _key: bytes = field(factory=lambda: secrets.token_bytes(64), repr=False)
    _known: Recent[_Verified] = Factory(lambda: Recent(MAX_REMEMBERED))
    _asking: dict[str, Shared[Lease]] = Factory(dict)

    async def enter(self, user: str, password: str, log_in: LogIn) -> Lease:
        """A lease that the caller holds; raises what `log_in` raises, or Unreachable.

        Those who come with the same at the same time share one log-in, right or wrong.
        """
        if not self.memory:
            return self.accounts.enter(*await self._in_turn(log_in))
        proof = self._proof(user, password)
        asking = self._asking.get(proof)
        if asking is None:
            asking = Shared.start(self._verify(proof, log_in))
            if not asking.done:
                self._asking[proof] = asking
        return (await asking.wait()).hold()

    async def _in_turn(self, log_in: LogIn) -> tuple[IImmich, str]:
        try:
            await self.throttle.turn()
        except TooSoon:
            raise Unreachable("Too many log-ins at once; try again in a moment.") from None
        return await log_in()

    async def _verify(self, proof: str, log_in: LogIn) -> Lease:
        """A lease with a hold that lasts until those who wait have taken theirs."""
        try:
            lease = await self._remembered(proof)
            if lease is None:
                lease = self.accounts.enter(*await self._in_turn(log_in))
                self._remember(proof, lease)
        finally:
            self._asking.pop(proof, None)
        self.clock.callLater(0, lease.release)
        return lease

    async def _remembered(self, proof: str) -> Lease | None:
        known = self._known.get(proof)
        if known is None:
            return None
        lease = known.lease.hold()
        try:
            if not lease.revoked and (await lease.immich.me()).updated == known.updated:
                return lease
        except SessionRevoked:
            lease.revoked = True
        except ConchError:
            lease.release()
            raise
        self._forget(proof, known)
        lease.release()
        return None

    def _remember(self, proof: str, lease: Lease) -> None:
        immich = lease.immich
        # Keys cost Immich little, and what they may do is to be asked for anew.
        if immich.is_key or not immich.user.updated or not self.memory:
            return
        known = _Verified(lease.hold(), immich.user.updated)
        known.timer = self.clock.callLater(self.memory, self._forget, proof, known)
        evicted = self._known.put(proof, known)
        if evicted is not None:
            _let_go(evicted)

    def _forget(self, proof: str, known: _Verified) -> None:
        if self._known.get(proof) is known:
            self._known.drop(proof)
            _let_go(known)

    def _proof(self, user: str, password: str) -> str:
        """What tells the same guess from another; worth nothing outside this process."""
        told = f"{len(user)} {user.lower()} {password}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(told, key=self._key).hexdigest()

    def stop(self) -> None:
        """Forget all, so that the sessions are logged out; nothing is remembered any more."""
        self.memory = 0.0
        for known in self._known:
            _let_go(known)
        self._known = Recent(MAX_REMEMBERED)


def _let_go(known: _Verified) -> None:
    timer, known.timer = known.timer, None
    if timer is not None and timer.active():
        timer.cancel()
    known.lease.release()
