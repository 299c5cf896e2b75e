"""Bounded parallelism, results that many wait for, and locks by key."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from immich_conch.errors import Unreachable
from immich_conch.library.gather import Shared, gather
from immich_conch.library.locks import Locks


@pytest_twisted.ensureDeferred
async def test_jobs_run_side_by_side_up_to_the_limit_and_answer_in_order() -> None:
    gates: list[Deferred[int]] = []

    def job() -> Deferred[int]:
        gates.append(Deferred())
        return gates[-1]

    done = Deferred.fromCoroutine(gather([job] * 5, 2))  # type: ignore[arg-type]
    for number in range(5):
        assert len(gates) == min(5, number + 2)
        # The newest first, as long as there are two.
        waiting = [gate for gate in gates if not gate.called]
        waiting[-1].callback(gates.index(waiting[-1]))
    assert await done == [0, 1, 2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_nothing_begins_after_the_first_error() -> None:
    started = []

    async def job(number: int) -> None:
        started.append(number)
        raise Unreachable(str(number))

    with pytest.raises(Unreachable, match="0"):
        await gather([lambda n=n: job(n) for n in range(4)], 1)  # type: ignore[misc]
    assert started == [0]
    assert await gather([], 3) == []


@pytest_twisted.ensureDeferred
async def test_a_shared_result_is_everybodys_also_late() -> None:
    gate: Deferred[str] = Deferred()

    async def work() -> str:
        return await gate

    shared = Shared.start(work())
    waiters = [Deferred.fromCoroutine(shared.wait()) for _ in range(3)]
    waiters[1].cancel()
    with pytest.raises(CancelledError):
        await waiters[1]
    gate.callback("all")
    assert [await waiters[0], await waiters[2], await shared.wait()] == ["all"] * 3
    assert shared.done


@pytest_twisted.ensureDeferred
async def test_a_shared_error_is_everybodys() -> None:
    gate: Deferred[str] = Deferred()

    async def work() -> str:
        return await gate

    shared = Shared.start(work())
    waiters = [Deferred.fromCoroutine(shared.wait()) for _ in range(2)]
    gate.errback(Unreachable())
    for waiter in (*waiters, Deferred.fromCoroutine(shared.wait())):
        with pytest.raises(Unreachable):
            await waiter


@pytest_twisted.ensureDeferred
async def test_holders_of_one_key_go_one_after_the_other_and_leave_nothing() -> None:
    locks, said = Locks(), []
    gates: list[Deferred[None]] = [Deferred(), Deferred()]

    async def hold(name: str, gate: Deferred[None], *keys: str) -> None:
        async with locks.hold(*keys):
            said.append(f"{name} in")
            await gate
            said.append(f"{name} out")

    first = Deferred.fromCoroutine(hold("one", gates[0], "a", "b"))
    second = Deferred.fromCoroutine(hold("two", gates[1], "b", "a"))
    assert locks.busy("a")
    gates[0].callback(None)
    gates[1].callback(None)
    await first
    await second
    assert said == ["one in", "one out", "two in", "two out"]
    assert not locks.busy("a")
    assert not locks._locks


@pytest_twisted.ensureDeferred
async def test_a_failure_lets_go_of_the_lock() -> None:
    locks = Locks()
    with pytest.raises(Unreachable):
        async with locks.hold("a"):
            raise Unreachable
    assert not locks._locks
