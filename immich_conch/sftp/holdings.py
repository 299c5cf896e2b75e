"""What all SFTP sessions of one user hold open together, and how much that may be.

One session is capped by itself; somebody who opens many of them must not take what the others
need: file descriptors, spool files, and the memory of listings that nobody reads to their end.
"""

from __future__ import annotations

from typing import Any

from attrs import define

MAX_USER_HANDLES = 1024
"""Open files and folders of a user; rclone with 64 transfers and as many checkers has 128."""

MAX_LISTED = 2**18
MAX_USER_LISTED = 2**19
"""Entries in the open listings of a session, and of a user, at some 300 bytes each: 75 and 150
MiB.  One listing alone may be larger, for there has to be a way to see the folder."""


def entries_of(target: Any) -> int:
    """Entries that an open folder keeps in memory."""
    return len(getattr(target, "entries", ()))


@define(eq=False)
class Holdings:
    """A user's open handles; made for each user who is here."""

    max_handles: int = MAX_USER_HANDLES
    handles: int = 0
    listed: int = 0

    def refusal(self, entries: int, listed: int) -> str:
        """Why one handle more cannot be had; empty if it can.

        `entries` are those of the folder to be opened, `listed` those of the session's others.
        """
        if self.handles >= self.max_handles:
            return "too many open files of this user"
        if entries and (
            (listed and listed + entries > MAX_LISTED)
            or (self.listed and self.listed + entries > MAX_USER_LISTED)
        ):
            return "too many open folders: close some first"
        return ""

    def take(self, entries: int) -> None:
        """One handle more."""
        self.handles += 1
        self.listed += entries

    def give_back(self, entries: int) -> None:
        """One handle less."""
        self.handles -= 1
        self.listed -= entries
