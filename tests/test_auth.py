"""Who may come in, and what their sessions share (BEHAVIOUR, section 1)."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import paramiko
import pytest
import pytest_twisted
from rig import ARRIVED, VERSIONS, Rig, at_once, jpeg, raises, rig, until
from ssh_server import host_keys
from twisted.conch.interfaces import IConchUser
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher

from immich_conch.accounts import KEEP, PASSWORD, key_credential
from immich_conch.auth import REVOKED_GRACE, Avatar, ImmichChecker, Realm
from immich_conch.guard.throttle import Throttle
from immich_conch.logins import Logins
from immich_conch.ssh.factory import Factory
from immich_conch.ssh.userauth import NotCounted

__all__ = ["host_keys"]

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


class _Conn:
    """The connection service of an avatar, as far as its end goes."""

    def __init__(self) -> None:
        self.transport = self
        self.ended = False

    def loseConnection(self) -> None:
        self.ended = True


async def connected(
    r: Rig, password: str = "correct horse", logins: Logins | None = None
) -> tuple[Avatar, _Conn, Any]:
    """Somebody whose connection can be seen to end, on the rig's clock."""
    realm = Realm(r.accounts, r.clock, lambda: ARRIVED, at_once)
    if logins is None:
        logins = Logins(r.accounts, Throttle(0, r.clock), r.clock, memory=0)
    made = Portal(realm, [ImmichChecker(r.server, r.counters, logins)])
    credentials = UsernamePassword(ALICE.encode(), password.encode())
    _, avatar, logout = await made.login(credentials, None, IConchUser)
    avatar.conn = conn = _Conn()
    return avatar, conn, logout


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_idle_connection_ends_when_its_immich_session_is_revoked(
    tmp_path: Path, version: str
) -> None:
    async with rig(tmp_path, version) as r:
        _, revoked, log_out = await connected(r)
        r.demo.state.sessions.clear()
        _, fine, log_out_too = await connected(r)
        key = r.demo.add_key(r.alice)
        _, by_key, log_out_last = await connected(r, key)
        await r.accounts.check_sessions()
        assert not revoked.ended  # who asks meanwhile gets an answer that says why
        r.clock.advance(REVOKED_GRACE)
        assert revoked.ended and not fine.ended and not by_key.ended
        log_out()
        r.demo.state.keys.clear()
        await r.accounts.check_sessions()
        r.clock.advance(REVOKED_GRACE)
        assert by_key.ended and not fine.ended
        log_out_too()
        log_out_last()
        await until(lambda: r.demo.open_sessions == 0)
        assert not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_whoever_notices_a_revoked_session_its_own_connection_ends(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome")
        _, fine, log_out = await connected(r)
        avatar, revoked, log_out_too = await connected(r)
        r.demo.state.end_session(list(r.demo.state.sessions.values())[1])
        # A listing is asked for by the newest session, on behalf of whoever wants it.
        assert len(await avatar.lease.catalog.albums()) == 1
        r.clock.advance(REVOKED_GRACE)
        assert revoked.ended and not fine.ended
        log_out()
        log_out_too()
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "refuse"}])
@pytest_twisted.ensureDeferred
async def test_an_immich_that_is_away_has_revoked_nothing(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async with rig(tmp_path) as r:
        _, one, log_out = await connected(r)
        _, two, log_out_too = await connected(r)
        before = r.demo.requests["GET /users/me"]
        r.demo.faults.add(**fault, route="/users/me", count=None)
        await r.accounts.check_sessions()
        r.clock.advance(REVOKED_GRACE)
        assert not one.ended and not two.ended
        tries = r.demo.requests["GET /users/me"] - before
        assert 0 < tries <= 4, "it is asked for one session and not for all"
        r.demo.faults.clear()
        await r.accounts.check_sessions()
        assert not one.ended and not two.ended
        log_out()
        log_out_too()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_all_connections_that_share_a_revoked_session_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        logins = Logins(r.accounts, Throttle(0, r.clock), r.clock, memory=60)
        people = [await connected(r, logins=logins) for _ in range(3)]
        assert r.demo.open_sessions == 1
        _, gone, log_out = people.pop()
        log_out()
        r.demo.state.sessions.clear()
        await r.accounts.check_sessions()
        r.clock.advance(REVOKED_GRACE)
        assert [conn.ended for _, conn, _ in people] == [True, True] and not gone.ended
        for _, _, log_out in people:
            log_out()
        logins.stop()


@pytest_twisted.ensureDeferred
async def test_who_leaves_before_the_end_of_a_revoked_session_is_not_hung_up_on(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        avatar, conn, log_out = await connected(r)
        avatar.lease.revoked = True
        log_out()
        r.clock.advance(REVOKED_GRACE)
        assert not conn.ended and not r.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_all_connections_of_a_user_share_their_handles(tmp_path: Path) -> None:
    async with rig(tmp_path, max_user_handles=7) as r:
        made = portal(r)
        credentials = UsernamePassword(ALICE.encode(), b"correct horse")
        logins = [await made.login(credentials, None, IConchUser) for _ in range(2)]
        channels = [avatar.subsystemLookup[b"sftp"](b"", avatar) for _, avatar, _ in logins]
        assert channels[0]._holdings is channels[1]._holdings
        assert channels[0]._holdings.max_handles == 7
        for _, _, log_out in logins:
            log_out()


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_a_connection_that_ended(tmp_path: Path, host_keys: Any) -> None:
    # Without Python's search for what refers to itself, which is rare (process.py): each would
    # stay with its keys and buffers, and hundreds of them at once.
    def client(port: int) -> None:
        with paramiko.Transport(("127.0.0.1", port)) as transport:
            transport.connect(username=ALICE, password="correct horse")
            there = paramiko.SFTPClient.from_transport(transport)
            assert there is not None
            assert there.listdir("/") == ["Rome"]
            transport.open_session().exec_command("md5sum")

    async with rig(tmp_path) as r:
        r.album("Rome")
        opened: list[weakref.ref[Any]] = []
        factory = Factory(
            portal(r),
            host_keys,
            reactor,  # type: ignore[arg-type]
            connection_opened=lambda transport: opened.append(weakref.ref(transport)),
        )
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        gc.disable()
        try:
            await deferToThread(client, port.getHost().port)
            await until(lambda: r.demo.open_sessions == 0)
            await until(lambda: opened[0]() is None)
        finally:
            gc.enable()
            await port.stopListening()
