"""SFTP packets as a hostile, hasty or lost client sends them, against a file system in memory.

The client is raw bytes over a fake channel; the traps are those of Conch's own server, by number.
"""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sftp_peer import (
    ATTRS,
    CLOSE,
    DATA,
    EXTENDED,
    EXTENDED_REPLY,
    FSETSTAT,
    FSTAT,
    HANDLE,
    INIT,
    LSTAT,
    MKDIR,
    NAME,
    NO_ATTRS,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    READLINK,
    REALPATH,
    REMOVE,
    RENAME,
    RMDIR,
    SETSTAT,
    STAT,
    STATUS,
    SYMLINK,
    VERSION,
    WRITE,
    Memory,
    Peer,
    ns,
    packet,
)
from twisted.conch.ssh.filetransfer import FXP_INIT, SFTPError
from twisted.internet.defer import CancelledError, Deferred, succeed

from immich_conch import errors
from immich_conch.sftp import wire
from immich_conch.sftp.engine import (
    MAX_HANDLES,
    MAX_OPERATIONS,
    MAX_TRANSFER_BYTES,
    MAX_TRANSFERS,
    PARSE_MARK_BYTES,
    READ_MARK_BYTES,
)
from immich_conch.sftp.holdings import MAX_LISTED, MAX_USER_LISTED, Holdings
from immich_conch.sftp.ordering import normalise
from immich_conch.sftp.packets import MAX_PACKET_BYTES, MAX_READ_BYTES
from immich_conch.sftp.status import MAX_TEXT_BYTES, to_status

OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8


# -- greeting


def test_the_greeting_names_version_3_and_the_extensions() -> None:
    peer = Peer()
    peer.raw(packet(INIT, struct.pack("!L", 6) + ns(b"a@b") + ns(b"1")))
    assert peer.memory.calls == [("gotVersion", 6, {b"a@b": b"1"})]
    expected = struct.pack("!L", 3) + ns(b"limits@openssh.com") + ns(b"1")
    assert bytes(peer.channel.written) == packet(VERSION, expected)


@pytest.mark.parametrize(
    "data",
    [
        packet(STAT, b"\x00\x00\x00\x01" + ns(b"/")),
        packet(INIT, struct.pack("!L", 3) + b"\x00\x00"),
        packet(INIT, struct.pack("!L", 3)) * 2,
        struct.pack("!L", 2**31),
        struct.pack("!L", MAX_PACKET_BYTES + 1),
        b"\x00\x00\x00\x00",
        packet(FXP_INIT, b"\x00\x00"),
    ],
)
def test_a_client_that_speaks_no_sftp_loses_its_channel(data: bytes) -> None:
    peer = Peer()
    peer.raw(data)
    assert peer.channel.closed


def test_a_request_too_short_for_an_id_closes_the_channel() -> None:
    peer = Peer.greeted()
    peer.raw(packet(STAT, b"\x00\x00\x00"))
    assert peer.channel.closed and not peer.answers()
    peer.raw(b"x" * 100)  # what still comes is dropped, and does not fill the window
    assert peer.channel.taken == peer.sent - 8


# -- one answer to each request


def test_a_file_is_written_and_read_back() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    assert len(handle) == 8
    assert peer.ask(WRITE, ns(handle), struct.pack("!Q", 0), ns(b"hello")).code == OK
    answer = peer.ask(READ, ns(handle), struct.pack("!QL", 1, 100))
    assert answer.kind == DATA and answer.string == b"ello"
    assert peer.ask(READ, ns(handle), struct.pack("!QL", 5, 100)).code == EOF
    attrs = peer.ask(FSTAT, ns(handle))
    assert attrs.kind == ATTRS and attrs.body == struct.pack("!LQ", 1, 5)
    assert peer.ask(FSETSTAT, ns(handle), struct.pack("!LLL", 8, 1, 2)).code == OK
    assert ("fsetstat", {"atime": 1, "mtime": 2}) in peer.memory.calls
    assert peer.ask(CLOSE, ns(handle)).code == OK
    assert peer.memory.called()[-1] == "close"
    assert peer.channel.taken == peer.sent


