"""Key exchanges message by message: strict ones, new keys, and who sends KEXINIT when.

The client is Conch's own, joined to the server in memory; where it is strict it has been taught so.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from attrs import evolve
from ssh_server import PASSWORD, World, host_keys
from test_ssh_transport import Client, Link, lines, ns
from twisted.conch.ssh.transport import (
    MSG_DEBUG,
    MSG_IGNORE,
    MSG_KEX_DH_GEX_INIT,
    MSG_KEX_DH_GEX_REQUEST,
    MSG_KEXINIT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
)

from immich_conch.ssh.algorithms import STRICT_CLIENT, STRICT_SERVER, Offer
from immich_conch.ssh.kex import KEXINIT_PATIENCE, REKEY_DEADLINE, REKEY_SECONDS
from immich_conch.ssh.transport import LOGIN_DEADLINE, PACKETS_A_TURN

__all__ = ["host_keys", "lines"]

KEEP_ALIVE = 80
ALIVE = ns(b"keepalive@openssh.com") + b"\x01"


class StrictClient(Client):
    """Counts packets from 0 again after each NEWKEYS (OpenSSH's PROTOCOL, section 1.10)."""

    def __init__(self) -> None:
        super().__init__()
        self.supportedKeyExchanges = [*Client.supportedKeyExchanges, STRICT_CLIENT]

    def _newKeys(self) -> None:
        self.incomingPacketSequence = self.outgoingPacketSequence = 0
        super()._newKeys()


class StrictLink(Link):
    make_client = StrictClient


@pytest.fixture
def link(host_keys: Any) -> Link:
    return Link(World(), host_keys)


@pytest.fixture
def strict(host_keys: Any) -> Link:
    return StrictLink(World(), host_keys)


def logged_in(link: Link) -> Link:
    link.secure()
    link.guess(PASSWORD)
    link.pump()
    assert 52 in link.client.got
    return link


def answers(link: Link, count: int) -> int:
    """How many of so many keep-alives have their answer."""
    before = link.client.got.count(82)
    for _ in range(count):
        link.send(KEEP_ALIVE, ALIVE)
    link.pump()
    return link.client.got.count(82) - before


def kexinit_of(data: bytes) -> Offer:
    """The KEXINIT among what a server says in the clear."""
    packet = data.partition(b"\r\n")[2]
    size, padding, number = struct.unpack_from("!LBB", packet)
    assert number == MSG_KEXINIT
    return Offer.parse(packet[6 : 4 + size - padding])


# -- when KEXINIT is sent


def test_nothing_but_the_identification_is_said_before_the_clients(link: Link) -> None:
    assert link.down.value() == b"SSH-2.0-immich-conch\r\n"


@pytest.mark.parametrize("name", [b"OpenSSH_10.0", b"libssh2_1.10.0", b"Go", b"nobody_knows"])
def test_others_have_our_kexinit_as_soon_as_they_have_said_who_they_are(
    link: Link, name: bytes
) -> None:
    link.server.dataReceived(b"SSH-2.0-" + name + b"\r\n")
    offer = kexinit_of(link.down.value())
    assert offer.ciphers_out == (
        b"aes128-gcm@openssh.com",
        b"aes256-gcm@openssh.com",
        b"aes128-ctr",
        b"aes192-ctr",
        b"aes256-ctr",
    )
    assert STRICT_SERVER in offer.key_exchanges


def offering(ciphers: list[bytes], macs: list[bytes], guesses: bool = False) -> bytes:
    """An OpenSSH of old, its KEXINIT."""
    lists = [
        *([b"curve25519-sha256"], [b"ssh-ed25519"], ciphers, ciphers, macs, macs),
        *([b"none"], [b"none"], [], []),
    ]
    body = b"\x14" + bytes(16) + b"".join(ns(b",".join(names)) for names in lists)
    body += bytes((guesses,)) + bytes(4)
    padding = 16 - (5 + len(body)) % 8
    return struct.pack("!LB", 1 + len(body) + padding, padding) + body + bytes(padding)


CHACHA, GCM128, GCM256 = (
    b"chacha20-poly1305@openssh.com",
    b"aes128-gcm@openssh.com",
    b"aes256-gcm@openssh.com",
)
CTR = [b"aes128-ctr", b"aes192-ctr", b"aes256-ctr"]


@pytest.mark.parametrize(
    ("theirs", "chosen"),
    [
        ([CHACHA, *CTR, GCM128, GCM256], GCM128),
        ([*CTR, GCM256, GCM128], GCM256),
        ([b"aes256-ctr", GCM256], GCM256),
        ([b"aes256-ctr", b"aes128-ctr"], b"aes256-ctr"),
        ([CHACHA, b"aes192-ctr"], b"aes192-ctr"),
    ],
)
def test_who_prefers_something_slower_lands_on_gcm_if_he_knows_it(
    link: Link, theirs: list[bytes], chosen: bytes
) -> None:
    link.server.dataReceived(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    assert link.down.value() == b"SSH-2.0-immich-conch\r\n"
    link.server.dataReceived(offering(theirs, [b"hmac-sha2-512", b"hmac-sha2-256"]))
    offer = kexinit_of(link.down.value())
    assert next(name for name in theirs if name in offer.ciphers_in) == chosen
    assert link.server._agreed.suite_in == link.server._agreed.suite_out
    assert link.server._agreed.suite_in.cipher == chosen
    assert link.server._agreed.suite_in.mac == (b"" if b"gcm" in chosen else b"hmac-sha2-256")


def test_a_wrong_guess_of_the_method_is_dropped_once(link: Link, lines: list[Any]) -> None:
    # RFC 4253, section 7: it has the number of whatever method was guessed.
    guess = offering(CTR, [b"hmac-sha2-256"], guesses=True)
    link.server.algorithms = evolve(
        link.server.algorithms, key_exchanges=(b"ecdh-sha2-nistp256", b"curve25519-sha256")
    )
    link.server.dataReceived(b"SSH-2.0-me\r\n" + guess)
    packet = struct.pack("!LB", 12, 6) + bytes((MSG_KEX_DH_GEX_REQUEST,)) + bytes(10)
    link.server.dataReceived(packet)
    assert not link.down.disconnecting and lines == []
    link.server.dataReceived(packet)
    assert link.down.disconnecting and len(lines) == 1


@pytest.mark.parametrize(
    ("ciphers", "macs"), [([CHACHA], [b"hmac-sha2-256"]), (CTR, [b"hmac-md5"]), ([b""], [b""])]
)
def test_who_has_nothing_in_common_with_us_is_told_so(
    link: Link, lines: list[Any], ciphers: list[bytes], macs: list[bytes]
) -> None:
    link.server.dataReceived(b"SSH-2.0-OpenSSH_9.2p1\r\n" + offering(ciphers, macs))
    assert link.down.disconnecting and len(lines) == 1


@pytest.mark.parametrize(
    "name",
    [b"OpenSSH_for_Windows_9.5", b"OpenSSH_6.7p1 Raspbian", b"paramiko_3.5.1", b"JSCH-0.1.54"],
)
def test_clients_that_are_known_to_speak_first_are_waited_for(link: Link, name: bytes) -> None:
    link.server.dataReceived(b"SSH-2.0-" + name + b"\r\n")
    assert link.down.value() == b"SSH-2.0-immich-conch\r\n"


def test_who_waits_for_our_kexinit_has_it_after_a_while(link: Link) -> None:
    link.server.dataReceived(b"SSH-2.0-OpenSSH_7.4\r\n")
    link.clock.advance(KEXINIT_PATIENCE - 0.1)
    assert link.down.value() == b"SSH-2.0-immich-conch\r\n"
    link.clock.advance(0.1)
    assert kexinit_of(link.down.value()).ciphers_in[0] == GCM128


def test_the_patience_ends_with_the_connection(link: Link) -> None:
    link.server.dataReceived(b"SSH-2.0-OpenSSH_7.4\r\n")
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "data", [b"GET", b"SSH", b"SSH-\n", b"SSH-2.0-" + b"x" * 250, b"\n", b"SSH-1.5-x\r\n"]
)
def test_an_identification_is_short_and_says_ssh(link: Link, lines: list[Any], data: bytes) -> None:
    for at in range(len(data)):
        link.server.dataReceived(data[at : at + 1])
    assert link.down.disconnecting == (data != b"SSH")
    assert len(lines) == (data != b"SSH")


def test_what_follows_the_identification_in_one_read_counts(link: Link) -> None:
    data = b"SSH-2.0-me\r\n" + offering([GCM128], [])
    for at in range(len(data)):
        link.server.dataReceived(data[at : at + 1])
    assert link.server._agreed.suite_in.cipher == GCM128


# -- strict key exchange


def test_a_strict_client_and_we_count_from_zero_after_each_newkeys(strict: Link) -> None:
    logged_in(strict)
    assert answers(strict, 3) == 3
    assert strict.server._reader.sequence == strict.client.outgoingPacketSequence < 8
    for _ in range(3):
        strict.client.sendKexInit()
        strict.pump()
        assert strict.server._reader.sequence == strict.client.outgoingPacketSequence == 0
        assert answers(strict, 2) == 2
        strict.server.rekey()
        strict.pump()
        assert strict.server.outgoingPacketSequence == strict.client.incomingPacketSequence == 0
        assert answers(strict, 2) == 2


def test_with_any_other_client_counting_goes_on(link: Link) -> None:
    logged_in(link)
    before = link.server._reader.sequence
    link.client.sendKexInit()
    link.pump()
    assert link.server._reader.sequence == link.client.outgoingPacketSequence > before
    assert answers(link, 2) == 2


INJECTED = [
    (MSG_IGNORE, ns(b"")),
    (MSG_DEBUG, b"\x00" + ns(b"") * 2),
    (MSG_UNIMPLEMENTED, bytes(4)),
    (MSG_SERVICE_REQUEST, ns(b"ssh-userauth")),
    (7, bytes(4)),
    (99, b""),
    (KEEP_ALIVE, ALIVE),
]


@pytest.mark.parametrize(("number", "payload"), INJECTED)
def test_terrapin_a_message_inside_the_first_key_exchange_ends_it(
    strict: Link, lines: list[Any], number: int, payload: bytes
) -> None:
    # Both identifications and KEXINITs are there, the client's next message is not.
    strict.server.dataReceived(strict.up.value())
    strict.up.clear()
    strict.client._keyExchangeState = strict.client._KEY_EXCHANGE_NONE
    strict.client.sendPacket(number, payload)
    strict.server.dataReceived(strict.up.value())
    assert strict.down.disconnecting and len(lines) == 1


@pytest.mark.parametrize(("number", "payload"), INJECTED[:3])
def test_terrapin_a_message_before_a_strict_kexinit_ends_it(
    host_keys: Any, lines: list[Any], number: int, payload: bytes
) -> None:
    for strict in (True, False):
        link = (StrictLink if strict else Link)(World(), host_keys)
        greeting, _, kexinit = link.up.value().partition(b"\r\n")
        body = bytes((number,)) + payload
        padding = 16 - (5 + len(body)) % 8
        packet = struct.pack("!LB", 1 + len(body) + padding, padding) + body + bytes(padding)
        link.server.dataReceived(greeting + b"\r\n" + packet + kexinit)
        assert link.down.disconnecting == strict
    assert len(lines) == 1


def test_a_message_between_is_nothing_to_a_client_that_is_not_strict(link: Link) -> None:
    link.client.sendPacket(MSG_IGNORE, ns(b"x"))
    logged_in(link)


def test_strictness_cannot_be_had_by_a_later_key_exchange(link: Link) -> None:
    logged_in(link)
    link.client.supportedKeyExchanges = [*link.client.supportedKeyExchanges, STRICT_CLIENT]
    link.client.sendKexInit()
    link.pump()
    assert not link.server._strict
    assert link.server._reader.sequence == link.client.outgoingPacketSequence > 0
    assert answers(link, 1) == 1


@pytest.mark.parametrize("number", [MSG_KEX_DH_GEX_INIT, MSG_KEX_DH_GEX_REQUEST, 31, 33, 49])
def test_a_message_of_another_method_ends_the_exchange(
    link: Link, lines: list[Any], number: int
) -> None:
    link.server.dataReceived(link.up.value())
    link.up.clear()
    link.client.sendPacket(number, bytes(12))
    link.server.dataReceived(link.up.value())
    assert link.down.disconnecting and len(lines) == 1


# -- new keys


def test_nobody_is_asked_for_new_keys_before_the_log_in(host_keys: Any) -> None:
    link = Link(World(), host_keys, rekey_bytes=100)
    link.pump()
    assert not link.server.changing_keys


@pytest.mark.parametrize("kind", [Link, StrictLink])
def test_new_keys_after_so_many_bytes_and_small_packets_count_for_more(
    host_keys: Any, kind: type[Link]
) -> None:
    link = logged_in(kind(World(), host_keys, rekey_bytes=1000))
    keys = {id(link.server._sealer)}
    seen = [link.server._sealer]  # kept, so that no id is given twice
    for _ in range(40):
        assert answers(link, 10) == 10
        seen.append(link.server._sealer)
        keys.add(id(seen[-1]))
        assert link.server._bytes_out < 2000
    assert len(keys) > 8
    assert not link.down.disconnecting


def test_new_keys_after_an_hour_and_the_next(link: Link) -> None:
    logged_in(link)
    for _ in range(3):
        keys = link.server._sealer
        link.wait(REKEY_SECONDS - 1)
        assert link.server._sealer is keys
        link.wait(1)
        assert link.server._sealer is not keys
    assert answers(link, 1) == 1


def test_who_makes_no_new_keys_is_cut_off(link: Link, lines: list[Any]) -> None:
    logged_in(link)
    link.clock.advance(REKEY_SECONDS)
    assert link.server.changing_keys
    link.clock.advance(REKEY_DEADLINE)
    assert link.down.disconnecting and len(lines) == 1
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []


def test_both_may_ask_for_new_keys_at_once(link: Link) -> None:
    logged_in(link)
    keys = link.server._sealer
    link.server.rekey()
    link.server.rekey()
    link.client.sendKexInit()
    link.pump()
    assert link.server._sealer is not keys and not link.server.changing_keys
    assert answers(link, 2) == 2


def test_what_is_said_while_keys_are_changed_is_said_afterwards_in_order(link: Link) -> None:
    logged_in(link)
    link.server.rekey()
    for number in (90, 91, 92):
        link.server.sendPacket(number, b"")
    assert answers(link, 2) == 2
    assert [n for n in link.client.got if n in (90, 91, 92, 82)] == [90, 91, 92, 82, 82]


def test_a_number_that_is_not_known_is_named_by_its_place(link: Link) -> None:
    logged_in(link)
    told = []
    link.client.receiveUnimplemented = told.append
    for _ in range(2):
        link.send(192, b"")
        link.pump()
    assert told == [link.client.outgoingPacketSequence - 2, link.client.outgoingPacketSequence - 1]


def test_counting_wraps_at_32_bits(link: Link) -> None:
    logged_in(link)
    link.server.outgoingPacketSequence = link.client.incomingPacketSequence = 2**32 - 1
    link.server.sendPacket(90, b"")
    assert link.server.outgoingPacketSequence == 0


# -- bad packets, turns


def test_a_wrong_mac_ends_the_connection_with_one_line(link: Link, lines: list[Any]) -> None:
    logged_in(link)
    link.send(KEEP_ALIVE, ALIVE)
    packet = bytearray(link.up.value())
    packet[-1] ^= 1
    link.up.clear()
    link.server.dataReceived(bytes(packet))
    assert link.down.disconnecting and len(lines) == 1
    assert "MAC" in lines[0]["text"]
    link.pump()
    assert link.client.goodbye == b"bad MAC"


@pytest.mark.parametrize("known", [False, True])
def test_only_who_has_logged_in_may_send_large_packets(
    link: Link, lines: list[Any], known: bool
) -> None:
    link.secure()
    if known:
        link.guess(PASSWORD)
        link.pump()
    link.send(MSG_IGNORE, ns(bytes(40_000)))
    link.pump()
    assert link.down.disconnecting is not known
    assert len(lines) == (not known)
    link.send(MSG_IGNORE, ns(bytes(2**18)))
    link.pump()
    assert link.down.disconnecting is not known
    link.send(MSG_IGNORE, ns(bytes(2**18 + 2000)))
    link.pump()
    assert link.down.disconnecting


def test_who_sends_much_at_once_lets_the_others_have_their_turn(link: Link) -> None:
    logged_in(link)
    count = PACKETS_A_TURN * 3 + 10
    for _ in range(count):
        link.send(KEEP_ALIVE, ALIVE)
    link.pump()
    assert link.client.got.count(82) == PACKETS_A_TURN
    assert link.down.producerState == "paused"
    link.wait(0)  # the clock runs what is due, turn after turn
    assert link.client.got.count(82) == count
    assert link.down.producerState == "producing"


def test_what_comes_though_reading_is_paused_is_read_in_order(link: Link) -> None:
    logged_in(link)
    for _ in range(PACKETS_A_TURN + 5):
        link.send(KEEP_ALIVE, ALIVE)
    link.server.dataReceived(link.up.value())
    link.up.clear()
    link.send(192, b"")
    link.pump()
    assert 3 not in link.client.got and link.client.got.count(82) == PACKETS_A_TURN
    told = []
    link.client.receiveUnimplemented = told.append
    link.wait(0)
    assert link.client.got.count(82) == PACKETS_A_TURN + 5
    assert told == [link.client.outgoingPacketSequence - 1]


def test_a_fault_of_ours_in_a_later_turn_ends_the_connection(
    link: Link, logged_errors: Any
) -> None:
    logged_in(link)
    for _ in range(PACKETS_A_TURN + 5):
        link.send(KEEP_ALIVE, ALIVE)
    link.pump()
    link.server.service.packetReceived = None
    link.wait(0)
    assert len(logged_errors.flush(TypeError)) == 1
    assert link.down.aborted
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []


def test_a_drop_in_the_middle_of_a_turn_leaves_nothing_behind(link: Link) -> None:
    logged_in(link)
    for _ in range(PACKETS_A_TURN + 5):
        link.send(KEEP_ALIVE, ALIVE)
    link.pump()
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []
    link.clock.advance(LOGIN_DEADLINE)
    assert link.world.logouts == 1
