"""Which uploads go where: the register of one user's uploads in flight, by album and name.

Several may stand under one name, for clients overwrite what has not reached Immich yet and two
may write at once.  The one that was opened last is the one everybody sees; the one that was
closed or renamed last is the one that stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from immich_conch.library import names
from immich_conch.transfer.upload import Upload


@define(eq=False)
class Places:
    """Uploads by the place they are shown in."""

    ignore_case: bool = False
    #: By place, oldest first; the last one is what everybody sees.
    _stacks: dict[tuple[str, str], list[Upload]] = field(factory=dict)
    #: Uploads that were cut off, which only their exact path finds.
    _partials: dict[tuple[str, str], Upload] = field(factory=dict)
    #: Uploads that Immich refused and whose name is gone: only an administrator finds them.
    _shelf: list[Upload] = field(factory=list)
    _last_order: int = 0

    def __len__(self) -> int:
        return sum(map(len, self._stacks.values())) + len(self._partials) + len(self._shelf)

    def __iter__(self) -> Iterator[Upload]:
        return iter([upload for stack in self._stacks.values() for upload in stack])

    def key(self, album_id: str, name: str) -> tuple[str, str]:
        """What a place is looked up by."""
        return album_id, names.fold(name, casefold=self.ignore_case)

    def find(self, album_id: str, name: str) -> Upload | None:
        """The upload that everybody sees under this name."""
        stack = self._stacks.get(self.key(album_id, name))
        return stack[-1] if stack else None

    def partial(self, album_id: str, name: str) -> Upload | None:
        """The upload to this name that was cut off, if one is kept."""
        return self._partials.get(self.key(album_id, name))

    @property
    def partials(self) -> list[Upload]:
        """All that were cut off, the oldest first."""
        return list(self._partials.values())

    @property
    def everything(self) -> list[Upload]:
        """All that are in the spool, found by a name or not."""
        return [*self, *self._partials.values(), *self._shelf]

    def shelve(self, upload: Upload) -> None:
        """Keep what Immich refused without a name."""
        self.leave(upload)
        self._shelf.append(upload)

    def set_aside(self, upload: Upload) -> Upload | None:
        """Keep an upload that was cut off; the one it takes the place of."""
        self.leave(upload)
        key = self.key(upload.album_id, upload.name)
        # The last one, also if it takes a place: they are in the order they were cut off.
        older = self._partials.pop(key, None)
        self._partials[key] = upload
        return older

    def in_album(self, album_id: str) -> Iterator[Upload]:
        """What is in flight into an album, each name once."""
        for (place_album, _), stack in list(self._stacks.items()):
            if place_album == album_id:
                yield stack[-1]

    def enter(self, upload: Upload) -> None:
        """Show an upload in its place."""
        self._stacks.setdefault(self.key(upload.album_id, upload.name), []).append(upload)

    def leave(self, upload: Upload) -> None:
        """Show it no more."""
        place = self.key(upload.album_id, upload.name)
        if self._partials.get(place) is upload:
            del self._partials[place]
        if upload in self._shelf:
            self._shelf.remove(upload)
        stack = self._stacks.get(place)
        if stack is not None and upload in stack:
            stack.remove(upload)
            if not stack:
                del self._stacks[place]

    def move(self, upload: Upload, album_id: str, name: str) -> None:
        """Show it in another place, above what is there."""
        self.leave(upload)
        upload.album_id, upload.name = album_id, name
        self.enter(upload)

    def in_order(self, upload: Upload) -> None:
        """Note that an upload was closed or renamed just now."""
        self._last_order += 1
        upload.order = self._last_order
        upload.superseded = False

    def found(self, upload: Upload, order: int) -> None:
        """Show an upload of an earlier run; they come in order."""
        upload.order = order
        self._last_order = max(self._last_order, order)
        self.enter(upload)

    def beside(self, upload: Upload) -> list[Upload]:
        """Others under the same name."""
        stack = self._stacks.get(self.key(upload.album_id, upload.name), [])
        return [other for other in stack if other is not upload]

    def overtaken(self, upload: Upload) -> list[Upload]:
        """Others under the same name that were closed, or renamed to it, before this one."""
        stack = self._stacks.get(self.key(upload.album_id, upload.name), [])
        if upload not in stack:
            return []
        return [other for other in stack if other.order < upload.order]
