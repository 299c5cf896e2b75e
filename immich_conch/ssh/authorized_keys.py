"""One line of OpenSSH's `authorized_keys`: a key, and what it is good for (sshd(8)).

An option that is not known is refused, for what it was meant to forbid would not be forbidden.
Those that forbid what does not exist here anyway are taken.
"""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

from attrs import define, frozen

from immich_conch.ssh.networks import Network, parse_networks
from immich_conch.ssh.publickey import SIGNATURES, BadKey, PublicKey

#: Options without effect: there is no terminal, no shell and no forwarding.
_ALWAYS_SO = frozenset(
    (
        *("restrict", "no-pty", "no-user-rc"),
        *("no-agent-forwarding", "no-port-forwarding", "no-x11-forwarding"),
    )
)
_FORMATS = frozenset(name.decode() for name in SIGNATURES if not name.startswith(b"rsa-")) | {
    "ssh-rsa"
}
#: No option of OpenSSH's is longer; what is may be a secret that went astray.
_LONGEST_NAME = 20
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(,|[ \t]+)')


@frozen
class AuthorizedKey:
    """A key that a user, or an authority for users, may come with."""

    key: PublicKey
    #: Whether the key is an authority's: its certificates are taken, the key itself is not.
    authority: bool = False
    #: Names of which a certificate must have one, instead of the user's own.
    principals: frozenset[str] | None = None
    #: Where it may be used from; None for anywhere.
    networks: tuple[Network, ...] | None = None
    #: POSIX seconds from which on it is not taken any more, or None.
    expires: float | None = None
    #: Whether a security key must ask for its PIN.
    user_verified: bool = False

    @classmethod
    def parse(cls, line: str, *, authority: bool = False) -> AuthorizedKey:
        """Read a line without its end; raises ValueError, whose text continues "the line".

        `authority` says that the key is one, with or without the option.
        """
        found = _Line(line.strip())
        options: dict[str, Any] = {}
        while found.rest.split(None, 1)[:1] and found.rest.split(None, 1)[0] not in _FORMATS:
            name, value = found.option()
            if name in _ALWAYS_SO and value is None:
                continue
            meaning, read = _read_option(name, value)
            if meaning in options:
                raise ValueError(f"has the option {name} twice")
            options[meaning] = read
        words = found.rest.split(None, 2)
        if len(words) < 2:
            raise ValueError("holds no public key")
        key = _key(*words[:2])
        if authority:
            options["authority"] = True
        if "principals" in options and "authority" not in options:
            raise ValueError("has the option principals without cert-authority")
        if "authority" in options and key.format.startswith(b"sk-"):
            raise ValueError("has a security key as an authority, which is not taken here")
        if options.get("user_verified") and not key.format.startswith(b"sk-"):
            raise ValueError("has the option verify-required, and no security key")
        return cls(key, **options)


@define
class _Line:
    """What is left to read; options are separated by commas and end with a blank."""

    rest: str

    def option(self) -> tuple[str, str | None]:
        word = re.split(r"[ \t,=]", self.rest, maxsplit=1)[0]
        if word.startswith(("ssh-dss", "sk-")) or "-cert-v0" in word:
            raise ValueError(f"has a key of the kind {word[:60]}, which is not taken here")
        match = _OPTION.match(self.rest)
        if match is None:
            # What it is instead is not repeated: it may be a secret that went astray.
            raise ValueError("begins with something that is neither an option nor a kind of key")
        self.rest = self.rest[match.end() :]
        value = match[2]
        return match[1].lower(), None if value is None else re.sub(r'\\(["\\])', r"\1", value)


def _read_option(name: str, value: str | None) -> tuple[str, Any]:
    """An option's field in AuthorizedKey, and its value."""
    if name in ("cert-authority", "verify-required"):
        if value is not None:
            raise ValueError(f"has a value for the option {name}")
        return ("authority" if name == "cert-authority" else "user_verified"), True
    if name not in ("from", "principals", "expiry-time"):
        shown = f" {name}" if len(name) <= _LONGEST_NAME else ""
        raise ValueError(f"has an option{shown} that is not known here")
    if not value:
        raise ValueError(f'has the option {name} without a value: {name}="…"')
    if name == "principals":
        names = frozenset(one.strip() for one in value.split(","))
        if "" in names:
            raise ValueError("has an empty name among its principals")
        return "principals", names
    if name == "expiry-time":
        return "expires", _time(value)
    try:
        return "networks", parse_networks(value)
    except ValueError as error:
        raise ValueError(f"has the option from, where {error}") from None


def _time(text: str) -> float:
    for form in ("%Y%m%dZ", "%Y%m%d%H%MZ", "%Y%m%d%H%M%SZ"):
        if len(text) == len(datetime(2000, 1, 1).strftime(form)):
            try:
                return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
            except ValueError:
                break
    raise ValueError("has an expiry-time that is not YYYYMMDDZ or YYYYMMDDHHMM[SS]Z, in UTC")


def _key(kind: str, body: str) -> PublicKey:
    try:
        key = PublicKey.parse(b64decode(body, validate=True))
    except BadKey as error:
        raise ValueError(f"has a key that {error}") from None
    except ValueError:
        raise ValueError("has a key that is not whole (its base64 is wrong)") from None
    if key.format.decode() != kind:
        raise ValueError(f"says {kind}, and its key says {key.format.decode()}")
    return key
