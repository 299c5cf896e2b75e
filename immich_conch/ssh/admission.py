"""The door of the transport: who may connect, who may try to log in, and what is told of it.

The classes here let everybody do anything; who wants less hands the factory a Gate of its own.
Nothing in here counts, bans or logs.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.protocol import Protocol

MAX_EARLY_BYTES = 2**20
"""What may come before the log-in: several key exchanges and all attempts are a tenth of it.  It
bounds the work, too, that somebody unknown can ask for in his minute."""

MAX_EARLY_EXCHANGES = 4
"""Key exchanges before the log-in; clients make one, and a second only with tiny RekeyLimits."""

EARLY_BUFFER_BYTES = 2**15
MAX_EARLY_UNSENT_BYTES = 2**16
"""What may wait in TCP, and on top of it, before the log-in; the largest answer is a KEXINIT."""


class Fault(Enum):
    """Why a log-in was refused."""

    UNKNOWN_USER = "unknown-user"
    BAD_PASSWORD = "bad-password"  # noqa: S105 -- a name for what went wrong
    #: Nothing that could have been right was tried: no such method here, a key that is not known.
    NO_GUESS = "no-guess"


class NoSuchUser(UnauthorizedLogin):
    """Nobody can be called so; it is answered like any other refusal."""


class TooMany(UnauthorizedLogin):
    """Right, but the user has enough connections; the text is told to the client."""


class Visit:
    """One connection, as the gate knows it.  User names are as the client sent them."""

    @property
    def barred(self) -> bool:
        """Whether nothing more is to be had by this connection."""
        return False

    def may_try(self, user: bytes, key: bool = False) -> bool:
        """Whether a log-in is to be looked at; it is answered like a wrong one if not.

        `key` is one by public key, which nobody guesses.
        """
        return True

    def failed(self, user: bytes, fault: Fault) -> None:
        """A log-in was refused, and it is the client's fault."""

    def logged_in(self, user: bytes) -> None:
        """The client is somebody now."""

    def left(self) -> None:
        """The connection is over; the last that is heard of it."""


class Gate:
    """Decides about connections."""

    def enter(self, address: Any) -> Visit | None:
        """A connection from an address, None where it is not known; None turns it away."""
        return Visit()


class TurnedAway(Protocol):
    """What a client meets that the gate turns away: a line that `ssh -v` shows, and the end.

    RFC 4253, section 4.2 allows lines before the identification; nothing is kept of the client.
    """

    def connectionMade(self) -> None:
        """Say so and hang up."""
        assert self.transport is not None
        self.transport.write(b"Not allowed at this time\r\n")
        self.transport.loseConnection()
