"""Packets under every cipher, against three others who know how they look.

The slow ways are the oracles: asyncssh's packet protection for all of them, Conch's own transport
for what Conch has, and for AES-GCM a vector of the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from asyncssh.encryption import get_encryption, get_encryption_params
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.transport import SSHCiphers, SSHTransportBase
from twisted.internet.testing import StringTransport

from immich_conch.ssh.ciphers import CTR_KEYS, GCM, MACS, BadMac, Gcm, Plain, Suite
from immich_conch.ssh.packets import AFTER_LOGIN_BYTES, BEFORE_LOGIN_BYTES, PacketReader
from immich_conch.ssh.wire import PacketError

SUITES = [Suite(cipher, b"") for cipher in GCM] + [
    Suite(cipher, mac) for cipher in CTR_KEYS for mac in MACS
]
OF_CONCH = [suite for suite in SUITES if suite.mac in SSHCiphers.macMap]
IV, KEY, INTEGRITY = bytes(range(64)), bytes(range(64, 128)), bytes(range(128, 192))

payloads = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=80),
        st.integers(1, BEFORE_LOGIN_BYTES - 300).map(lambda size: b"\x5e" * size),
    ),
    min_size=1,
    max_size=8,
)
suites = st.sampled_from(SUITES)
cuts = st.lists(st.integers(1, 70_000), max_size=12)
every_suite = pytest.mark.parametrize(
    "suite", SUITES, ids=lambda suite: (suite.cipher + b" " + suite.mac).decode()
)


def pieces(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """Data as it may come from TCP."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def read(reader: PacketReader, data: bytes) -> list[bytes]:
    """What one read of TCP gives."""
    reader.take(data)
    found = []
    while (plain := reader.next()) is not None:
        found.append(plain[reader.start : reader.end])
    return found


def reader_of(suite: Suite) -> PacketReader:
    reader = PacketReader()
    reader.use(suite.keyed(IV, KEY, INTEGRITY))
    return reader


def sealed(suite: Suite, payloads: list[bytes]) -> list[bytes]:
    """Packets of ours, made of payloads in two pieces."""
    sealer = suite.keyed(IV, KEY, INTEGRITY)
    return [
        b"".join(sealer.seal(number, len(payload), (payload[:1], memoryview(payload)[1:])))
        for number, payload in enumerate(payloads)
    ]


class AsAsyncssh:
    """Packets as asyncssh makes them and takes them apart."""

    def __init__(self, suite: Suite) -> None:
        key, iv, self.block, integrity, self.trailer, self.etm = get_encryption_params(
            suite.cipher, suite.mac
        )
        self.aead = suite.cipher in GCM
        self.cipher = get_encryption(
            suite.cipher, KEY[:key], IV[:iv], suite.mac, INTEGRITY[:integrity], self.etm
        )

    def seal(self, number: int, payload: bytes) -> bytes:
        head = 1 if self.etm or self.aead else 5
        padding = -(head + len(payload)) % self.block
        padding += self.block if padding < 4 else 0
        body = bytes((padding,)) + payload + bytes(padding)
        packet, mac = self.cipher.encrypt_packet(number, struct.pack("!L", len(body)), body)
        return bytes(packet + mac)

    def open(self, number: int, packet: bytes) -> bytes:
        end = len(packet) - self.trailer
        first, head = self.cipher.decrypt_header(number, packet[: self.block], 4)
        assert struct.unpack("!L", head) == (end - 4,)
        plain = self.cipher.decrypt_packet(number, first, packet[self.block : end], 4, packet[end:])
        assert plain is not None
        return bytes(plain[1 : len(plain) - plain[0]])


class Conch(SSHTransportBase):
    """Conch's transport with keys, and without a key exchange before."""

    def __init__(self, suite: Suite) -> None:
        self.currentEncryptions = SSHCiphers(suite.cipher, suite.cipher, suite.mac, suite.mac)
        self.currentEncryptions.setKeys(IV, KEY, IV, KEY, INTEGRITY, INTEGRITY)
        self.gotVersion = True
        self.got: list[bytes] = []
        self.transport = StringTransport()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.got.append(bytes((messageNum,)) + payload)


@given(suite=suites, payloads=payloads, cuts=cuts)
@settings(max_examples=100, deadline=None)
def test_what_asyncssh_sends_is_read_however_it_is_cut(
    suite: Suite, payloads: list[bytes], cuts: list[int]
) -> None:
    peer, reader = AsAsyncssh(suite), reader_of(suite)
    stream = b"".join(peer.seal(number, payload) for number, payload in enumerate(payloads))
    assert [p for piece in pieces(stream, cuts) for p in read(reader, piece)] == payloads
    assert reader.sequence == len(payloads)


@given(suite=suites, payloads=payloads)
@settings(max_examples=100, deadline=None)
def test_asyncssh_reads_what_is_sent(suite: Suite, payloads: list[bytes]) -> None:
    peer = AsAsyncssh(suite)
    packets = sealed(suite, payloads)
    assert [peer.open(number, packet) for number, packet in enumerate(packets)] == payloads


@given(suite=st.sampled_from(OF_CONCH), payloads=payloads, cuts=cuts)
@settings(max_examples=100, deadline=None)
def test_conch_and_we_read_each_other(suite: Suite, payloads: list[bytes], cuts: list[int]) -> None:
    conch: Any = Conch(suite)
    for piece in pieces(b"".join(sealed(suite, payloads)), cuts):
        conch.dataReceived(piece)
    assert conch.got == payloads
    for payload in payloads:
        conch.sendPacket(payload[0], payload[1:])
    reader = reader_of(suite)
    sent = conch.transport.value()
    assert [p for piece in pieces(sent, cuts) for p in read(reader, piece)] == payloads