def test_requests_on_paths_reach_the_server_and_are_answered() -> None:
    peer = Peer.greeted(photo=b"x")
    times = struct.pack("!LLL", 8, 10, 20)
    assert peer.ask(MKDIR, ns(b"/a"), NO_ATTRS).code == OK
    assert peer.ask(RMDIR, ns(b"/a")).code == OK
    assert peer.ask(REMOVE, ns(b"/b")).code == OK
    assert peer.ask(RENAME, ns(b"/b"), ns(b"/c")).code == OK
    assert peer.ask(SETSTAT, ns(b"/b"), times).code == OK
    assert peer.ask(LSTAT, ns(b"/photo")).kind == ATTRS
    assert peer.ask(STAT, ns(b"/nothing")).code == NO_SUCH_FILE
    answer = peer.ask(REALPATH, ns(b"."))
    assert answer.kind == NAME
    assert answer.body == struct.pack("!L", 1) + ns(b"/") + ns(b"/") + NO_ATTRS
    assert peer.ask(READLINK, ns(b"/b")).code == UNSUPPORTED
    assert peer.ask(SYMLINK, ns(b"/b"), ns(b"/c")).code == UNSUPPORTED
    assert peer.memory.calls == [
        ("mkdir", b"/a", {}),
        ("rmdir", b"/a"),
        ("remove", b"/b"),
        ("rename", b"/b", b"/c"),
        ("setstat", b"/b", {"atime": 10, "mtime": 20}),
        ("lstat", b"/photo"),
        ("stat", b"/nothing"),
        ("realpath", b"."),
    ]


def test_open_passes_flags_and_every_attribute_on() -> None:
    peer = Peer.greeted()
    attrs = struct.pack("!LQLLLLL", 0x8000000F, 2**40, 1, 2, 0o644, 3, 4)
    attrs += struct.pack("!L", 1) + ns(b"x") + ns(b"y")
    assert peer.ask(OPEN, ns(b"/f"), 0x2A, attrs).kind == HANDLE
    expected = {"size": 2**40, "uid": 1, "gid": 2, "permissions": 0o644, "atime": 3, "mtime": 4}
    assert peer.memory.calls == [("open", b"/f", 0x2A, expected | {"ext_x": b"y"})]


def test_trap_5_short_requests_are_answered() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    for kind, body in [
        (STAT, b"\x00\x00\x00\xff/"),
        (STAT, b""),
        (OPEN, ns(b"/photo")),
        (OPEN, ns(b"/photo") + struct.pack("!L", 1) + struct.pack("!L", 0x10)),
        (SETSTAT, ns(b"/photo") + struct.pack("!LL", 0x80000000, 2**32 - 1)),
        (RENAME, ns(b"/photo")),
        (READ, ns(handle) + struct.pack("!Q", 0)),
        (WRITE, ns(handle) + struct.pack("!Q", 0) + struct.pack("!L", 9) + b"12345678"),
        (FSTAT, b"\xff\xff\xff\xff"),
        (EXTENDED, b""),
        (EXTENDED, ns(b"copy-data") + ns(handle)),
    ]:
        assert peer.ask(kind, body).code == BAD_MESSAGE, (kind, body)
    assert peer.ask(FSTAT, ns(handle)).kind == ATTRS  # the session goes on


def test_trailing_bytes_are_ignored_as_openssh_ignores_them() -> None:
    # rclone 1.60 sends the last WRITE of a file as a full packet with a shorter string in it.
    peer = Peer.greeted()
    handle = peer.open()
    assert peer.ask(STAT, ns(b"/photo") + b"x").kind == ATTRS
    write = peer.ask(WRITE, ns(handle) + struct.pack("!Q", 0) + ns(b"da") + b"x" * 32_000)
    assert write.code == OK
    assert peer.memory.files[b"/photo"] == b"da"
    assert peer.ask(READ, ns(handle) + struct.pack("!QL", 0, 9) + b"x").kind == DATA
    assert peer.ask(CLOSE, ns(handle) + b"x").code == OK


