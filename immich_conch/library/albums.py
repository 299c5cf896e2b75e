"""The albums of a credential under the names of their folders."""

from __future__ import annotations

from attrs import Factory, define

from immich_conch.immich.model import Album
from immich_conch.library import names

#: The word in an album's description that keeps it out of SFTP (from the original program).
HIDING_WORD = "#nosync"


def is_hidden(album: Album) -> bool:
    """Whether an album is kept out of SFTP by the word in its description."""
    return HIDING_WORD in album.description


@define(eq=False)
class Albums:
    """The list of albums as it was at `at` (clock seconds), with their shown names."""

    at: float
    by_id: dict[str, Album]
    names: dict[str, str]
    by_key: dict[str, str]


@define(eq=False)
class AlbumNames:
    """Names albums, each time as they were shown before where that can be."""

    ignore_case: bool = False
    #: (stored name, shown name) of albums as they were last shown.
    _pins: dict[str, tuple[str, str]] = Factory(dict)

    def key(self, name: str) -> str:
        """The key under which a name is looked up: any Unicode form, any case if so set."""
        return names.fold(name, casefold=self.ignore_case)

    def named(self, at: float, by_id: dict[str, Album]) -> Albums:
        """All albums with the names their folders show."""
        pins = self._pins
        shown = names.assign(
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
        )
        self._pins = {album_id: (by_id[album_id].name, name) for album_id, name in shown.items()}
        return Albums(
            at=at,
            by_id=by_id,
            names=shown,
            by_key={self.key(name): album_id for album_id, name in shown.items()},
        )
