"""Which members of an album may show something else since when: a log of bounded size.

A folder that somebody looked at is brought up to date with what this names, not by a look at all
its files, which takes 0.3 s for 20,000.  Who was away for longer than the log reaches back looks at
everything.
"""

from __future__ import annotations

#: Members that a log names, some 100 bytes each: more than a delta of a second ever has.
MAX_CHANGES = 1000


class ChangeLog:
    """The last change of each member, by raw id; it knows all changes after `since`."""

    __slots__ = ("_last", "_since")

    def __init__(self, since: int) -> None:
        self._since = since
        #: Revisions in the order of time.
        self._last: dict[bytes, int] = {}

    def enter(self, member: bytes, revision: int) -> None:
        """What is shown of a member may have changed, or it has come or gone."""
        self._last.pop(member, None)
        self._last[member] = revision
        if len(self._last) > MAX_CHANGES:
            self._since = self._last.pop(next(iter(self._last)))

    def after(self, mark: int) -> list[bytes] | None:
        """The members that may have changed after a mark, or None where that is not known.

        What was before it is forgotten: who looks goes on from one mark to the next, and may only
        ask for the same once more.
        """
        if mark < self._since:
            return None
        self._since = mark
        self._last = {key: revision for key, revision in self._last.items() if revision > mark}
        return list(self._last)
