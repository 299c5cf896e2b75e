"""Log-ins as Immich sees them: so many a second, and not again what was right a moment ago.

The demo counts what it is asked and which sessions are open; memory and waiting run on the rig's
clock, which a test moves on by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from rig import ARRIVED, VERSIONS, Rig, at_once, quiet, raises, rig, until
from twisted.conch.interfaces import IConchUser
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from immich_conch.auth import Avatar, ImmichChecker, Realm
from immich_conch.demo.state import _hash_password
from immich_conch.errors import SessionRevoked
from immich_conch.guard.throttle import MAX_WAIT, Throttle, TooSoon
from immich_conch.logins import Logins
from immich_conch.ssh.admission import NoSuchUser, TooMany
from immich_conch.ssh.userauth import NotCounted

ALICE, RIGHT = "alice@example.com", "correct horse"
LOGIN = "POST /auth/login"
KEPT = 60.0


class House:
    """A portal as tap makes it."""

    def __init__(self, r: Rig, memory: float = KEPT, rate: float = 0, most: int = 0) -> None:
        self.r = r
        self.logins = Logins(r.accounts, Throttle(rate, r.clock), r.clock, memory)
        realm = Realm(r.accounts, reactor, lambda: ARRIVED, at_once, most)  # type: ignore[arg-type]
        self.portal = Portal(realm, [ImmichChecker(r.server, r.counters, self.logins)])

    async def log_in(self, user: str = ALICE, password: str = RIGHT) -> tuple[Avatar, Any]:
        credentials = UsernamePassword(user.encode(), password.encode())
        _, avatar, logout = await self.portal.login(credentials, None, IConchUser)
        await quiet(3)  # what held it for those who wait lets go in the next turn
        return avatar, logout

    @property
    def asked(self) -> int:
        """How often Immich had to check a password."""
        return self.r.demo.requests[LOGIN]

    def change_password(self, new: str) -> None:
        """As in Immich's own settings, where other sessions stay."""
        self.r.alice.password = _hash_password(new, "salt")
        self.r.demo.state.touch_user(self.r.alice)


def both(*work: Any) -> Deferred[Any]:
    return gatherResults([Deferred.fromCoroutine(one) for one in work], consumeErrors=True)


