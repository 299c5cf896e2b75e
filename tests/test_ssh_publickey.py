"""Users' public keys: what is one, and what was signed with it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ssh_keys import ALL, SK_ECDSA, SK_ED25519, mpint, signer

from immich_conch.ssh.publickey import ALGORITHMS, SIGNATURES, BadKey, PublicKey
from immich_conch.ssh.wire import string

DATA = b"what is signed"
KEYS = {name: signer(name) for name in ALL}


def test_each_kind_of_key_is_tried_here() -> None:
    assert set(SIGNATURES) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_what_the_tests_sign_is_a_signature_to_asyncssh_too(name: bytes) -> None:
    """Nobody touches a security key in these tests; another implementation has to do."""
    key = asyncssh.import_public_key(KEYS[name].line)
    assert key.verify(DATA, KEYS[name].sign(DATA))
    assert not key.verify(DATA + b".", KEYS[name].sign(DATA))
    assert key.get_fingerprint() == PublicKey.parse(KEYS[name].blob).fingerprint


@pytest.mark.parametrize("name", ALL)
def test_a_signature_holds_for_its_key_and_its_data_alone(name: bytes) -> None:
    key = PublicKey.parse(KEYS[name].blob)
    algorithm = ALGORITHMS[name]
    signature = KEYS[name].sign(DATA)
    assert key.verify(algorithm, signature, DATA)
    assert not key.verify(algorithm, signature, DATA + b".")
    assert not PublicKey.parse(signer(name, which=1).blob).verify(algorithm, signature, DATA)
    for other in ALL:
        if other != name:
            assert not key.verify(ALGORITHMS[other], signature, DATA)


@given(name=st.sampled_from(ALL), at=st.integers(0), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_signature_with_one_bit_changed_or_its_end_missing_is_none(
    name: bytes, at: int, bit: int, cut: bool
) -> None:
    signature = bytearray(KEYS[name].sign(DATA))
    at %= len(signature)
    if cut:
        del signature[at:]
    else:
        signature[at] ^= 1 << bit
    assert not PublicKey.parse(KEYS[name].blob).verify(ALGORITHMS[name], bytes(signature), DATA)


@given(name=st.sampled_from(ALL), signature=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_nonsense_is_no_signature(name: bytes, signature: bytes) -> None:
    key = PublicKey.parse(KEYS[name].blob)
    assert not key.verify(ALGORITHMS[name], signature, DATA)
    assert not key.verify(ALGORITHMS[name], string(name) + string(signature), DATA)


def test_a_signature_with_sha_1_is_none() -> None:
    key = PublicKey.parse(KEYS[b"rsa-sha2-256"].blob)
    signature = KEYS[b"rsa-sha2-256"].sign(DATA, algorithm=b"ssh-rsa")
    assert b"ssh-rsa" not in ALGORITHMS
    for name in (b"rsa-sha2-256", b"rsa-sha2-512"):
        assert not key.verify(ALGORITHMS[name], signature, DATA)
        # Under a better name it is not better.
        forged = string(name) + signature[4 + len(b"ssh-rsa") :]
        assert not key.verify(ALGORITHMS[name], forged, DATA)


@pytest.mark.parametrize("name", [SK_ED25519, SK_ECDSA])
def test_a_security_key_must_have_been_touched(name: bytes) -> None:
    key = PublicKey.parse(KEYS[name].blob)
    for flags, touched, verified in ((0, False, False), (1, True, False), (5, True, True)):
        signature = KEYS[name].sign(DATA, flags)
        assert key.verify(ALGORITHMS[name], signature, DATA) is touched
        assert key.verify(ALGORITHMS[name], signature, DATA, user_verified=True) is verified
    assert not key.verify(ALGORITHMS[name], KEYS[name].sign(DATA, flags=4), DATA)


def test_a_key_without_a_pin_proves_no_pin() -> None:
    key = PublicKey.parse(KEYS[b"ssh-ed25519"].blob)
    signature = KEYS[b"ssh-ed25519"].sign(DATA)
    assert not key.verify(ALGORITHMS[b"ssh-ed25519"], signature, DATA, user_verified=True)


def test_a_fingerprint_is_what_ssh_keygen_shows() -> None:
    # From `ssh-keygen -lf` for this line.
    blob = string(b"ssh-ed25519") + string(bytes(range(32)))
    key = PublicKey.parse(blob)
    assert key.fingerprint == "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
    assert b64encode(blob).decode() not in repr(key)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "no whole public key"),
        (string(b"ssh-ed25519"), "no whole public key"),
        (string(b"ssh-ed25519") + string(b"short"), "no whole public key"),
        (string(b"ssh-ed25519") + string(bytes(32)) + b"x", "behind its end"),
        (string(b"ssh-dss") + mpint(7), "'ssh-dss'"),
        (string(b"ssh-rsa") + mpint(65537) + mpint(2**1023 + 1), "1024 bits"),
        (string(b"ssh-rsa") + mpint(65537) + mpint(2**20000 + 1), "20001 bits"),
        (string(b"ssh-rsa") + mpint(2) + mpint(2**2047 + 1), "no whole public key"),
        (string(b"ecdsa-sha2-nistp256") + string(b"nistp384") + string(b""), "a curve"),
        (string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(bytes(65)), "no whole"),
        (string(b"\xff\n\x1b") + string(b""), "of the kind"),
    ],
)
def test_what_is_no_key_is_refused(blob: bytes, reason: str) -> None:
    with pytest.raises(BadKey, match=reason) as caught:
        PublicKey.parse(blob)
    assert str(caught.value).isprintable()


@given(st.sampled_from(ALL), st.binary(max_size=100), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_key_or_are_refused(name: bytes, rest: bytes, named: bool) -> None:
    plain = b"ssh-rsa" if name.startswith(b"rsa") else name
    blob: Any = (string(plain) if named else b"") + rest
    try:
        key = PublicKey.parse(blob)
    except BadKey:
        return
    assert key.blob == blob
