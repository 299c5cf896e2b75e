"""Caps, random early drop, scores, bans, and what an address tells: every rule on a Clock."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent, globalLogPublisher
from twisted.logger import LogLevel as Level

from immich_conch import tap
from immich_conch.counters import Counters
from immich_conch.guard import addresses, gateways
from immich_conch.guard.addresses import CROWD, Atlas, Place
from immich_conch.guard.admission import RESERVE, Admission, Caps, Startups
from immich_conch.guard.defender import BANS_REMEMBERED, MAX_BANS, MAX_SCORES, Defender, Rules
from immich_conch.guard.gate import Guard, Scores
from immich_conch.guard.lines import PAUSE, Seldom
from immich_conch.guard.recent import Recent
from immich_conch.loading import load
from immich_conch.ssh.admission import Fault, Visit

RULES = Rules(threshold=100, observation=600, ban=600, longest=86_400)
NO_LIMITS = Caps(Startups(0, 0, 0), 0, 0, 0)
STRANGER, OTHER = "203.0.113.7", "198.51.100.9"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged from info on."""
    texts: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] >= Level.info:
            texts.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


def at(host: str, port: int = 5000) -> Any:
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


def guard(
    caps: Caps = NO_LIMITS, chance: float = 0.0, rules: Rules = RULES, **atlas: Any
) -> tuple[Guard, Clock]:
    clock = Clock()
    made = Guard(
        atlas=Atlas(**atlas),
        admission=Admission(caps, lambda: chance),
        addresses=Defender(rules, clock),
        users=Defender(rules, clock, "user ", growing=False),
        scores=Scores(),
        counters=Counters(),
        shared=frozenset(("apikey",)),
    )
    return made, clock


def visit(made: Guard, host: str = STRANGER) -> Visit:
    found = made.enter(at(host))
    assert found is not None
    return found


# -- addresses


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_ipv6_is_counted_by_64_and_mapped_ipv4_as_ipv4(host: str, source: str) -> None:
    assert Atlas().origin(at(host)).source == source


@pytest.mark.parametrize("peer", [None, UNIXAddress("/run/x"), at("nonsense")])
def test_what_has_no_address_is_this_machines_own(peer: Any) -> None:
    origin = Atlas(mode="real").origin(peer)
    assert origin.place is Place.HIDDEN and origin.loopback and not origin.source


@pytest.mark.parametrize("mode", ["real", "auto", "hidden"])
def test_loopback_hides_who_is_behind_it_in_every_mode(mode: str) -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert Atlas(mode=mode).origin(at(host)).place is Place.HIDDEN


@pytest.mark.parametrize(
    ("mode", "gateway", "neighbour", "stranger"),
    [
        ("auto", Place.HIDDEN, Place.REAL, Place.REAL),
        ("real", Place.REAL, Place.REAL, Place.REAL),
        ("hidden", Place.HIDDEN, Place.HIDDEN, Place.HIDDEN),
    ],
)
def test_a_gateways_address_tells_nothing(
    mode: str, gateway: Place, neighbour: Place, stranger: Place
) -> None:
    atlas = Atlas(mode=mode, between=frozenset((ip_address("172.18.0.1"), ip_address(STRANGER))))
    assert atlas.origin(at("172.18.0.1")).place is gateway
    assert atlas.origin(at("172.18.0.9")).place is neighbour
    # A public address is a client's, even if it were a gateway's: a flood would hide behind it.
    assert atlas.origin(at(STRANGER)).place is stranger


def test_a_private_address_that_many_users_come_from_is_taken_for_a_proxy() -> None:
    for host, place in (("10.1.2.3", Place.HIDDEN), (STRANGER, Place.REAL)):
        atlas = Atlas()
        for number in range(CROWD):
            origin = atlas.origin(at(host))
            assert origin.place is Place.REAL
            atlas.logged_in(origin, "ann@example.com")
            atlas.logged_in(origin, f"user{number}@example.com")
            if number == CROWD - 2:
                break
        atlas.logged_in(atlas.origin(at(host)), "last@example.com")
        assert atlas.origin(at(host)).place is place
        assert atlas.origin(at("10.1.2.4")).place is Place.REAL


def test_an_allowed_network_wins_over_a_denied_one() -> None:
    atlas = Atlas(
        allowed=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
        denied=(ip_network("0.0.0.0/0"), ip_network("::/0")),
    )
    for host in ("10.1.1.1", "2001:db8::1"):
        assert atlas.origin(at(host)).place is Place.ALLOWED
    for host in (STRANGER, "2001:db9::1"):
        assert atlas.origin(at(host)).place is Place.DENIED


