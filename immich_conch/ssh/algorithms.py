"""Which algorithms this server offers, in order of preference.

Conch's own lists hold 3DES, CBC, MD5, SHA-1 and DSS.  A list here is a frozen value that the
factory puts on each transport it builds; Conch's classes, which other servers in the process may
use, are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen
from twisted.conch.ssh.transport import SSHServerTransport

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


@frozen
class Algorithms:
    """The lists of one connection, each in the order in which they are offered."""

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers: tuple[bytes, ...] = (b"aes128-ctr", b"aes192-ctr", b"aes256-ctr")
    macs: tuple[bytes, ...] = (b"hmac-sha2-256", b"hmac-sha2-512")
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
