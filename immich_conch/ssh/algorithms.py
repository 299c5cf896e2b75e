"""Which algorithms this server offers, in order of preference, and which of them are agreed on.

Conch's own lists hold 3DES, CBC, MD5, SHA-1 and DSS.  A list here is a frozen value that the
factory puts on each transport it builds; Conch's classes, which other servers in the process may
use, are never changed.

It is the client's order that decides (RFC 4253, section 7.1), and OpenSSH before 10.0, PuTTY,
paramiko and others put AES-CTR before AES-GCM.  KEXINIT may be sent once the peer's identification
has been read, so for clients that are known to send theirs without waiting ours is sent in answer
to it, without what they would prefer to the fastest they have.  A list of GCM alone would do as
well, and would lock out who has configured something else.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import takewhile

from attrs import evolve, frozen
from twisted.conch.ssh.transport import SSHServerTransport

from immich_conch.ssh.ciphers import CTR_KEYS, GCM, MACS, QUICK_MACS, Suite
from immich_conch.ssh.wire import Reader

_KEY_EXCHANGES = (
    b"mlkem768x25519-sha256",
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
    b"ecdh-sha2-nistp256",
    b"ecdh-sha2-nistp384",
    b"ecdh-sha2-nistp521",
    b"diffie-hellman-group-exchange-sha256",
)
"""What we would offer; Conch and cryptography say what of it there is (ML-KEM: from 48)."""

_SIGNATURES = {
    b"ssh-ed25519": (b"ssh-ed25519",),
    b"ecdsa-sha2-nistp256": (b"ecdsa-sha2-nistp256",),
    b"ssh-rsa": (b"rsa-sha2-512", b"rsa-sha2-256"),
}
"""Format of a host key -> how it signs; `ssh-rsa` as a signature is SHA-1 and not among them."""

_STRICT = {
    "kex": (b"mlkem768x25519-sha256",),
    "host-key-algorithms": (b"ssh-ed25519", b"rsa-sha2-512", b"rsa-sha2-256"),
    "macs": (b"hmac-sha2-256-etm@openssh.com", b"hmac-sha2-512-etm@openssh.com"),
}
"""Option -> what is left by `--algorithms strict`: what withstands a quantum computer, no curves of
NIST's, no MAC over the plain text.  Who needs the others is in `docs/algorithms.rst`."""

STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"
"""Strict key exchange, OpenSSH's PROTOCOL, section 1.10: what stops the Terrapin attack."""

_SPEAKS_FIRST = re.compile(
    rb"SSH-2\.0-(OpenSSH_(for_Windows_)?\d\.|paramiko_|PuTTY_|WinSCP_|FileZilla_|JSCH[-_]"
    rb"|SSHJ_|APACHE-SSHD-)"
)
"""Identifications of clients that send KEXINIT without waiting, and like CTR better than GCM.

One that waits all the same gets ours after `kex.KEXINIT_PATIENCE`."""


class AlgorithmError(Exception):
    """The lists asked for cannot be offered; the text begins with the option's name."""


def speaks_first(identification: bytes) -> bool:
    """Whether waiting for this client's KEXINIT is safe, and worth it.

    From 10.0 on OpenSSH has GCM before CTR, and is spared the round trip.
    """
    return _SPEAKS_FIRST.match(identification) is not None


@frozen
class Offer:
    """What the client's KEXINIT offers: RFC 4253, section 7.1."""

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_in: tuple[bytes, ...]
    ciphers_out: tuple[bytes, ...]
    macs_in: tuple[bytes, ...]
    macs_out: tuple[bytes, ...]
    compressions_in: tuple[bytes, ...]
    compressions_out: tuple[bytes, ...]
    #: Whether a packet with a guess follows.
    guesses: bool

    @classmethod
    def parse(cls, packet: bytes) -> Offer:
        """Read it; raises PacketError."""
        fields = Reader(packet)
        fields.skip(16)

        def names() -> tuple[bytes, ...]:
            return tuple(fields.string().split(b","))

        lists = [names() for _ in range(8)]
        names(), names()  # languages
        guesses = fields.boolean()
        fields.uint32()
        kex, keys, ciphers_in, ciphers_out, macs_in, macs_out, into, out = lists
        return cls(kex, keys, ciphers_in, ciphers_out, macs_in, macs_out, into, out, guesses)


@frozen
class Agreement:
    """What is used from the next NEWKEYS on."""

    key_exchange: bytes
    host_key: bytes
    suite_in: Suite
    suite_out: Suite
    #: Whether a guess that follows is wrong and to be dropped.
    wrong_guess: bool


