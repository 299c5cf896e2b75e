"""The hash that follows a writer is the hash of what is in the file, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from immich_conch.errors import Refused
from immich_conch.transfer import running_hash
from immich_conch.transfer.spool import Spool
from immich_conch.transfer.spool_file import SpoolFile

INLINE, STEP, READ = 50, 100, 30


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_hash, "INLINE_BYTES", INLINE)
    monkeypatch.setattr(running_hash, "STEP_BYTES", STEP)
    monkeypatch.setattr(running_hash, "READ_BYTES", READ)


class Threads:
    """Work for a thread that is done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.started = 0

    def __call__(self, work: Callable[[], Any]) -> Awaitable[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((work, done))
        self.started += 1
        return done

    def run(self) -> None:
        for work, done in [self.waiting.pop(0) for _ in range(len(self.waiting))]:
            done.callback(work())


def a_file(place: Path) -> tuple[SpoolFile, Threads]:
    threads = Threads()
    spool = Spool.make(os.fspath(place))
    spool.threads = threads
    file = spool.create("u", {})
    spool.close()
    return file, threads


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("on"), st.integers(1, 150)),
        st.tuples(st.just("at"), st.integers(0, 400), st.integers(1, 60)),
        st.tuples(st.just("cut"), st.integers(0, 500)),
        st.tuples(st.just("run")),
        st.tuples(st.just("hash")),
    ),
    max_size=25,
)


@given(steps=STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_writes_and_cuts_with_a_slow_thread_give_the_hash_of_the_bytes(
    tmp_path: Path, steps: list[tuple[Any, ...]]
) -> None:
    file, threads = a_file(tmp_path)
    model = bytearray()
    for number, step in enumerate(steps):
        if step[0] == "run":
            threads.run()
            continue
        if step[0] == "hash":
            threads.run()
            assert file.sha1() == hashlib.sha1(model).digest()
            assert file.hash_ready
            continue
        if step[0] == "cut":
            size = step[1]
            file.truncate(size)
            del model[size:]
            model.extend(bytes(size - len(model)))
            continue
        at, size = (len(model), step[1]) if step[0] == "on" else step[1:]
        data = bytes((number * 31 + byte) % 251 for byte in range(size))
        model.extend(bytes(max(0, at - len(model))))
        model[at : at + size] = data
        file.write(at, data)
        if file.hash_ready:
            assert file.sha1() == hashlib.sha1(model).digest()
    while threads.waiting:
        threads.run()
    assert file.sha1() == hashlib.sha1(model).digest()
    file.close()
    assert file.fd == -1


def test_a_write_into_what_a_thread_is_reading_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, threads = a_file(tmp_path)
    file.write(0, bytes(200))
    real, calls = os.pread, []

    def pread(fd: int, size: int, offset: int) -> bytes:
        calls.append(offset)
        piece = real(fd, size, offset)
        if len(calls) == 3:
            file.write(10, b"changed")
        return piece

    monkeypatch.setattr(os, "pread", pread)
    threads.run()
    assert not file.hash_ready and not file.in_order
    # It gives up at once: what it would read on is read again at the end anyway.
    assert len(calls) == 3
    expected = bytearray(200)
    expected[10:17] = b"changed"
    assert file.sha1() == hashlib.sha1(expected).digest()


def test_small_files_and_small_steps_ask_no_thread(tmp_path: Path) -> None:
    file, threads = a_file(tmp_path)
    file.write(0, bytes(INLINE))
    assert file.hash_ready and not threads.started
    file.write(INLINE, bytes(STEP - 1))
    assert not file.hash_ready and not threads.started
    file.write(file.size, b"x")
    assert threads.started == 1
    # Only one at a time, whatever comes meanwhile; then what came.
    file.write(file.size, bytes(5 * STEP))
    assert threads.started == 1
    threads.run()
    assert threads.started == 2
    threads.run()
    assert file.hash_ready and threads.started == 2


def test_a_hole_that_is_filled_later_costs_nothing(tmp_path: Path) -> None:
    file, threads = a_file(tmp_path)
    file.write(150, bytes(100))
    assert not threads.started
    file.write(0, bytes(150))
    threads.run()
    assert file.in_order and file.hash_ready
    assert file.sha1() == hashlib.sha1(bytes(250)).digest()


def test_a_file_of_an_earlier_run_is_hashed_while_it_is_continued(tmp_path: Path) -> None:
    file, threads = a_file(tmp_path)
    os.pwrite(file.fd, b"y" * 150, 0)
    file.found(150)
    assert not file.hash_ready
    file.write(150, b"z" * 20)
    threads.run()
    assert file.hash_ready
    assert file.sha1() == hashlib.sha1(b"y" * 150 + b"z" * 20).digest()


def test_what_a_thread_cannot_read_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = a_file(tmp_path)
    file.hash.threads = lambda work: fail(OSError(5, "Input/output error"))
    file.write(0, bytes(200))
    assert not file.hash_ready
    assert file.sha1() == hashlib.sha1(bytes(200)).digest()

    def broken(fd: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    file.write(200, bytes(200))
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(Refused, match="Input/output error"):
        file.sha1()


def test_the_descriptor_outlives_the_file_until_the_thread_is_done(tmp_path: Path) -> None:
    file, threads = a_file(tmp_path)
    file.write(0, bytes(200))
    file.close()
    assert file.fd >= 0
    threads.run()
    assert file.fd == -1
