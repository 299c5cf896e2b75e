"""A folder is renamed or moved, with all that is nested in it (section 8).

That is one rename in Immich for each album at and below it, for the folder's path is a part of
their names.  Everything that can be checked is checked before the first; where one fails the ones
before it are undone, so a client is told of a failure only when nothing has changed, or, if the
undoing failed too, what is where.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define
from twisted.logger import Logger

from immich_conch.errors import (
    AlreadyExists,
    BadName,
    ConchError,
    Denied,
    MissingPermission,
    NotFound,
    Refused,
    Unreachable,
)
from immich_conch.immich.model import Album
from immich_conch.library import names
from immich_conch.library.albums import Albums, Branch
from immich_conch.library.folders import FOLDERS, Folders
from immich_conch.library.lookup import refuse_hidden
from immich_conch.library.paths import Path

#: Albums that a refusal names at most.
NAMED = 5


@define(eq=False)
class Relocation(Folders):
    """What a session may do to whole folders."""

    _log = Logger()

    async def _rename_folder(self, source: Path, target: Path, replace: bool) -> None:
        """RENAME of a folder, or with `replace` posix-rename; all of it or nothing."""
        async with self.locks.hold(FOLDERS):
            known = await self.catalog.known()
            branch = known.find(source.parts)
            if branch is None or not branch.visible:
                raise NotFound
            refuse_hidden(known, branch)
            replaced = await self._replaced(known, branch, target, replace)
            name = await self._name_for(known, target)
            changes = self._changes(known, branch, name)
            if not changes:
                return
            await self._may_rename([album for album, _ in changes])
            if replaced is not None:
                # Its name is free before another album gets it, as if it had lost it to that.
                changes.insert(0, (replaced, f"{replaced.name} ~{replaced.id[: names.ID_DIGITS]}"))
            done = await self._rename_all(changes)
            if replaced is not None:
                await self._delete_replaced(replaced, changes)
                done.pop(replaced.id)
            for album_id, album in done.items():
                self.tell_album(album_id, album)
            self._may_have_vanished(branch)
        self._log.info(
            "user {user} renamed folder {source} to {target}, {count} albums",
            user=self.immich.user.email,
            source=str(source),
            target=str(target),
            count=len(done),
        )

    async def _replaced(
        self, known: Albums, branch: Branch, target: Path, replace: bool
    ) -> Album | None:
        """The empty album that the folder takes the place of, if any; raises where it cannot."""
        there, depth = known.walk(target.parts)
        whole = depth == len(target.parts)
        if there is branch and whole:
            return None  # another spelling of its own name
        if branch in there.line:
            raise Refused("A folder cannot be moved into itself.")
        if not whole:
            return None
        refuse_hidden(known, there)
        album = known.album(there)
        if not replace or album is None or there.children or album.role != "owner":
            raise AlreadyExists
        if not self.immich.allowed("album.delete"):
            raise MissingPermission("album.delete")
        self.pending.may_leave(album.id)
        await self.pending.finish_removals(album.id)
        if (await self.immich.album(album.id)).asset_count:
            raise AlreadyExists("The folder of this name is not empty.")
        return album

    def _changes(self, known: Albums, branch: Branch, name: str) -> list[tuple[Album, str]]:
        """The albums whose names change, with the new ones; albums of others come first.

        Those are what Immich may refuse to rename (2.x does), so nothing has to be undone then.
        """
        separator = self.catalog.separator
        depth = len(branch.line)
        changes = []
        for inner in branch.within():
            album = known.album(inner)
            if album is None:
                continue
            below = [] if inner is branch else album.name.split(separator)[depth:]
            new = separator.join([name, *below])
            if len(names.parts(new, separator)) != len(names.parts(name, separator)) + len(below):
                raise BadName(f"The name of the album {album.name[:80]!r} would become too long.")
            if new != album.name:
                changes.append((album, new))
        return sorted(changes, key=lambda one: (one[0].role == "owner", one[0].created, one[0].id))

    async def _may_rename(self, albums: Sequence[Album]) -> None:
        """Raise before the first change for what would fail half-way."""
        if not self.immich.allowed("album.update"):
            raise MissingPermission("album.update")
        for album in albums:
            if album.role == "viewer":
                raise Denied(f"You may only look at the album {album.name!r}.")
        for album in albums:
            await self.pending.finish_removals(album.id)

    async def _rename_all(self, changes: Sequence[tuple[Album, str]]) -> dict[str, Album]:
        """Rename albums one after the other; the renamed ones by id."""
        done: dict[str, Album] = {}
        for number, (album, name) in enumerate(changes):
            try:
                done[album.id] = await self._rename_one(album, name)
            except Exception as error:
                # Where the answer was lost it may have been done.
                unsure = isinstance(error, Unreachable)
                await self._undo(changes[: number + unsure], error, unsure)
                raise
        return done

    async def _rename_one(self, album: Album, name: str) -> Album:
        try:
            return await self.immich.rename_album(album.id, name)
        except MissingPermission:
            raise
        except Denied:
            raise Denied(f"Immich does not let you rename the album {album.name!r}.") from None

    async def _delete_replaced(self, album: Album, changes: Sequence[tuple[Album, str]]) -> None:
        """Delete the empty album whose place was taken."""
        try:
            await self.immich.delete_album(album.id)
        except NotFound:
            pass  # somebody else did
        except Exception as error:
            await self._undo(changes, error)
            raise
        self.tell_album(album.id, None)

    async def _undo(
        self, changes: Sequence[tuple[Album, str]], error: Exception, unsure: bool = False
    ) -> None:
        """Give albums their old names back; raises Refused where that fails, with what is where.

        With `unsure` nobody knows whether the last of them was renamed.
        """
        self.catalog.stale()
        stuck: list[str] = []
        for album, name in reversed(changes):
            is_now = "may be" if unsure and album is changes[-1][0] else "is"
            try:
                back = await self.immich.rename_album(album.id, album.name)
            except NotFound:
                continue  # it was deleted meanwhile, or is shared no more
            except ConchError as again:
                stuck.append(f"{album.name!r} {is_now} called {name!r} now")
                self._log.error(
                    "the name of album {id} could not be taken back: {stuck} ({why})",
                    id=album.id,
                    stuck=stuck[-1],
                    why=again.text,
                )
            else:
                self.tell_album(album.id, back)
        if stuck:
            more = "" if len(stuck) <= NAMED else f" and {len(stuck) - NAMED} more"
            why = error.text if isinstance(error, ConchError) else "it was interrupted"
            raise Refused(
                f"Renaming the folder failed half-way ({why}), and so did taking it back: "
                f"{', '.join(stuck[:NAMED])}{more}."
            ) from error
