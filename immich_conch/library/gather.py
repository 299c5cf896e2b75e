"""Small helpers for coroutines on Twisted: bounded parallelism and a result that many wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

T = TypeVar("T")


async def gather(jobs: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """Run the jobs, at most `limit` at once; their results in order.

    The first error is raised once the jobs under way have ended; no job begins after it.
    """
    results: list[Any] = [None] * len(jobs)
    queue = iter(enumerate(jobs))
    failed: list[BaseException] = []

    async def worker() -> None:
        for index, job in queue:
            if failed:
                return
            try:
                results[index] = await job()
            except BaseException as error:
                failed.append(error)

    await gatherResults([Deferred.fromCoroutine(worker()) for _ in range(min(limit, len(jobs)))])
    if failed:
        raise failed[0]
    return results


@define(eq=False)
class Shared(Generic[T]):
    """One run of a coroutine whose result, or error, everybody who waits gets.

    A waiter that is cancelled leaves; the work goes on for the others.
    """

    _waiters: list[Deferred[T]] = field(factory=list)
    _result: T | Failure | None = None
    done: bool = False

    @classmethod
    def start(cls, work: Coroutine[Deferred[Any], Any, T]) -> Shared[T]:
        """Begin the work at once."""
        self: Shared[T] = cls()
        Deferred.fromCoroutine(work).addBoth(self._finish)
        return self

    def _finish(self, result: T | Failure) -> None:
        self.done = True
        self._result = result
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._tell(waiter)

    def _tell(self, waiter: Deferred[T]) -> None:
        if isinstance(self._result, Failure):
            waiter.errback(self._result)
        else:
            waiter.callback(self._result)  # type: ignore[arg-type]

    async def wait(self) -> T:
        """The result; raises the work's error."""
        waiter: Deferred[T] = Deferred(self._leave)
        if self.done:
            self._tell(waiter)
        else:
            self._waiters.append(waiter)
        return await waiter

    def _leave(self, waiter: Deferred[T]) -> None:
        self._waiters.remove(waiter)
