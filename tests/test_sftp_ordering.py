"""What waits for what: requests that depend on each other, and a connection that drops."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from sftp_peer import (
    ATTRS,
    CLOSE,
    EXTENDED,
    FSETSTAT,
    FSTAT,
    HANDLE,
    LSTAT,
    NO_ATTRS,
    OPEN,
    OPENDIR,
    REMOVE,
    RENAME,
    SETSTAT,
    STAT,
    WRITE,
    Peer,
    ns,
)

from immich_conch import errors
from immich_conch.sftp.engine import (
    MAX_TRANSFERS,
)
from immich_conch.sftp.ordering import normalise

OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8


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