def test_trap_5_handles_that_are_none_are_answered() -> None:
    peer = Peer.greeted()
    for handle in (b"", b"x", b"\x00" * 8, b"y" * 200):
        for kind, rest in [
            (READ, struct.pack("!QL", 0, 10)),
            (WRITE, struct.pack("!Q", 0) + ns(b"data")),
            (FSTAT, b""),
            (FSETSTAT, NO_ATTRS),
            (READDIR, b""),
            (CLOSE, b""),
        ]:
            answer = peer.ask(kind, ns(handle), rest)
            assert (answer.code, answer.text) == (FAILURE, b"no such handle"), kind
        fsync = peer.ask(EXTENDED, ns(b"fsync@openssh.com"), ns(handle))
        assert (fsync.code, fsync.text) == (FAILURE, b"no such handle")


def test_a_handle_of_the_wrong_kind_is_answered() -> None:
    peer = Peer.greeted()
    file, folder = peer.open(), peer.ask(OPENDIR, ns(b"/")).string
    assert peer.ask(READDIR, ns(file)).code == FAILURE
    assert peer.ask(READ, ns(folder), struct.pack("!QL", 0, 10)).code == FAILURE
    assert peer.ask(WRITE, ns(folder), struct.pack("!Q", 0), ns(b"x")).code == FAILURE
    assert peer.ask(FSTAT, ns(folder)).code == FAILURE
    assert peer.ask(FSETSTAT, ns(folder), NO_ATTRS).code == FAILURE


def test_a_closed_handle_is_gone_for_whatever_follows() -> None:
    # node's fastPut sends its last WRITEs after CLOSE.
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("close")
    close = peer.send(CLOSE, ns(handle))
    write = peer.write(handle, 0, b"late")
    again = peer.send(CLOSE, ns(handle))
    first, second = peer.answers()
    assert {first.id, second.id} == {write, again}
    assert first.text == second.text == b"no such handle"
    peer.memory.release("close")
    assert [(a.id, a.code) for a in peer.answers()] == [(close, OK)]
    assert "write" not in peer.memory.called()


def test_unknown_requests_are_unsupported() -> None:
    peer = Peer.greeted()
    for kind in (0, 2, 21, 99, 101, 199, 202, 255):
        assert peer.ask(kind, b"what").code == UNSUPPORTED


def test_two_requests_with_one_id_get_two_answers() -> None:
    peer = Peer.greeted(photo=b"x")
    one = packet(STAT, struct.pack("!L", 7) + ns(b"/photo"))
    peer.raw(one + one)
    assert [a.id for a in peer.answers()] == [7, 7]


def test_extensions_answer_with_data_or_with_ok() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    answer = peer.ask(EXTENDED, ns(b"echo"), b"data")
    assert (answer.kind, answer.body) == (EXTENDED_REPLY, b"data")
    assert peer.ask(EXTENDED, ns(b"fsync@openssh.com"), ns(handle)).code == OK
    assert peer.memory.calls[-1] == ("fsync", b"/photo")
    assert peer.ask(EXTENDED, ns(b"nonsense")).code == UNSUPPORTED


def test_trap_3_equal_files_get_different_handles() -> None:
    peer = Peer.greeted()
    handles = {peer.open() for _ in range(10)}
    assert len(handles) == 10
    first = min(handles)
    peer.ask(CLOSE, ns(first))
    assert peer.open() not in handles


def test_a_wrong_result_of_the_server_is_still_one_answer(logged_errors: Any) -> None:
    peer = Peer.greeted(photo=b"x")
    peer.memory.read_data = lambda offset, length: 7
    answer = peer.ask(READ, ns(peer.open()), struct.pack("!QL", 0, 10))
    assert (answer.code, answer.text) == (FAILURE, b"internal error")
    assert len(logged_errors.flush(TypeError)) == 1


# -- listings


def listing(peer: Peer, handle: bytes) -> tuple[list[bytes], int]:
    """All names, and how many answers they took."""
    names: list[bytes] = []
    answers = 0
    while True:
        answer = peer.ask(READDIR, ns(handle))
        if answer.kind == STATUS:
            assert answer.code == EOF
            return names, answers
        answers += 1
        assert len(answer.body) <= 2**16
        fields = wire.Reader(answer.body)
        for _ in range(fields.uint32()):
            names.append(fields.string())
            fields.string()
            assert fields.attrs() == {"size": 5}
        assert fields.rest() == b""


