"""Who may come in: the credential checker, the realm and the avatar (section 1).

Conch asks the portal, the checker asks Immich; what comes back as the avatar id is the session
itself.  Passwords and keys go to Immich and nowhere else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from attrs import Factory, define, field, frozen
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from immich_conch.accounts import PASSWORD, Accounts, key_credential
from immich_conch.counters import Counters
from immich_conch.errors import BadCredentials, ConchError, Unreachable
from immich_conch.immich.interfaces import IImmich, IImmichServer
from immich_conch.logins import Logins
from immich_conch.sftp.commands import PARALLEL, Commands
from immich_conch.sftp.hashes import Hashes
from immich_conch.sftp.packets import FileTransferServer
from immich_conch.sftp.server import SFTPServer
from immich_conch.ssh.admission import NoSuchUser, TooMany
from immich_conch.ssh.userauth import NotCounted
from immich_conch.transfer.lease import Lease

#: The user name that stands for the owner of an API key.
KEY_USER = "apikey"
#: What an API key of Immich looks like; other passwords are not tried as one.
_KEY = re.compile(r"[A-Za-z0-9_+/=-]{20,128}")


@frozen(eq=False)
class LoggedIn:
    """A session that has just been opened, and the credential it shares a catalog by."""

    immich: IImmich
    credential: str = field(repr=False)
    #: Held for whoever comes next, where several connections may share the session.
    lease: Lease | None = None
    #: What the user came with, for the log, where the session does not tell.
    means: str = ""


@implementer(ICredentialsChecker)
@define(eq=False)
class ImmichChecker:
    """Checks user name and password, or an API key in its place, by logging in to Immich."""

    server: IImmichServer
    counters: Counters
    logins: Logins

    credentialInterfaces = (IUsernamePassword,)
    _log = Logger()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """A LoggedIn; fails with UnauthorizedLogin, or NotCounted where Immich could not say."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> LoggedIn:
        try:
            user = credentials.username.decode().strip()
            password = credentials.password.decode()
        except UnicodeDecodeError:
            raise UnauthorizedLogin("the user name or password is not UTF-8") from None
        # Immich answers 400 to what is no e-mail address; there is no need to ask.
        if user.lower() != KEY_USER and "@" not in user:
            self.counters.add("logins.refused")
            raise NoSuchUser
        try:
            lease = await self.logins.enter(user, password, lambda: self._log_in(user, password))
            return LoggedIn(lease.immich, "", lease)
        except BadCredentials:
            # The gate writes the line about it, for it knows the address.
            self.counters.add("logins.refused")
            raise UnauthorizedLogin from None
        except Unreachable as error:
            self.counters.add("logins.unchecked")
            self._log.warn(
                "log-in of {user!r} refused: it could not be checked: {reason}",
                user=user,
                reason=error.text,
            )
            raise NotCounted from None
        except ConchError as error:
            self.counters.add("logins.refused")
            self._log.warn("log-in of {user!r} refused: {reason}", user=user, reason=error.text)
            raise UnauthorizedLogin from None

    async def _log_in(self, user: str, password: str) -> tuple[IImmich, str]:
        await self.server.version()
        if user.lower() == KEY_USER:
            return await self._use_key(password)
        try:
            return await self.server.log_in(user, password), PASSWORD
        except BadCredentials:
            if not _KEY.fullmatch(password):
                raise
        immich, credential = await self._use_key(password)
        if immich.user.email.lower() != user.lower():
            self._log.info("log-in of {user!r}: the API key belongs to somebody else", user=user)
            raise BadCredentials
        return immich, credential

    async def _use_key(self, key: str) -> tuple[IImmich, str]:
        return await self.server.use_key(key), key_credential(key)


class _Session(FileTransferServer):
    """An SFTP channel whose end its server hears of."""

    def connectionLost(self, reason: Failure) -> None:
        """Abort what is open, then tell the server."""
        super().connectionLost(reason)
        self.client.ended()


class Avatar(ConchUser):
    """A logged-in user on one SSH connection: the SFTP subsystem and `sha1sum`, nothing else."""

    exec_refusal = b"This is an SFTP service; there is no shell here.\n"

    def __init__(
        self,
        make: Callable[[Avatar], SFTPServer],
        lease: Lease,
        commands: Commands,
        gone: Callable[[], None],
    ) -> None:
        super().__init__()
        self.lease = lease
        self._gone = gone
        self._make = make
        self.run_command = commands.run
        self.subsystemLookup = {b"sftp": self._sftp}

    def _sftp(self, data: bytes, avatar: Any) -> FileTransferServer:
        return _Session(data, avatar=self, client=self._make(self))

    def logout(self) -> None:
        """The connection is gone; uploads under way keep the session until they are in."""
        self._gone()
        self.lease.release()


@implementer(IRealm)
@define(eq=False)
class Realm:
    """Makes an avatar of a session.  `now` is POSIX seconds, `clock` measures.

    `max_per_user` is how many connections a user may have at once, 0 for no limit.
    """

    accounts: Accounts
    clock: IReactorTime
    now: Callable[[], float]
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    max_per_user: int = 0
    #: Connections by user.
    _here: Counter[str] = Factory(Counter)
    #: Shared by a user's connections, and gone with the last of them.
    _slots: WeakValueDictionary[str, DeferredSemaphore] = Factory(WeakValueDictionary)

    _log = Logger()

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        """The avatar and its log-out; synchronous, for Conch takes nothing else here."""
        if IConchUser not in interfaces:
            raise NotImplementedError("only IConchUser")
        lease = avatarId.lease or self.accounts.enter(avatarId.immich, avatarId.credential)
        user_id = lease.immich.user.id
        if self.max_per_user and self._here[user_id] >= self.max_per_user:
            lease.release()
            self.accounts.counters.add("logins.too_many")
            self._log.warn(
                "user {user} has {count} connections and gets no more (--max-per-user)",
                user=lease.immich.user.email,
                count=self._here[user_id],
            )
            raise TooMany(f"this user has {self._here[user_id]} connections already")
        self._here[user_id] += 1
        avatar = Avatar(self._server, lease, self._commands(lease), lambda: self._left(user_id))
        self.accounts.counters.add("logins")
        self._log.info(
            "user {user} logged in with {what}",
            user=lease.immich.user.email,
            what=avatarId.means or ("an API key" if lease.immich.is_key else "a password"),
        )
        return IConchUser, avatar, avatar.logout

    def _left(self, user_id: str) -> None:
        self._here[user_id] -= 1
        if not self._here[user_id]:
            del self._here[user_id]

    def _commands(self, lease: Lease) -> Commands:
        user_id = lease.immich.user.id
        slots = self._slots.get(user_id)
        if slots is None:
            slots = self._slots[user_id] = DeferredSemaphore(PARALLEL)
        accounts = self.accounts
        hashes = Hashes(lease, accounts.tree(lease), accounts.uploads(lease), self.clock)
        return Commands(hashes, slots)

    def _server(self, avatar: Avatar) -> SFTPServer:
        lease = avatar.lease

        return SFTPServer(
            lease=lease,
            tree=self.accounts.tree(lease),
            uploads=self.accounts.uploads(lease),
            clock=self.clock,
            now=self.now,
            in_thread=self.in_thread,
            avatar=avatar,
        )
