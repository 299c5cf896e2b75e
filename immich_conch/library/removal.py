"""The delete rule (section 7): what removing a file from an album does to its asset.

Only in this album: to Immich's trash.  In any other album too, `#nosync` ones included: out of
this album only.  Someone else's asset: out of the album where Immich allows it.  Callers hold the
asset's lock, so that two removals cannot each see the other's album as the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from immich_conch.errors import Denied, NotFound, Refused
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library import relations
from immich_conch.library.adds import Adds
from immich_conch.library.albums import is_hidden
from immich_conch.library.relations import is_view

#: Enters an album's own changes (added, removed) into every catalog of the user.
Tell = Callable[[str, Sequence[Asset], Sequence[str]], None]

_log = Logger()

_REASONS = {
    "no_permission": "Immich does not let you remove this file from the album.",
    "not_found": "The file is not in the album any more.",
}


def may_delete(trash_enabled: bool, final_delete: bool) -> None:
    """Raise Denied where a delete would be final and the administrator has not allowed that."""
    if not trash_enabled and not final_delete:
        raise Denied(
            "Immich's trash is switched off, so this would be final; the administrator can allow "
            "it with --final-delete."
        )


async def remove_asset(
    immich: IImmich, album_id: str, asset: Asset, *, final_delete: bool = False
) -> bool:
    """Apply the delete rule; whether the asset went to the trash.

    Raises Denied, Unreachable and whatever Immich answers.  An asset that is gone already is gone.
    """
    if is_view(album_id):
        if not relations.deletes(album_id):
            await relations.leave(immich, album_id, asset.id)
            return False
        return await _to_trash(immich, asset, final_delete, final=album_id == relations.TRASH)
    if asset.owner_id == immich.user.id:
        try:
            holding = [album.id for album in await immich.albums_of(asset.id)]
        except NotFound:
            return False
        # An asset that somebody took out of this album meanwhile is out, and stays in Immich.
        if holding == [album_id]:
            return await _to_trash(immich, asset, final_delete)
    await unlink(immich, album_id, asset.id)
    return False


async def _to_trash(immich: IImmich, asset: Asset, final_delete: bool, final: bool = False) -> bool:
    """Move an asset to the trash, or with `final` out of it for good; whether it was there."""
    trash_enabled = await immich.server.trash_enabled()
    may_delete(trash_enabled and not final, final_delete)
    try:
        await immich.trash([asset.id], final=final or not trash_enabled)
    except NotFound:
        return False
    return True


async def unlink(immich: IImmich, album_id: str, asset_id: str) -> None:
    """Take an asset out of an album, looking at Immich's word for it; raises Denied or Refused."""
    if is_view(album_id):
        await relations.leave(immich, album_id, asset_id)
        return
    word = (await immich.remove_from_album(album_id, [asset_id]))[asset_id]
    if word == "no_permission":
        raise Denied(_REASONS[word])
    if word is not None:
        raise Refused(_REASONS.get(word, f"Immich did not remove the file: {word}."))


async def link(immich: IImmich, album_id: str, asset_id: str, adds: Adds | None = None) -> None:
    """Put an asset into an album, looking at Immich's word for it; raises Denied or Refused.

    With `adds` it goes in one call with what is added at the same time.
    """
    if is_view(album_id):
        await relations.enter(immich, album_id, asset_id)
        return
    if adds is None:
        word = (await immich.add_to_album(album_id, [asset_id]))[asset_id]
    else:
        word = await adds.add(immich, album_id, asset_id)
    if word == "no_permission":
        raise Denied("Immich does not let you add this file to the album.")
    if word is not None:
        raise Refused(f"Immich did not add the file to the album: {word}.")


async def leave_other_albums(immich: IImmich, asset_id: str, but: str | None) -> None:
    """A trashed asset keeps its links; restoring must not bring it back into other folders."""
    for album in await immich.albums_of(asset_id):
        if album.id == but or is_hidden(album):
            continue
        try:
            await unlink(immich, album.id, asset_id)
        except (Denied, Refused) as error:
            _log.info(
                "asset {asset} comes back into album {album!r}: {reason}",
                asset=asset_id,
                album=album.name,
                reason=error.text,
            )
