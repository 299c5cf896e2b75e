"""Who may log in with which SSH key, and with whose API key that continues at Immich.

Pure: a value, made from a file by `users_file`, and one question that it answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from immich_conch.ssh.authorized_keys import AuthorizedKey
from immich_conch.ssh.certificates import BadCertificate, Certificate, UnknownAuthority
from immich_conch.ssh.networks import Network, within
from immich_conch.ssh.publickey import IPublicKeyLogin, PublicKey, fingerprint


class KeyRefused(Exception):
    """This key is not taken; the text says why, for the log.

    `known` is whether it is one of the user's, or a certificate: worth more than a line for each
    key of somebody's agent.
    """

    def __init__(self, text: str, known: bool = True) -> None:
        super().__init__(text)
        self.known = known


@frozen
class KeyUser:
    """A user of the file."""

    email: str
    api_key: str = field(repr=False)
    #: All names to log in by, in lower case; the e-mail is among them.
    names: frozenset[str]
    keys: tuple[AuthorizedKey, ...]


@frozen
class Grant:
    """What a key is good for, once its owner has signed with it."""

    user: KeyUser
    key: PublicKey
    user_verified: bool
    #: For the log: `the SSH key SHA256:…`.
    means: str


@frozen
class Users:
    """All users of the file."""

    #: By each of their names.
    by_name: Mapping[str, KeyUser] = field(factory=dict)
    #: Authorities for all users.
    authorities: tuple[AuthorizedKey, ...] = ()
    revoked_serials: frozenset[int] = frozenset()
    revoked_keys: frozenset[str] = frozenset()

    def grant(self, attempt: IPublicKeyLogin, now: float) -> Grant:
        """What the key of an attempt is good for; raises KeyRefused.

        `now` is POSIX seconds.  Nothing is said about who holds the key: see `proven_by`.
        """
        name = attempt.username.decode("utf-8", "replace").strip().lower()
        user = self.by_name.get(name)
        # A name that nobody has takes the way of one whose keys are others.
        keys = user.keys if user is not None else ()
        if attempt.algorithm.certified:
            found = self._certified(attempt, user, keys, now)
        else:
            found = self._plain(attempt, keys, now)
        if user is None:
            raise KeyRefused("there is no such user", known=False)
        entry, key, means = found
        if key.fingerprint in self.revoked_keys:
            raise KeyRefused("the key is revoked")
        return Grant(user, key, entry.user_verified, means)

    def _plain(
        self, attempt: IPublicKeyLogin, keys: tuple[AuthorizedKey, ...], now: float
    ) -> tuple[AuthorizedKey, PublicKey, str]:
        own = [one for one in keys if not one.authority and one.key.blob == attempt.blob]
        if not own:
            raise KeyRefused("the key is none of the user's", known=False)
        entry = _usable(own, attempt.address, now)
        return entry, entry.key, f"the SSH key {entry.key.fingerprint}"

    def _certified(
        self,
        attempt: IPublicKeyLogin,
        user: KeyUser | None,
        keys: tuple[AuthorizedKey, ...],
        now: float,
    ) -> tuple[AuthorizedKey, PublicKey, str]:
        entries = [*(one for one in keys if one.authority), *self.authorities]
        try:
            found = Certificate.read(attempt.blob, {entry.key.blob for entry in entries})
            found.check_time(now)
        except BadCertificate as error:
            known = not isinstance(error, UnknownAuthority)
            raise KeyRefused(f"the certificate is not taken: {error}", known) from None
        what = f"certificate {ascii(found.key_id)[:200]} serial {found.serial}"
        names = user.names if user is not None else frozenset()
        ours = [
            entry
            for entry in entries
            if entry.key.blob == found.authority and _names_match(entry, found, names)
        ]
        if not ours:
            raise KeyRefused(f"{what} is for other names")
        if not _allowed(found.networks, attempt.address):
            raise KeyRefused(f"{what} is not for use from there")
        revoked = {fingerprint(found.authority), fingerprint(attempt.blob)}
        if found.serial in self.revoked_serials or revoked & self.revoked_keys:
            raise KeyRefused(f"{what} is revoked")
        entry = _usable(ours, attempt.address, now)
        means = f"the SSH key {found.key.fingerprint}, {what} by {fingerprint(found.authority)}"
        return entry, found.key, means


def _names_match(entry: AuthorizedKey, found: Certificate, names: frozenset[str]) -> bool:
    """A certificate without principals is nobody's, not everybody's."""
    if entry.principals is not None:
        return bool(entry.principals & found.principals)
    return bool(names & {name.lower() for name in found.principals})


def _usable(entries: list[AuthorizedKey], address: str, now: float) -> AuthorizedKey:
    """The first of a key's lines that holds here and now; raises KeyRefused."""
    for entry in entries:
        if _allowed(entry.networks, address) and (entry.expires is None or now < entry.expires):
            return entry
    raise KeyRefused("the key is not for use from there, or has expired")


def _allowed(networks: tuple[Network, ...] | None, address: str) -> bool:
    return networks is None or within(address, networks)
