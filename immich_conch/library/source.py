"""Where a catalog's knowledge comes from: listings asked for again and again, or a live mirror.

A catalog asks a source for the list of albums whenever its own is older than the freshness bound,
and for an album's content when the album's `validator` has changed since.  Both sources show the
same tree; one contract suite holds them to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zope.interface import Interface

from immich_conch.immich.model import Album, Asset


class ISource(Interface):
    """Albums, their assets, and what our own metadata key says of them.

    Members raise what Immich raised; never half an answer (rule 2).
    """

    async def albums() -> list[Album]:
        """All albums the credential sees, as fresh as the source promises."""

    async def assets(album: Album) -> list[Asset]:
        """The whole content of an album, unlisted visibilities included."""

    def mark(album_id: str) -> int | None:
        """What stands for an album's content as it is, or was, when `changes` is asked for it.

        To be taken before the content is asked for.  None where changes will not be known.
        """

    async def changes(album: Album, since: int) -> Mapping[str, Asset | None] | None:
        """The members that may show something else than at a mark, by id; None for who is gone.

        So are those whose motion part or note may have changed.  None for all is that it is not
        known: the content has to be listed.
        """

    async def parts(stills: Sequence[Asset]) -> Mapping[str, Asset]:
        """The motion parts of live photos by their own ids: those that are files (see `motion`)."""

    def stills(part_id: str) -> Sequence[str]:
        """Ids of live photos known to have this motion part; there may be others."""

    def part_changed(part_id: str) -> None:
        """A motion part was unlinked, trashed or restored by us."""

    async def size(asset_id: str) -> int | None:
        """The size of an original that the content did not tell, or None."""

    async def notes(asset_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """The values of the metadata key `immich-conch`, for those assets that have one."""

    def changed(album_id: str, added: Sequence[Asset], removed: Sequence[str]) -> None:
        """An own change to an album's content is in Immich; later answers must have it."""

    def album_changed(album: Album) -> None:
        """An own change to an album is in Immich."""

    def album_gone(album_id: str) -> None:
        """An album was deleted or left by us."""

    def noted(asset_id: str, value: Mapping[str, Any] | None) -> None:
        """Our metadata key of an asset was written, or with None removed, by us."""
