"""The ssh-userauth service: one attempt at a time, counted over the whole connection.

Conch's service counts attempts for itself, so that asking for it again starts over, and checks
pipelined guesses side by side, so that they share one delay (trap 13).  Here the counter lies on
the transport, guesses queue up, and every way to fail takes equally long.  A key that a client
asks about and that would not do is an attempt like any other, as it is for OpenSSH.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.transport import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_TOO_MANY_CONNECTIONS,
)
from twisted.conch.ssh.userauth import (
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
    SSHUserAuthServer,
)
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from immich_conch.ssh.admission import Fault, NoSuchUser, TooMany
from immich_conch.ssh.publickey import Acceptable, IPublicKeyLogin, KeyAttempt
from immich_conch.ssh.wire import PacketError, Reader, string

if TYPE_CHECKING:
    # Conch's classes are hardly annotated: to the type checker what we override is untyped.
    _UserAuthServer = Any
else:
    _UserAuthServer = SSHUserAuthServer

MAX_ATTEMPTS = 6
"""Failed log-ins until the connection is closed; OpenSSH's MaxAuthTries."""

MAX_QUEUED = 8
"""Requests that may wait while one is checked; a client in good faith waits for its answer."""

MAX_NAME_BYTES = 1024
MAX_PASSWORD_BYTES = 4096
"""An e-mail address has at most 254 characters; passwords and keys are far shorter than this."""

MAX_ACCEPTABLE = 16
"""Keys that a client may be told would do.  It needs one, or tries a few that it cannot use."""

_PASSWORD_METHODS = (b"password", b"keyboard-interactive")

# RFC 4256, section 3.2: no name, instruction and language; one prompt, without echo.
_PROMPT = bytes(3 * 4) + b"\0\0\0\x01" + string(b"Password: ") + b"\0"

_FIRST_CONNECTION_MESSAGE = 80  # RFC 4250, section 4.1.2


class NotCounted(UnauthorizedLogin):
    """A refusal that is not the client's fault, such as a server behind us that is down.

    It is answered like any other, but does not use up one of the connection's attempts.
    """


class _Abandoned(Exception):
    """The client began something else instead of an answer (RFC 4256, section 3.1)."""


@frozen
class _Request:
    user: bytes
    service: bytes
    method: bytes
    # Holds the password, so it stays out of any repr.
    data: bytes = field(repr=False)