def test_the_default_gateways_are_read_from_the_routes() -> None:
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    swap = ip_address("172.18.0.1").packed
    word = int.from_bytes(swap, sys.byteorder)
    routes = (
        f"{head}eth0 00000000 {word:08X} 0003 0 0 0 00000000 0 0 0\n"
        "eth0 000012AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n"
    )
    assert list(gateways.gateways(routes)) == [ip_address("172.18.0.1")]
    zero, gate = "0" * 32, ip_address("fd00::1").packed.hex()
    six = (
        f"{zero} 00 {zero} 00 {gate} 00000400 00000001 00000000 00000003 eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
    )
    assert list(gateways.gateways6(six)) == [ip_address("fd00::1")]
    files = {"/proc/self/net/route": routes, "/proc/self/net/ipv6_route": six}
    found = gateways.between(files.__getitem__)
    assert {ip_address("172.18.0.1"), ip_address("fd00::1")} <= found
    assert gateways._read("/nowhere") == ""


# -- how many


def test_startups_are_dropped_as_by_openssh() -> None:
    startups = Startups(10, 30, 100)
    assert startups.chance(9) == 0
    assert startups.chance(10) == pytest.approx(0.3)
    assert startups.chance(55) == pytest.approx(0.65)
    assert startups.chance(100) == startups.chance(5000) == 1
    assert Startups(5, 100, 5).chance(4) == 0 and Startups(5, 100, 5).chance(5) == 1
    assert Startups(0, 100, 0).chance(10_000) == 0


@given(st.integers(0, 50), st.integers(0, 100), st.integers(0, 50), st.integers(0, 200))
def test_the_chance_is_one_and_never_falls_with_more(
    start: int, rate: int, more: int, waiting: int
) -> None:
    startups = Startups(start, rate, start + more)
    assert 0 <= startups.chance(waiting) <= startups.chance(waiting + 1) <= 1


def test_the_unlucky_are_dropped_and_the_lucky_get_in(lines: list[str]) -> None:
    caps = Caps(Startups(2, 50, 4), 0, 0, 0)
    for chance, inside in ((0.49, 2), (0.9, 4)):
        made, _ = guard(caps, chance)
        for _ in range(10):
            made.enter(at(STRANGER))
        assert made.admission.waiting == inside
        assert made.counters["connections.refused"] == 10 - inside
    assert len(lines) == 2 and "not logged in" in lines[0]


def test_who_has_logged_in_makes_room_for_the_next() -> None:
    made, _ = guard(Caps(Startups(2, 100, 2), 0, 0, 0))
    first, second = visit(made), visit(made)
    assert made.enter(at(OTHER)) is None
    first.logged_in(b"ann@example.com")
    third = visit(made)
    assert made.enter(at(OTHER)) is None
    second.left()
    first.left()
    assert (made.admission.waiting, made.admission.total) == (1, 1)
    third.left()
    assert (made.admission.waiting, made.admission.total) == (0, 0)
    assert not made.admission._here and not made.admission._unknown


def test_the_health_check_gets_in_though_a_flood_waits() -> None:
    made, _ = guard(Caps(Startups(1, 100, 3), 0, 0, 5))
    while made.enter(at(STRANGER)) is not None:
        pass
    for _ in range(RESERVE):
        visit(made, "127.0.0.1")
    assert made.enter(at("127.0.0.1")) is None, "and even it cannot come without end"


def test_an_address_may_have_only_so_many_and_so_many_unknown() -> None:
    made, _ = guard(Caps(Startups(0, 0, 0), 2, 3, 0))
    ours = [visit(made, "2001:db8::1"), visit(made, "2001:db8::2")]
    assert made.enter(at("2001:db8::3")) is None, "one /64"
    visit(made, "2001:db8:0:1::3")
    for one in ours:
        one.logged_in(b"ann@example.com")
    visit(made, "2001:db8::4")
    assert made.enter(at("2001:db8::5")) is None, "three in all"
    assert made.addresses.score("2001:db8::/64") == 4


def test_a_client_that_opens_forty_at_once_is_not_banned_and_one_that_goes_on_is() -> None:
    made, _ = guard(Caps(Startups(0, 0, 0), 20, 0, 0))
    inside = [came for came in (made.enter(at(STRANGER)) for _ in range(40)) if came is not None]
    assert len(inside) == 20
    inside[0].logged_in(b"ann@example.com")
    visit(made)
    for _ in range(40):
        made.enter(at(STRANGER))
    assert made.addresses.banned(STRANGER)


