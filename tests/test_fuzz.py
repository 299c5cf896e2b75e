"""Broken sessions of every kind, a slice of them in each run; `tests/fuzz/README.rst` says how.

`python -m tests.fuzz --seconds 300` is the longer one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz import corpus
from fuzz.mutate import LONGEST, TOKENS, mutate, mutate_bytes, ssh_packet, string
from fuzz.run import Fuzzer, fuzzer, load, save
from fuzz.targets import Case, Crash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ssh_server import PASSWORD
from twisted.internet.defer import Deferred

from immich_conch.ssh.transport import Transport
from immich_conch.ssh.userauth import UserAuth

#: Seconds of the slice, and how many examples hypothesis makes for each target.
SECONDS = float(os.environ.get("IMMICH_CONCH_TEST_FUZZ_SECONDS", "20"))
EXAMPLES = int(os.environ.get("IMMICH_CONCH_TEST_FUZZ_EXAMPLES", "100"))

NAMES = ["transport", "userauth", "channels", "sftp"]
KEPT = sorted((Path(__file__).parent / "fuzz" / "found").glob("*.input"))


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    with fuzzer(tmp_path_factory.mktemp("crashes")) as made:
        yield made


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.slow
def test_broken_sessions_are_answered_or_ended_and_leave_nothing_behind(fuzz: Fuzzer) -> None:
    report = fuzz.run(NAMES, "ci", SECONDS)
    print(report.text())
    assert not report.crashes, report.text()
    assert all(sum(counts.values()) > SECONDS for counts in report.outcomes.values())


def calm() -> int:
    """A plan in which nothing waits, fails or is in a hurry."""
    for plan in range(1000):
        made = Random(plan)
        held, failing, full, patient = (made.random() for _ in range(4))
        if held > 0.3 and failing > 0.1 and full > 0.1 and patient < 0.5:
            return plan
    raise AssertionError


@pytest.mark.parametrize("name", NAMES)
def test_sessions_as_they_were_recorded_are_not_cut_off(fuzz: Fuzzer, name: str) -> None:
    """What is mutated leads to where it is meant to; a harness that ends all proves nothing."""
    target = fuzz.targets[name]
    for messages in target.pool:
        if name == "sftp":
            reads = [b"".join(map(string, messages))]
        else:
            first, rest = (messages[0] + b"\r\n", messages[1:])
            reads = [first if name == "transport" else ssh_packet(messages[0])]
            # The last one says that the client leaves.
            reads += [ssh_packet(message) for message in rest if message[0] != 1]
        outcome = fuzz.one(name, Case(calm(), reads))
        assert outcome in ("logged in", "all answered"), messages[0]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_was_found_once_is_not_found_again(fuzz: Fuzzer, path: Path) -> None:
    name, case = load(path)
    fuzz.one(name, case)


def test_the_same_seed_makes_the_same_inputs(fuzz: Fuzzer) -> None:
    one, two = (fuzz.run(NAMES, "same", 60, inputs=80).outcomes for _ in range(2))
    assert one == two
    cases = {fuzz.targets["sftp"].make(Random(f"s/{n}")).reads[0] for n in range(50)}
    assert len(cases) > 25


def test_changed_sessions_stay_small_enough_to_try_many() -> None:
    pool = corpus.channels()
    for n in range(300):
        messages = mutate(Random(n), pool)
        assert sum(map(len, messages)) <= LONGEST
    assert mutate_bytes(Random(0), b"") and string(b"sftp")[4:] in TOKENS


# -- the fuzzer notices


def found(fuzz: Fuzzer, name: str, inputs: int = 400) -> str:
    report = fuzz.run([name], "planted", 60, inputs, most=1)
    assert report.crashes, "the fuzzer does not notice"
    _, path, text = report.crashes[0]
    again, case = load(path)
    with pytest.raises(Crash):
        fuzz.one(again, case)
    fuzz.log.lines.clear()
    fuzz.log.failures.clear()
    return text


def test_an_exception_that_escapes_is_found(fuzz: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, packet: bytes) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(UserAuth, "ssh_USERAUTH_REQUEST", fails)
    assert "planted" in found(fuzz, "userauth")


def test_a_request_that_is_not_answered_is_found(
    fuzz: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssh_server import Files

    async def never(self: Any, path: bytes) -> None:
        await Deferred()

    monkeypatch.setattr(Files, "removeFile", never)
    assert "not answered" in found(fuzz, "sftp")


def test_a_server_that_goes_round_in_circles_is_found(
    fuzz: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fuzz import run

    def circles(self: Any, packet: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(run, "SECONDS_EACH", 0.2)
    monkeypatch.setattr(Transport, "ssh_SERVICE_REQUEST", circles)
    assert "more than 0.2 s" in found(fuzz, "userauth")


def test_a_line_too_many_is_found(fuzz: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def talks(self: Any, packet: bytes) -> None:
        self._log.info("disconnecting, or so")
        self._end(2, b"a second time")

    monkeypatch.setattr(Transport, "ssh_SERVICE_REQUEST", talks)
    assert "lines were logged" in found(fuzz, "userauth")


def test_an_input_that_was_kept_is_the_same_when_it_is_read(tmp_path: Path) -> None:
    case = Case(7, [b"a", b"", b"\xff" * 300])
    assert load(save(tmp_path, "sftp", case, "x")) == ("sftp", case)


# -- what hypothesis thinks of

_u32 = st.one_of(
    st.sampled_from([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)
).map(lambda number: number.to_bytes(4, "big"))
_text = st.one_of(
    st.sampled_from(TOKENS), st.just(PASSWORD.encode()), st.just(b"ann"), st.binary(max_size=60)
)
_piece = st.one_of(_u32, _u32, _text.map(string), _text.map(string), st.binary(max_size=9))
_body = st.lists(_piece, max_size=7).map(b"".join)
_handle = st.integers(0, 4).map(lambda number: string(number.to_bytes(8, "big")))


def _messages(numbers: st.SearchStrategy[int], body: st.SearchStrategy[bytes]) -> Any:
    message = st.tuples(numbers, body).map(lambda pair: bytes((pair[0],)) + pair[1])
    return st.lists(message, min_size=1, max_size=12)


_INPUTS = {
    "transport": _messages(st.one_of(st.integers(0, 40), st.integers(0, 255)), _body),
    "userauth": _messages(
        st.one_of(st.sampled_from([2, 5, 5, 50, 50, 50, 61]), st.integers(0, 255)), _body
    ),
    "channels": _messages(
        st.one_of(st.integers(80, 100), st.just(90), st.just(98), st.integers(0, 255)),
        st.one_of(_body, _body.map(lambda body: bytes(4) + body)),
    ),
    "sftp": _messages(
        st.one_of(st.integers(1, 20), st.just(200), st.integers(0, 255)),
        st.one_of(st.tuples(_u32, _body), st.tuples(_u32, _handle, _body)).map(b"".join),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_sessions_that_nobody_recorded(fuzz: Fuzzer, name: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not os.environ.get("IMMICH_CONCH_TEST_FUZZ_EXAMPLES"),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(_INPUTS[name], st.integers(0, 2**32 - 1))
    def holds(messages: list[bytes], plan: int) -> None:
        if name == "sftp":
            greeting = string(b"\x01\x00\x00\x00\x03")
            fuzz.one(name, Case(plan, [greeting + b"".join(map(string, messages))]))
            return
        stream = b"".join(map(ssh_packet, messages))
        if name == "transport":
            stream = b"SSH-2.0-hypothesis\r\n" + stream
        fuzz.one(name, Case(plan, [stream]))

    holds()
