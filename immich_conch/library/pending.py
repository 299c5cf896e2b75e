"""What the tree must know of uploads in flight; `transfer` implements it, `tap` joins them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from zope.interface import Attribute, Interface

from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album
from immich_conch.library.naming import File


class IPendingFile(Interface):
    """A file between its OPEN and its place in an album."""

    name = Attribute("The name it is shown under now.")
    album_id = Attribute("The album it is going to.")
    size = Attribute("Bytes written so far.")
    modified = Attribute("The time it shows, POSIX seconds.")
    replaces = Attribute("The asset that is to leave the album for it, or None.")
    asset_id = Attribute("The asset it has become in Immich, or None so far.")


class IPending(Interface):
    """The uploads in flight of one user, as all sessions of that user see them."""

    busy = Attribute("Whether anything is on its way, cut off and kept, or removed and held back.")

    def find(album_id: str, name: str) -> IPendingFile | None:
        """The file shown under this name (any Unicode form) in this album, if one is in flight."""

    def partial(album_id: str, name: str) -> IPendingFile | None:
        """The upload to exactly this name that was cut off, if one is kept for resuming.

        It is in no listing, and nothing else is under its name unless an asset is.
        """

    def drop_partial(album_id: str, name: str) -> bool:
        """Forget an upload that was cut off; whether there was one."""

    def in_album(album_id: str) -> Iterable[IPendingFile]:
        """All files in flight of an album."""

    def hidden(album_id: str) -> Iterable[tuple[str, str]]:
        """Ids of assets with folded names under which they are not to be shown.

        Files in flight stand for them, or they are removed.
        """

    async def hold_removal(
        immich: IImmich, album: Album, file: File, but: IPendingFile | None = None
    ) -> bool:
        """Take over a session's removal because a RENAME may follow; whether it was taken over.

        The RENAME may be that of any file in flight in the album but one.
        From then on the file's name is gone for every session.
        """

    async def finish_removals(album_id: str, name: str | None = None) -> None:
        """Carry out now what was held back under a name, or in a whole album.

        Raises Refused where that cannot be done now.
        """

    def may_leave(album_id: str) -> None:
        """Raise NotEmpty while uploads into an album are on their way."""

    async def set_time(file: Any, time: float) -> bool:
        """The client told a time (POSIX seconds); raises what the commit raised, if one came.

        False: it is in Immich by now, look again.
        """

    async def rename(file: Any, album: Album, name: str, replaces: str | None = None) -> bool:
        """Give a file in flight another place; raises what the commit raised, if one came.

        `replaces` is the asset that has the name.  False: it is in Immich by now, look again.
        """

    async def bring_in(file: Any) -> bool:
        """Bring a whole file under its final name into Immich now; raises what the commit raised.

        False: it is not that far, a client still writes it or has to rename it.
        """

    async def remove(file: Any, beneath: Callable[[], Awaitable[None]]) -> None:
        """The client takes a file back; what is closed goes only after what lies under it.

        `beneath` removes that: the assets `file.replaces` and `file.asset_id` as they are then.
        Raises what that raises, NotFound where it has been renamed meanwhile, and Refused where it
        cannot go; then it is there as before.
        """