@every_suite
def test_a_packet_may_come_byte_by_byte(suite: Suite) -> None:
    reader = reader_of(suite)
    payloads = [b"a" * 300, b"b", b"c" * 33]
    stream = b"".join(sealed(suite, payloads))
    found = [p for at in range(len(stream)) for p in read(reader, stream[at : at + 1])]
    assert found == payloads


@given(
    suite=suites,
    payload=st.binary(min_size=1, max_size=100),
    where=st.integers(0),
    bit=st.integers(0, 7),
)
@settings(max_examples=300, deadline=None)
def test_no_packet_with_a_wrong_bit_is_taken(
    suite: Suite, payload: bytes, where: int, bit: int
) -> None:
    packet = bytearray(*sealed(suite, [payload]))
    packet[where % len(packet)] ^= 1 << bit
    reader = reader_of(suite)
    try:
        found = read(reader, bytes(packet))
    except PacketError:
        return
    assert found == []  # the length has grown, and the packet is waited for


@every_suite
def test_a_packet_taken_again_or_left_out_is_noticed(suite: Suite) -> None:
    first, second = sealed(suite, [b"first of all", b"second to it"])
    with pytest.raises(PacketError):
        read(reader_of(suite), second)
    reader = reader_of(suite)
    assert read(reader, first) == [b"first of all"]
    with pytest.raises(PacketError):
        read(reader, first)


def test_gcm_is_that_of_its_specification() -> None:
    # McGrew and Viega, The Galois/Counter Mode of Operation, test case 4, whose associated data
    # stands where SSH has the length (RFC 5647, section 7.3).
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308")
    iv = bytes.fromhex("cafebabefacedbaddecaf888")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    head = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    tag = bytes.fromhex("5bc94fbc3221a5db94fae95ae7121a47")
    cipher = Gcm(key, iv)
    protected = cipher._aead.encrypt(cipher._nonce(), plain, head)
    assert protected[-16:] == tag
    assert protected[:16] == bytes.fromhex("42831ec2217774244b7221b784d0d49c")


def test_the_count_of_gcm_wraps_within_its_eight_bytes() -> None:
    # RFC 5647, section 7.1: the fixed field stays as it is.
    cipher = Gcm(KEY[:16], b"\xff" * 12)
    nonces = [cipher._nonce() for _ in range(3)]
    assert nonces == [b"\xff" * 12, b"\xff" * 4 + bytes(8), b"\xff" * 4 + bytes(7) + b"\x01"]


def test_a_length_that_is_too_large_is_refused_by_its_first_bytes() -> None:
    for limit in (BEFORE_LOGIN_BYTES, AFTER_LOGIN_BYTES):
        for length in (limit // 16 * 16 + 16, 2**31, 2**32 - 16):
            reader = reader_of(SUITES[0])
            reader.limit = limit
            with pytest.raises(PacketError):
                read(reader, struct.pack("!L", length))


@pytest.mark.parametrize("suite", [SUITES[0], SUITES[-4]], ids=str)
@pytest.mark.parametrize("length", [0, 1, 5, 12, 17, 31, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused(suite: Suite, length: int) -> None:
    assert suite.cipher in GCM or MACS[suite.mac][1]
    with pytest.raises(PacketError):
        read(reader_of(suite), struct.pack("!L", length) + bytes(100))


@pytest.mark.parametrize(("padding", "ours"), [(0, 27), (3, 24), (28, 0), (255, 0)])
def test_a_packet_with_padding_that_cannot_be_is_refused(padding: int, ours: int) -> None:
    packet = struct.pack("!LB", 28, padding) + bytes(27)
    reader = PacketReader()
    with pytest.raises(PacketError) as caught:
        read(reader, packet)
    assert not isinstance(caught.value, BadMac)


@given(payloads=payloads, cuts=cuts)
@settings(max_examples=30, deadline=None)
def test_packets_without_protection_are_read_however_they_are_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(b"".join(Plain().seal(0, len(data), (data,))) for data in payloads)
    reader = PacketReader()
    assert [p for piece in pieces(stream, cuts) for p in read(reader, piece)] == payloads


def test_new_keys_in_the_middle_of_a_read_count_from_the_next_packet_on() -> None:
    reader = PacketReader()
    plain = b"".join(Plain().seal(0, 1, (b"\x15",)))
    protected = b"".join(SUITES[0].keyed(IV, KEY, INTEGRITY).seal(1, 5, (b"hello",)))
    reader.take(plain + protected)
    assert reader.next() is not None
    reader.use(SUITES[0].keyed(IV, KEY, INTEGRITY))
    found = reader.next()
    assert found is not None and found[reader.start : reader.end] == b"hello"


def test_bytes_left_of_a_turn_are_kept_before_those_that_come() -> None:
    reader = reader_of(SUITES[0])
    packets = sealed(SUITES[0], [b"one", b"two", b"three"])
    reader.take(packets[0] + packets[1][:7])
    reader.take(packets[1][7:])
    found = [plain[reader.start : reader.end] for plain in iter(reader.next, None)]
    assert found == [b"one", b"two"]
    assert read(reader, packets[2]) == [b"three"]