# -- the memory of what was right


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_who_comes_again_shares_the_immich_session(tmp_path: Path, version: str) -> None:
    async with rig(tmp_path, version) as r:
        house = House(r)
        first, leave_first = await house.log_in()
        second, leave_second = await house.log_in(" ALICE@example.com ")
        assert house.asked == 1 and r.demo.open_sessions == 1
        assert first.lease is second.lease and first is not second
        leave_first()
        await quiet()
        assert r.demo.open_sessions == 1, "the second needs it"
        await second.lease.immich.me()
        leave_second()
        _, leave_third = await house.log_in()
        assert house.asked == 1
        leave_third()
        r.clock.advance(KEPT)
        await until(lambda: r.demo.open_sessions == 0)
        _, leave = await house.log_in()
        assert house.asked == 2
        leave()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_session_outlives_the_memory_while_a_connection_uses_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        avatar, leave = await house.log_in()
        r.clock.advance(10 * KEPT)
        await quiet()
        assert r.demo.open_sessions == 1
        await avatar.lease.immich.me()
        leave()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_another_password_is_not_taken_for_the_right_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        r.demo.add_user("bob@example.com", "other horse", "Bob")
        _, leave = await house.log_in()
        for user, password in (
            (ALICE, "wrong"),
            (ALICE, RIGHT + " "),
            (ALICE, ""),
            ("bob@example.com", RIGHT),
            (f"{ALICE} {RIGHT}@", ""),
        ):
            with pytest.raises(UnauthorizedLogin):
                await house.log_in(user, password)
        assert house.asked == 6
        leave()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("connected", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_old_password_is_forgotten_when_it_is_changed_in_immich(
    tmp_path: Path, connected: bool
) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        _, leave = await house.log_in()
        if not connected:
            leave()
        house.change_password("new horse")
        with pytest.raises(UnauthorizedLogin):
            await house.log_in()
        assert r.demo.open_sessions == connected, "only who is there keeps it"
        _, leave_new = await house.log_in(password="new horse")
        leave_new()
        if connected:
            leave()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest.mark.parametrize("noticed", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_session_that_was_revoked_is_forgotten_and_a_new_one_opened(
    tmp_path: Path, noticed: bool
) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        old, leave_old = await house.log_in()
        for session in list(r.demo.state.sessions.values()):
            r.demo.state.end_session(session)
        if noticed:
            await raises(SessionRevoked, old.lease.immich.me())
            old.lease.revoked = True
        new, leave_new = await house.log_in()
        assert house.asked == 2 and new.lease is not old.lease
        assert old.lease.revoked and not new.lease.revoked
        await new.lease.immich.me()
        leave_old()
        leave_new()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_immich_out_of_reach_is_no_wrong_password_and_ends_no_memory(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        avatar, leave = await house.log_in()
        holders = avatar.lease.holders
        r.demo.faults.add("status", route="*", count=None)
        with pytest.raises(NotCounted):
            await house.log_in()
        assert avatar.lease.holders == holders
        r.demo.faults.clear()
        _, leave_again = await house.log_in()
        assert house.asked == 1
        leave()
        leave_again()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_dozen_connections_at_once_are_one_log_in(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        house = House(r, rate=1)
        came = await both(*(house.log_in() for _ in range(12)))
        assert house.asked == 1 and r.demo.open_sessions == 1
        (lease,) = {avatar.lease for avatar, _ in came}
        assert lease.holders == 13, "and one hold of the memory"
        for _, leave in came:
            leave()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_dozen_wrong_ones_at_once_are_refused_each(tmp_path: Path) -> None:
    async with rig(tmp_path, loopback=True) as r:
        house = House(r)
        tries = [Deferred.fromCoroutine(house.log_in(password="wrong")) for _ in range(12)]
        for one in tries:
            with pytest.raises(UnauthorizedLogin):
                await one
        assert house.asked == 1 and r.counters["logins.refused"] == 12
        with pytest.raises(UnauthorizedLogin):
            await house.log_in(password="wrong")
        assert house.asked == 2, "what was wrong is not remembered"
        assert not house.logins._asking


@pytest_twisted.ensureDeferred
async def test_api_keys_are_asked_for_anew_with_what_they_may_do(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        key = r.demo.add_key(r.alice)
        leases = set()
        for user in (ALICE, ALICE, "apikey", "apikey"):
            avatar, leave = await house.log_in(user, key)
            leases.add(avatar.lease)
            leave()
        assert len(leases) == 4 and not len(house.logins._known)


@pytest_twisted.ensureDeferred
async def test_without_memory_each_log_in_is_immichs(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r, memory=0)
        for asked in (1, 2):
            _, leave = await house.log_in()
            leave()
            assert house.asked == asked
            await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_stop_leaves_no_session_behind_even_of_who_is_just_coming(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        _, leave = await house.log_in()
        leave()
        assert r.demo.open_sessions == 1
        late = Deferred.fromCoroutine(house.log_in(password="correct horse"))
        house.logins.stop()
        _, leave = await late
        leave()
        await r.accounts.stop()
        assert r.demo.open_sessions == 0


@pytest_twisted.ensureDeferred
async def test_only_so_many_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        house.logins._known.limit = 2
        for number in range(4):
            r.demo.add_user(f"u{number}@example.com", "x", "U")
            _, leave = await house.log_in(f"u{number}@example.com", "x")
            leave()
        await until(lambda: r.demo.open_sessions == 2)
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_the_mirror_parts_when_memory_and_connections_have_let_go(tmp_path: Path) -> None:
    async with rig(tmp_path, mirror_max_assets=1000, mirror_keep=100) as r:
        r.album("Rome", r.asset("a.jpg"))
        house = House(r)
        avatar, leave = await house.log_in()
        await r.accounts.tree(avatar.lease).catalog.albums()
        leave()
        r.clock.advance(KEPT)
        await quiet()
        assert r.demo.open_sessions == 1, "the mirror has it"
        r.clock.advance(100)
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_nothing_of_a_password_is_kept_or_shown(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house, other = House(r), House(r)
        _, leave = await house.log_in()
        assert len(house.logins._known) == 1
        shown = repr(house.logins) + repr(house.logins._known._values)
        assert RIGHT not in shown and repr(house.logins._key) not in shown
        assert house.logins._proof(ALICE, RIGHT) != other.logins._proof(ALICE, RIGHT)
        leave()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


# -- so many of a user


@pytest_twisted.ensureDeferred
async def test_a_user_may_have_only_so_many_connections(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r, most=2)
        r.demo.add_user("bob@example.com", RIGHT, "Bob")
        _, leave = await house.log_in()
        _, leave_key = await house.log_in("apikey", r.demo.add_key(r.alice))
        for _ in range(3):
            with pytest.raises(TooMany, match="2 connections already"):
                await house.log_in()
        _, leave_bob = await house.log_in("bob@example.com")
        leave()
        _, leave = await house.log_in()
        for end in (leave, leave_key, leave_bob):
            end()
        house.logins.stop()
        await until(lambda: r.demo.open_sessions == 0)


# -- so many a second


def took(throttle: Throttle) -> list[str]:
    """What becomes of a turn that is asked for now."""
    told: list[str] = []

    def failed(failure: Any) -> None:
        failure.trap(TooSoon)
        told.append("too soon")

    turn = Deferred.fromCoroutine(throttle.turn())
    turn.addCallbacks(lambda _: told.append("now"), failed)
    return told


def test_turns_come_at_the_rate_after_a_burst_and_the_wait_is_bounded() -> None:
    clock = Clock()
    throttle = Throttle(10, clock)
    asked = [took(throttle) for _ in range(200)]
    assert asked.count(["now"]) == 20
    assert asked.count(["too soon"]) == 200 - 20 - 10 * MAX_WAIT
    for tenth in range(1, 51):
        clock.advance(0.1000001)
        assert asked.count(["now"]) == 20 + tenth
    assert [] not in asked
    clock.advance(100)
    assert [took(throttle) for _ in range(20)] == [["now"]] * 20, "and no larger burst later"
    assert took(throttle) == []


@pytest.mark.parametrize(("rate", "at_once_"), [(0, 1000), (0.1, 1), (1, 2)])
def test_any_rate_lets_somebody_in(rate: float, at_once_: int) -> None:
    throttle = Throttle(rate, Clock())
    assert [took(throttle) for _ in range(1000)].count(["now"]) == at_once_


@pytest_twisted.ensureDeferred
async def test_immich_is_asked_only_so_often_and_the_others_are_not_counted(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        house = House(r, rate=1)
        outcomes: list[type] = []

        def note(result: Any) -> None:
            outcomes.append(getattr(result, "type", type(None)))

        for number in range(20):
            tried = Deferred.fromCoroutine(house.log_in(password=f"guess {number}"))
            tried.addBoth(note)
        await until(lambda: len(outcomes) == 15)
        assert house.asked == 2 and outcomes.count(NotCounted) == 13
        for asked in (3, 4, 5, 6, 7):
            r.clock.advance(1.0001)
            await until(lambda asked=asked: house.asked == asked)  # type: ignore[misc]
        await until(lambda: len(outcomes) == 20)
        assert outcomes.count(UnauthorizedLogin) == 7
        assert r.counters["logins.unchecked"] == 13


@pytest_twisted.ensureDeferred
async def test_who_is_remembered_waits_for_no_turn(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r, rate=1)
        _, leave = await house.log_in()
        for number in range(20):
            Deferred.fromCoroutine(house.log_in(password=f"guess {number}")).addErrback(
                lambda failure: failure.trap(UnauthorizedLogin)
            )
        before: Callable[[], float] = r.clock.seconds
        begun = before()
        _, leave_again = await house.log_in()
        assert r.clock.seconds() == begun
        leave()
        leave_again()
        house.logins.stop()
        for _ in range(8):
            r.clock.advance(1)
            await quiet(5)
        await until(lambda: r.demo.open_sessions == 0)


@pytest_twisted.ensureDeferred
async def test_a_name_that_nobody_can_have_costs_immich_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        house = House(r)
        before = r.demo.requests.total()
        for name in ("root", "", "admin", "alice"):
            with pytest.raises(NoSuchUser):
                await house.log_in(name)
        assert r.demo.requests.total() == before
        assert r.counters["logins.refused"] == 4
