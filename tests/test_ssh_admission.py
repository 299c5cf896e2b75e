"""What the gate decides, as a connection meets it: drops, bans, and what somebody unknown may use.

The client is Conch's own, joined to the server in memory; the gate is the real one, on its Clock.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from ssh_server import PASSWORD, World, host_keys
from test_guard import NO_LIMITS, STRANGER, at, guard
from test_ssh_transport import Client, Link, Socket, lines, ns
from twisted.conch.ssh.transport import MSG_IGNORE
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred

from immich_conch.guard.admission import Caps, Startups
from immich_conch.guard.gate import Guard
from immich_conch.ssh.admission import (
    MAX_EARLY_BYTES,
    MAX_EARLY_EXCHANGES,
    NoSuchUser,
    TooMany,
    TurnedAway,
)
from immich_conch.ssh.transport import FAILURE_DELAY, LINGER, LOGIN_DEADLINE, TCP_BUFFER_BYTES
from immich_conch.ssh.userauth import MAX_QUEUED, NotCounted

__all__ = ["host_keys", "lines"]


class Door:
    """A server behind a gate, and as many clients as a test wants."""

    def __init__(self, keys: Any, caps: Caps = NO_LIMITS, **more: Any) -> None:
        self.world = World()
        self.guard: Guard
        self.guard, self.clock = guard(caps, **more)
        self.factory = self.world.factory(keys, self.clock, gate=self.guard)

    def link(self, host: str = STRANGER) -> Link | None:
        """Connect from an address; None is turned away."""
        link = Link.__new__(Link)
        link.world, link.clock, link.factory = self.world, self.clock, self.factory
        link.server = self.factory.buildProtocol(at(host))
        link.client, link.up, link.down = Client(), Socket(), Socket()
        link.server.makeConnection(link.down)
        if isinstance(link.server, TurnedAway):
            assert link.down.value() == b"Not allowed at this time\r\n"
            assert link.down.disconnecting
            return None
        link.client.makeConnection(link.up)
        return link

    def inside(self, host: str = STRANGER) -> Link:
        """Connect, up to the log-in."""
        link = self.link(host)
        assert link is not None
        return link.secure()


def gone(link: Link) -> None:
    link.server.connectionLost(None)


def test_more_than_the_gate_allows_are_told_so_and_cost_nothing(host_keys: Any) -> None:
    door = Door(host_keys, Caps(Startups(3, 100, 3), 0, 0, 0))
    links = [door.link() for _ in range(6)]
    assert [link is not None for link in links] == [True] * 3 + [False] * 3
    assert len(door.world.opened) == 3
    first = links[0]
    assert first is not None
    first.secure().guess(PASSWORD)
    first.pump()
    assert door.link() is not None, "who has logged in made room"
    for link in links[:3]:
        assert link is not None
        gone(link)
    assert door.guard.admission.total == 1


def test_who_never_says_a_word_makes_room_after_a_minute(host_keys: Any) -> None:
    door = Door(host_keys, Caps(Startups(0, 0, 0), 1, 0, 0))
    silent = door.link()
    assert silent is not None and door.link() is None
    door.clock.advance(LOGIN_DEADLINE)
    door.clock.advance(LINGER)
    assert silent.down.aborted
    gone(silent)
    assert door.link() is not None


def test_guessing_ends_in_a_ban_for_this_connection_and_the_next(
    host_keys: Any, lines: list[Any]
) -> None:
    door = Door(host_keys)
    tries = 0
    while (link := door.link()) is not None:
        link.secure()
        while not link.down.disconnecting:
            link.guess()
            link.pump()
            link.wait(FAILURE_DELAY)
            tries += 1
        gone(link)
    assert tries == len(door.world.tried) == 13  # 8 points each, less two that leaked meanwhile
    assert door.link("198.51.100.1") is not None
    door.clock.advance(600)
    assert door.link() is not None


def test_a_guess_of_a_banned_address_is_not_looked_at(host_keys: Any) -> None:
    door = Door(host_keys)
    early = door.inside()
    door.guard.addresses.punish(STRANGER, 100)
    early.guess(PASSWORD)
    early.pump()
    early.wait(FAILURE_DELAY)
    assert door.world.tried == [] and early.down.disconnecting


def test_a_name_that_nobody_can_have_scores_as_such(host_keys: Any) -> None:
    door = Door(host_keys)
    link = door.inside()

    def check(password: bytes) -> None:
        raise NoSuchUser

    door.world.check = check
    link.guess()
    link.pump()
    assert door.guard.addresses.score(STRANGER) == 20


def test_what_is_no_guess_or_not_the_clients_fault_scores_nothing(host_keys: Any) -> None:
    door = Door(host_keys)
    link = door.inside()

    def check(password: bytes) -> None:
        raise NotCounted

    door.world.check = check
    link.guess(method=b"none")
    link.guess(method=b"publickey")
    link.guess()
    link.pump()
    link.wait(FAILURE_DELAY)
    link.wait(FAILURE_DELAY)
    assert link.client.got.count(51) == 3
    assert door.guard.addresses.score(STRANGER) == 0


def test_one_connection_too_many_of_a_user_is_told_so(host_keys: Any) -> None:
    door = Door(host_keys)
    link = door.inside()

    def check(password: bytes) -> None:
        raise TooMany("this user has 100 connections already")

    door.world.check = check
    link.guess()
    link.pump()
    assert link.down.disconnecting
    assert link.client.goodbye == b"this user has 100 connections already"
    assert door.guard.addresses.score(STRANGER) == 0


@pytest.mark.parametrize(
    ("needed", "answered"),
    [(0.0, 1.0), (0.3, 1.0), (0.999, 1.0), (1.5, 2.0), (30.2, 31.0)],
)
def test_a_refusal_does_not_tell_how_long_the_check_took(
    host_keys: Any, needed: float, answered: float
) -> None:
    door = Door(host_keys)
    link = door.inside()
    checking: Deferred[None] = Deferred()
    door.world.check = lambda password: checking
    link.guess()
    link.pump()
    link.wait(needed)
    checking.errback(UnauthorizedLogin())
    link.wait(answered - needed - 0.0001)
    assert 51 not in link.client.got
    link.wait(0.0002)
    assert link.client.got.count(51) == 1


def test_a_right_password_is_answered_at_once_whatever_the_delay(host_keys: Any) -> None:
    door = Door(host_keys)
    link = door.inside()
    link.guess(PASSWORD)
    link.pump()
    assert 52 in link.client.got and door.clock.seconds() == 0


# -- what somebody unknown may use


def test_before_the_log_in_keys_are_changed_only_so_often(host_keys: Any, lines: list[Any]) -> None:
    for known in (False, True):
        link = Door(host_keys).inside()
        if known:
            link.guess(PASSWORD)
            link.pump()
        for _ in range(MAX_EARLY_EXCHANGES - 1):
            link.client.sendKexInit()
            link.pump()
            assert not link.down.disconnecting
        link.client.sendKexInit()
        link.pump()
        assert link.down.disconnecting is not known


def test_before_the_log_in_only_so_much_is_read(host_keys: Any, lines: list[Any]) -> None:
    for known in (False, True):
        link = Door(host_keys).inside()
        if known:
            link.guess(PASSWORD)
            link.pump()
            assert link.down.bufferSize == TCP_BUFFER_BYTES
        for _ in range(MAX_EARLY_BYTES // 30_000 + 1):
            link.send(MSG_IGNORE, ns(bytes(30_000)))
            link.server.dataReceived(link.up.value())
            link.up.clear()
        assert link.down.disconnecting is not known


def test_who_takes_no_answer_before_the_log_in_is_cut_off_early(
    host_keys: Any, lines: list[Any]
) -> None:
    link = Door(host_keys).inside()
    link.down.clear()
    link.server.pauseProducing()
    for _ in range(5000):
        link.send(192, b"")
    link.server.dataReceived(link.up.value())
    while not link.down.aborted:
        link.clock.advance(0)
    assert len(link.down.value()) < 2**17


def test_the_memory_of_somebody_unknown_is_a_few_hundred_kib(host_keys: Any) -> None:
    """The worst that one can do and stay: a full queue of guesses and a packet begun."""
    door = Door(host_keys)
    door.inside("198.51.100.1")  # what the first connection sets up is nobody's
    link = door.inside()
    password = b"\x00" + ns(bytes(34_000))
    for _ in range(MAX_QUEUED + 1):
        link.send(50, ns(b"ann") + ns(b"ssh-connection") + ns(b"password") + password)
    link.send(MSG_IGNORE, ns(bytes(34_000)))
    sent = link.up.value()[:-100]
    link.up.clear()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, len(sent), 2**16):
            link.server.dataReceived(sent[start : start + 2**16])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert not link.down.disconnecting
    assert 8 * 34_000 < grown < 600 * 1024
