"""Public keys of users and what they sign: RFC 4252, section 7; RFC 8332; OpenSSH's PROTOCOL.u2f.

A key is told by its bytes on the wire, so that what a stranger sends is compared and not parsed;
only the keys of an administrator's file become numbers.  SHA-1 (`ssh-rsa` as a signature) and DSS
are not taken.  Who may use which key is for the portal to say.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from zope.interface import Attribute, implementer

from immich_conch.ssh.wire import PacketError, Reader, string

RSA_BITS = (2048, 16384)
"""The least (NIST SP 800-57) and the most (OpenSSH's limit) that an RSA key may have."""

_CURVES: Mapping[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    b"nistp256": (ec.SECP256R1(), hashes.SHA256()),
    b"nistp384": (ec.SECP384R1(), hashes.SHA384()),
    b"nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_RSA_HASHES = {b"rsa-sha2-512": hashes.SHA512(), b"rsa-sha2-256": hashes.SHA256()}
_SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
_SK_ECDSA = b"sk-ecdsa-sha2-nistp256@openssh.com"
_CERTIFIED = b"-cert-v01@openssh.com"
_PRESENT, _VERIFIED = 0x01, 0x04
"""Flags of a security key: somebody touched it; it knew who (PROTOCOL.u2f)."""

SIGNATURES: tuple[bytes, ...] = (
    b"ssh-ed25519",
    _SK_ED25519,
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    _SK_ECDSA,
    *_RSA_HASHES,
)
"""What clients may sign with: the `server-sig-algs` of RFC 8308, which names no certificates."""


@frozen
class Algorithm:
    """A name that a client may give for its key, and what belongs to it."""

    name: bytes
    #: What the key's bytes begin with: `ssh-rsa` for all of RSA.
    format: bytes
    #: The name inside the signature.
    signature: bytes
    certified: bool = False


def _algorithms() -> dict[bytes, Algorithm]:
    found = {}
    for name in SIGNATURES:
        plain = b"ssh-rsa" if name in _RSA_HASHES else name
        found[name] = Algorithm(name, plain, name)
        if not name.startswith(b"sk-"):
            certified = Algorithm(name + _CERTIFIED, plain + _CERTIFIED, name, certified=True)
            found[certified.name] = certified
    return found


ALGORITHMS: Mapping[bytes, Algorithm] = _algorithms()


class BadKey(Exception):
    """These bytes are no public key that is taken here; the text says why."""


@frozen
class PublicKey:
    """One key.  Two are the same if their bytes are."""

    blob: bytes = field(repr=False)
    format: bytes
    _key: Any = field(repr=False, eq=False)
    #: What a security key binds its signatures to, or None for other keys.
    _application: bytes | None = field(repr=False, eq=False, default=None)

    @classmethod
    def parse(cls, blob: bytes) -> PublicKey:
        """A key from its bytes on the wire; raises BadKey."""
        try:
            return cls._parse(blob)
        except (PacketError, ValueError, UnsupportedAlgorithm):
            # ValueError is what cryptography says of numbers that cannot be.
            raise BadKey("is no whole public key") from None

    @classmethod
    def _parse(cls, blob: bytes) -> PublicKey:
        fields = Reader(blob)
        name = fields.string()
        key: Any
        application = None
        if name in (b"ssh-ed25519", _SK_ED25519):
            key = ed25519.Ed25519PublicKey.from_public_bytes(fields.string())
        elif name == b"ssh-rsa":
            exponent, modulus = (int.from_bytes(fields.string(), "big") for _ in range(2))
            least, most = RSA_BITS
            if not least <= modulus.bit_length() <= most:
                raise BadKey(f"is an RSA key of {modulus.bit_length()} bits; {least} are needed")
            key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        elif name.startswith(b"ecdsa-sha2-") or name == _SK_ECDSA:
            curve = fields.string()
            if curve not in _CURVES or name not in (b"ecdsa-sha2-" + curve, _SK_ECDSA):
                raise BadKey("is on a curve that is not taken")
            key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve][0], fields.string())
        else:
            raise BadKey(f"is of the kind {name[:60].decode('latin-1')!a}, not taken here")
        if name.startswith(b"sk-"):
            application = fields.string()
        if fields.rest():
            raise BadKey("has something behind its end")
        return cls(blob, name, key, application)

    @classmethod
    def of(cls, key: Any) -> PublicKey:
        """A key of cryptography's; raises BadKey."""
        line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return cls.parse(b64decode(line.split()[1]))

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it: `SHA256:…`."""
        return fingerprint(self.blob)

    def verify(
        self, algorithm: Algorithm, signature: bytes, data: bytes, *, user_verified: bool = False
    ) -> bool:
        """Whether this key signed the data; `user_verified` asks a security key for a PIN."""
        try:
            return self._verify(algorithm.signature, Reader(signature), data, user_verified)
        except (InvalidSignature, PacketError):
            return False

    def _verify(self, name: bytes, fields: Reader, data: bytes, user_verified: bool) -> bool:
        if fields.string() != name:
            return False
        signed, rest = fields.string(), fields.rest()
        if self._application is not None:
            flags = rest[0] if len(rest) == 5 else 0  # and a counter of four bytes
            wanted = _PRESENT | (_VERIFIED if user_verified else 0)
            if flags & wanted != wanted:
                return False
            parts = hashlib.sha256(self._application).digest(), rest, hashlib.sha256(data).digest()
            data = b"".join(parts)
        elif rest or user_verified:
            return False
        if isinstance(self._key, ed25519.Ed25519PublicKey):
            self._key.verify(signed, data)
        elif isinstance(self._key, rsa.RSAPublicKey):
            # Some clients leave zeros in front out, as OpenSSH's own comment has it.
            signed = signed.rjust((self._key.key_size + 7) // 8, b"\0")
            self._key.verify(signed, data, padding.PKCS1v15(), _RSA_HASHES[name])
        else:
            pair = Reader(signed)
            r, s = (int.from_bytes(pair.string(), "big") for _ in range(2))
            if pair.rest():
                return False
            curve = b"nistp256" if name == _SK_ECDSA else name.rpartition(b"-")[2]
            self._key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_CURVES[curve][1]))
        return True


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a key's or certificate's bytes: `SHA256:…`."""
    return "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


