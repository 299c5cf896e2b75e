"""The server's host keys: made on first start, kept, never changed by us.

A changed host key makes every client stop with an alarm, so a key file that is there and cannot
be used is an error and never a reason to make a new one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, FingerprintFormats, Key
from twisted.logger import Logger

_log = Logger()

RSA_BITS = 3072
"""What ssh-keygen makes; equal in strength to the other two keys (NIST SP 800-57)."""

_KINDS: Mapping[bytes, tuple[str, Callable[[], object]]] = {
    b"ssh-ed25519": ("ssh_host_ed25519_key", ed25519.Ed25519PrivateKey.generate),
    b"ecdsa-sha2-nistp256": (
        "ssh_host_ecdsa_key",
        lambda: ec.generate_private_key(ec.SECP256R1()),
    ),
    b"ssh-rsa": (
        "ssh_host_rsa_key",
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS),
    ),
}
"""Key format -> file name (OpenSSH's own) and how one is made."""


class HostKeyError(Exception):
    """Host keys cannot be had; the text is one line that names the place and the reason."""


def load_host_keys(directory: str | Path) -> dict[bytes, Key]:
    """The private host keys by key format (`ssh-ed25519` …), made where they are missing.

    The directory is made if it is not there.  Raises HostKeyError.
    """
    place = Path(directory)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostKeyError(f"host keys: cannot make {place}: {error.strerror}") from error
    return {kind: _load_or_make(place / name, kind, make) for kind, (name, make) in _KINDS.items()}


def fingerprints(keys: Mapping[bytes, Key]) -> list[str]:
    """A line for each key as `ssh-keygen -l` shows it: `ssh-ed25519 SHA256:…`."""
    return [
        f"{kind.decode('ascii')} SHA256:"
        + key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip("=")
        for kind, key in keys.items()
    ]


def _load_or_make(path: Path, kind: bytes, make: Callable[[], object]) -> Key:
    try:
        text = _read(path)
    except FileNotFoundError:
        return _make(path, make)
    except OSError as error:
        raise HostKeyError(f"host keys: cannot read {path}: {error.strerror}") from error
    try:
        key: Key = Key.fromString(text)
        usable = not key.isPublic() and key.sshType() == kind
    except (BadKeyError, EncryptedKeyError, ValueError) as error:
        # ValueError covers cryptography's own complaints about the numbers in a key.
        raise HostKeyError(f"host keys: {path} holds no usable private key") from error
    if not usable:
        raise HostKeyError(f"host keys: {path} holds no {kind.decode('ascii')} private key")
    return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            _log.warn(
                "Host key {path} could be read by others (mode {mode}); it is 0600 now.",
                path=str(path),
                mode=f"{mode:04o}",
            )
            os.fchmod(file.fileno(), 0o600)
        return file.read()


def _make(path: Path, make: Callable[[], object]) -> Key:
    """Make a key and put it in place whole: a crash leaves the file complete or absent."""
    key = Key(make())
    text: bytes = key.toString("OPENSSH", subtype="v1")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise HostKeyError(f"host keys: cannot write {path}: {error.strerror}") from error
    _log.info("Made host key {path}.", path=str(path))
    return key


def _sync_directory(directory: Path) -> None:
    """Make the new name durable, not only the bytes behind it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
