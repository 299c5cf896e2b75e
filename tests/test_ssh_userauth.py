"""Keys and prompts on the wire: what the log-in service answers to whom, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field
from ssh_keys import ALL, Signer, certificate, signer
from ssh_server import PASSWORD, World, host_keys
from test_ssh_transport import Link, lines, ns
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer

from immich_conch.authorized import KeyRefused, KeyUser, Users
from immich_conch.ssh.authorized_keys import AuthorizedKey
from immich_conch.ssh.publickey import Acceptable, IPublicKeyLogin
from immich_conch.ssh.transport import FAILURE_DELAY
from immich_conch.ssh.userauth import MAX_ACCEPTABLE, NotCounted

__all__ = ["host_keys", "lines"]

OWN = {name: signer(name) for name in ALL}
OTHER = signer()
AUTHORITY = signer()
PROMPT_ME = ns(b"ann") + ns(b"ssh-connection") + ns(b"keyboard-interactive") + ns(b"") * 2


def _users() -> Users:
    lines = [key.line for key in OWN.values()]
    keys = tuple(AuthorizedKey.parse(line) for line in lines)
    ann = KeyUser("ann@example.com", "secret", frozenset(("ann", "ann@example.com")), keys)
    return Users({"ann": ann}, (AuthorizedKey.parse(AUTHORITY.line, authority=True),))


@implementer(ICredentialsChecker)
@define(eq=False)
class Keys(World):
    """A world where Ann has keys."""

    users: Users = field(factory=_users)
    asked: int = 0
    down: bool = False
    credentialInterfaces = (IUsernamePassword, IPublicKeyLogin)  # type: ignore[assignment]

    async def requestAvatarId(self, credentials: Any) -> bytes:
        if IUsernamePassword.providedBy(credentials):
            return await super().requestAvatarId(credentials)
        self.asked += 1
        try:
            grant = self.users.grant(credentials, 1e9)
        except KeyRefused:
            raise UnauthorizedLogin from None
        if credentials.asks:
            raise Acceptable
        if not credentials.proven_by(grant.key):
            raise UnauthorizedLogin
        if self.down:
            raise NotCounted
        return bytes(credentials.username)


class NoPasswords(Keys):
    credentialInterfaces = (IPublicKeyLogin,)  # type: ignore[assignment]


class KeyLink(Link):
    """A client with keys."""

    def key(
        self,
        key: Signer,
        *,
        sign: bool = True,
        user: bytes = b"ann",
        name: bytes = b"",
        blob: bytes = b"",
        session: bytes = b"",
        signature: bytes | None = None,
    ) -> bytes:
        """Send a request; its algorithm and its key as they come back in PK_OK."""
        name, blob = name or key.algorithm, blob or key.blob
        told = ns(name) + ns(blob)
        head = ns(user) + ns(b"ssh-connection") + ns(b"publickey")
        if not sign:
            self.send(50, head + b"\x00" + told)
        else:
            signed = head + b"\x01" + told
            if signature is None:
                data = ns(session or self.client.sessionID) + b"\x32" + signed
                signature = key.sign(data)
            self.send(50, signed + ns(signature))
        self.pump()
        return told

    def asked_for_password(self) -> int:
        """Prompts that have come; each must be what RFC 4256 says."""
        prompts = [text for number, text in self.client.service.texts if number == 60]
        want = ns(b"") * 3 + b"\x00\x00\x00\x01" + ns(b"Password: ") + b"\x00"
        assert all(text == want for text in prompts)
        return len(prompts)

    def begin(self) -> None:
        self.send(
            50, ns(b"ann") + ns(b"ssh-connection") + ns(b"keyboard-interactive") + ns(b"") * 2
        )
        self.pump()

    def answer(self, *texts: str) -> None:
        data = b"".join(ns(text.encode()) for text in texts)
        self.send(61, len(texts).to_bytes(4, "big") + data)
        self.pump()

    @property
    def told(self) -> list[int]:
        """The log-in service's messages."""
        return [number for number, _ in self.client.service.texts]


@pytest.fixture
def link(host_keys: Any) -> Iterator[KeyLink]:
    made = KeyLink(Keys(), host_keys)
    made.secure()
    service = made.client.service
    service.texts = []
    received = service.packetReceived

    def keep(number: int, packet: bytes) -> None:
        service.texts.append((number, packet))
        received(number, packet)

    service.packetReceived = keep
    yield made
    made.server.connectionLost(None)
    assert made.clock.getDelayedCalls() == []


# -- publickey


@pytest.mark.parametrize("name", ALL)
def test_who_signs_with_an_own_key_is_in(link: KeyLink, name: bytes) -> None:
    told = link.key(OWN[name], sign=False)
    assert link.client.service.texts == [(60, told)]
    assert link.server.attempts == 0
    link.key(OWN[name])
    assert link.told == [60, 52] and link.server.attempts == 0