class Acceptable(UnauthorizedLogin):
    """What a checker raises when a key that nothing was signed with yet would be good enough."""


class IPublicKeyLogin(ICredentials):
    """An attempt to log in with a public key; the portal's checker says what becomes of it."""

    username = Attribute("The login name as bytes.")
    algorithm = Attribute("The `Algorithm`.")
    blob = Attribute("The key or certificate as bytes.")
    address = Attribute("The client's address as text, without the port.")
    asks = Attribute(
        "Whether the client only asks if the key would do: raise Acceptable or refuse."
    )

    def proven_by(key: PublicKey, *, user_verified: bool = False) -> bool:
        """Whether the client has signed with this key, which must be the one in `blob`."""


@implementer(IPublicKeyLogin)
@frozen(eq=False)
class KeyAttempt:
    """One request of the method `publickey`."""

    username: bytes
    algorithm: Algorithm
    blob: bytes = field(repr=False)
    address: str
    _signature: bytes | None = field(repr=False)
    _signed: bytes = field(repr=False)

    @classmethod
    def read(
        cls, data: bytes, username: bytes, service: bytes, session_id: bytes, address: str
    ) -> KeyAttempt | None:
        """From what follows the method's name; None for a key of no use here, or PacketError."""
        fields = Reader(data)
        signs, name, blob = fields.boolean(), fields.string(), fields.string()
        signature = fields.string() if signs else None
        algorithm = ALGORITHMS.get(name)
        if algorithm is None or not blob.startswith(string(algorithm.format)):
            return None
        request = b"".join(map(string, (username, service, b"publickey")))
        signed = string(session_id) + b"\x32" + request + b"\x01" + string(name) + string(blob)
        return cls(username, algorithm, blob, address, signature, signed)

    @property
    def asks(self) -> bool:
        """Whether nothing was signed yet."""
        return self._signature is None

    def proven_by(self, key: PublicKey, *, user_verified: bool = False) -> bool:
        """Whether the client has signed this very request with the key."""
        if self._signature is None:
            return False
        return key.verify(
            self.algorithm, self._signature, self._signed, user_verified=user_verified
        )
