"""Who may come in, and what their sessions share (BEHAVIOUR, section 1)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from rig import ARRIVED, VERSIONS, Rig, at_once, jpeg, raises, rig, until
from twisted.conch.interfaces import IConchUser
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.logger import LogEvent, globalLogPublisher

from immich_conch.accounts import KEEP, PASSWORD, key_credential
from immich_conch.auth import Avatar, ImmichChecker, Realm
from immich_conch.guard.throttle import Throttle
from immich_conch.logins import Logins
from immich_conch.ssh.userauth import NotCounted

ALICE = "alice@example.com"


def portal(r: Rig) -> Portal:
    """The portal as tap makes it."""
    realm = Realm(r.accounts, reactor, lambda: ARRIVED, at_once)  # type: ignore[arg-type]
    logins = Logins(r.accounts, Throttle(0, r.clock), r.clock, memory=0)
    return Portal(realm, [ImmichChecker(r.server, r.counters, logins)])


async def log_in(r: Rig, user: str, password: str) -> tuple[Avatar, object]:
    """Avatar and log-out."""
    credentials = UsernamePassword(user.encode(), password.encode())
    _, avatar, logout = await portal(r).login(credentials, None, IConchUser)
    return avatar, logout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("user", [ALICE, "ALICE@example.COM", " alice@example.com "])
@pytest_twisted.ensureDeferred
async def test_the_password_opens_and_logging_out_ends_the_immich_session(
    tmp_path: Path, version: str, user: str
) -> None:
    async with rig(tmp_path, version) as r:
        avatar, logout = await log_in(r, user, "correct horse")
        assert avatar.lease.immich.user.email == ALICE
        assert not avatar.lease.immich.is_key
        assert r.demo.open_sessions == 1
        logout()  # type: ignore[operator]
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("user", [ALICE, "Alice@Example.com", "apikey", "ApiKey"])
@pytest_twisted.ensureDeferred
async def test_an_api_key_opens_in_place_of_the_password(
    tmp_path: Path, version: str, user: str
) -> None:
    async with rig(tmp_path, version) as r:
        avatar, logout = await log_in(r, user, r.demo.add_key(r.alice))
        assert avatar.lease.immich.is_key
        assert avatar.lease.immich.user.email == ALICE
        logout()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (ALICE, "wrong"),
        (ALICE, ""),
        (ALICE, "wrong-but-long-enough-for-a-key-of-immich"),
        ("nobody@example.com", "correct horse"),
        ("alice", "correct horse"),
        ("", "correct horse"),
        ("apikey", "correct horse"),
        ("apikey", "x" * 43),
        ("apikey", ""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anything_else_is_refused(tmp_path: Path, user: str, password: str) -> None:
    async with rig(tmp_path) as r:
        with pytest.raises(UnauthorizedLogin) as caught:
            await log_in(r, user, password)
        assert not isinstance(caught.value, NotCounted)
        assert r.demo.open_sessions == 0
        assert r.counters["logins.refused"] == 1


@pytest_twisted.ensureDeferred
async def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        key = r.demo.add_key(r.demo.add_user("bob@example.com", "x", "Bob"))
        with pytest.raises(UnauthorizedLogin):
            await log_in(r, ALICE, key)


@pytest_twisted.ensureDeferred
async def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        for pair in ((b"\xff@example.com", b"x"), (ALICE.encode(), b"\xff")):
            with pytest.raises(UnauthorizedLogin):
                await portal(r).login(UsernamePassword(*pair), None, IConchUser)


@pytest_twisted.ensureDeferred
async def test_immich_out_of_reach_does_not_count_as_a_failed_attempt(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.demo.faults.add("status", route="*", count=None)
        with pytest.raises(NotCounted):
            await log_in(r, ALICE, "correct horse")
        assert r.counters["logins.unchecked"] == 1
        assert r.counters["logins.refused"] == 0


@pytest_twisted.ensureDeferred
async def test_a_key_that_may_do_little_logs_in(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        key = r.demo.add_key(r.alice, ["user.read", "album.read"])
        avatar, logout = await log_in(r, "apikey", key)
        assert avatar.lease.immich.user.email == ALICE
        logout()  # type: ignore[operator]
        with pytest.raises(UnauthorizedLogin):
            await log_in(r, "apikey", r.demo.add_key(r.alice, ["album.read"]))


@pytest_twisted.ensureDeferred
async def test_no_log_line_and_no_repr_holds_a_secret(tmp_path: Path) -> None:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        async with rig(tmp_path) as r:
            key = r.demo.add_key(r.alice)
            seen = []
            for user, password in ((ALICE, "correct horse"), ("apikey", key)):
                avatar, logout = await log_in(r, user, password)
                lease = avatar.lease
                seen += [repr(lease), repr(lease.immich), repr(r.accounts._accounts)]
                logout()  # type: ignore[operator]
            with pytest.raises(UnauthorizedLogin):
                await log_in(r, ALICE, "secret-wrong-word")
            await until(lambda: r.demo.open_sessions == 0)
    finally:
        globalLogPublisher.removeObserver(events.append)
    texts = " ".join(seen) + " ".join(repr(event) for event in events)
    for secret in ("correct horse", key, "secret-wrong-word"):
        assert secret not in texts
    assert key not in key_credential(key)


@pytest_twisted.ensureDeferred
async def test_password_sessions_share_a_catalog_and_all_share_the_uploads(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        one, two = await r.session(), await r.session()
        key = await r.session(key=r.demo.add_key(r.alice))
        assert one.lease.catalog is two.lease.catalog
        assert one.lease.catalog is not key.lease.catalog
        assert len({one.sftp.uploads, two.sftp.uploads, key.sftp.uploads}) == 1
        r.demo.add_user("bob@example.com", "correct horse", "Bob")
        bob = await r.session("bob@example.com")
        assert bob.sftp.uploads is not one.sftp.uploads
        assert bob.lease.catalog is not one.lease.catalog


@pytest_twisted.ensureDeferred
async def test_names_stay_for_a_while_after_the_last_session(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first, second = r.asset("a.jpg", jpeg("1")), r.asset("a.jpg", jpeg("2"))
        r.album("Rome", first, second)
        session = await r.session()
        marked = f"a ~{second.id[:8]}.jpg"
        await session.rm("/Rome/a.jpg")
        session.hang_up()
        r.clock.advance(KEEP - 1)
        session = await r.session()
        assert list(await session.ls("/Rome")) == [marked]
        catalog = session.lease.catalog
        session.hang_up()
        r.clock.advance(KEEP)
        session = await r.session()
        assert session.lease.catalog is not catalog


@pytest_twisted.ensureDeferred
async def test_what_is_in_flight_outlives_the_users_absence(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        session = await r.session()
        await session.put("/Rome/a.jpg.part", jpeg("a"))
        session.hang_up()
        r.clock.advance(2 * KEEP)
        session = await r.session()
        assert list(await session.ls("/Rome")) == ["a.jpg.part"]
        await session.rm("/Rome/a.jpg.part")
        assert PASSWORD not in session.lease.immich.user.email


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.demo.core.version = (1, 140, 0)  # type: ignore[misc]
        with pytest.raises(UnauthorizedLogin):
            await log_in(r, ALICE, "correct horse")
        from immich_conch.errors import TooOld

        error = await raises(TooOld, r.server.version())
        assert "2.0" in error.text