def test_in_all_there_are_only_so_many() -> None:
    made, _ = guard(Caps(Startups(0, 0, 0), 0, 0, 3))
    for number in range(3):
        visit(made, f"203.0.113.{number}").logged_in(b"ann@example.com")
    assert made.enter(at(OTHER)) is None
    assert made.addresses.score(OTHER) == 0, "that the place is full is not its fault"


@pytest.mark.parametrize(
    ("host", "atlas"),
    [
        ("127.0.0.1", {}),
        ("10.0.0.1", {"between": frozenset((ip_address("10.0.0.1"),))}),
        (STRANGER, {"allowed": (ip_network("203.0.113.0/24"),)}),
        (STRANGER, {"mode": "hidden"}),
    ],
)
def test_where_addresses_tell_nothing_or_are_trusted_no_cap_goes_by_address(
    host: str, atlas: Any
) -> None:
    made, _ = guard(Caps(Startups(0, 0, 0), 2, 2, 0), **atlas)
    for _ in range(10):
        visit(made, host).failed(b"root", Fault.UNKNOWN_USER)
    for _ in range(100):
        visit(made, host).left()
    assert not made.addresses.banned(made.atlas.origin(at(host)).source)
    visit(made, host)


# -- scores and bans


def test_a_wrong_password_now_and_then_is_forgiven() -> None:
    made, clock = guard()
    for _ in range(100):
        visit(made).failed(b"ann@example.com", Fault.BAD_PASSWORD)
        clock.advance(60)
    assert made.addresses.score(STRANGER) == 0
    visit(made)


def test_guessing_leads_to_a_ban_and_the_ban_ends(lines: list[str]) -> None:
    made, clock = guard()
    for guess in range(13):
        assert not made.addresses.banned(STRANGER), guess
        visit(made).failed(b"ann@example.com", Fault.BAD_PASSWORD)
    assert made.enter(at(STRANGER)) is None
    visit(made, OTHER)
    clock.advance(599)
    assert made.enter(at(STRANGER)) is None
    clock.advance(1)
    visit(made)
    told = [line for line in lines if "banned" in line and not line.startswith("turned")]
    assert told == [f"banned {STRANGER} for 600 s (ban 1)", f"unbanned {STRANGER}"]
    assert lines.count(f"turned away, a banned address: {STRANGER} port 5000") == 2


def test_names_that_nobody_can_have_count_for_more() -> None:
    made, _ = guard()
    for name in (b"root", b"admin", b"pi", b"oracle"):
        visit(made).failed(name, Fault.UNKNOWN_USER)
    visit(made)
    visit(made).failed(b"ubuntu", Fault.UNKNOWN_USER)
    assert made.enter(at(STRANGER)) is None


def test_a_monitor_that_only_connects_is_not_banned_and_a_flood_is() -> None:
    made, clock = guard()
    for _ in range(1000):
        visit(made).left()
        clock.advance(10)
    assert made.addresses.score(STRANGER) <= 1
    for _ in range(100):
        visit(made).left()
    assert made.enter(at(STRANGER)) is None


def test_who_logs_in_or_offers_a_key_in_vain_is_no_scanner() -> None:
    made, _ = guard()
    came = visit(made)
    came.logged_in(b"ann@example.com")
    came.left()
    assert made.addresses.score(STRANGER) == 0
    visit(made).failed(b"ann@example.com", Fault.NO_GUESS)
    assert made.addresses.score(STRANGER) == 0


def test_each_ban_is_twice_as_long_up_to_a_bound_and_in_time_forgotten(lines: list[str]) -> None:
    clock = Clock()
    defender = Defender(RULES, clock)
    lengths = []
    for _ in range(10):
        defender.punish(STRANGER, 100)
        begun = clock.seconds()
        while defender.banned(STRANGER):
            clock.advance(300)
        lengths.append(clock.seconds() - begun)
    assert lengths == [600 * 2**n for n in range(8)] + [86_400] * 2
    clock.advance(BANS_REMEMBERED)
    defender.punish(STRANGER, 100)
    clock.advance(600)
    assert not defender.banned(STRANGER)
    assert f"banned {STRANGER} for 1200 s (ban 2)" in lines
    assert lines[-2:] == [f"banned {STRANGER} for 600 s (ban 1)", f"unbanned {STRANGER}"]
    assert clock.getDelayedCalls() == []