class UserAuth(_UserAuthServer):
    """Asks the factory's portal whether a client may come in.

    The portal's checker may be asynchronous.  UnauthorizedLogin is a plain refusal; any other
    error is a refusal with a log line.
    """

    _log = Logger()

    def serviceStarted(self) -> None:
        """Find out what can be offered.  The deadline runs on the transport already."""
        self._queue: deque[_Request] = deque()
        self._busy = False
        self._stopped = False
        self._asked = False
        self._acceptable = 0
        #: What the prompt that the client has not answered yet waits for.
        self._answer: Deferred[bytes | None] | None = None
        self._pause: Deferred[None] | None = None
        self._fault = Fault.NO_GUESS
        self.portal = self.transport.factory.portal
        offered = set(self.portal.listCredentialsInterfaces())
        self.methods = (
            *((b"publickey",) if IPublicKeyLogin in offered else ()),
            *(_PASSWORD_METHODS if IUsernamePassword in offered else ()),
        )

    def serviceStopped(self) -> None:
        """The connection has ended or the user is in: what waits is not looked at any more."""
        self._stopped = True
        self._queue.clear()
        self._answered(None)
        if self._pause is not None:
            self._pause.cancel()

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Take a message; raises PacketError for one that only a user may send.

        Conch would log each with its payload, by somebody unknown, for as long as he sends any.
        """
        if messageNum >= _FIRST_CONNECTION_MESSAGE:
            raise PacketError(f"message {messageNum} before the log-in")  # RFC 4252, section 6
        if messageNum == MSG_USERAUTH_REQUEST:
            self.ssh_USERAUTH_REQUEST(packet)
        elif messageNum == MSG_USERAUTH_INFO_RESPONSE:
            self.ssh_USERAUTH_INFO_RESPONSE(packet)
        else:
            self.transport.sendUnimplemented()

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> None:
        """Queue an attempt (RFC 4252, section 5); raises PacketError."""
        fields = Reader(packet)
        user, service, method = fields.string(), fields.string(), fields.string()
        if len(user) > MAX_NAME_BYTES:
            raise PacketError("a user name that is far too long")
        if len(self._queue) >= MAX_QUEUED:
            self.transport.sendDisconnect(DISCONNECT_PROTOCOL_ERROR, b"too many log-ins at once")
            return
        self._queue.append(_Request(user, service, method, fields.rest()))
        self._answered(None)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._crashed)

    def ssh_USERAUTH_INFO_RESPONSE(self, packet: bytes) -> None:
        """The answer to our prompt (RFC 4256, section 3.4); raises PacketError without one."""
        if self._answer is None:
            raise PacketError("an answer that was not asked for")
        self._answered(packet)

    def _answered(self, packet: bytes | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(packet)

    def _crashed(self, failure: Any) -> None:
        if failure.check(PacketError):
            self.transport.sendDisconnect(DISCONNECT_PROTOCOL_ERROR, str(failure.value))
            return
        self._log.failure("The log-in service failed", failure=failure)
        self.transport.loseConnection()

    async def _work(self) -> None:
        """One attempt after the other until none waits."""
        try:
            # Whoever was cut off in between must not have us try his other passwords.
            while self._queue and not self.transport.ended:
                await self._attempt(self._queue.popleft())
        finally:
            self._busy = False

    async def _attempt(self, request: _Request) -> None:
        factory, visit = self.transport.factory, self.transport.visit
        started = factory.clock.seconds()
        self._fault, login = Fault.NO_GUESS, None
        blameless = abandoned = False
        try:
            may = visit.may_try(request.user, key=request.method == b"publickey")
            login = await self._check(request) if may else None
        except NotCounted:
            blameless = True
        except _Abandoned:
            if self._stopped:
                return
            abandoned = True
        except Acceptable:
            self._acceptable += 1
            if self._acceptable <= MAX_ACCEPTABLE:
                self._accept(request)
                return
        except TooMany as error:
            self.transport.sendDisconnect(DISCONNECT_TOO_MANY_CONNECTIONS, str(error))
            return
        if login is not None:
            self._succeed(request, login)
            return
        # Nearly every client asks for "none" first, to learn the methods; that is no guess.
        if request.method == b"none" and not self._asked:
            self._asked = True
            self._refuse()
            return
        # A client that tries for ever meets the deadline of the whole log-in all the same.
        self.transport.attempts += not blameless
        if not blameless:
            visit.failed(request.user, self._fault)
        if not self._stopped:
            self._pause = deferLater(factory.clock, self._rest_of_delay(started))
            with suppress(CancelledError):
                await self._pause
            self._pause = None
        if self._stopped or self.transport.ended:
            return
        if self.transport.attempts >= factory.max_attempts or visit.barred:
            self.transport.sendDisconnect(
                DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, b"too many failed log-ins"
            )
            return
        if not abandoned:
            self._refuse()

    def _rest_of_delay(self, started: float) -> float:
        """Seconds until a refusal is answered: at whole multiples of the delay from its start.

        So an answer does not tell how long the check took: no user of that name, a wrong password
        and what was never asked of anybody are answered at one moment, however long Immich
        needed, and one that needed longer than the delay tells only by how many delays.
        """
        clock, delay = self.transport.factory.clock, self.transport.factory.failure_delay
        return delay - (clock.seconds() - started) % delay if delay else 0.0

    async def _check(self, request: _Request) -> Any:
        """What the portal gives for this request, or None for any kind of refusal.

        Raises NotCounted, Acceptable and _Abandoned.
        """
        if request.service != b"ssh-connection" or request.method not in self.methods:
            return None
        if request.method == b"publickey":
            credentials: Any = self._key(request)
        else:
            credentials = await self._password(request)
        if credentials is None:
            return None
        try:
            return await self.portal.login(credentials, None, IConchUser)
        except (NotCounted, TooMany, Acceptable):
            raise
        except UnauthorizedLogin as error:
            if isinstance(error, NoSuchUser):
                self._fault = Fault.UNKNOWN_USER
            return None
        except Exception as error:
            # Whatever a checker runs into, the answer is a refusal.  The error's text may repeat
            # what it was given, so only its class is logged, and where it comes from.
            self._log.error(
                "{peer}: the log-in of {user} could not be checked: {kind} in {place}",
                peer=self.transport.peer,
                user=_printable(request.user),
                kind=type(error).__name__,
                place=_origin(error),
            )
            return None

    def _key(self, request: _Request) -> KeyAttempt | None:
        address = getattr(self.transport.client, "host", "")
        return KeyAttempt.read(
            request.data, request.user, request.service, self.transport.sessionID, address
        )

    async def _password(self, request: _Request) -> UsernamePassword | None:
        fields = Reader(request.data)
        if request.method == b"password":
            changing, password = fields.boolean(), fields.string()
        else:
            fields.string(), fields.string()  # language, hints at what to ask
            fields = Reader(await self._ask())
            changing = fields.uint32() != 1
            password = b"" if changing else fields.string()
        # A key that is not known is no guess; nobody finds one by trying.
        self._fault = Fault.BAD_PASSWORD
        if changing or len(password) > MAX_PASSWORD_BYTES:
            return None
        return UsernamePassword(request.user, password)

    async def _ask(self) -> bytes:
        """Ask for the password; what the client answers, or _Abandoned."""
        packet = None
        if not self._queue and not self._stopped:
            answer = self._answer = Deferred()
            self.transport.sendPacket(MSG_USERAUTH_INFO_REQUEST, _PROMPT)
            packet = await answer
        if packet is None:
            raise _Abandoned
        return packet

    def _accept(self, request: _Request) -> None:
        """The key that the client asks about would do: RFC 4252, section 7."""
        if not self._stopped:
            fields = Reader(request.data)
            fields.boolean()
            answer = string(fields.string()) + string(fields.string())
            self.transport.sendPacket(MSG_USERAUTH_PK_OK, answer)

    def _succeed(self, request: _Request, login: Any) -> None:
        _, avatar, logout = login
        transport = self.transport
        if self._stopped or transport.ended:
            # The client left while its password was checked: the session must not stay.
            logout()
            return
        transport.avatar = avatar
        transport.logoutFunction = logout
        transport.authenticated()
        transport.visit.logged_in(request.user)
        transport.sendPacket(MSG_USERAUTH_SUCCESS, b"")
        transport.setService(transport.factory.getService(transport, request.service)())

    def _refuse(self) -> None:
        if not self._stopped:
            self.transport.sendPacket(
                MSG_USERAUTH_FAILURE, string(b",".join(self.methods)) + b"\x00"
            )


def _printable(user: bytes) -> str:
    return ascii(user.decode("utf-8", "replace"))


def _origin(error: BaseException) -> str:
    """File and line where an error was raised."""
    step = error.__traceback__
    if step is None:
        return "an unknown place"
    while step.tb_next is not None:
        step = step.tb_next
    return f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
