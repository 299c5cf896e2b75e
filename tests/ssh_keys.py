"""Private keys as users have them, and what they sign; a security key that is none."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from typing import Any

from attrs import frozen
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from immich_conch.ssh.wire import string

SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
SK_ECDSA = b"sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES: dict[bytes, Any] = {
    b"ecdsa-sha2-nistp256": ec.SECP256R1,
    b"ecdsa-sha2-nistp384": ec.SECP384R1,
    b"ecdsa-sha2-nistp521": ec.SECP521R1,
    SK_ECDSA: ec.SECP256R1,
}
_HASHES: dict[bytes, Any] = {
    b"ecdsa-sha2-nistp256": hashes.SHA256,
    b"ecdsa-sha2-nistp384": hashes.SHA384,
    b"ecdsa-sha2-nistp521": hashes.SHA512,
    SK_ECDSA: hashes.SHA256,
    b"ssh-rsa": hashes.SHA1,
    b"rsa-sha2-256": hashes.SHA256,
    b"rsa-sha2-512": hashes.SHA512,
}


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


@frozen(eq=False)
class Signer:
    """A key with its private half; `algorithm` is what it signs with."""

    algorithm: bytes
    private: Any
    application: bytes | None = None

    @property
    def blob(self) -> bytes:
        """The public key's bytes on the wire."""
        public = self.private.public_key()
        if self.application is None:
            line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            return from_line(line.decode())
        if self.algorithm == SK_ED25519:
            point = string(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        else:
            x962 = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            point = string(b"nistp256") + string(x962)
        return string(self.algorithm) + point + string(self.application)

    @property
    def line(self) -> str:
        """As in a file of public keys."""
        blob = self.blob
        name = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
        return f"{name.decode()} {b64encode(blob).decode()} somebody@somewhere"

    def sign(self, data: bytes, flags: int = 0x01, algorithm: bytes = b"") -> bytes:
        """The signature as it goes on the wire."""
        name = algorithm or self.algorithm
        rest = b""
        if self.application is not None:
            rest = bytes((flags,)) + bytes((0, 0, 0, 7))
            data = hashlib.sha256(self.application).digest() + rest + hashlib.sha256(data).digest()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            signed = self.private.sign(data)
        elif isinstance(self.private, rsa.RSAPrivateKey):
            signed = self.private.sign(data, padding.PKCS1v15(), _HASHES[name]())
        else:
            pair = decode_dss_signature(self.private.sign(data, ec.ECDSA(_HASHES[name]())))
            signed = b"".join(map(mpint, pair))
        return string(name) + string(signed) + rest


def from_line(line: str) -> bytes:
    from base64 import b64decode

    return b64decode(line.split()[1])


@cache
def _rsa(bits: int, which: int) -> Any:
    """RSA keys take long to make: one of each is enough."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def signer(algorithm: bytes = b"ssh-ed25519", bits: int = 2048, which: int = 0) -> Signer:
    """A new key, but for RSA."""
    if algorithm in _CURVES:
        private: Any = ec.generate_private_key(_CURVES[algorithm]())
    elif algorithm.endswith(b"ssh-ed25519") or algorithm == SK_ED25519:
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = _rsa(bits, which)
    return Signer(algorithm, private, b"ssh:" if algorithm.startswith(b"sk-") else None)


ALL = (
    b"ssh-ed25519",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"rsa-sha2-256",
    b"rsa-sha2-512",
    SK_ED25519,
    SK_ECDSA,
)


def certificate(
    key: Signer,
    authority: Signer,
    *,
    principals: tuple[bytes, ...] = (b"alice@example.com",),
    after: int = 0,
    before: int = 2**64 - 1,
    options: dict[bytes, bytes] | None = None,
    serial: int = 17,
    host: bool = False,
    change: Callable[[Any], Any] = lambda builder: builder,
) -> bytes:
    """The bytes of a certificate by cryptography, which knows PROTOCOL.certkeys."""
    builder = (
        SSHCertificateBuilder()
        .public_key(key.private.public_key())
        .serial(serial)
        .type(SSHCertificateType.HOST if host else SSHCertificateType.USER)
        .key_id(b"alice's laptop")
        .valid_after(after)
        .valid_before(before)
    )
    builder = (
        builder.valid_principals(list(principals))
        if principals
        else (builder.valid_for_all_principals())
    )
    for name, value in (options or {}).items():
        builder = builder.add_critical_option(name, value)
    made = change(builder).sign(authority.private)
    return from_line(made.public_bytes().decode())