def test_a_threshold_of_zero_bans_nobody() -> None:
    made, _ = guard(rules=Rules(0, 600, 600, 600))
    for _ in range(1000):
        visit(made).failed(b"root", Fault.UNKNOWN_USER)
    visit(made)


def test_a_network_with_more_addresses_than_memory_fills_none() -> None:
    clock = Clock()
    assert Defender(RULES, clock)._scores.limit == MAX_SCORES
    assert Defender(RULES, clock)._bans.limit == MAX_BANS
    defender = Defender(RULES, clock, scores=Recent(50), bans=Recent(20))
    for number in range(500):
        defender.punish(f"a{number}", 1)
        defender.punish(f"b{number}", 100)
    assert len(defender._scores) == 50
    assert len(defender._bans) == len(clock.getDelayedCalls()) == 20
    assert not defender.banned("b0") and defender.banned("b499")
    assert defender.score("a0") == 0 and defender.score("a499") == 1
    defender.stop()
    assert clock.getDelayedCalls() == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans())))
def test_a_recent_table_holds_the_last_used(steps: list[tuple[str, bool]]) -> None:
    table: Recent[str] = Recent(3)
    used: list[str] = []
    for key, put in steps:
        if put:
            table.put(key, key.upper())
        if put or key in used[-3:]:
            used = [one for one in used if one != key] + [key]
        assert table.get(key) == (key.upper() if key in used[-3:] else None)
        used = used[-3:]
        assert len(table) == len(used)


def test_a_connection_that_was_there_before_the_ban_gets_no_further() -> None:
    made, _ = guard()
    early = visit(made)
    assert early.may_try(b"ann@example.com") and not early.barred
    for _ in range(5):
        visit(made).failed(b"root", Fault.UNKNOWN_USER)
    assert early.barred and not early.may_try(b"ann@example.com")
    assert not early.may_try(b"ann@example.com", key=True)


# -- where addresses tell nothing


def test_behind_a_gateway_the_score_is_the_users_and_the_log_says_so_once(
    lines: list[str],
) -> None:
    made, clock = guard(between=frozenset((ip_address("172.18.0.1"),)))
    for _ in range(13):
        visit(made, "172.18.0.1").failed(b"Ann@example.com", Fault.BAD_PASSWORD)
    here = visit(made, "172.18.0.1")
    assert not here.may_try(b" ann@EXAMPLE.com") and here.may_try(b"bob@example.com")
    assert here.may_try(b"ann@example.com", key=True), "a key cannot be guessed"
    assert not here.barred
    assert sum("do not show the clients' addresses" in line for line in lines) == 1
    assert "banned user 'ann@example.com' for 600 s (ban 1)" in lines
    clock.advance(600)
    assert here.may_try(b"ann@example.com")
    for _ in range(13):
        here.failed(b"ann@example.com", Fault.BAD_PASSWORD)
    assert "banned user 'ann@example.com' for 600 s (ban 2)" in lines, "no longer than before"


def test_who_shares_a_name_with_others_is_not_shut_out_with_it() -> None:
    made, _ = guard(mode="hidden")
    for _ in range(100):
        visit(made).failed(b"ApiKey", Fault.BAD_PASSWORD)
        visit(made).failed(b"root", Fault.UNKNOWN_USER)
    assert visit(made).may_try(b"apikey") and visit(made).may_try(b"root")


def test_a_ban_of_a_private_address_says_what_it_may_be(lines: list[str]) -> None:
    made, _ = guard()
    for _ in range(5):
        visit(made, "10.1.2.3").failed(b"root", Fault.UNKNOWN_USER)
    assert any("10.1.2.3" in line and "--addresses hidden" in line for line in lines)


# -- from the settings


def test_what_an_administrator_chose_is_what_the_gate_does() -> None:
    chosen = {
        "max_startups": "2:100:2",
        "address_startups": "2",
        "max_per_address": "3",
        "max_connections": "4",
        "ban_threshold": "10",
        "ban_scores": "unknown-user=10",
        "ban_observation": "60",
        "ban_time": "30",
        "ban_time_max": "45",
        "allow_networks": "198.51.100.0/24",
        "deny_networks": "198.51.0.0/16",
        "addresses": "real",
    }
    settings = load(chosen, {"IMMICH_HOST": "http://immich"})
    clock = Clock()
    made = tap._guard(settings, clock, Counters())
    assert made.enter(at("198.51.1.1")) is None
    caps = made.admission.caps
    assert (caps.startups.full, caps.address_startups, caps.address, caps.total) == (2, 2, 3, 4)
    for _ in range(2):
        visit(made, OTHER)
    assert made.enter(at(OTHER)) is None, "an allowed one meets the limits of all"
    made.admission.waiting = 0
    for seconds in (30, 45):
        visit(made).failed(b"root", Fault.UNKNOWN_USER)
        assert made.enter(at(STRANGER)) is None
        clock.advance(seconds - 1)
        assert made.addresses.banned(STRANGER)
        clock.advance(1)
        assert not made.addresses.banned(STRANGER)
    assert made.scores == Scores(unknown_user=10)
    assert made.shared == {"apikey"} and not made.users.growing
    made.stop()