def test_a_client_need_not_ask_first(link: KeyLink) -> None:
    link.key(OTHER)
    link.wait(FAILURE_DELAY)
    link.key(OWN[b"ssh-ed25519"])
    assert link.told == [51, 52]


def test_a_certificate_lets_its_principal_in(link: KeyLink) -> None:
    cert = certificate(OTHER, AUTHORITY, principals=(b"ann",))
    name = b"ssh-ed25519-cert-v01@openssh.com"
    link.key(OTHER, name=name, blob=cert, sign=False)
    link.key(OTHER, name=name, blob=cert)
    assert link.told == [60, 52]


@pytest.mark.parametrize(
    "request_",
    [
        {"key": OTHER, "sign": False},
        {"key": OTHER},
        {"key": OWN[b"ssh-ed25519"], "sign": False, "user": b"nobody"},
        {"key": OWN[b"ssh-ed25519"], "user": b"nobody"},
        {"key": OWN[b"ssh-ed25519"], "session": b"another connection's"},
        {"key": OWN[b"ssh-ed25519"], "signature": b""},
        {"key": OWN[b"ssh-ed25519"], "signature": OWN[b"ssh-ed25519"].sign(b"something else")},
        # Somebody else's signature with this user's key in front.
        {"key": OTHER, "blob": OWN[b"ssh-ed25519"].blob},
        {"key": OWN[b"rsa-sha2-256"], "name": b"ssh-rsa"},
        {"key": OWN[b"rsa-sha2-256"], "name": b"ssh-rsa", "sign": False},
        {"key": OWN[b"rsa-sha2-256"], "name": b"rsa-sha2-512"},
        {"key": OWN[b"ssh-ed25519"], "name": b"rsa-sha2-512", "sign": False},
        {"key": OWN[b"ssh-ed25519"], "name": b"ssh-ed25519-cert-v01@openssh.com"},
        {"key": OWN[b"ssh-ed25519"], "name": b"nonsense", "sign": False},
        {"key": OTHER, "blob": b"nonsense", "sign": False},
        # An authority's own key is good for certificates only.
        {"key": AUTHORITY},
        # A certificate for somebody else.
        {
            "key": OTHER,
            "name": b"ssh-ed25519-cert-v01@openssh.com",
            "blob": certificate(OTHER, AUTHORITY, principals=(b"bob",)),
            "sign": False,
        },
        # A right certificate with the key of another.
        {
            "key": AUTHORITY,
            "name": b"ssh-ed25519-cert-v01@openssh.com",
            "blob": certificate(OTHER, AUTHORITY, principals=(b"ann",)),
        },
    ],
)
def test_any_other_key_is_refused_after_the_delay_and_counts(
    link: KeyLink, request_: dict[str, Any], lines: list[Any]
) -> None:
    link.key(**request_)
    link.wait(FAILURE_DELAY - 0.01)
    assert link.told == []
    link.wait(0.01)
    assert link.told == [51] and link.server.attempts == 1
    assert lines == []


def test_the_methods_are_offered_best_first(link: KeyLink) -> None:
    link.guess(method=b"none")
    link.pump()
    methods = ns(b"publickey,password,keyboard-interactive")
    assert link.client.service.texts == [(51, methods + b"\x00")]


def test_a_seventh_key_of_an_agent_is_not_looked_at(link: KeyLink) -> None:
    for _ in range(6):
        link.key(OTHER, sign=False)
        link.wait(FAILURE_DELAY)
    assert link.down.disconnecting and link.told == [51] * 5
    assert link.world.asked == 6


def test_what_was_signed_for_another_name_is_no_use(link: KeyLink) -> None:
    key = OWN[b"ssh-ed25519"]
    told = ns(key.algorithm) + ns(key.blob)
    head = ns(b"bob") + ns(b"ssh-connection") + ns(b"publickey") + b"\x01" + told
    signature = key.sign(ns(link.client.sessionID) + b"\x32" + head)
    link.key(key, signature=signature)
    link.wait(FAILURE_DELAY)
    assert link.told == [51]


def test_asking_for_keys_without_end_becomes_a_failure(link: KeyLink) -> None:
    for _ in range(MAX_ACCEPTABLE):
        link.key(OWN[b"ssh-ed25519"], sign=False)
    assert link.told == [60] * MAX_ACCEPTABLE
    link.key(OWN[b"ssh-ed25519"], sign=False)
    link.wait(FAILURE_DELAY)
    assert link.told[-1] == 51 and link.server.attempts == 1


