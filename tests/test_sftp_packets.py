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
from twisted.internet.defer import CancelledError

from immich_conch import errors
from immich_conch.sftp import wire
from immich_conch.sftp.packets import MAX_PACKET_BYTES
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
