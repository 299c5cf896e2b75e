"""The `ls -l` line of a READDIR answer, as OpenSSH's server writes it (sftp-common.c, ls_file).

SFTP v3 leaves the longname free, but FileZilla takes type and size from it (CLIENTS.md).  Times
are UTC and month names English whatever the locale, so that the line does not change with the
machine.  Pure: the time now is an argument.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

HALF_A_YEAR = 365 * 24 * 60 * 60 // 2
"""Age in seconds from which the year is shown instead of the time of day."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TYPES = {0o040000: "d", 0o100000: "-", 0o120000: "l"}
_TYPE_BITS = 0o170000
_RWX = tuple(
    "".join(char if bits & 4 >> at else "-" for at, char in enumerate("rwx")) for bits in range(8)
)
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def is_recent(mtime: float, now: float) -> bool:
    """Whether the line has a time of day; all else in it does not change with time."""
    return now - HALF_A_YEAR < int(mtime) <= now


def longname(
    name: str,
    mode: int,
    size: int | None,
    mtime: float,
    now: float,
    owner: str,
    group: str,
    nlink: int = 1,
) -> str:
    """The line for one entry; `name` is its end, unchanged, behind exactly one space.

    `mode` is the whole st_mode (a mode without a type shows as `?`), `size` bytes or None where
    it is not known (shown as 0), times are POSIX seconds.  Blanks in `owner` and `group` become
    `_`, for clients split the line at blanks.
    """
    seconds = int(mtime)
    when = time.gmtime(seconds)
    if is_recent(seconds, now):
        rest = f"{when.tm_hour:02}:{when.tm_min:02}"
    else:
        rest = f" {when.tm_year:04}"
    return (
        f"{_head(mode, nlink, owner, group)}{size or 0:>8} {_MONTHS[when.tm_mon - 1]} "
        f"{when.tm_mday:>2} {rest} {name}"
    )


@lru_cache(maxsize=256)  # a folder has a mode or two, a service one owner
def _head(mode: int, nlink: int, owner: str, group: str) -> str:
    permissions = _RWX[mode >> 6 & 7] + _RWX[mode >> 3 & 7] + _RWX[mode & 7]
    # strmode(3) ends the mode with a blank of its own; so the link count has two before it.
    return (
        f"{_TYPES.get(mode & _TYPE_BITS, '?')}{permissions}  {nlink:>3} "
        f"{_word(owner):<8} {_word(group):<8} "
    )


def _word(text: str) -> str:
    return _BLANK.sub("_", text) or "-"
