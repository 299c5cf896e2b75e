"""A table that holds only so much: what was used longest ago makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by text, `limit` of them at most, for keys that strangers choose."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._values.values()))

    def get(self, key: str) -> T | None:
        """A value, which is used by that."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: T) -> T | None:
        """Keep a value; returns the one that had to make room."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) <= self.limit:
            return None
        return self._values.popitem(last=False)[1]

    def drop(self, key: str) -> T | None:
        """Forget a value."""
        return self._values.pop(key, None)
