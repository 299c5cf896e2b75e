"""Faults on demand, so that tests can see what a client makes of a bad day.

A fault is matched by method and route (`/assets/{id}/original`, `*` for all, or the real path)
and used up after `count` requests.  None is there unless a test puts it there.
"""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from typing import Any

from attrs import define, fields

KINDS = (
    "refuse",
    "status",
    "hang",
    "cut-request",
    "cut-response",
    "slow",
    "lose-answer",
    "quota-full",
    "revoked",
)
"""What can go wrong:

`refuse`        the connection is closed as soon as the request's head is there
`status`        answered with `status` (and `retry_after` seconds); nothing is done
`hang`          no answer, for ever or for `seconds`; then the request is done
`cut-request`   the connection is closed after `after` bytes of the request's body
`cut-response`  the connection is closed after `after` bytes of the answer's body
`slow`          the answer's body flows with `rate` bytes a second
`lose-answer`   the request is done, then the connection is closed without an answer
`quota-full`    answered as if the user's quota were used up
`revoked`       the token or key in the request is revoked first, so the answer is 401
"""


@define(eq=False)
class Fault:
    """One fault; `count` None is for ever, `probability` from 0 to 1."""

    kind: str
    method: str = "*"
    route: str = "*"
    count: int | None = 1
    probability: float = 1.0
    status: int = 503
    retry_after: int | None = None
    after: int = 0
    rate: int = 1024
    seconds: float | None = None


class Faults:
    """The faults that wait, in the order they were added."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._random = random.Random(0)

    def add(self, kind: str, **options: Any) -> Fault:
        """Add a fault; the options are the fields of Fault.  Raises ValueError."""
        if kind not in KINDS:
            raise ValueError(f"there is no fault {kind!r}")
        names = {attribute.name for attribute in fields(Fault)}
        if unknown := options.keys() - names:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        fault = Fault(kind, **options)
        self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults."""
        self._waiting.clear()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, method: str, pattern: str, path: str) -> Fault | None:
        """The fault this request meets, if any; counts it down."""
        for fault in self._waiting:
            if fault.method not in ("*", method):
                continue
            # A route's braces are no pattern to fnmatch, so both spellings can be compared.
            if fault.route != pattern and not fnmatchcase(path, fault.route):
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    self._waiting.remove(fault)
            return fault
        return None
