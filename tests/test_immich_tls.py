"""Immich behind TLS: the certificate is checked, always, and a private authority can be named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from immich_fakes import Script, until, version
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.ssl import PrivateCertificate
from twisted.web.server import Site

from immich_conch.errors import Unreachable
from immich_conch.immich.client import connect
from immich_conch.immich.model import User
from immich_conch.immich.requests import Credential
from immich_conch.immich.session import Session


def certificate(path: Path, name: str) -> PrivateCertificate:
    """A self-signed certificate, in `path` as PEM, and with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    names = [x509.IPAddress(ip_address(name))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(b"# our authority\n" + pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return PrivateCertificate.loadPEM(pem + secret)


@frozen
class Served:
    url: str
    ca_file: Path
    script: Script


async def served(path: Path, name: str) -> AsyncIterator[Served]:
    script = Script()
    script.answers.update(version(3))
    options = certificate(path, name).options()
    port = reactor.listenSSL(0, Site(script), options, interface="127.0.0.1")  # type: ignore[attr-defined]
    yield Served(f"https://127.0.0.1:{port.getHost().port}", path, script)
    await maybeDeferred(port.stopListening)


@pytest_twisted.async_yield_fixture
async def tls(tmp_path: Path) -> AsyncIterator[Served]:
    async for one in served(tmp_path / "ca.pem", "127.0.0.1"):
        yield one


@pytest_twisted.async_yield_fixture
async def misnamed(tmp_path: Path) -> AsyncIterator[Served]:
    async for one in served(tmp_path / "ca.pem", "127.0.0.2"):
        yield one


@pytest_twisted.ensureDeferred
async def test_a_private_authority_that_was_named_is_trusted(tls: Served) -> None:
    server = connect(reactor, tls.url, tls.ca_file)
    assert (await server.version()).major == 3
    await server.http.agent._pool.closeCachedConnections()  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_an_authority_nobody_named_is_not(tls: Served) -> None:
    with pytest.raises(Unreachable) as caught:
        await connect(reactor, tls.url).version()
    assert "certificate" in caught.value.text
    assert tls.script.seen == []


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_another_host_is_not_accepted(misnamed: Served) -> None:
    with pytest.raises(Unreachable) as caught:
        await connect(reactor, misnamed.url, misnamed.ca_file).version()
    assert "certificate" in caught.value.text
    assert misnamed.script.seen == []


@pytest_twisted.ensureDeferred
async def test_a_download_given_up_closes_a_connection_at_once(tls: Served) -> None:
    tls.script.answers["GET /assets/s-1/original"] = (200, bytes(50_000_000))
    server = connect(reactor, tls.url, tls.ca_file)
    session = Session(server, User("u-1", "ann@example.com", "Ann"), Credential("tok", False))
    download = await session.download("s-1")
    pieces: list[bytes] = []
    ends: list[Any] = []
    download.deliver(pieces.append, ends.append)
    await until(lambda: pieces)
    download.abort()
    so_far = len(pieces)
    for _ in range(50):
        await server.version()
    assert (len(pieces), ends) == (so_far, [])
    await server.http.agent._pool.closeCachedConnections()  # type: ignore[attr-defined]
