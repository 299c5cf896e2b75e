"""Who signs with a key of the users' file is at Immich who the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import ARRIVED, VERSIONS, Rig, at_once, rig, until
from ssh_keys import Signer, signer
from test_users_file import write
from twisted.conch.interfaces import IConchUser
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.logger import LogEvent, globalLogPublisher

from immich_conch.auth import ImmichChecker, Realm
from immich_conch.guard.throttle import Throttle
from immich_conch.key_checker import KeyChecker
from immich_conch.logins import Logins
from immich_conch.ssh.publickey import Acceptable, KeyAttempt, fingerprint
from immich_conch.ssh.userauth import NotCounted
from immich_conch.ssh.wire import string
from immich_conch.users_file import UsersFile

ALICE = "alice@example.com"
KEY, OTHER = signer(), signer()
SESSION = b"a session's id"


def portal(r: Rig, tmp_path: Path, api_key: str, email: str = ALICE) -> Portal:
    """Both checkers, as tap makes them."""
    text = f'[users."{email}"]\napi_key = "{api_key}"\nnames = ["alice"]\nkeys = ["{KEY.line}"]'
    path = write(tmp_path / "users.toml", text)
    file = UsersFile.open(str(path), r.clock)
    realm = Realm(r.accounts, reactor, lambda: ARRIVED, at_once)  # type: ignore[arg-type]
    logins = Logins(r.accounts, Throttle(0, r.clock), r.clock, memory=0)
    keys = KeyChecker(r.server, file, r.counters, logins, lambda: ARRIVED)
    return Portal(realm, [ImmichChecker(r.server, r.counters, logins), keys])


def attempt(key: Signer, user: str = ALICE, sign: bool = True, forge: bool = False) -> KeyAttempt:
    """A request as the client sends it."""
    told = string(key.algorithm) + string(key.blob)
    data = (b"\x01" if sign else b"\x00") + told
    if sign:
        request = b"".join(map(string, (user.encode(), b"ssh-connection", b"publickey")))
        signed = string(SESSION) + b"\x32" + request + b"\x01" + told
        data += string(key.sign(b"another text" if forge else signed))
    found = KeyAttempt.read(data, user.encode(), b"ssh-connection", SESSION, "192.0.2.7")
    assert found is not None
    return found


async def log_in(gate: Portal, credentials: KeyAttempt) -> Any:
    """The avatar."""
    _, avatar, logout = await gate.login(credentials, None, IConchUser)
    logout()
    return avatar


@pytest.fixture
def events() -> Any:
    found: list[LogEvent] = []
    globalLogPublisher.addObserver(found.append)
    yield found
    globalLogPublisher.removeObserver(found.append)


def said(events: list[LogEvent]) -> str:
    """What our lines say."""
    ours = [event for event in events if event["log_namespace"].startswith("immich_conch")]
    return "\n".join(event["log_format"].format_map(event) for event in ours if "user" in event)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("user", [ALICE, "ALICE@example.com", "alice"])
@pytest_twisted.ensureDeferred
async def test_a_key_opens_with_its_users_api_key(
    tmp_path: Path, version: str, user: str, events: list[LogEvent]
) -> None:
    async with rig(tmp_path, version) as r:
        api_key = r.demo.add_key(r.alice)
        gate = portal(r, tmp_path, api_key)
        with pytest.raises(Acceptable):
            await log_in(gate, attempt(KEY, user, sign=False))
        avatar = await log_in(gate, attempt(KEY, user))
        assert avatar.lease.immich.user.email == ALICE and avatar.lease.immich.is_key
        line = f"user {ALICE} logged in with the SSH key {fingerprint(KEY.blob)}"
        assert said(events) == line
        assert api_key not in repr(events) + repr(avatar.lease) + repr(r.accounts._accounts)


@pytest.mark.parametrize("case", ["unknown key", "unknown user", "forged", "asked"])
@pytest_twisted.ensureDeferred
async def test_anything_else_is_refused_without_asking_immich(
    tmp_path: Path, case: str, events: list[LogEvent]
) -> None:
    async with rig(tmp_path) as r:
        gate = portal(r, tmp_path, r.demo.add_key(r.alice))
        r.demo.faults.add("status", route="*", count=None)
        tried = {
            "unknown key": attempt(OTHER),
            "unknown user": attempt(KEY, "bob@example.com"),
            "forged": attempt(KEY, forge=True),
            "asked": attempt(OTHER, sign=False),
        }
        with pytest.raises(UnauthorizedLogin) as caught:
            await log_in(gate, tried[case])
        assert type(caught.value) is UnauthorizedLogin
        # An agent that offers its keys is worth no line for each of them.
        assert r.counters["logins.refused"] == (0 if case == "asked" else 1)
        assert len(said(events).splitlines()) == (0 if case == "asked" else 1)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("down", "Immich"),
        ("revoked", "does not take the API key of the users file"),
        ("somebody else's", "The API key belongs to somebody else"),
        ("blind", "user.read"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_right_key_that_immich_does_not_follow_is_not_the_clients_fault(
    tmp_path: Path, case: str, reason: str, events: list[LogEvent]
) -> None:
    async with rig(tmp_path) as r:
        bob = r.demo.add_user("bob@example.com", "x", "Bob")
        key = {
            "down": r.demo.add_key(r.alice),
            "revoked": "x" * 43,
            "somebody else's": r.demo.add_key(bob),
            "blind": r.demo.add_key(r.alice, ["album.read"]),
        }[case]
        if case == "down":
            r.demo.faults.add("status", route="*", count=None)
        with pytest.raises(NotCounted):
            await log_in(portal(r, tmp_path, key), attempt(KEY))
        assert r.counters["logins.unchecked"] == 1 and r.counters["logins.refused"] == 0
        assert reason in said(events) and key not in repr(events)


@pytest_twisted.ensureDeferred
async def test_who_is_taken_out_of_the_file_comes_in_no_more(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        gate = portal(r, tmp_path, r.demo.add_key(r.alice))
        await log_in(gate, attempt(KEY))
        write(tmp_path / "users.toml", "")
        r.clock.advance(1)
        with pytest.raises(UnauthorizedLogin):
            await log_in(gate, attempt(KEY))


@pytest_twisted.ensureDeferred
async def test_sessions_by_the_same_api_key_share_a_catalog(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        key = r.demo.add_key(r.alice)
        gate = portal(r, tmp_path, key)
        session = await r.session(key=key)
        avatar = await log_in(gate, attempt(KEY))
        assert avatar.lease.catalog is session.lease.catalog
        await until(lambda: not avatar.lease.holders)