def test_a_folder_is_listed_whole_and_then_ends_again_and_again() -> None:
    peer = Peer.greeted()
    batches = [
        [(b"%d-%d" % (batch, n), b"-rw-r--r-- long", {"size": 5}) for n in range(3000)]
        for batch in range(3)
    ]
    peer.memory.folders[b"/"] = batches
    handle = peer.ask(OPENDIR, ns(b"/")).string
    names, answers = listing(peer, handle)
    assert names == [entry[0] for batch in batches for entry in batch]
    assert answers > 3
    assert listing(peer, handle) == ([], 0)
    assert peer.memory.called().count("readdir") == 4
    assert peer.ask(CLOSE, ns(handle)).code == OK
    assert peer.memory.called()[-1] == "closedir"


def test_pipelined_readdirs_wait_for_each_other() -> None:
    peer = Peer.greeted()
    peer.memory.folders[b"/"] = [[(b"a", b"a", {"size": 5})]]
    peer.memory.hold("readdir")
    handle = peer.ask(OPENDIR, ns(b"/")).string
    ids = [peer.send(READDIR, ns(handle)) for _ in range(4)]
    assert peer.memory.waiting("readdir") == 1
    peer.memory.release_all()
    answers = peer.answers()
    assert [a.id for a in answers] == ids
    assert [a.kind for a in answers] == [NAME, STATUS, STATUS, STATUS]


# -- what a dropped connection does


def test_trap_1_a_drop_aborts_files_and_never_closes_them() -> None:
    peer = Peer.greeted()
    peer.open(b"/one"), peer.open(b"/two")
    peer.ask(CLOSE, ns(peer.open(b"/three")))
    peer.ask(OPENDIR, ns(b"/"))
    peer.memory.calls.clear()
    peer.drop()
    peer.drop()
    assert sorted(peer.memory.calls) == [("abort", b"/one"), ("abort", b"/two"), ("closedir",)]


def test_trap_2_an_open_that_finishes_after_the_drop_is_aborted() -> None:
    peer = Peer.greeted()
    peer.memory.hold("open", "opendir")
    peer.send(OPEN, ns(b"/f"), 0x1A, NO_ATTRS)
    peer.send(OPENDIR, ns(b"/d"))
    peer.drop()
    peer.memory.release("open")
    peer.memory.release("opendir")
    assert peer.memory.called() == ["open", "opendir", "abort", "closedir"]
    assert not peer.answers()


def test_a_close_under_way_at_the_drop_is_not_aborted() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("close")
    peer.send(CLOSE, ns(handle))
    peer.drop()
    peer.memory.release("close")
    assert peer.memory.called() == ["open", "close"]
    assert not peer.answers()


def test_what_waits_at_the_drop_never_starts() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("write")
    peer.write(handle, 0, b"a")
    peer.write(handle, 1, b"b")
    peer.send(CLOSE, ns(handle))
    peer.drop()
    peer.memory.release_all()
    assert peer.memory.called() == ["open", "write", "abort"]


def test_a_file_that_fails_to_abort_does_not_keep_the_others(logged_errors: Any) -> None:
    peer = Peer.greeted()
    peer.open(b"/one"), peer.open(b"/two")
    peer.memory.errors["abort"] = ValueError("broken")
    peer.drop()
    assert peer.memory.called().count("abort") == 2
    assert len(logged_errors.flush(ValueError)) == 2


def test_at_the_clients_eof_outstanding_answers_come_first() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("write")
    peer.write(handle, 0, b"a")
    close = peer.send(CLOSE, ns(handle))
    peer.server.readConnectionLost()
    assert not peer.channel.closed
    peer.memory.release("write")
    assert [a.id for a in peer.answers()] == [close - 1, close]
    assert peer.channel.closed


def test_an_idle_session_closes_at_eof_at_once() -> None:
    peer = Peer.greeted()
    peer.server.readConnectionLost()
    assert peer.channel.closed


# -- order


