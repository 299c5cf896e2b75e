"""A file is given a further place: another album, or a second name in its own (section 8).

No bytes move: an album gets the asset, and a name that differs from the asset's own is noted of
it.  This is `hardlink@openssh.com`, and the first half of every move.
"""

from __future__ import annotations

from immich_conch.errors import ConchError, NotFound, Unsupported
from immich_conch.immich.interfaces import IImmich
from immich_conch.library import metadata, relations
from immich_conch.library.metadata import Link
from immich_conch.library.naming import File
from immich_conch.library.notes import Notes
from immich_conch.library.relations import is_view
from immich_conch.library.removal import Tell, link


async def add_name(notes: Notes, immich: IImmich, album_id: str, file: File, name: str) -> None:
    """Give a file a second name in its album; callers hold the asset's lock.

    Raises NotFound if it has lost its own meanwhile, Unsupported where a name cannot be kept.
    """
    if is_view(album_id):
        raise Unsupported("In a view a file has the name that it has in Immich.")
    asset = file.asset
    before = await notes.read(immich, asset)
    links = metadata.links(before, album_id, asset)
    if metadata.find(links, file.link.name) is None:
        raise NotFound
    links = metadata.added(links, Link(name, file.link.time))
    await notes.write(immich, asset, before, metadata.with_links(before, album_id, asset, links))


async def add_place(
    notes: Notes, immich: IImmich, tell: Tell, file: File, album_id: str, name: str
) -> None:
    """Put a file into another album under a name there; callers hold the asset's lock.

    Noted first, so that it is never shown under a name that nobody gave it; a note of an album
    that then does not get the asset is taken back.  Raises NotFound if the asset is in the trash,
    Unsupported where the name cannot be kept and for a motion part, which no album shows without
    its still, Denied or Refused by Immich's own word.
    """
    asset = file.asset
    if is_view(album_id):
        await relations.may_take(immich, album_id, asset, name)
    if await notes.pairs.part(immich, asset) is not None:
        raise Unsupported(
            "This is the motion part of a live photo: link its still, it comes along."
        )
    before = await notes.read(immich, asset)
    is_there = any(album.id == album_id for album in await immich.albums_of(asset.id))
    links = metadata.links(before, album_id, asset) if is_there else ()
    links = metadata.added(links, Link(name, file.link.time))
    after = before if is_view(album_id) else metadata.with_links(before, album_id, asset, links)
    await notes.write(immich, asset, before, after)
    try:
        await link(immich, album_id, asset.id)
    except ConchError:
        if not is_there:
            await notes.forget(immich, album_id, asset, after)
        raise
    # An album takes what is in the trash, and does not show it.
    if (await immich.asset(asset.id)).trashed:
        raise NotFound("The file is in Immich's trash.")
    tell(album_id, [asset], [])
