"""What may be in an album in the end, held against what is there; pure, so it can be tested."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import field, frozen

from .ledger import ABSENT, Told

#: What the service puts into the name of a file whose own name another one has.
_MARK = re.compile(r" ~[0-9a-f]{8,}(?=\.[^.]*$|$)")


def unmarked(name: str) -> str:
    """A shown name without the service's mark."""
    return _MARK.sub("", name)


@frozen
class There:
    """An album at rest.

    `immich` are pairs of a name and the SHA-1 of the bytes, `spool` what it refused and the spool
    keeps, by name; `shown` are the names that a client sees.
    """

    immich: Sequence[tuple[str, str]]
    spool: Mapping[str, str] = field(factory=dict)
    shown: Iterable[str] = ()


def verdict(told: Mapping[str, Told], there: There) -> Iterator[str]:
    """What is wrong, in words that end a sentence which begins with the album."""
    inside: dict[str, list[str]] = {}
    for name, digest in there.immich:
        inside.setdefault(name, []).append(digest)
    shown = list(there.shown)
    for name, told_of in told.items():
        marked = sum(1 for other in shown if other != name and unmarked(other) == name)
        kept = there.spool.get(name)
        yield from (
            f"{name} {what}" for what in _wrong(told_of, inside.pop(name, []), kept, marked)
        )
        if name in shown and told_of.may == {ABSENT}:
            yield f"{name} is shown and was removed"
        if name not in shown and ABSENT not in told_of.may:
            yield f"{name} is not shown and was answered OK"
    for name in inside:
        yield f"{name} is in Immich, and nobody sent it"
    for name in shown:
        if name not in told and unmarked(name) not in told:
            yield f"{name} is shown, and nobody sent it"
    for name in there.spool:
        if name not in told:
            yield f"{name} is in the spool, and nobody sent it"


def _wrong(told: Told, found: list[str], kept: str | None, marked: int) -> Iterator[str]:
    """What is wrong with one name.

    Beside the file itself there may be what uploads left that were told an error after Immich had
    their bytes: as files of their own, shown with a mark, and nothing else.
    """
    own = [digest for digest in found if digest in told.may]
    if kept is not None and kept not in told.may:
        yield "has other bytes in the spool than any told"
    if not own and ABSENT not in told.may:
        if kept not in told.may:
            yield "is LOST: it was answered OK, and is neither in Immich nor in the spool"
        # What it was to replace is there still, for nothing has taken its place.
        own = [digest for digest in found if digest in told.ever]
    others = list(found)
    if own:
        others.remove(own[0])
    for digest in others:
        if digest not in told.doubted:
            yield "has other bytes in Immich than any told"
    left = sum(1 for digest in others if digest in told.doubted)
    if left > marked:
        yield f"is in Immich {len(found)} times and shown with a mark {marked} times"