def test_setstat_behind_close_waits_for_it() -> None:
    # WinSCP sends it without waiting.
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("close")
    close = peer.send(CLOSE, ns(handle))
    setstat = peer.send(SETSTAT, ns(b"/photo"), struct.pack("!LLL", 8, 1, 2))
    assert "setstat" not in peer.memory.called()
    peer.memory.release("close")
    assert [a.id for a in peer.answers()] == [close, setstat]


def test_lstat_behind_open_waits_for_it() -> None:
    # sshfs sends it without waiting.
    peer = Peer.greeted()
    peer.memory.hold("open")
    peer.send(OPEN, ns(b"/new"), 0x2A, NO_ATTRS)
    lstat = peer.send(LSTAT, ns(b"/new"))
    other = peer.send(LSTAT, ns(b"/other"))
    assert [a.id for a in peer.answers()] == [other]
    peer.memory.release("open")
    assert [(a.kind, a.id) for a in peer.answers()] == [(HANDLE, lstat - 1), (ATTRS, lstat)]


def test_looking_does_not_wait_for_looking_nor_for_a_commit() -> None:
    peer = Peer.greeted(photo=b"x")
    handle = peer.open()
    peer.memory.hold("close", "stat")
    peer.send(STAT, ns(b"/photo"))
    lstat = peer.send(LSTAT, ns(b"/photo"))
    folder = peer.send(OPENDIR, ns(b"/"))
    assert {a.id for a in peer.answers()} == {lstat, folder}
    peer.memory.release("stat")
    peer.answers()
    peer.send(CLOSE, ns(handle))
    lstat = peer.send(LSTAT, ns(b"/photo"))
    root = peer.send(OPENDIR, ns(b"/"))
    assert {a.id for a in peer.answers()} == {lstat, root}
    for kind, rest in [(REMOVE, b""), (OPEN, struct.pack("!L", 1) + NO_ATTRS)]:
        peer.send(kind, ns(b"/photo"), rest)
        assert not peer.answers()
    peer.memory.release("close")
    assert len(peer.answers()) == 3


@pytest.mark.parametrize(
    ("path", "waits"),
    [
        (b"/a/b", True),
        (b"/a/b/c", True),
        (b"/a", True),
        (b"/", True),
        (b"a//./b", True),
        (b"/a/x/../b", True),
        (b"/a/bb", False),
        (b"/c", False),
        (b"/target", True),
    ],
)
def test_a_path_waits_for_what_lies_above_below_and_on_it(path: bytes, waits: bool) -> None:
    peer = Peer.greeted()
    peer.memory.hold("rename")
    peer.send(RENAME, ns(b"/a/b"), ns(b"/target"))
    peer.send(STAT, ns(path))
    assert ("stat" in peer.memory.called()) is not waits
    peer.memory.release("rename")
    assert "stat" in peer.memory.called()


def test_composed_and_decomposed_names_are_one_path() -> None:
    assert normalise("/Münster".encode()) == normalise("/Mu\u0308NSTER".encode())
    assert normalise(b"/\xff") != normalise(b"/\xfe")


def test_reads_overlap_and_writes_take_turns() -> None:
    peer = Peer.greeted(photo=b"0123456789")
    handle = peer.open()
    peer.memory.hold("read", "write")
    reads = [peer.read(handle, n, 1) for n in range(3)]
    fstat = peer.send(FSTAT, ns(handle))
    assert [a.id for a in peer.answers()] == [fstat]
    assert peer.memory.waiting("read") == 3
    writes = [peer.write(handle, n, b"x") for n in range(3)]
    last = peer.read(handle, 0, 1)
    assert peer.memory.waiting("write") == 0
    for _ in range(3):
        peer.memory.release("read")
    assert peer.memory.waiting("write") == 1
    peer.memory.release("write")
    assert peer.memory.waiting("write") == 1
    assert peer.memory.waiting("read") == 0
    peer.memory.release_all()
    assert [a.id for a in peer.answers()] == [*reads, *writes, last]


def test_fsync_fsetstat_and_close_wait_for_the_writes_before_them() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("write")
    peer.write(handle, 0, b"x")
    peer.send(EXTENDED, ns(b"fsync@openssh.com"), ns(handle))
    peer.send(FSETSTAT, ns(handle), NO_ATTRS)
    peer.send(CLOSE, ns(handle))
    assert peer.memory.called() == ["open", "write"]
    peer.memory.release("write")
    assert peer.memory.called() == ["open", "write", "fsync", "fsetstat", "close"]
    assert [a.code for a in peer.answers()] == [OK] * 4


