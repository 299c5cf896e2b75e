"""The albums of a credential as a tree of folders.

An album's name is a path: its folders are made of the names' parts, so that each album is at
exactly one path and each folder's parent exists.  Two spellings of one part (NFC and NFD, or case
where that does not count) are one folder, shown as the earliest album has it.  Hidden albums take
part in naming and are never shown.  It must know nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import Factory, define, field

from immich_conch.immich.model import Album
from immich_conch.library import names

#: The word in an album's description that keeps it out of SFTP (from the original program).
HIDING_WORD = "#nosync"
#: Seconds for which a folder that vanished by an own change may still be removed: a client goes up
#: the tree after what may be thousands of requests.
VANISHED_TIME = 600.0
#: Such folders that a catalog remembers.
MAX_VANISHED = 4_096


def is_hidden(album: Album) -> bool:
    """Whether an album is kept out of SFTP by the word in its description."""
    return HIDING_WORD in album.description


@define(eq=False)
class Branch:
    """One folder of the tree; an album's, or one on the way to albums.

    `name` is what is shown, `stored` the same part as the albums have it in their names.
    `visible` says whether it is shown at all: it is a shown album, or one lies below.
    """

    name: str
    stored: str
    parent: Branch | None = field(default=None, repr=False)
    album_id: str | None = None
    visible: bool = False
    #: By the key of their names.
    children: dict[str, Branch] = Factory(dict)

    @property
    def line(self) -> list[Branch]:
        """The folders from below the root to this one."""
        line: list[Branch] = []
        branch = self
        while branch.parent is not None:
            line.append(branch)
            branch = branch.parent
        return line[::-1]

    @property
    def path(self) -> str:
        """Where it is shown, without the slash at the begin."""
        return "/".join(branch.name for branch in self.line)

    def folders(self) -> list[Branch]:
        """The folders that are shown in it."""
        return [child for child in self.children.values() if child.visible]

    def within(self) -> Iterator[Branch]:
        """This folder and all below, what is not shown included."""
        waiting = [self]
        while waiting:
            branch = waiting.pop()
            yield branch
            waiting.extend(branch.children.values())


@define(eq=False)
class Albums:
    """The list of albums as it was at `at` (clock seconds), with the folders they make."""

    at: float
    by_id: dict[str, Album]
    root: Branch
    #: By album id.
    branches: dict[str, Branch]
    ignore_case: bool = False
    _updated: dict[Branch, float] | None = None

    def key(self, name: str) -> str:
        """The key under which a name is looked up: any Unicode form, any case if so set."""
        return names.fold(name, casefold=self.ignore_case)

    def walk(self, parts: Sequence[str]) -> tuple[Branch, int]:
        """The deepest folder on a path, and how many of its parts that takes."""
        branch = self.root
        for depth, part in enumerate(parts):
            child = branch.children.get(self.key(part))
            if child is None:
                return branch, depth
            branch = child
        return branch, len(parts)

    def find(self, parts: Sequence[str]) -> Branch | None:
        """The folder at a path, shown or not; None if there is none."""
        branch, depth = self.walk(parts)
        return branch if depth == len(parts) else None

    def album(self, branch: Branch) -> Album | None:
        """The album that a folder is, hidden or not."""
        return None if branch.album_id is None else self.by_id[branch.album_id]

    def hides(self, branch: Branch) -> bool:
        """Whether a folder is an album that is hidden."""
        album = self.album(branch)
        return album is not None and is_hidden(album)

    def below(self, branch: Branch) -> Iterator[Album]:
        """The album of a folder and those nested in it, hidden ones included."""
        for inner in branch.within():
            if inner.album_id is not None:
                yield self.by_id[inner.album_id]

    def updated(self, branch: Branch) -> float:
        """The newest change at or below a folder that is shown, POSIX seconds; 0 without any."""
        if self._updated is None:
            newest: dict[Branch, float] = {}
            self._updated = newest
            for inner in reversed(list(self.root.within())):
                album = self.album(inner)
                own = 0.0 if album is None or is_hidden(album) else album.updated
                below = (newest[child] for child in inner.children.values())
                newest[inner] = max((own, *below))
        return self._updated[branch]


@define(eq=False)
class AlbumNames:
    """Names albums, each time as they were shown before where that can be.

    `separator` is what stands between folders in an album's name; empty for no nesting.
    """

    ignore_case: bool = False
    separator: str = "/"
    #: (stored name, shown name) of albums as they were last shown.
    _pins: dict[str, tuple[str, str]] = Factory(dict)
    _last: Albums | None = None
    #: What the names of `_last` were made of.
    _made_of: dict[str, tuple[str, float, bool]] = Factory(dict)

    def forget(self, album_id: str) -> None:
        """An album is gone; should it come back, it is named as a new one."""
        self._pins.pop(album_id, None)
        self._last = None

    def named(self, at: float, by_id: dict[str, Album]) -> Albums:
        """All albums in their folders; made anew only when names have changed."""
        made_of = {
            album.id: (album.name, album.created, is_hidden(album)) for album in by_id.values()
        }
        if self._last is not None and made_of == self._made_of:
            same = self._last
            self._last = Albums(at, by_id, same.root, same.branches, self.ignore_case)
            return self._last
        shown = self._names(by_id)
        self._pins = {album_id: (by_id[album_id].name, name) for album_id, name in shown.items()}
        self._made_of = made_of
        self._last = self._grown(at, by_id, shown)
        return self._last

    def _names(self, by_id: Mapping[str, Album]) -> dict[str, str]:
        """The shown paths, their folders joined by the separator."""
        pins = self._pins
        return names.assign(
            (
                names.Entry(
                    id=album.id,
                    name=album.name,
                    created=album.created,
                    pinned=pins[album.id][1]
                    if album.id in pins and pins[album.id][0] == album.name
                    else None,
                )
                for album in by_id.values()
            ),
            folders=True,
            casefold=self.ignore_case,
            separator=self.separator,
        )

    def _grown(self, at: float, by_id: dict[str, Album], shown: Mapping[str, str]) -> Albums:
        known = Albums(at, by_id, Branch("", ""), {}, self.ignore_case)
        for album in sorted(by_id.values(), key=lambda album: (album.created, album.id)):
            branch = known.root
            visible = not is_hidden(album)
            for name, stored in self._parts(album.name, shown[album.id]):
                key = known.key(name)
                child = branch.children.get(key)
                if child is None:
                    child = branch.children[key] = Branch(name, stored, branch)
                child.visible = child.visible or visible
                branch = child
            branch.album_id = album.id
            known.branches[album.id] = branch
        return known

    def _parts(self, stored: str, shown: str) -> list[tuple[str, str]]:
        """The folders of an album's path: what is shown, and what stands for it in its name."""
        parts = names.parts(stored, self.separator)
        raw = stored.split(self.separator) if len(parts) > 1 else [stored]
        head = "".join(part + self.separator for part in parts[:-1])
        # The last one may have got a mark, which only the shown path has.
        last = shown[len(head) :]
        if last != parts[-1]:
            parts[-1] = raw[-1] = last
        return list(zip(parts, raw, strict=True))


@define(eq=False)
class Vanished:
    """Folders that may have vanished with the last album in them, for a while.

    A client that removes a tree from below removes each folder once; one that was there only for
    what lay below is gone by then, by the client's own change.
    """

    #: By the keys of their paths: until when (clock seconds).
    _until: dict[tuple[str, ...], float] = Factory(dict)

    def note(self, path: tuple[str, ...], now: float) -> None:
        """What lay below a folder was removed or moved by us."""
        self._until.pop(path, None)
        self._until[path] = now + VANISHED_TIME
        if len(self._until) > MAX_VANISHED:
            del self._until[next(iter(self._until))]

    def take(self, path: tuple[str, ...], now: float) -> bool:
        """Whether a folder has vanished by us lately; it is told once."""
        return self._until.pop(path, 0.0) > now