def test_an_immich_that_is_down_is_not_the_keys_fault(link: KeyLink) -> None:
    link.world.down = True
    link.key(OWN[b"ssh-ed25519"])
    link.wait(FAILURE_DELAY)
    assert link.told == [51] and link.server.attempts == 0


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_request_that_is_cut_off_ends_the_connection_with_one_line(
    link: KeyLink, lines: list[Any], cut: int
) -> None:
    key = OWN[b"ssh-ed25519"]
    whole = ns(b"ann") + ns(b"ssh-connection") + ns(b"publickey") + b"\x01"
    whole += ns(key.algorithm) + ns(key.blob) + ns(key.sign(b"x"))
    link.send(50, whole[:-cut])
    link.pump()
    assert link.down.disconnecting and len(lines) == 1


# -- keyboard-interactive


def test_the_answer_to_the_prompt_is_the_password(link: KeyLink) -> None:
    link.begin()
    assert link.asked_for_password() == 1 and link.world.tried == []
    link.answer(PASSWORD)
    assert link.told == [60, 52] and link.world.tried == [PASSWORD.encode()]


@pytest.mark.parametrize("answers", [(), ("wrong",), (PASSWORD, ""), ("x" * 5000,), ("",)])
def test_a_wrong_answer_is_a_failed_attempt(link: KeyLink, answers: tuple[str, ...]) -> None:
    link.begin()
    link.answer(*answers)
    link.wait(FAILURE_DELAY - 0.01)
    assert 51 not in link.told
    link.wait(0.01)
    assert link.told == [60, 51] and link.server.attempts == 1
    link.begin()
    link.answer(PASSWORD)
    assert link.told == [60, 51, 60, 52]


def test_the_sixth_wrong_answer_is_the_last(link: KeyLink) -> None:
    for _ in range(6):
        link.begin()
        link.answer("wrong")
        link.wait(FAILURE_DELAY)
    assert link.down.disconnecting and link.world.tried == [b"wrong"] * 6


def test_a_prompt_may_be_left_for_something_else_and_counts(link: KeyLink) -> None:
    link.begin()
    link.guess(PASSWORD)
    link.pump()
    link.wait(FAILURE_DELAY)
    # There is no FAILURE for what was left: RFC 4252, section 5.1, counts answers by requests.
    assert link.told == [60, 52] and link.server.attempts == 1


def test_prompts_without_answers_come_to_an_end(link: KeyLink) -> None:
    for _ in range(7):
        link.begin()
        link.wait(FAILURE_DELAY)
    assert link.down.disconnecting and link.told == [60] * 6


def test_no_prompt_for_who_has_already_asked_for_something_else(link: KeyLink) -> None:
    link.guess()
    link.send(50, PROMPT_ME)
    link.guess(PASSWORD)
    link.pump()
    link.wait(FAILURE_DELAY)
    link.wait(FAILURE_DELAY)
    assert link.told == [51, 52] and link.server.attempts == 2


def test_an_answer_that_was_not_asked_for_ends_the_connection(
    link: KeyLink, lines: list[Any]
) -> None:
    link.answer(PASSWORD)
    assert link.down.disconnecting and len(lines) == 1 and link.world.tried == []
    assert PASSWORD not in repr(lines)


def test_a_second_answer_ends_the_connection(link: KeyLink, lines: list[Any]) -> None:
    link.begin()
    link.answer("wrong")
    link.answer(PASSWORD)
    assert link.down.disconnecting and len(lines) == 1
    assert link.world.tried == [b"wrong"]


@pytest.mark.parametrize("packet", [b"", b"\x00\x00\x00\x01", b"\x00\x00\x00\x01\xff\xff\xff\xff"])
def test_an_answer_that_is_cut_off_ends_the_connection(
    link: KeyLink, lines: list[Any], packet: bytes
) -> None:
    link.begin()
    link.send(61, packet)
    link.pump()
    assert link.down.disconnecting and len(lines) == 1


def test_who_leaves_at_the_prompt_leaves_nothing_behind(link: KeyLink) -> None:
    link.begin()
    link.server.connectionLost(None)
    assert link.world.tried == [] and link.clock.getDelayedCalls() == []


# -- without passwords


def test_without_passwords_neither_method_is_offered_nor_taken(host_keys: Any) -> None:
    world = NoPasswords()
    link = KeyLink(world, host_keys)
    link.secure()
    assert link.server.service.methods == (b"publickey",)
    link.begin()
    link.guess(PASSWORD)
    link.pump()
    link.wait(FAILURE_DELAY)
    link.wait(FAILURE_DELAY)
    assert link.client.got.count(51) == 2 and 60 not in link.client.got
    assert world.tried == []
    link.server.connectionLost(None)