def test_other_files_do_not_wait() -> None:
    peer = Peer.greeted()
    slow, quick = peer.open(b"/slow"), peer.open(b"/quick")
    peer.memory.hold("write")
    peer.write(slow, 0, b"x")
    peer.memory._held.clear()
    assert peer.ask(WRITE, ns(quick), struct.pack("!Q", 0), ns(b"y")).code == OK


def test_a_renamed_open_file_is_ordered_under_its_new_name() -> None:
    peer = Peer.greeted()
    handle = peer.open(b"/a/f.part")
    peer.ask(RENAME, ns(b"/a"), ns(b"/b"))
    peer.memory.hold("close")
    peer.send(CLOSE, ns(handle))
    peer.send(REMOVE, ns(b"/b/f.part"))
    assert "remove" not in peer.memory.called()
    peer.memory.release("close")
    assert "remove" in peer.memory.called()


def test_a_failed_request_lets_go_who_waits_for_it() -> None:
    peer = Peer.greeted(photo=b"x")
    peer.memory.hold("rename")
    peer.send(RENAME, ns(b"/photo"), ns(b"/b"))
    peer.send(STAT, ns(b"/photo"))
    peer.memory._waiting["rename"].pop().errback(errors.Unreachable())
    first, second = peer.answers()
    assert (first.code, first.text) == (FAILURE, b"Immich is not reachable.")
    assert second.kind == ATTRS


def test_a_long_queue_of_writes_runs_without_recursion() -> None:
    peer = Peer.greeted()
    handle = peer.open()
    peer.memory.hold("write")
    ids = [peer.write(handle, n, b"x") for n in range(MAX_TRANSFERS + 500)]
    peer.memory.release_all()
    assert [a.id for a in peer.answers()] == ids


# -- caps and back-pressure


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


# -- statuses


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.NotFound(), NO_SUCH_FILE, b"No such file or folder."),
        (errors.Denied("no"), DENIED, b"no"),
        (errors.MissingPermission("album.read"), DENIED, None),
        (errors.SessionRevoked(), DENIED, None),
        (errors.AlreadyExists(), FAILURE, None),
        (errors.QuotaExceeded(), FAILURE, b"The Immich quota is exceeded."),
        (errors.Unreachable(), FAILURE, b"Immich is not reachable."),
        (errors.BadAnswer(), FAILURE, None),
        (errors.Unsupported(), UNSUPPORTED, None),
        (errors.Malformed(), BAD_MESSAGE, None),
        (OSError(errno.ENOSPC, "x", "/secret/path"), FAILURE, b"no space left"),
        (FileNotFoundError(errno.ENOENT, "x", "/secret"), NO_SUCH_FILE, None),
        (PermissionError(errno.EACCES, "x"), DENIED, None),
        # Trap 6: 11 does not exist in version 3.
        (FileExistsError(errno.EEXIST, "x", "/secret"), FAILURE, b"File exists"),
        # Trap 9: the reason is passed on.
        (OSError(errno.ENOTEMPTY, "x"), FAILURE, b"Directory not empty"),
        (SFTPError(OK, "fine"), OK, b"fine"),
        (SFTPError(UNSUPPORTED, b"bytes"), UNSUPPORTED, b"bytes"),
        (SFTPError(6, "no connection"), FAILURE, b"no connection"),
        (SFTPError(7, "lost"), FAILURE, b"lost"),
        (SFTPError(11, "exists"), FAILURE, b"exists"),
        (EOFError(), EOF, None),
        (NotImplementedError(), UNSUPPORTED, None),
        (CancelledError(), FAILURE, None),
        # Trap 4: any text reaches the client.
        (errors.Refused("Größe \u2013 voll"), FAILURE, "Größe \u2013 voll".encode()),
        (errors.Refused("bad \udcff end"), FAILURE, b"bad ? end"),
    ],
)
def test_errors_become_statuses_of_version_3(
    error: Exception, code: int, text: bytes | None
) -> None:
    assert to_status(error)[0] == code
    got = to_status(error)[1]
    assert got if text is None else got == text
    assert b"secret" not in got


