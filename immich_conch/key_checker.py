"""Checks SSH keys against the file of users, and goes on to Immich with that user's API key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from immich_conch.accounts import key_credential
from immich_conch.auth import LoggedIn
from immich_conch.authorized import Grant, KeyRefused, KeyUser
from immich_conch.counters import Counters
from immich_conch.errors import BadCredentials, ConchError
from immich_conch.immich.interfaces import IImmich, IImmichServer
from immich_conch.logins import Logins
from immich_conch.ssh.publickey import Acceptable, IPublicKeyLogin
from immich_conch.ssh.userauth import NotCounted
from immich_conch.users_file import UsersFile


@implementer(ICredentialsChecker)
@define(eq=False)
class KeyChecker:
    """Who has signed with a key of the file comes in as the user it is listed for.

    `now` is POSIX seconds.
    """

    server: IImmichServer
    file: UsersFile
    counters: Counters
    logins: Logins
    now: Callable[[], float]

    credentialInterfaces = (IPublicKeyLogin,)
    _log = Logger()

    def requestAvatarId(self, credentials: IPublicKeyLogin) -> Deferred[Any]:
        """A LoggedIn.  Fails with UnauthorizedLogin, Acceptable for a key without a signature yet,
        or NotCounted where the key was right and Immich did not play along."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, attempt: IPublicKeyLogin) -> LoggedIn:
        name = attempt.username.decode("utf-8", "replace")
        try:
            grant = self.file.users().grant(attempt, self.now())
        except KeyRefused as error:
            if error.known or not attempt.asks:
                self._refused(name, str(error))
            raise UnauthorizedLogin from None
        if attempt.asks:
            raise Acceptable
        if not attempt.proven_by(grant.key, user_verified=grant.user_verified):
            self._refused(name, f"the signature by {grant.means} is wrong")
            raise UnauthorizedLogin
        return await self._log_in(grant)

    async def _log_in(self, grant: Grant) -> LoggedIn:
        """Whoever gets here has proven to be this user; what fails now is not theirs to answer."""
        user = grant.user
        try:
            lease = await self.logins.enter(user.email, user.api_key, lambda: self._use_key(user))
        except ConchError as error:
            self.counters.add("logins.unchecked")
            reason = error.text
            if type(error) is BadCredentials and error.text == BadCredentials.default:
                reason = "Immich does not take the API key of the users file."
            self._log.warn(
                "log-in of {user!r} with {means} refused: {reason}",
                user=user.email,
                means=grant.means,
                reason=reason,
            )
            raise NotCounted from None
        return LoggedIn(lease.immich, "", lease, grant.means)

    async def _use_key(self, user: KeyUser) -> tuple[IImmich, str]:
        await self.server.version()
        immich = await self.server.use_key(user.api_key)
        if immich.user.email.lower() != user.email.lower():
            raise BadCredentials("The API key belongs to somebody else.")
        return immich, key_credential(user.api_key)

    def _refused(self, name: str, reason: str) -> None:
        self.counters.add("logins.refused")
        self._log.info("log-in of {user!r} refused: {reason}", user=name, reason=reason)