def _text(names: Iterable[bytes]) -> str:
    return ", ".join(name.decode("ascii", "replace") for name in names)


def _first(theirs: Sequence[bytes], ours: Sequence[bytes]) -> bytes | None:
    """The client's first that we have, too."""
    return next((name for name in theirs if name in ours), None)


def _without_slower(
    ours: tuple[bytes, ...], quick: Container[bytes], into: Sequence[bytes], out: Sequence[bytes]
) -> tuple[bytes, ...]:
    """Our list without what the client would take before a quick one that it has."""
    shared = {name for name in ours if name in quick and name in into and name in out}
    if not shared:
        return ours
    before = {
        name
        for theirs in (into, out)
        for name in takewhile(lambda name: name not in shared, theirs)
    }
    return tuple(name for name in ours if name not in before)


def _suite(ciphers: Sequence[bytes], macs: Sequence[bytes], ours: Algorithms) -> Suite | None:
    cipher = _first(ciphers, ours.ciphers)
    if cipher is None:
        return None
    if cipher in GCM:
        return Suite(cipher, b"")  # OpenSSH's PROTOCOL, section 1.6: the MACs need not match
    mac = _first(macs, ours.macs)
    return None if mac is None else Suite(cipher, mac)


@frozen
class Algorithms:
    """The lists of one connection, each in the order in which they are offered."""

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers: tuple[bytes, ...] = (*GCM, *CTR_KEYS)
    macs: tuple[bytes, ...] = tuple(MACS)
    compressions: tuple[bytes, ...] = (b"none",)

    @classmethod
    def of(cls, host_key_formats: Iterable[bytes]) -> Algorithms:
        """What can be offered with host keys of these formats."""
        there = SSHServerTransport.supportedKeyExchanges
        formats = set(host_key_formats)
        return cls(
            key_exchanges=tuple(name for name in _KEY_EXCHANGES if name in there),
            host_keys=tuple(
                name for kind, names in _SIGNATURES.items() if kind in formats for name in names
            ),
        )

    @classmethod
    def chosen(
        cls,
        host_key_formats: Iterable[bytes],
        strict: bool = False,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> Algorithms:
        """What an administrator wants to have offered, with host keys of these formats.

        `names` are lists by option: `kex`, `ciphers`, `macs`, `host-key-algorithms`; an empty one
        changes nothing, and one that is given wins over `strict`.  Raises AlgorithmError.
        """
        there = cls.of(host_key_formats)
        lists = {
            "kex": there.key_exchanges,
            "host-key-algorithms": there.host_keys,
            "ciphers": there.ciphers,
            "macs": there.macs,
        }
        for option, supported in lists.items():
            if wanted := (names or {}).get(option):
                lists[option] = tuple(name.encode("ascii", "replace") for name in wanted)
                unknown = [name for name in lists[option] if name not in supported]
                if unknown:
                    raise AlgorithmError(
                        f"{option}: {_text(unknown[:1])[:80]} is not among what can be offered "
                        f"here: {_text(supported)}"
                    )
            elif strict:
                lists[option] = tuple(n for n in supported if n in _STRICT.get(option, supported))
                if not lists[option]:
                    raise AlgorithmError(
                        f"algorithms: strict needs one of {_text(_STRICT[option])}, and there is "
                        "none (ML-KEM comes with cryptography 48, the others with a host key)"
                    )
        return cls(lists["kex"], lists["host-key-algorithms"], lists["ciphers"], lists["macs"])

    def suited(self, offer: Offer) -> Algorithms:
        """The lists with which this client lands on the fastest that it has."""
        return evolve(
            self,
            ciphers=_without_slower(self.ciphers, GCM, offer.ciphers_in, offer.ciphers_out),
            macs=_without_slower(self.macs, QUICK_MACS, offer.macs_in, offer.macs_out),
        )

    def agree(self, offer: Offer) -> Agreement | None:
        """What both sides have, by the client's order; None if a part has no match."""
        key_exchange = _first(offer.key_exchanges, self.key_exchanges)
        host_key = _first(offer.host_keys, self.host_keys)
        into = _suite(offer.ciphers_in, offer.macs_in, self)
        out = _suite(offer.ciphers_out, offer.macs_out, self)
        compressions = (offer.compressions_in, offer.compressions_out)
        if (
            key_exchange is None
            or host_key is None
            or into is None
            or out is None
            or not all(_first(names, self.compressions) for names in compressions)
        ):
            return None
        right = (
            offer.key_exchanges[0] == self.key_exchanges[0]
            and offer.host_keys[0] == self.host_keys[0]
        )
        return Agreement(key_exchange, host_key, into, out, offer.guesses and not right)