def test_a_long_text_is_cut_between_characters() -> None:
    _, text = to_status(errors.Refused("ü" * 5000))
    assert len(text) <= MAX_TEXT_BYTES and text.decode("utf-8") == "ü" * (MAX_TEXT_BYTES // 2)


@pytest.mark.parametrize("error", [ValueError("boom"), OSError("no number")])
def test_what_nobody_foresaw_is_logged_once(error: Exception, logged_errors: Any) -> None:
    assert to_status(error) == (FAILURE, b"internal error")
    assert len(logged_errors.flush(type(error))) == 1


def test_a_revoked_session_is_told_and_then_ended() -> None:
    peer = Peer.greeted()
    peer.memory.errors["stat"] = errors.SessionRevoked()
    assert peer.ask(STAT, ns(b"/photo")).code == DENIED
    assert peer.channel.disconnected


def test_attributes_are_clamped_to_what_version_3_can_say() -> None:
    full = {"size": -1, "uid": 2**40, "gid": 0, "permissions": 0o100644, "atime": -5, "mtime": 1e9}
    fields = wire.Reader(wire.pack_attrs(full))
    assert fields.attrs() == {
        "size": 0,
        "uid": 2**32 - 1,
        "gid": 0,
        "permissions": 0o100644,
        "atime": 0,
        "mtime": 10**9,
    }
    assert fields.rest() == b""
    for attrs in ({}, {"size": 2**63}, {"permissions": 1, "atime": 2, "mtime": 3}, {"ext_a": b"b"}):
        assert wire.Reader(wire.pack_attrs(attrs)).attrs() == attrs
    assert wire.Reader(wire.pack_attrs({"mtime": 9})).attrs() == {"atime": 9, "mtime": 9}


# -- anything a client could send

requests = st.tuples(st.integers(2, 255), st.binary(min_size=4, max_size=80))
handles = st.sampled_from([ns((n).to_bytes(8, "big")) for n in range(4)])
paths = st.sampled_from([ns(b"/a"), ns(b"/a/b"), ns(b"/\xff"), ns(b"")])
number = st.binary(min_size=4, max_size=4)
likely = st.one_of(
    st.tuples(st.sampled_from([4, 5, 6, 8, 10, 12]), st.tuples(number, handles, st.binary())),
    st.tuples(st.sampled_from([3, 7, 9, 11, 13, 14, 15, 16, 17, 18]), st.tuples(number, paths)),
    st.tuples(st.just(3), st.tuples(number, paths, st.just(b"\x00\x00\x00\x1a" + NO_ATTRS))),
    st.tuples(st.just(5), st.tuples(number, handles, st.just(struct.pack("!QL", 0, 9)))),
    st.tuples(st.just(6), st.tuples(number, handles, st.just(bytes(8) + ns(b"data")))),
).map(lambda pair: (pair[0], b"".join(pair[1])))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_at_all_raise(chunks: list[bytes]) -> None:
    for peer in (Peer(), Peer.greeted()):
        for chunk in chunks:
            peer.raw(chunk)
        peer.drop()


@settings(max_examples=200)
@given(
    st.lists(st.one_of(requests, likely), max_size=40),
    st.sets(st.sampled_from(["open", "read", "write", "close", "stat", "rename", "fsetstat"])),
    st.integers(1, 300),
)
def test_every_framed_request_has_exactly_one_answer(
    asked: list[tuple[int, bytes]], slow: set[str], step: int
) -> None:
    peer = Peer(Memory())
    peer.raw(packet(INIT, struct.pack("!L", 3)))
    del peer.channel.written[:]
    peer.memory.hold(*slow)
    stream = b"".join(packet(kind, body) for kind, body in asked)
    for at in range(0, len(stream), step):
        peer.raw(stream[at : at + step])
    peer.memory.release_all()
    answered = sorted(answer.id for answer in peer.answers())
    assert answered == sorted(struct.unpack("!L", body[:4])[0] for _, body in asked)
    assert peer.channel.taken == peer.sent
    peer.server.readConnectionLost()
    assert peer.channel.closed


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
