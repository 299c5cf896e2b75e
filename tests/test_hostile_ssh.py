"""Hostile clients, message by message: what they may cost, and that they are told or cut off.

Slow-loris at the beginning, window floods, stale channels and pipelined guesses have their tests in
`test_ssh_transport.py`, `test_ssh_channels.py` and `test_sftp_packets.py`; here are the others.
`lines` lets no traceback pass.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from typing import Any

import pytest
from fuzz.mutate import ssh_packet
from ssh_server import PASSWORD, World, host_keys
from test_ssh_rekey import answers, logged_in
from test_ssh_transport import Link, Socket, lines, link, ns
from twisted.conch.ssh.transport import (
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_DH_GEX_GROUP,
    MSG_KEXINIT,
    MSG_SERVICE_REQUEST,
)
from twisted.internet.task import Clock

from immich_conch.ssh.algorithms import Algorithms
from immich_conch.ssh.packets import AFTER_LOGIN_BYTES, BEFORE_LOGIN_BYTES
from immich_conch.ssh.primes import PRIMES
from immich_conch.ssh.session import CHANNEL_PACKET_BYTES, MAX_CHANNELS, WINDOW_BYTES
from immich_conch.ssh.transport import FAILURE_DELAY, LINGER, LOGIN_DEADLINE

__all__ = ["host_keys", "lines", "link"]

OPEN, CONFIRMED, REFUSED = 90, 91, 92
ADJUST, DATA, EXTENDED_DATA, CLOSE, REQUEST = 93, 94, 95, 97, 98


# -- found by fuzzing


@pytest.mark.parametrize("number", [80, 90, 93, 94, 98, 255])
def test_a_message_for_users_before_the_log_in_ends_the_connection(
    link: Link, lines: list[Any], number: int
) -> None:
    """Conch wrote each of them into the log, with all that is in it."""
    link.secure()
    for _ in range(5):
        link.send(number, b"secret")
    link.pump()
    assert link.down.disconnecting and len(lines) == 1 and "secret" not in repr(lines)


def test_a_log_in_message_that_is_not_known_is_answered_and_not_logged(
    link: Link, lines: list[Any]
) -> None:
    link.secure()
    for number in (51, 52, 53, 60, 79):
        link.send(number, b"secret")
    link.pump()
    link.guess(PASSWORD)
    link.pump()
    assert 52 in link.client.got and lines == []


def test_guesses_that_wait_are_not_tried_for_who_has_been_cut_off(link: Link) -> None:
    link.secure()
    for password in ("wrong", PASSWORD, "other"):
        link.guess(password)
    link.send(MSG_KEXINIT, b"")
    link.pump()
    assert link.down.disconnecting
    link.wait(FAILURE_DELAY)
    link.wait(FAILURE_DELAY)
    assert link.world.tried == [b"wrong"] and link.world.logouts == 0


def test_what_a_client_says_it_can_costs_nothing_however_long_it_is(link: Link) -> None:
    """Conch took a sixth of a second of computing for each of these."""
    logged_in(link)
    pairs = (AFTER_LOGIN_BYTES - 100) // 8
    began = time.process_time()
    link.server.dispatchMessage(MSG_EXT_INFO, struct.pack("!L", pairs) + bytes(8) * pairs)
    assert time.process_time() - began < 0.1
    assert not link.down.disconnecting


def test_a_goodbye_cannot_write_lines_of_its_own_into_the_log(link: Link, lines: list[Any]) -> None:
    link.pump()
    link.send(1, struct.pack("!L", 2) + ns(b"x\r\n2026-01-01 ban 192.0.2.1\x1b[2J") + ns(b""))
    link.pump()
    (line,) = lines
    text = line["log_format"].format(**line)
    assert text.isprintable() and "192.0.2.1" in text
    assert link.down.disconnecting


# -- slow-loris


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def kexinit(kex: bytes, compression: bytes = b"none", **lists: bytes) -> bytes:
    """A KEXINIT's payload."""
    names = [
        kex,
        lists.get("keys", b"ssh-ed25519"),
        *[lists.get("ciphers", b"aes128-gcm@openssh.com")] * 2,
        *[lists.get("macs", b"hmac-sha2-256")] * 2,
        *[compression] * 2,
        *[lists.get("languages", b"")] * 2,
    ]
    return bytes((MSG_KEXINIT,)) + bytes(16) + b"".join(map(ns, names)) + bytes(5)


