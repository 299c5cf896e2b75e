"""The spool against a bytearray: every order of writes and cuts, its hash, and the base below."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import Factory, define
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from immich_conch.errors import ConchError, NoSpace, Refused, SettingsError
from immich_conch.transfer import commits, upkeep, uploads
from immich_conch.transfer.extents import Extents
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.spool import Spool
from immich_conch.transfer.spool_file import MAX_FILE, SpoolFile
from immich_conch.transfer.upload import NEXT, Base, SpoolBody, State, Upload

SIZE = 60
EVERY = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))
writes = st.tuples(st.just("write"), st.integers(0, SIZE), st.binary(max_size=20))
steps = st.one_of(
    writes,
    writes,
    st.tuples(st.just("append"), st.just(0), st.binary(max_size=20)),
    st.tuples(st.just("cut"), st.integers(0, SIZE), st.just(b"")),
    st.tuples(st.just("hash"), st.just(0), st.just(b"")),
)


def write(oracle: bytearray, offset: int, data: bytes) -> None:
    """A POSIX write."""
    if data:
        oracle.extend(bytes(max(0, offset - len(oracle))))
        oracle[offset : offset + len(data)] = data


def cut(oracle: bytearray, size: int) -> None:
    """A POSIX truncate."""
    oracle.extend(bytes(max(0, size - len(oracle))))
    del oracle[size:]


@given(st.lists(ranges), st.integers(0, SIZE), ranges)
def test_extents_are_the_set_of_bytes_written(
    added: list[tuple[int, int]], size: int, late: tuple[int, int]
) -> None:
    extents, oracle = Extents(), set[int]()
    for start, end in added:
        extents = extents.add(start, end)
        oracle |= set(range(start, end))
    extents = extents.cut(size).add(*late)
    oracle = {at for at in oracle if at < size} | set(range(*late))
    assert {at for low, high in extents.ranges for at in range(low, high)} == oracle
    flat = [edge for pair in extents.ranges for edge in pair]
    assert flat == sorted(set(flat))  # sorted, disjoint, and none touches the next
    gaps = {at for low, high in extents.gaps(size) for at in range(low, high)}
    assert gaps == set(range(size)) - oracle


@EVERY
@given(st.lists(steps, max_size=12))
def test_a_spool_file_is_a_file_in_whatever_order_it_is_written(
    tmp_path: Path, todo: list[tuple[str, int, bytes]]
) -> None:
    spool = Spool.make(os.fspath(tmp_path), sync=False)
    file, oracle = spool.create("u", {}), bytearray()
    for what, at, data in todo:
        if what == "write":
            file.write(at, data)
            write(oracle, at, data)
        elif what == "append":
            file.write(file.size, data)
            oracle += data
        elif what == "cut":
            file.truncate(at)
            cut(oracle, at)
        else:
            assert file.sha1() == hashlib.sha1(oracle).digest()
        assert file.size == len(oracle)
    assert file.read(0, 1000) == bytes(oracle)
    assert file.read(3, 5) == bytes(oracle[3:8])
    assert Path(file.path).read_bytes() == bytes(oracle)
    assert file.sha1() == hashlib.sha1(oracle).digest()
    body = SpoolBody(file, file.size)
    assert b"".join(iter(lambda: body.read(7), b"")) == bytes(oracle)
    spool.discard(file)
    spool.close()
    assert _spooled(tmp_path) == []


@EVERY
@given(st.binary(min_size=1, max_size=SIZE), st.lists(steps, max_size=8))
def test_an_edited_file_is_its_base_with_the_edits_on_top(
    tmp_path: Path, base: bytes, todo: list[tuple[str, int, bytes]]
) -> None:
    spool = Spool.make(os.fspath(tmp_path), sync=False)
    upload = _upload(spool, _base(base))
    oracle = bytearray(base)
    for what, at, data in todo:
        if what in ("write", "append"):
            at = upload.size if what == "append" else at
            upload.write(at, data)
            write(oracle, at, data)
        elif what == "cut":
            upload.truncate(at)
            cut(oracle, at)
        else:
            assert _read(upload, at, 13) == bytes(oracle[at : at + 13])
        assert upload.size == len(oracle)
    assert _read(upload, 0, 1000) == bytes(oracle)
    _now(upload.fill(_at_once))
    assert _read(upload, 0, 1000) == upload.file.read(0, 1000) == bytes(oracle)
    assert upload.file.sha1() == hashlib.sha1(oracle).digest()
    spool.discard(upload.file)
    spool.close()


async def _at_once() -> None:
    """Nobody else wants a turn."""


def _base(data: bytes) -> Base:
    return Base(len(data), lambda at, size: data[at : at + size], lambda: None)


def _spooled(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if not path.name.startswith(".")]


def _seal(spool: Spool, file: SpoolFile) -> None:
    for error in spool.seal_all([(file, {})]):
        if error is not None:
            raise error


def _upload(spool: Spool, base: Base | None = None) -> Upload:
    lease = Lease(None, None, lambda _: None)  # type: ignore[arg-type]
    return Upload("album", "a.jpg", lease.hold(), spool.create("u", {}), 0.0, base)


def _now(work: object) -> object:
    """The result of a coroutine that has nothing to wait for."""
    results: list[object] = []
    Deferred.fromCoroutine(work).addCallback(results.append)  # type: ignore[arg-type]
    return results[0]


def _read(upload: Upload, offset: int, length: int) -> object:
    answer = upload.read(offset, length)
    return answer if isinstance(answer, bytes) else _now(answer)


@pytest_twisted.ensureDeferred
async def test_a_base_that_ends_early_is_an_error_and_no_hole(tmp_path: Path) -> None:
    upload = _upload(Spool.make(os.fspath(tmp_path)), Base(10, lambda at, size: b"", lambda: None))
    upload.write(2, b"x")
    with pytest.raises(ConchError, match="ended early"):
        await upload.read(0, 10)  # type: ignore[misc]
    with pytest.raises(ConchError, match="ended early"):
        await upload.fill(_at_once)


@pytest.mark.parametrize("wild", [MAX_FILE, 2**63, 2**64 - 1])
def test_a_wild_offset_is_refused(tmp_path: Path, wild: int) -> None:
    file = Spool.make(os.fspath(tmp_path)).create("u", {})
    with pytest.raises(NoSpace):
        file.write(wild, b"x")
    with pytest.raises(NoSpace):
        file.truncate(wild + 1)
    assert file.read(wild, 10) == b""
    assert Path(file.path).stat().st_size == file.size == 0


def _act(name: str, spool: Spool, file: SpoolFile) -> None:
    {
        "pwritev": lambda: file.write(0, b"x"),
        "ftruncate": lambda: file.truncate(10),
        "fsync": lambda: _seal(spool, file),
        "open": lambda: spool.create("u", {}),
        "replace": lambda: spool.journal(file, {}),
    }[name]()


@pytest.mark.parametrize("name", ["pwritev", "ftruncate", "fsync", "open", "replace"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, Refused)]
)
def test_what_the_disk_says_is_said_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, kind: type[ConchError]
) -> None:
    spool = Spool.make(os.fspath(tmp_path))
    file = spool.create("u", {})

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(kind) as caught:
            _act(name, spool, file)
    assert type(caught.value) is kind
    assert os.fspath(tmp_path) not in caught.value.text
    # No half entry is left, and what was there is what was there before.
    left = sorted(path.name for path in _spooled(tmp_path))
    assert left == [f"{file.id}.data", f"{file.id}.json"]


def test_an_entry_never_outlives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.make(os.fspath(tmp_path))
    file = spool.create("u", {})
    file.use()  # as the thread that seals it does
    replace: Callable[..., None] = os.replace

    def meanwhile(*args: str) -> None:
        spool.discard(file)
        replace(*args)

    monkeypatch.setattr(os, "replace", meanwhile)
    _seal(spool, file)
    file.close()
    assert _spooled(tmp_path) == []
    assert file.fd == -1


def test_a_reader_keeps_the_bytes_of_a_file_that_has_gone(tmp_path: Path) -> None:
    spool = Spool.make(os.fspath(tmp_path))
    file = spool.create("u", {})
    file.write(0, b"bytes")
    file.use()
    spool.discard(file)
    spool.discard(file)
    assert _spooled(tmp_path) == []
    assert file.read(0, 10) == b"bytes"
    file.close()
    assert file.fd == -1


def _endings(directory: Path) -> list[str]:
    """The endings of what lies in a spool."""
    return sorted(path.suffix for path in _spooled(directory))


@define
class Later:
    """A thread that begins when it is told to."""

    jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = Factory(list)

    def __call__(self, work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((work, done))
        return done

    def run(self) -> None:
        """One job."""
        work, done = self.jobs.pop(0)
        done.callback(work())


def test_a_thread_removes_in_one_go_what_was_dropped_while_it_was_busy(tmp_path: Path) -> None:
    spool = Spool.make(os.fspath(tmp_path), sync=False)
    spool.threads = later = Later()
    for file in [spool.create("u", {}) for _ in range(3)]:
        spool.discard(file)
    # Nobody can take them for uploads any more, whenever the thread comes to them.
    assert _endings(tmp_path) == 3 * [".gone"] + 3 * [".json"]
    later.run()
    assert _endings(tmp_path) == 2 * [".gone"] + 2 * [".json"]
    later.run()
    assert _endings(tmp_path) == []
    assert later.jobs == []


def test_a_crash_before_the_thread_came_brings_nothing_back(tmp_path: Path) -> None:
    spool = Spool.make(os.fspath(tmp_path), sync=False)
    spool.threads = Later()
    file = spool.create("u", {})
    file.write(0, b"unwanted")
    spool.discard(file)
    spool.close()
    assert Spool.make(os.fspath(tmp_path), sync=False).scan() == []
    assert _endings(tmp_path) == []


def test_a_disk_that_refuses_to_remove_is_said_and_keeps_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.make(os.fspath(tmp_path), sync=False)
    spool.threads = later = Later()
    first, bad, last = (spool.create("u", {}) for _ in range(3))
    unlink = os.unlink

    def sick(path: str) -> None:
        if bad.id in path:
            raise OSError(errno.EIO, "Input/output error")
        unlink(path)

    monkeypatch.setattr(os, "unlink", sick)
    for file in (first, bad, last):
        spool.discard(file)
    with capturedLogs() as lines:
        later.run()
        later.run()
    assert _endings(tmp_path) == [".gone", ".json"]
    [line] = [formatEvent(line) for line in lines]
    assert "Input/output error" in line and bad.id in line


def test_a_spool_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--spool-dir"):
        Spool.make(os.fspath(tmp_path / "file" / "spool"))


@given(st.sampled_from(list(State)), st.sampled_from(list(State)))
def test_an_upload_goes_only_where_the_table_says(old: State, new: State) -> None:
    upload = _bare(old)
    if new in NEXT[old]:
        upload.go(new)
        assert upload.state is new
    else:
        with pytest.raises(AssertionError):
            upload.go(new)
        assert upload.state is old


def test_the_table_in_the_docstring_is_the_table() -> None:
    from immich_conch.transfer import upload as module

    rows: dict[State, frozenset[State]] = {}
    for line in (module.__doc__ or "").splitlines():
        word, _, rest = line.partition(" ")
        if word in {state.value for state in State}:
            targets = rest.strip().split("  ")[-1].strip()
            found = [] if targets == "--" else targets.split(", ")
            rows[State(word)] = frozenset(map(State, found))
    assert rows == NEXT


def test_every_transition_in_the_code_is_in_the_table() -> None:
    import inspect
    import re

    source = "".join(map(inspect.getsource, (uploads, commits, upkeep)))
    used = {State[name] for name in re.findall(r"\.go\(State\.(\w+)\)", source)}
    assert used | {State.SEALED} == set(State)
    for state in used:
        assert any(state in targets for targets in NEXT.values())


def _bare(state: State) -> Upload:
    file = SpoolFile("id", "/nowhere", -1)
    lease = Lease(None, None, lambda _: None)  # type: ignore[arg-type]
    return Upload("album", "a.jpg", lease, file, 0.0, state=state)


@pytest.mark.parametrize("most", [1, 7, 1000, 10**6])
def test_pieces_are_written_whole_however_little_the_disk_takes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = os.pwrite
    calls: list[int] = []

    def pwritev(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        calls.append(len(pieces))
        return real(fd, b"".join(pieces)[:most], offset)

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        return real(fd, data[:most], offset)

    file = Spool.make(os.fspath(tmp_path)).create("u", {})
    data = bytes(number % 251 for number in range(3000))
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "pwrite", pwrite)
    file.write_pieces(0, [memoryview(data)[at : at + 100] for at in range(0, 3000, 100)])
    assert file.read(0, 4000) == data
    assert file.sha1() == hashlib.sha1(data).digest()
    # The system takes no more than 1,024 at once.
    file.write_pieces(3000, [memoryview(data)[at : at + 1] for at in range(3000)])
    assert file.read(3000, 4000) == data
    assert max(calls) <= 1024
