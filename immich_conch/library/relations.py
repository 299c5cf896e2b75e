"""What a view stands for: the relation of an asset that makes a file appear in it.

A view's folder is treated as an album whose id begins with `@`, which no id of Immich's does
(`@Favorites`, `@Tags/<id of the tag>`), so that uploads, removals and moves need not know about
views: where they would put an asset into an album, or take it out, the relation is made or undone
here.  An id says all that is needed: an upload that was answered OK finds its view after a
restart, also where views are switched off by then.
"""

from __future__ import annotations

from immich_conch.errors import Denied, MissingPermission, NotFound, Refused, Unsupported
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library import names
from immich_conch.library.albums import is_hidden

FAVORITES = "@Favorites"
PEOPLE = "@People"
TAGS = "@Tags"
TIMELINE = "@Timeline"
UNSORTED = "@Unsorted"
TRASH = "@Trash"
ARCHIVE = "@Archive"

#: The views by the words that switch them on, in the order of the folders.
VIEWS = {
    "archive": ARCHIVE,
    "favorites": FAVORITES,
    "people": PEOPLE,
    "tags": TAGS,
    "timeline": TIMELINE,
    "trash": TRASH,
    "unsorted": UNSORTED,
}

#: Why a file cannot be put into a view.
_NO_ENTRY = {
    PEOPLE: "Who is in a photo, Immich finds out by itself; files cannot be put here.",
    TIMELINE: "The timeline is made of the dates of photos; put the file into an album.",
    TRASH: "Files cannot be put into the trash; remove them where they are.",
    ARCHIVE: "Files are archived in Immich itself; they cannot be put here.",
}

#: What a key must be allowed for a file to be put into a view.
_NEEDED = {FAVORITES: "asset.update", TAGS: "tag.asset"}


def is_view(album_id: str) -> bool:
    """Whether an id is a view's and not an album's."""
    return album_id.startswith("@")


def kind_of(view_id: str) -> str:
    """The view that a folder belongs to: `@Tags` for `@Tags/…`."""
    return view_id.partition("/")[0]


def key_of(view_id: str) -> str:
    """What tells a view's folders apart: a tag's id, a person's id, a month."""
    return view_id.partition("/")[2]


def may_enter(immich: IImmich, view_id: str) -> None:
    """Raise Denied where files cannot be put into a view, or a key may not do it."""
    permission = _NEEDED.get(kind_of(view_id))
    if permission is not None and not immich.allowed(permission):
        raise MissingPermission(permission)
    reason = _NO_ENTRY.get(kind_of(view_id))
    if reason is not None:
        raise Denied(reason)
    if view_id == TAGS:
        raise Denied("Files go into the folder of a tag; there can be none in @Tags itself.")


def may_remove(view_id: str, trash_enabled: bool, final_delete: bool) -> None:
    """Raise Denied where files cannot be removed from a view."""
    kind = kind_of(view_id)
    if kind == PEOPLE:
        raise Denied("Who is in a photo is changed in Immich; files cannot be removed here.")
    if kind == TRASH and not final_delete:
        raise Denied(
            "Removing from @Trash would be final; the administrator can allow it with "
            "--final-delete. Moving a file into an album restores it."
        )
    if kind in (UNSORTED, TIMELINE) and not trash_enabled and not final_delete:
        raise Denied(
            "Immich's trash is switched off, so this would be final; the administrator can allow "
            "it with --final-delete."
        )


def deletes(view_id: str) -> bool:
    """Whether removing from a view removes the asset itself, and not a relation of it."""
    return is_view(view_id) and kind_of(view_id) in (UNSORTED, TIMELINE, TRASH)


async def may_take(
    immich: IImmich, view_id: str, asset: Asset, name: str, leaving: str = ""
) -> None:
    """Raise where an asset that Immich has would not appear in a view under a name.

    `leaving` is the album it is about to be taken out of.
    """
    if asset.visibility == "hidden":
        raise Refused("This is the motion part of a live photo, which no view shows.")
    if names.fold(names.safe(asset.name)) != names.fold(name):
        raise Unsupported(
            f"Immich has this file as {asset.name!r}, and in a view it can have no other name."
        )
    if view_id == UNSORTED:
        # Out of the trash it leaves its albums, but for those that SFTP does not show.
        others = [
            album
            for album in await immich.albums_of(asset.id)
            if album.id != leaving and (not asset.trashed or is_hidden(album))
        ]
        if others:
            raise Refused(
                f"Immich has this file in the album {others[0].name!r}; only what is in no album "
                "can be in @Unsorted."
            )


async def enter(immich: IImmich, view_id: str, asset_id: str) -> None:
    """Make the relation; raises NotFound for a tag that is gone."""
    kind = kind_of(view_id)
    if kind == FAVORITES:
        await immich.update_asset(asset_id, isFavorite=True)
    elif kind == TAGS:
        await immich.tag(key_of(view_id), asset_id)


async def leave(immich: IImmich, view_id: str, asset_id: str) -> None:
    """Undo the relation, where there is one that can be undone.

    A tag's folder shows what has a tag below it, as Immich does, so those go with it.
    """
    kind = kind_of(view_id)
    if kind == FAVORITES:
        await immich.update_asset(asset_id, isFavorite=False)
    elif kind == ARCHIVE:
        await immich.update_asset(asset_id, visibility="timeline")
    elif kind == TAGS:
        tags = await immich.tags()
        path = next((tag.value for tag in tags if tag.id == key_of(view_id)), None)
        if path is None:
            return
        for tag in tags:
            if tag.value == path or tag.value.startswith(path + "/"):
                await immich.untag(tag.id, asset_id)


async def still_there(immich: IImmich, album_id: str) -> None:
    """Raise NotFound where an album, or the tag of a view's folder, is gone."""
    if not is_view(album_id):
        await immich.album(album_id)
    elif kind_of(album_id) == TAGS and not any(
        tag.id == key_of(album_id) for tag in await immich.tags()
    ):
        raise NotFound("This tag does not exist any more.")
