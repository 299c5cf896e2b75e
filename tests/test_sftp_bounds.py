"""A client that asks for more than it takes: caps, and pressure back to whoever makes answers."""

from __future__ import annotations

import struct

from sftp_peer import (
    ATTRS,
    CLOSE,
    HANDLE,
    NO_ATTRS,
    OPEN,
    OPENDIR,
    READ,
    STAT,
    STATUS,
    WRITE,
    Peer,
    ns,
    packet,
)
from twisted.internet.defer import Deferred, succeed

from immich_conch.sftp.engine import (
    MAX_HANDLES,
    MAX_OPERATIONS,
    MAX_TRANSFER_BYTES,
    MAX_TRANSFERS,
    PARSE_MARK_BYTES,
    READ_MARK_BYTES,
)
from immich_conch.sftp.holdings import MAX_LISTED, MAX_USER_LISTED, Holdings
from immich_conch.sftp.packets import MAX_READ_BYTES

OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8


def test_trap_7_operations_in_flight_are_capped() -> None:
    peer = Peer.greeted(photo=b"x")
    peer.memory.hold("stat")
    for _ in range(MAX_OPERATIONS + 100):
        peer.send(STAT, ns(b"/photo"))
    assert peer.memory.waiting("stat") == MAX_OPERATIONS
    assert peer.channel.taken < peer.sent  # so that the window closes
    peer.memory.release_all()
    assert len(peer.answers()) == MAX_OPERATIONS + 100
    assert peer.channel.taken == peer.sent