def drip(link: Link, data: bytes) -> None:
    """A byte now and then, until the deadline is near."""
    pause = (LOGIN_DEADLINE - 1) / (len(data) + 1)
    for at in range(len(data)):
        link.server.dataReceived(data[at : at + 1])
        link.clock.advance(pause)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        half(b"SSH-2.0-OpenSSH_9.9\r\n"),
        b"SSH-2.0-OpenSSH_9.9\r\n" + half(ssh_packet(kexinit(b"curve25519-sha256"))),
        b"SSH-2.0-OpenSSH_9.9\r\n" + ssh_packet(kexinit(b"curve25519-sha256")),
        b"SSH-2.0-OpenSSH_9.9\r\n"
        + ssh_packet(kexinit(b"curve25519-sha256"))
        + half(ssh_packet(b"\x1e" + ns(bytes(31) + b"\x09"))),
    ],
    ids=["nothing", "identification", "KEXINIT", "no answer to KEXINIT", "ECDH_INIT"],
)
def test_who_takes_his_time_before_the_keys_has_a_minute(
    host_keys: Any, lines: list[Any], data: bytes
) -> None:
    link = Link(World(), host_keys)
    drip(link, data)
    assert not link.down.disconnecting
    link.clock.advance(LOGIN_DEADLINE)
    assert link.down.disconnecting and len(lines) == 1
    link.clock.advance(LINGER)
    assert link.down.aborted
    link.server.connectionLost(None)
    assert link.clock.getDelayedCalls() == []


@pytest.mark.parametrize("service", [False, True], ids=["after NEWKEYS", "half a log-in"])
def test_who_takes_his_time_after_the_keys_has_the_same_minute(
    link: Link, lines: list[Any], service: bool
) -> None:
    link.pump()
    assert link.server.isEncrypted("both")
    if service:
        link.service()
    link.guess("wrong")
    packet = half(link.up.value())
    link.up.clear()
    drip(link, packet)
    assert not link.down.disconnecting
    link.clock.advance(LOGIN_DEADLINE)
    assert link.down.disconnecting and len(lines) == 1 and link.world.tried == []


# -- the key exchange


class Raw:
    """A client of raw bytes, before the keys."""

    def __init__(self, keys: Any, kex: bytes, *after: bytes, compression: bytes = b"none") -> None:
        self.clock = Clock()
        world = World()
        factory = world.factory(keys, self.clock)
        self.server: Any = factory.buildProtocol(None)
        self.socket = Socket()
        self.server.makeConnection(self.socket)
        self.server.dataReceived(b"SSH-2.0-hostile\r\n")
        self.send(kexinit(kex, compression), *after)

    def send(self, *messages: bytes) -> None:
        self.server.dataReceived(b"".join(map(ssh_packet, messages)))

    def kinds(self) -> list[int]:
        """Which messages the server has sent in the clear."""
        data, found = self.socket.value().partition(b"\r\n")[2], []
        while data:
            found.append(data[5])
            data = data[4 + int.from_bytes(data[:4], "big") :]
            if found[-1] == 21:
                break
        return found

    def over(self) -> bool:
        """Whether the server has said goodbye, and nothing of it stays."""
        ended = self.socket.disconnecting and self.kinds()[-1] == 1
        self.server.connectionLost(None)
        return bool(ended) and self.clock.getDelayedCalls() == []


@pytest.mark.parametrize("name", [b"zlib", b"zlib@openssh.com", b"zlib,zlib@openssh.com", b""])
def test_bombs_need_a_compression_and_there_is_none(
    host_keys: Any, lines: list[Any], name: bytes
) -> None:
    raw = Raw(host_keys, b"curve25519-sha256", compression=name)
    assert raw.over() and len(lines) == 1


