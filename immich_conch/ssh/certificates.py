"""OpenSSH's user certificates: who signed one, for whom, and for how long (PROTOCOL.certkeys).

cryptography reads them and checks the authority's signature; what it leaves to its caller is here:
the kind, the validity, the options, and that no authority signs with SHA-1.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from immich_conch.ssh.networks import Network, parse_networks
from immich_conch.ssh.publickey import SIGNATURES, BadKey, PublicKey
from immich_conch.ssh.wire import PacketError, Reader

_KEY_FIELDS = {b"ssh-ed25519": 1, b"ecdsa": 2, b"ssh-rsa": 2}
"""How many strings a key of each kind has behind its name (PROTOCOL.certkeys)."""

_MALFORMED = (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm)
"""What cryptography says of bytes that are no certificate; the third is for compressed points."""

FOR_EVER = 2**64 - 1


class BadCertificate(Exception):
    """A certificate that is not taken; the text says why, and holds nothing secret."""


class UnknownAuthority(BadCertificate):
    """It is for somebody else's servers, as far as we can tell."""


@frozen
class Certificate:
    """A certificate whose authority's signature is right.  Times are POSIX seconds."""

    key: PublicKey
    authority: bytes = field(repr=False)
    serial: int
    key_id: str
    principals: frozenset[str]
    valid_after: int
    valid_before: int
    #: Where it may be used from; None for anywhere.
    networks: tuple[Network, ...] | None

    @classmethod
    def read(cls, blob: bytes, authorities: Collection[bytes]) -> Certificate:
        """Read one that an authority, given by its key's bytes, has signed.

        Raises BadCertificate; of one by somebody else hardly more is read than by whom it is.
        """
        try:
            authority, signed_by = _authority(blob)
            if authority not in authorities:
                raise UnknownAuthority("its authority is not known")
            if signed_by not in SIGNATURES:
                raise BadCertificate("its authority's signature is of a kind that is not taken")
            found = load_ssh_public_identity(_line(blob))
            if not isinstance(found, SSHCertificate):
                raise BadCertificate("it is no certificate")
            found.verify_cert_signature()
            return cls._checked(found, authority)
        except InvalidSignature:
            raise BadCertificate("its authority did not sign it") from None
        except (PacketError, BadKey, *_MALFORMED):
            raise BadCertificate("it is malformed") from None

    @classmethod
    def _checked(cls, found: SSHCertificate, authority: bytes) -> Certificate:
        if found.type != SSHCertificateType.USER:
            raise BadCertificate("it is not a user's")
        options = dict(found.critical_options)
        addresses = options.pop(b"source-address", None)
        if options:
            # Whoever does not know a critical option has to refuse (PROTOCOL.certkeys).
            name = ascii(next(iter(options)).decode("utf-8", "replace"))[1:-1]
            raise BadCertificate(f"its critical option {name[:60]} is not known here")
        return cls(
            key=PublicKey.of(found.public_key()),
            authority=authority,
            serial=found.serial,
            key_id=found.key_id.decode("utf-8", "replace"),
            principals=frozenset(name.decode() for name in found.valid_principals),
            valid_after=found.valid_after,
            valid_before=found.valid_before,
            networks=None if addresses is None else parse_networks(addresses.decode("ascii")),
        )

    def check_time(self, now: float) -> None:
        """Raises BadCertificate unless it is valid at this time (POSIX seconds)."""
        if now < self.valid_after:
            raise BadCertificate("it is not valid yet")
        if self.valid_before != FOR_EVER and now >= self.valid_before:
            raise BadCertificate("it has expired")


def _line(blob: bytes) -> bytes:
    return Reader(blob).string() + b" " + b64encode(blob)


def _authority(blob: bytes) -> tuple[bytes, bytes]:
    """The authority's key, and the kind of its signature; raises PacketError.

    cryptography tells neither: of the key the numbers only, and it takes SHA-1.
    """
    fields = Reader(blob)
    kind = fields.string()
    nonce = 1
    keys = next((count for name, count in _KEY_FIELDS.items() if kind.startswith(name)), 0)
    for _ in range(nonce + keys):
        fields.string()
    fields.skip(8 + 4)  # serial, type
    fields.string(), fields.string()  # key id, principals
    fields.skip(8 + 8)  # validity
    for _ in range(3):  # critical options, extensions, reserved
        fields.string()
    authority, signature = fields.string(), fields.string()
    return authority, Reader(signature).string()