def test_trap_7_reads_in_flight_are_capped_in_number_and_bytes() -> None:
    for length, most in [(1, MAX_TRANSFERS), (MAX_READ_BYTES, MAX_TRANSFER_BYTES // 261120 + 1)]:
        peer = Peer.greeted(photo=b"x")
        handle = peer.open()
        peer.memory.hold("read")
        for _ in range(MAX_TRANSFERS + 100):
            peer.read(handle, 0, length)
        assert peer.memory.waiting("read") == most
        peer.memory.release_all()
        assert len(peer.answers()) == MAX_TRANSFERS + 100


def test_trap_7_a_read_of_4_gib_is_cut() -> None:
    peer = Peer.greeted(photo=b"x" * 300_000)
    answer = peer.ask(READ, ns(peer.open()), struct.pack("!QL", 0, 2**32 - 1))
    assert len(answer.string) == MAX_READ_BYTES


def test_trap_7_open_handles_are_capped_and_the_surplus_is_let_go() -> None:
    peer = Peer.greeted()
    handles = [peer.open(b"/%d" % n) for n in range(MAX_HANDLES)]
    answer = peer.ask(OPEN, ns(b"/more"), 0x1A, NO_ATTRS)
    assert (answer.code, answer.text) == (FAILURE, b"too many open files")
    assert peer.memory.calls[-1] == ("abort", b"/more")
    peer.ask(CLOSE, ns(handles[0]))
    peer.open(b"/more")


def test_a_user_has_only_so_many_handles_over_all_sessions() -> None:
    shared = Holdings(max_handles=3)
    one, two = Peer.greeted(holdings=shared), Peer.greeted(holdings=shared)
    first = one.open(b"/1")
    two.open(b"/2")
    assert two.ask(OPENDIR, ns(b"/")).kind == HANDLE
    answer = one.ask(OPEN, ns(b"/more"), 0x1A, NO_ATTRS)
    assert (answer.code, answer.text) == (FAILURE, b"too many open files of this user")
    assert one.memory.calls[-1] == ("abort", b"/more")
    one.ask(CLOSE, ns(first))
    one.open(b"/more")
    two.drop()
    assert shared.handles == 1
    one.open(b"/1")
    one.drop()
    assert (shared.handles, shared.listed) == (0, 0)


def test_open_listings_hold_only_so_many_entries_but_one_may_be_of_any_size() -> None:
    shared = Holdings()
    one, two, three = (Peer.greeted(holdings=shared) for _ in range(3))
    for peer in (one, two, three):
        peer.memory.entries = MAX_LISTED
    first = one.ask(OPENDIR, ns(b"/"))
    assert first.kind == HANDLE
    answer = one.ask(OPENDIR, ns(b"/"))
    assert (answer.code, answer.text) == (FAILURE, b"too many open folders: close some first")
    assert one.memory.calls[-1] == ("closedir",)
    assert two.ask(OPENDIR, ns(b"/")).kind == HANDLE  # two sessions may
    assert three.ask(OPENDIR, ns(b"/")).kind == STATUS  # but no more of one user
    one.open(b"/file")  # files go on
    one.ask(CLOSE, ns(first.string))
    two.drop()
    assert shared.listed == 0
    three.memory.entries = 10 * MAX_USER_LISTED
    assert three.ask(OPENDIR, ns(b"/")).kind == HANDLE
    assert shared.listed == 10 * MAX_USER_LISTED


def test_trap_10_nothing_is_read_while_the_client_does_not_take_what_it_asked_for() -> None:
    peer = Peer.greeted(photo=b"0123456789")
    handle = peer.open()
    peer.channel.buffered = READ_MARK_BYTES + 1
    reads = [peer.read(handle, n, 1) for n in range(3)]
    write = peer.write(handle, 0, b"x")
    stat = peer.ask(STAT, ns(b"/photo"))
    assert stat.kind == ATTRS  # only reading is held back
    assert peer.memory.called() == ["open", "stat"]
    peer.channel.drain(READ_MARK_BYTES - 100)
    assert peer.memory.called() == ["open", "stat", "read", "read", "read", "write"]
    assert [a.id for a in peer.answers()] == [*reads, write]


def test_a_client_that_never_reads_is_not_listened_to() -> None:
    peer = Peer.greeted(photo=b"x")
    peer.channel.buffered = PARSE_MARK_BYTES + 1
    taken = peer.channel.taken
    peer.send(STAT, ns(b"/photo"))
    peer.server.readConnectionLost()
    assert not peer.answers() and peer.channel.taken == taken and not peer.channel.closed
    peer.channel.drain()
    assert len(peer.answers()) == 1 and peer.channel.closed


def test_trap_11_a_write_is_consumed_when_it_is_done() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    before = peer.channel.taken
    peer.memory.hold("write")
    peer.write(handle, 0, b"x" * 1000)
    peer.write(handle, 1000, b"x" * 1000)
    assert peer.channel.taken == before
    peer.memory.release("write")
    assert peer.channel.taken == before + 1033
    peer.memory.release("write")
    assert peer.channel.taken == peer.sent


def test_trap_8_packets_may_come_in_any_pieces() -> None:
    whole = Peer.greeted(photo=b"0123456789")
    handle = whole.open()
    stream = b"".join(
        packet(WRITE, struct.pack("!L", n) + ns(handle) + struct.pack("!Q", n) + ns(b"abc" * n))
        + packet(READ, struct.pack("!L", n) + ns(handle) + struct.pack("!QL", 0, 50))
        for n in range(20)
    )
    whole.raw(stream)
    expected = whole.answers()
    assert len(expected) == 40
    for step in (1, 7, 100, 333):
        peer = Peer.greeted(photo=b"0123456789")
        assert peer.open() == handle
        for at in range(0, len(stream), step):
            peer.raw(stream[at : at + step])
        assert peer.answers() == expected
        assert peer.channel.taken == peer.sent


def test_reads_that_come_late_are_answered_too() -> None:
    peer = Peer.greeted(photo=b"x")
    handle = peer.open()

    async def later() -> bytes:
        return b"from a coroutine"

    waiting: Deferred[bytes] = Deferred()
    for result, expected in [(succeed(b"fired"), b"fired"), (later(), b"from a coroutine")]:
        peer.memory.read_data = lambda offset, length, result=result: result
        assert peer.ask(READ, ns(handle), struct.pack("!QL", 0, 9)).string == expected
    peer.memory.read_data = lambda offset, length: waiting
    number = peer.read(handle, 0, 9)
    waiting.errback(EOFError())
    assert [(a.id, a.code) for a in peer.answers()] == [(number, EOF)]


class Pausing:
    """A file that notes when it is to pause."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def readChunk(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def pause(self) -> None:
        self.steps.append("pause")

    def resume(self) -> None:
        self.steps.append("resume")

    def abort(self) -> None:
        self.steps.append("abort")


def test_trap_10_files_pause_while_the_client_takes_nothing() -> None:
    peer = Peer.greeted(photo=bytes(100))
    handle = peer.open()
    file = Pausing()
    next(iter(peer.server._handles.values())).target = file
    peer.channel.buffered = READ_MARK_BYTES
    peer.read(handle, 0, 10)
    assert file.steps == []
    peer.channel.drain(READ_MARK_BYTES + 1)
    assert file.steps == ["pause"]
    peer.channel.drain(READ_MARK_BYTES // 2 + 1)
    assert file.steps == ["pause"]
    peer.channel.drain(READ_MARK_BYTES // 2)
    assert file.steps == ["pause", "resume"]
    peer.channel.drain(READ_MARK_BYTES // 4)
    assert file.steps == ["pause", "resume"]
