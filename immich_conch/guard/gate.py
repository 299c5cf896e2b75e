"""The gate in front of the SSH transport: caps, scores and bans joined, one line a refusal.

The lines about refused log-ins have one form, for fail2ban and its like (docs/fail2ban.rst):

    refused 203.0.113.7 port 50122: bad-password, user 'alice@example.com'

Where an address hides the clients' own, the line begins with `refused by way of`, which no filter
takes for an address to shut out, and the score is the user's.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger

from immich_conch.counters import Counters
from immich_conch.guard.addresses import Atlas, Origin, Place
from immich_conch.guard.admission import Admission
from immich_conch.guard.defender import Defender
from immich_conch.guard.lines import Seldom
from immich_conch.ssh.admission import Fault, Gate, Visit

#: Characters of a user name that are worth a line.
MAX_SHOWN = 100


@frozen
class Scores:
    """Points for each wrong; see Rules.threshold for how many are too many."""

    unknown_user: float = 20.0
    bad_password: float = 8.0
    no_auth: float = 1.0
    #: Small, for a client that opens forty connections at once means no harm by it.
    limit: float = 2.0


@define(eq=False)
class Guard(Gate):
    """`addresses` and `users` are the two defenders; users named in `shared` have no score.

    `shared` holds names that many use, such as the one that stands for any API key.
    """

    atlas: Atlas
    admission: Admission
    addresses: Defender
    users: Defender
    scores: Scores
    counters: Counters
    shared: frozenset[str] = frozenset()
    _seldom: Seldom = field(init=False)
    _told: bool = False

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._seldom = Seldom(self._log, self.addresses.clock)

    def enter(self, address: Any) -> Visit | None:
        """A visit, or None for who is banned, denied, or one too many."""
        origin = self.atlas.origin(address)
        why = self._refusal(origin)
        if why:
            self.counters.add("connections.refused")
            self._seldom.info(f"turned away, {why}", f"{origin.text} port {origin.port}")
            return None
        if origin.place is Place.HIDDEN and not origin.loopback:
            self._tell(origin)
        self.admission.opened(_counted(origin))
        return _Visit(self, origin)

    def _refusal(self, origin: Origin) -> str:
        if origin.place is Place.DENIED:
            return "a denied network"
        if self._is_banned(origin):
            return "a banned address"
        over = self.admission.full_for(_counted(origin))
        if over:
            self._punish(origin, self.scores.limit)
            return f"an address with too many {over}"
        return self.admission.full(origin.loopback)

    def _is_banned(self, origin: Origin) -> bool:
        return origin.place is Place.REAL and self.addresses.banned(origin.source)

    def _punish(self, origin: Origin, points: float) -> None:
        if origin.place is Place.REAL:
            self.addresses.punish(origin.source, points, lambda: _hint(origin))

    def _tell(self, origin: Origin) -> None:
        """Once: that bans do not go by address here."""
        if not self._told:
            self._told = True
            self._log.warn(
                "connections by way of {address} do not show the clients' addresses: failed "
                "log-ins count against the user there, not against the address (see --addresses "
                "and the PROXY protocol)",
                address=origin.text,
            )

    def stop(self) -> None:
        """The service ends."""
        self.addresses.stop()
        self.users.stop()


@define(eq=False)
class _Visit(Visit):
    guard: Guard
    origin: Origin
    #: Whether anything that could have been a password or key was tried.
    _tried: bool = False
    _known: bool = False

    @property
    def barred(self) -> bool:
        """Whether the address was banned in the meantime."""
        return self.guard._is_banned(self.origin)

    def may_try(self, user: bytes, key: bool = False) -> bool:
        """Not for a banned address or, where that tells nothing, a banned user's password."""
        if self.origin.place is Place.HIDDEN:
            # Somebody who guesses at the password must not keep the owner of the key away.
            return key or not self.guard.users.banned(shown(user))
        return not self.barred

    def failed(self, user: bytes, fault: Fault) -> None:
        """One line, and points."""
        guard, origin = self.guard, self.origin
        if fault is Fault.NO_GUESS:
            return
        self._tried = True
        hidden = origin.place is Place.HIDDEN
        guard._log.info(
            "refused {way}{address} port {port}: {fault}, user {user}",
            way="by way of " if hidden else "",
            address=origin.text,
            port=origin.port,
            fault=fault.value,
            user=shown(user),
        )
        scores = guard.scores
        if not hidden:
            unknown = fault is Fault.UNKNOWN_USER
            guard._punish(origin, scores.unknown_user if unknown else scores.bad_password)
        elif fault is Fault.BAD_PASSWORD and _name(user) not in guard.shared:
            guard.users.punish(shown(user), scores.bad_password)

    def logged_in(self, user: bytes) -> None:
        """One line; it no longer counts among those who are nobody."""
        guard, origin = self.guard, self.origin
        self._tried = self._known = True
        guard.admission.known(_counted(origin))
        guard.atlas.logged_in(origin, _name(user))
        guard._log.info(
            "accepted {address} port {port}: user {user}",
            address=origin.text,
            port=origin.port,
            user=shown(user),
        )

    def left(self) -> None:
        """The counts go down; who tried nothing gets a point."""
        guard = self.guard
        guard.admission.closed(_counted(self.origin), self._known)
        if not self._tried:
            guard._punish(self.origin, guard.scores.no_auth)


def _counted(origin: Origin) -> str:
    """What a cap by address counts: nothing where addresses tell nothing, or are trusted."""
    return origin.source if origin.place is Place.REAL else ""


def _hint(origin: Origin) -> str:
    address = origin.text
    if not origin.private:
        return f": {address} port {origin.port}" if address != origin.source else ""
    return (
        f": {address} is a private address; if it stands for many clients, use the PROXY "
        "protocol, or --addresses hidden"
    )


def _name(user: bytes) -> str:
    return user.decode("utf-8", "replace").strip().lower()


def shown(user: bytes) -> str:
    """A user name as it may stand in a line and be counted: printable ASCII, quoted, not long."""
    return ascii(_name(user)[:MAX_SHOWN])
