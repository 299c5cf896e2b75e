"""Times as Immich writes them: whole milliseconds since 1970 inside, ISO 8601 text outside.

PostgreSQL's own text (`+00:00`, no fraction where it is zero) shows through in some of Immich's
answers, JavaScript's (`.000Z`) in the others; a client has to take both, so both are made here.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def moment(ms: int) -> datetime:
    """The aware UTC datetime of `ms` milliseconds since 1970, negative ones included."""
    return _EPOCH + timedelta(milliseconds=ms)


@lru_cache(65536)
def js(ms: int) -> str:
    """As JavaScript's `toISOString` writes it: `2020-02-03T04:05:06.000Z`."""
    return moment(ms).isoformat(timespec="milliseconds")[:-6] + "Z"


@lru_cache(65536)
def pg(ms: int) -> str:
    """As PostgreSQL's `to_json` writes it: `2020-02-03T04:05:06+00:00`."""
    text = moment(ms).isoformat()[:-6]
    return (text.rstrip("0") if "." in text else text) + "+00:00"


def day(ms: int) -> str:
    """The start of the day in UTC, as album statistics give it."""
    return js(ms)[:11] + "00:00:00.000Z"


def parse(text: str) -> int:
    """Milliseconds of a full ISO 8601 time with `Z` or an offset; raises ValueError."""
    if not _ISO.fullmatch(text):
        raise ValueError(text)
    return round((datetime.fromisoformat(text) - _EPOCH) / timedelta(milliseconds=1))


def optional_js(ms: int | None) -> str | None:
    """`js`, with None for None."""
    return None if ms is None else js(ms)


def optional_pg(ms: int | None) -> str | None:
    """`pg`, with None for None."""
    return None if ms is None else pg(ms)
