"""Small parts that questions to Immich are made of: credentials, path segments, portions of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar
from urllib.parse import quote

from attrs import field, frozen

from immich_conch.immich.limits import IDS_AT_ONCE

T = TypeVar("T")


@frozen
class Credential:
    """A token or a key.  The secret shows in no repr."""

    secret: str = field(repr=False)
    is_key: bool

    @property
    def headers(self) -> dict[str, str]:
        """The request header that carries it (a key sent as Bearer is 401)."""
        if self.is_key:
            return {"x-api-key": self.secret}
        return {"authorization": f"Bearer {self.secret}"}


def part(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as one call takes."""
    for start in range(0, len(items), IDS_AT_ONCE):
        yield items[start : start + IDS_AT_ONCE]