NISTP256 = b"ecdh-sha2-nistp256"
HYBRID = b"mlkem768x25519-sha256"
POINTS = [
    *[(b"curve25519-sha256", point) for point in (b"", bytes(31), bytes(32), bytes(33))],
    # Points of small order: the secret would be known to everybody.
    (b"curve25519-sha256", b"\x01" + bytes(31)),
    (b"curve25519-sha256", b"\xec" + b"\xff" * 30 + b"\x7f"),
    (b"curve25519-sha256@libssh.org", bytes(32)),
    # No point, the point at infinity, one beside the curve, a compressed one of nothing.
    *[
        (NISTP256, point)
        for point in (b"", b"\x00", b"\x04" + b"\x01" * 64, b"\x02" + b"\xff" * 32)
    ],
    (b"ecdh-sha2-nistp384", b"\x04" + b"\x01" * 64),
    (b"ecdh-sha2-nistp521", b"\x04" + bytes(132)),
    *[(HYBRID, bytes(size)) for size in (0, 32, 1184, 1215, 1217, 30_000)],
    # Right in length: a curve's point of nothing, an encapsulation key out of range.
    (HYBRID, bytes(1216)),
    (HYBRID, b"\xff" * 1184 + b"\x09" + bytes(31)),
]


@pytest.mark.parametrize(("kex", "point"), POINTS)
def test_points_that_are_none_end_the_key_exchange(
    host_keys: Any, lines: list[Any], kex: bytes, point: bytes
) -> None:
    if kex not in Algorithms.of(host_keys).key_exchanges:
        kex = b"curve25519-sha256"  # without ML-KEM it is too long for that, too
    raw = Raw(host_keys, kex, b"\x1e" + ns(point))
    assert 31 not in raw.kinds()
    assert raw.over() and len(lines) == 1


GEX = b"diffie-hellman-group-exchange-sha256"


@pytest.mark.parametrize(
    "sizes", [(0, 0, 0), (1, 2, 3), (2**32 - 1,) * 3, (8192, 2**31, 2**32 - 1), (4096, 1, 2)]
)
def test_whatever_size_is_asked_for_the_group_is_one_of_ours(
    host_keys: Any, lines: list[Any], sizes: tuple[int, int, int]
) -> None:
    began = time.process_time()
    raw = Raw(host_keys, GEX, b"\x22" + struct.pack("!LLL", *sizes))
    assert raw.kinds() == [MSG_KEXINIT, MSG_KEX_DH_GEX_GROUP]
    assert raw.server.p in [prime for groups in PRIMES.values() for _, prime in groups]
    assert time.process_time() - began < 2
    raw.send(b"\x22" + struct.pack("!LLL", *sizes))  # and only once
    assert raw.over() and len(lines) == 1


