"""Locks by key, so that what concerns one asset or one name happens one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field
from twisted.internet.defer import DeferredLock


@define(eq=False)
class Locks:
    """A DeferredLock for every key in use; keys nobody holds or waits for take no memory."""

    _locks: dict[object, DeferredLock] = field(factory=dict)

    def busy(self, key: object) -> bool:
        """Whether somebody holds a key."""
        return key in self._locks

    @asynccontextmanager
    async def hold(self, *keys: object) -> AsyncIterator[None]:
        """Hold all keys; they are taken in sorted order, so two holders cannot wait in a ring."""
        held: list[tuple[object, DeferredLock]] = []
        try:
            for key in sorted(set(keys), key=repr):
                lock = self._locks.setdefault(key, DeferredLock())
                await lock.acquire()
                held.append((key, lock))
            yield
        finally:
            for key, lock in reversed(held):
                lock.release()
                if not lock.locked and self._locks.get(key) is lock:
                    del self._locks[key]