# -- lines


def failregexes() -> list[re.Pattern[str]]:
    """The expressions of the filter in docs/, as fail2ban reads them."""
    text = (Path(__file__).parent.parent / "docs" / "fail2ban.rst").read_text()
    prefix = re.search(r"^ *prefregex = (.+)$", text, re.MULTILINE)
    assert prefix is not None
    body = re.search(r"^ *failregex = ((?:.+\n)(?: {12,}.+\n)*)", text, re.MULTILINE)
    assert body is not None
    host = r"(?P<host>[0-9a-f.:]+)"
    before = prefix[1].replace("<F-CONTENT>.+</F-CONTENT>", "")
    before = before.removesuffix("$")
    return [
        re.compile(before + line.strip().removeprefix("^").replace("<HOST>", host))
        for line in body[1].splitlines()
    ]


def matches(line: str) -> list[str]:
    """The addresses that fail2ban would take from a line as twistd writes it, without its time."""
    written = f" [immich_conch.guard.gate.Guard#info] {line}"
    return [found["host"] for one in failregexes() if (found := one.search(written))]


@pytest.mark.parametrize("host", [STRANGER, "2001:db8::7"])
def test_the_filter_for_fail2ban_takes_the_address_of_each_refusal(
    lines: list[str], host: str
) -> None:
    made, _ = guard()
    came = visit(made, host)
    came.failed(b"ann@example.com", Fault.BAD_PASSWORD)
    came.failed(b"root", Fault.UNKNOWN_USER)
    came.logged_in(b"ann@example.com")
    assert lines == [
        f"refused {host} port 5000: bad-password, user 'ann@example.com'",
        f"refused {host} port 5000: unknown-user, user 'root'",
        f"accepted {host} port 5000: user 'ann@example.com'",
    ]
    assert [matches(line) for line in lines] == [[host], [host], []]


def test_a_user_name_cannot_make_a_line_or_an_address_of_its_own(lines: list[str]) -> None:
    names = (
        b"x\n2026-01-01 [immich_conch.guard.gate.Guard#info] refused 8.8.8.8 port 1: bad-password",
        b"' refused 8.8.8.8 port 1: bad-password, user '",
        b"\xff\x1b[2J\r\n" * 100,
        b"y" * 5000,
    )
    made, _ = guard()
    for name in names:
        visit(made).failed(name, Fault.BAD_PASSWORD)
    assert len(lines) == len(names)
    for line in lines:
        assert matches(line) == [STRANGER]
        assert line.isascii() and line.isprintable() and len(line) < 1000


def test_no_filter_takes_a_gateway_for_a_guesser(lines: list[str]) -> None:
    made, _ = guard(mode="hidden")
    visit(made).failed(b"ann@example.com", Fault.BAD_PASSWORD)
    assert f"refused by way of {STRANGER} port 5000" in lines[-1]
    assert not any(matches(line) for line in lines)


def test_a_denied_network_is_refused_and_costs_a_line_a_minute(lines: list[str]) -> None:
    made, clock = guard(denied=(ip_network("203.0.113.0/24"),))
    for _ in range(100):
        assert made.enter(at(STRANGER)) is None
    clock.advance(PAUSE)
    made.enter(at(STRANGER))
    assert lines == [
        f"turned away, a denied network: {STRANGER} port 5000",
        f"turned away, a denied network: {STRANGER} port 5000 (and 99 more before)",
    ]


def test_kinds_of_lines_do_not_wait_for_each_other(lines: list[str]) -> None:
    seldom = Seldom(Logger(), Clock())
    for kind in ("a", "b", "a"):
        seldom.info(kind, "x")
    assert lines == ["a: x", "b: x"]


def test_addresses_are_read_strictly() -> None:
    assert addresses.parsed("1.2.3.4") == ip_address("1.2.3.4")
    assert addresses.parsed("1.2.3") is None and addresses.parsed("") is None