@pytest.mark.parametrize("public", ["0", "1", "p - 1", "p", "p + 1", "2 ** 30_000", "none"])
def test_a_public_key_that_gives_the_secret_away_is_refused(
    host_keys: Any, lines: list[Any], public: str
) -> None:
    raw = Raw(host_keys, GEX, b"\x22" + struct.pack("!LLL", 3072, 3072, 8192))
    value = b""
    if public != "none":
        number = eval(public, {"p": raw.server.p})
        value = number.to_bytes(number.bit_length() // 8 + 1, "big")
    raw.send(b"\x20" + ns(value))
    assert 33 not in raw.kinds()
    assert raw.over() and len(lines) == 1


def test_a_flood_of_kexinit_ends_with_the_second(host_keys: Any, lines: list[Any]) -> None:
    raw = Raw(host_keys, b"curve25519-sha256", *[kexinit(b"curve25519-sha256")] * 100)
    assert raw.kinds() == [MSG_KEXINIT, 1]
    assert raw.over() and len(lines) == 1


def test_huge_lists_of_names_cost_little_and_match_nothing(
    link: Link, host_keys: Any, lines: list[Any]
) -> None:
    many = b"a," * ((BEFORE_LOGIN_BYTES - 500) // 20)
    began = time.process_time()
    raw = Raw(host_keys, many + b"b", compression=many)
    assert time.process_time() - began < 0.5
    assert raw.over() and len(lines) == 1
    logged_in(link)
    many = b"," * (AFTER_LOGIN_BYTES - 1000)
    began = time.process_time()
    link.server.dispatchMessage(MSG_KEXINIT, kexinit(many)[1:])
    assert time.process_time() - began < 0.5
    assert link.down.disconnecting and len(lines) == 2


def test_a_user_may_ask_for_new_keys_again_and_again_and_nothing_grows(link: Link) -> None:
    logged_in(link)
    session = link.server.sessionID
    for _ in range(30):
        link.client.sendKexInit()
        link.pump()
        assert not link.server.changing_keys
    assert link.server.sessionID == session
    # That of the next keys, and the one that looks whether the client is alive.
    assert len(link.clock.getDelayedCalls()) == 2
    assert answers(link, 3) == 3


# -- services and messages


@pytest.mark.parametrize(
    "name", [b"", b"ssh-connection", b"ssh-userauth\0", b"\xff" * 1000, b"ssh-userauth" * 2000]
)
def test_a_service_that_is_none_ends_the_connection(
    link: Link, lines: list[Any], name: bytes
) -> None:
    link.pump()
    link.send(MSG_SERVICE_REQUEST, ns(name))
    link.pump()
    assert link.down.disconnecting and len(lines) == 1


@pytest.mark.parametrize("numbers", [range(50), range(50, 80), range(80, 105), (127, 128, 255)])
@pytest.mark.parametrize("inside", [False, True], ids=["before the log-in", "after it"])
def test_every_message_at_every_short_length_is_answered_or_ends_the_connection(
    host_keys: Any, lines: list[Any], numbers: Iterable[int], inside: bool
) -> None:
    """What is cut off says so with one line."""
    for number in numbers:
        link = Link(World(), host_keys)
        link.secure()
        if inside:
            link.guess(PASSWORD)
            link.pump()
        lines.clear()
        for size in (0, 1, 3, 4, 5, 8, 9, 12, 13, 17, 40):
            link.server.dispatchMessage(number, bytes(size))
        if link.server.ended:
            assert len(lines) == 1
        else:
            probe = (
                (80, ns(b"x") + b"\x01") if inside else (MSG_SERVICE_REQUEST, ns(b"ssh-userauth"))
            )
            assert lines == []
            if not link.server.changing_keys:
                before = len(link.client.got)
                link.pump()
                link.send(*probe)
                link.pump()
                assert len(link.client.got) > before
        link.server.connectionLost(None)
        assert link.clock.getDelayedCalls() == []


LENGTHS = [*range(80), *(BEFORE_LOGIN_BYTES + n for n in range(-8, 9)), 2**18, 2**31, 2**32 - 1]


@pytest.mark.parametrize("secured", [False, True], ids=["before the keys", "after them"])
def test_a_packet_of_every_length_is_waited_for_or_ends_the_connection(
    host_keys: Any, lines: list[Any], secured: bool
) -> None:
    """What is announced and then not what was announced: bytes of nothing follow."""
    for length in LENGTHS:
        for padding in (0, 3, 4, 8, 255):
            link = Link(World(), host_keys)
            if secured:
                link.pump()
            else:
                link.server.dataReceived(b"SSH-2.0-x\r\n")
            lines.clear()
            link.server.dataReceived(struct.pack("!LB", length, padding) + bytes(39_000))
            assert link.down.disconnecting and len(lines) == 1, (length, padding)
            link.server.connectionLost(None)
            assert link.clock.getDelayedCalls() == []


def test_a_flood_of_messages_that_say_nothing_costs_nothing(link: Link) -> None:
    link.secure()
    for _ in range(2000):
        link.send(MSG_IGNORE, ns(bytes(100)))
    link.pump()
    while link.server._turn is not None:
        link.clock.advance(0)
    assert not link.down.disconnecting and len(link.down.value()) < 1000
    assert len(link.server._reader._data) == link.server._reader._at


# -- channels


def opened(link: Link, window: int = 2**21, remote: int = 0) -> None:
    link.send(OPEN, ns(b"session") + struct.pack("!LLL", remote, window, 32768))
    link.pump()


def sftp(link: Link, channel: int = 0) -> None:
    link.send(REQUEST, struct.pack("!L", channel) + ns(b"subsystem") + b"\x01" + ns(b"sftp"))
    say(link, struct.pack("!LBL", 5, 1, 3), channel)


def say(link: Link, data: bytes, channel: int = 0) -> None:
    for at in range(0, len(data), CHANNEL_PACKET_BYTES // 2):
        piece = data[at : at + CHANNEL_PACKET_BYTES // 2]
        link.send(DATA, struct.pack("!L", channel) + ns(piece))
    link.pump()
    settle(link)


def settle(link: Link) -> None:
    while link.server._turn is not None:
        link.clock.advance(0)
        link.pump()


def test_a_flood_of_channels_is_refused_and_leaves_nothing(link: Link) -> None:
    logged_in(link)
    for _ in range(1000):
        link.send(OPEN, ns(b"session") + struct.pack("!LLL", 7, 0, 32768))
    link.pump()
    settle(link)
    assert link.client.got.count(CONFIRMED) == MAX_CHANNELS
    assert link.client.got.count(REFUSED) == 1000 - MAX_CHANNELS
    for number in range(MAX_CHANNELS):
        link.send(CLOSE, struct.pack("!L", number))
    link.pump()
    connection = link.server.service
    assert not connection.channels and not connection.localToRemoteChannel
    assert not connection.channelsToRemoteChannel


def test_channels_opened_and_closed_for_ever_leave_nothing(link: Link) -> None:
    logged_in(link)
    for number in range(500):
        link.send(OPEN, ns(b"session") + struct.pack("!LLL", 2**32 - 1, 0, 32768))
        link.send(CLOSE, struct.pack("!L", number))
    link.pump()
    settle(link)
    connection = link.server.service
    assert link.client.got.count(CONFIRMED) == link.client.got.count(CLOSE) == 500
    assert not connection.channels and not connection.localToRemoteChannel
    assert not connection.channelsToRemoteChannel
    assert answers(link, 1) == 1


@pytest.mark.parametrize("number", [1, 15, 2**31, 2**32 - 1])
def test_a_number_of_no_channel_ends_the_connection(
    link: Link, lines: list[Any], number: int
) -> None:
    logged_in(link)
    opened(link)
    link.send(DATA, struct.pack("!L", number) + ns(b"x"))
    link.pump()
    assert link.down.disconnecting and len(lines) == 1
    assert link.world.logouts == 0
    link.server.connectionLost(None)
    assert link.world.logouts == 1


def test_windows_opened_beyond_every_number_stay_at_the_largest(link: Link) -> None:
    logged_in(link)
    opened(link, window=2**32 - 1)
    for _ in range(100):
        link.send(ADJUST, struct.pack("!LL", 0, 2**32 - 1))
    link.pump()
    assert link.server.service.channels[0].remoteWindowLeft == 2**32 - 1
    assert answers(link, 1) == 1


def test_a_flood_for_stderr_is_dropped_within_the_window_and_ends_beyond_it(
    link: Link, lines: list[Any]
) -> None:
    logged_in(link)
    opened(link)
    piece = struct.pack("!LL", 0, 1) + ns(bytes(CHANNEL_PACKET_BYTES))
    for _ in range(3 * WINDOW_BYTES // CHANNEL_PACKET_BYTES):
        link.send(EXTENDED_DATA, piece)
        link.pump()
    settle(link)
    assert link.client.got.count(ADJUST) >= 8 and lines == []
    link.send(EXTENDED_DATA, struct.pack("!LL", 0, 1) + ns(bytes(CHANNEL_PACKET_BYTES + 1)))
    link.pump()
    assert link.client.got[-1] == CLOSE and len(lines) == 1
    assert answers(link, 1) == 1


def test_who_asks_for_everything_and_opens_no_window_costs_two_mebibytes(link: Link) -> None:
    link.world.files.files[b"/photo"] = bytearray(2**20)
    logged_in(link)
    opened(link, window=100)
    sftp(link)
    say(link, ns(b"\x03" + struct.pack("!L", 1) + ns(b"/photo") + struct.pack("!LL", 1, 0)))
    read = b"\x05" + struct.pack("!L", 2) + ns(b"\0\0\0\0\0\0\0\1") + struct.pack("!QL", 0, 2**18)
    say(link, ns(read) * 10_000)
    channel = link.server.service.channels[0]
    assert 2**20 < channel.buffered < 2**21
    held = channel._protocol._input.size
    reader = link.server._reader
    assert held <= WINDOW_BYTES and len(reader._data) - reader._at < 2**18
    assert link.world.files.called().count("read") < 10
    assert answers(link, 1) == 1  # and other channels are not kept waiting
    link.server.connectionLost(None)
    assert link.world.files.called()[-1] == "abort"
