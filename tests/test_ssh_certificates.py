"""Certificates of an authority for users."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from ssh_keys import SK_ED25519, Signer, certificate, signer

from immich_conch.ssh.certificates import BadCertificate, Certificate, UnknownAuthority
from immich_conch.ssh.networks import within
from immich_conch.ssh.wire import string

AUTHORITY = signer()
KEY = signer()
BLOB = certificate(KEY, AUTHORITY)
NOW = 1_700_000_000.0


def read(blob: bytes) -> Certificate:
    return Certificate.read(blob, {AUTHORITY.blob})


@pytest.mark.parametrize("by", [b"ssh-ed25519", b"ecdsa-sha2-nistp384", b"rsa-sha2-512"])
@pytest.mark.parametrize("kind", [b"ssh-ed25519", b"ecdsa-sha2-nistp521", b"rsa-sha2-512"])
def test_each_kind_is_read(kind: bytes, by: bytes) -> None:
    key, authority = signer(kind), signer(by, which=1)
    found = Certificate.read(certificate(key, authority), {authority.blob})
    assert found.key.blob == key.blob and found.authority == authority.blob
    assert found.serial == 17 and found.key_id == "alice's laptop"
    assert found.principals == {"alice@example.com"}
    assert found.networks is None
    found.check_time(NOW)


def test_one_by_somebody_else_is_refused() -> None:
    with pytest.raises(UnknownAuthority):
        Certificate.read(BLOB, {signer().blob})
    with pytest.raises(UnknownAuthority):
        Certificate.read(BLOB, ())


def test_one_with_the_name_of_our_authority_and_the_signature_of_another_is_refused() -> None:
    theirs = signer()
    forged = certificate(KEY, theirs).replace(theirs.blob, AUTHORITY.blob)
    with pytest.raises(BadCertificate, match="did not sign"):
        read(forged)


def test_it_is_valid_from_its_first_second_to_before_its_last() -> None:
    found = read(certificate(KEY, AUTHORITY, after=1000, before=2000))
    for now in (1000, 1999.9):
        found.check_time(now)
    with pytest.raises(BadCertificate, match="not valid yet"):
        found.check_time(999.9)
    with pytest.raises(BadCertificate, match="expired"):
        found.check_time(2000)


def test_a_hosts_certificate_is_no_users() -> None:
    with pytest.raises(BadCertificate, match="not a user's"):
        read(certificate(KEY, AUTHORITY, host=True))


@pytest.mark.parametrize("name", [b"force-command", b"verify-required", b"x@example.com"])
def test_a_critical_option_that_is_not_known_is_refused(name: bytes) -> None:
    blob = certificate(KEY, AUTHORITY, options={name: b"internal-sftp"})
    with pytest.raises(BadCertificate, match=name.decode()):
        read(blob)


def test_it_may_be_for_some_addresses_only() -> None:
    found = read(
        certificate(KEY, AUTHORITY, options={b"source-address": b"192.0.2.0/24,2001:db8::1"})
    )
    assert found.networks is not None
    for address, inside in (
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("192.0.3.1", False),
        ("2001:db8::2", False),
        ("", False),
        ("/run/socket", False),
    ):
        assert within(address, found.networks) is inside, address
    for wrong in (b"", b"192.0.2.1/24", b"*.example.com", b"!192.0.2.1", b"\xff"):
        with pytest.raises(BadCertificate, match="malformed"):
            read(certificate(KEY, AUTHORITY, options={b"source-address": wrong}))


def test_an_authority_does_not_sign_with_sha_1() -> None:
    """cryptography takes it; the name alone is enough to be refused."""
    authority = signer(b"rsa-sha2-512")
    blob = certificate(KEY, authority)
    assert blob.count(string(b"rsa-sha2-512")) == 1
    head, tail = blob.split(string(b"rsa-sha2-512"))
    old = head[:-4] + (len(tail) + 11).to_bytes(4, "big") + string(b"ssh-rsa") + tail
    with pytest.raises(BadCertificate, match="of a kind that is not taken"):
        Certificate.read(old, {authority.blob})


def test_a_key_too_short_does_not_get_better_by_a_certificate() -> None:
    short = signer(b"rsa-sha2-512", bits=1024)
    with pytest.raises(BadCertificate, match="malformed"):
        read(certificate(short, AUTHORITY))


def test_a_security_key_is_no_authority() -> None:
    authority = signer(SK_ED25519)
    blob = certificate(KEY, AUTHORITY).replace(string(AUTHORITY.blob), string(authority.blob))
    with pytest.raises(BadCertificate):
        Certificate.read(blob, {authority.blob})


@given(at=st.integers(0, len(BLOB) - 1), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_certificate_with_one_bit_changed_or_its_end_missing_is_refused(
    at: int, bit: int, cut: bool
) -> None:
    blob = bytearray(BLOB)
    if cut:
        del blob[at:]
    else:
        blob[at] ^= 1 << bit
    with pytest.raises(BadCertificate):
        read(bytes(blob))


@given(
    kind=st.sampled_from([b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"x"]),
    parts=st.lists(st.one_of(st.binary(max_size=40), st.just(AUTHORITY.blob)), max_size=12),
    tail=st.binary(max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_nonsense_is_refused(kind: bytes, parts: list[bytes], tail: bytes) -> None:
    with pytest.raises(BadCertificate):
        read(string(kind + b"-cert-v01@openssh.com") + b"".join(map(string, parts)) + tail)


@frozen
class _Private:
    """As much of a private key as a certificate is made from."""

    public: Any

    def public_key(self) -> Any:
        return self.public


def _resigned(fields: dict[str, Any]) -> bytes:
    """A certificate with anything in it, rightly signed."""
    body = (
        string(b"ssh-ed25519-cert-v01@openssh.com")
        + string(bytes(32))
        + string(fields.get("key", KEY.blob[-32:]))
        + fields.get("serial", bytes(8))
        + fields.get("type", (1).to_bytes(4, "big"))
        + string(b"id")
        + string(fields.get("principals", string(b"alice@example.com")))
        + bytes(8)
        + b"\xff" * 8
        + string(fields.get("critical", b""))
        + string(fields.get("extensions", b""))
        + string(fields.get("reserved", b""))
        + string(AUTHORITY.blob)
    )
    return body + string(AUTHORITY.sign(body))


def test_a_compressed_point_is_refused() -> None:
    key = signer(b"ecdsa-sha2-nistp256").private.public_key()
    points = [
        key.public_bytes(Encoding.X962, form)
        for form in (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
    ]
    blob = certificate(Signer(b"ecdsa-sha2-nistp256", _Private(key)), AUTHORITY)
    with pytest.raises(BadCertificate, match="malformed"):
        read(blob.replace(*map(string, points)))


def test_our_own_way_to_make_one_is_right() -> None:
    assert read(_resigned({})).key.blob == KEY.blob


@given(
    name=st.sampled_from(["key", "principals", "critical", "extensions", "reserved"]),
    value=st.binary(max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_an_authority_that_signs_nonsense_is_refused_or_read(name: str, value: bytes) -> None:
    try:
        read(_resigned({name: value}))
    except BadCertificate:
        pass
    else:
        assert name in ("extensions", "reserved", "key", "principals") or not value


def test_a_type_that_there_is_not_is_refused() -> None:
    for kind in (0, 2, 3, 2**32 - 1):
        with pytest.raises(BadCertificate):
            read(_resigned({"type": kind.to_bytes(4, "big")}))


def test_it_may_have_any_serial_and_several_principals() -> None:
    found = read(certificate(KEY, AUTHORITY, principals=(b"ann", b"bob"), serial=2**64 - 1))
    assert found.principals == {"ann", "bob"} and found.serial == 2**64 - 1
