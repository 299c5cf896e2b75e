"""What waits for nothing is answered without a Deferred, and what waits goes on as it would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from rig import rig
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from immich_conch.library.nodes import Info
from immich_conch.sftp.engine import Engine, _go_on
from immich_conch.sftp.handles import attributes
from immich_conch.sftp.longname import HALF_A_YEAR, is_recent, longname
from immich_conch.sftp.ordering import Request
from immich_conch.sftp.server import _entry
from immich_conch.sftp.wire import attributes as wire_attributes
from immich_conch.sftp.wire import pack_listed, stat_answer

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["now", "failed", "later", "breaks", "raise"]), st.integers(0, 9)),
    max_size=6,
)


async def work(steps: Sequence[Step], waiting: list[tuple[Step, Deferred[int]]]) -> Any:
    """Adds up what it waits for; a failure is caught and counts, too, unless it is raised."""
    total: list[Any] = []
    for kind, number in steps:
        if kind == "raise":
            raise ValueError(number)
        later: Deferred[int] = Deferred()
        if kind == "now":
            later = succeed(number)
        elif kind == "failed":
            later = fail(KeyError(number))
        else:
            waiting.append(((kind, number), later))
        try:
            total.append(await later)
        except KeyError as error:
            total.append(str(error))
    return total


def let_go_on(waiting: list[tuple[Step, Deferred[int]]]) -> None:
    while waiting:
        (kind, number), later = waiting.pop(0)
        if kind == "later":
            later.callback(number)
        else:
            later.errback(KeyError(number))


class Recorder(Engine):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []

    def _send(self, answer: Any) -> None:
        self.sent.append(answer)

    def _send_error(self, number: int, error: BaseException) -> None:
        self.sent.append((type(error), str(error)))

    def _advance(self) -> None:
        pass


@given(STEPS)
def test_every_request_ends_as_it_would_in_a_deferred(steps: list[Step]) -> None:
    expected: list[Any] = []
    waiting: list[tuple[Step, Deferred[int]]] = []

    def failed(failure: Failure) -> None:
        expected.append((type(failure.value), str(failure.value)))

    slow = Deferred.fromCoroutine(work(steps, waiting))
    slow.addCallbacks(expected.append, failed)
    let_go_on(waiting)
    engine = Recorder()
    request = Request(1, lambda: work(steps, waiting), lambda result: result)
    engine._carry_out(request)
    waits = any(kind in ("later", "breaks") for kind, _ in _reached(steps))
    assert request.finished != waits
    assert len(engine.sent) == (0 if waits else 1)
    let_go_on(waiting)
    assert request.finished
    assert engine.sent == expected
    assert engine._order.idle


def _reached(steps: list[Step]) -> list[Step]:
    kinds = [kind for kind, _ in steps]
    return steps[: kinds.index("raise")] if "raise" in kinds else steps


def test_a_listing_entry_changes_with_the_date_alone() -> None:
    @given(
        name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
        mode=st.sampled_from([0o100644, 0o100444, 0o040755]),
        size=st.none() | st.integers(0, 2**63),
        modified=st.integers(0, 2**32 - 1),
        away=st.sampled_from([0, 1, -1, HALF_A_YEAR, HALF_A_YEAR - 1, HALF_A_YEAR + 1])
        | st.integers(-(2**31), 2**31),
    )
    def same(name: str, mode: int, size: int | None, modified: int, away: int) -> None:
        now = modified + away
        line = longname(name, mode, size, modified, now, "immich", "immich")
        slow = pack_listed(name.encode(), line.encode(), size, mode, modified)
        for _ in range(2):
            assert _entry(name, mode, size, modified, is_recent(modified, now)) == slow

    same()


@pytest.mark.parametrize("closed", [False, True])
def test_a_coroutine_that_nobody_goes_on_with_is_closed(closed: bool) -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await Deferred()
        finally:
            ended.append("closed")

    begun = waits()
    rest: Any = _go_on(begun, begun.send(None))
    next(rest)
    if closed:
        rest.close()
        assert ended == ["closed"]
    else:
        with pytest.raises(RuntimeError):
            rest.throw(RuntimeError())
        assert ended == ["closed"]


@given(
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_a_quick_stat_answer_is_byte_for_byte_the_long_one(
    number: int, size: int | None, mode: int, modified: int
) -> None:
    info = Info(mode, size, modified)
    assert stat_answer(number, size, mode, modified) == wire_attributes(number, attributes(info))


@pytest_twisted.ensureDeferred
async def test_a_stat_is_quick_where_all_is_known_and_says_nothing_where_it_is_not(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        r.album("Rome", r.asset("a.jpg"))
        r.album("Rome/Old", r.asset("b.jpg"))
        r.album("Secret", r.asset("c.jpg"), description="#nosync")
        session = await r.session()
        glance = session.sftp.glance
        assert glance(b"/Rome/a.jpg") is None  # nothing is known yet
        for path in ("/Rome", "/Rome/a.jpg", "Rome//./a.jpg", "/Rome/Old/b.jpg"):
            told = await session.stat(path)
            quick = glance(path.encode())
            assert quick is not None and attributes(quick) == told
        for path in (b"/", b"/Secret", b"/Secret/c.jpg", b"/Rome/x.jpg", b"/\xff", b"/x/y/z"):
            assert glance(path) is None
        handle = await session.open("/Rome/new.jpg")
        assert glance(b"/Rome/a.jpg") is None  # something is on its way
        handle.abort()
        assert glance(b"/Rome/a.jpg") is not None
        r.clock.advance(60)
        assert glance(b"/Rome/a.jpg") is None  # too long ago
