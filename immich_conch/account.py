"""One user who is here: what the sessions share, by credential and altogether.

Own changes are entered into every catalog of the user before they are answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from immich_conch.errors import SessionRevoked
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Album, Asset
from immich_conch.library.catalog import Catalog
from immich_conch.library.mirror import Mirror
from immich_conch.library.naming import File
from immich_conch.transfer.lease import Lease
from immich_conch.transfer.uploads import Uploads

T = TypeVar("T")


@define(eq=False, repr=False)
class Sessions:
    """The live sessions of one credential, which may ask for its catalog."""

    leases: list[Lease] = field(factory=list)
    #: The session whose checkpoints the mirror lives by; held until nobody has come for a while.
    mirrored: Lease | None = None

    async def lend(self, revoked: IImmich | None) -> IImmich:
        """A session for the mirror, the same each time while Immich knows it."""
        lease = self.mirrored
        if lease is not None and (lease.revoked or lease.immich is revoked):
            lease.revoked = True
            self.give_back()
        if self.mirrored is None:
            for other in reversed(self.leases):
                if other.holders and not other.revoked:
                    self.mirrored = other.hold()
                    break
            else:
                raise SessionRevoked
        return self.mirrored.immich

    def give_back(self) -> None:
        """The mirror needs its session no more."""
        lease, self.mirrored = self.mirrored, None
        if lease is not None:
            lease.release()

    @property
    def deserted(self) -> bool:
        """Whether only the mirror is left."""
        return self.mirrored is not None and all(
            lease is self.mirrored and lease.holders == 1 for lease in self.leases
        )

    async def ask(self, work: Callable[[IImmich], Awaitable[T]], /) -> T:
        """Ask with the newest session that Immich still knows; raises SessionRevoked without one.

        The session is held meanwhile, for the connection it belongs to may close and log out
        while another waits for the same answer; and one that was revoked must not end others.
        """
        for lease in reversed(self.leases.copy()):
            if lease.revoked or not lease.holders:
                continue
            lease.hold()
            try:
                return await work(lease.immich)
            except SessionRevoked:
                lease.revoked = True
            finally:
                lease.release()
        raise SessionRevoked


@define(eq=False, repr=False)
class Shared:
    """A catalog and the sessions that may ask for it."""

    catalog: Catalog
    sessions: Sessions
    mirror: Mirror | None = None
    idle_since: float = 0.0
    #: When the mirror is given up because nobody has come.
    parting: IDelayedCall | None = None

    def stay(self) -> None:
        """Somebody is here."""
        if self.parting is not None:
            self.parting.cancel()
            self.parting = None


@define(eq=False, repr=False)
class Account:
    """One user's shared state."""

    uploads: Uploads
    shared: dict[str, Shared] = field(factory=dict)

    def tell(
        self,
        album_id: str,
        added: Sequence[Asset],
        removed: Sequence[str],
    ) -> None:
        """Enter an own change into every catalog of the user."""
        for shared in self.shared.values():
            shared.catalog.assets_changed(album_id, added, removed)

    def noted(self, asset_id: str, value: Mapping[str, Any] | None) -> None:
        """Enter what is noted of an asset into every catalog of the user."""
        for shared in self.shared.values():
            shared.catalog.noted(asset_id, value)

    def stills(self, part_id: str) -> Sequence[str]:
        """Ids of live photos that any catalog of the user knows to have a motion part."""
        catalogs = [shared.catalog for shared in self.shared.values()]
        return sorted({still for catalog in catalogs for still in catalog.stills(part_id)})

    def shown(self, album_id: str, asset_id: str) -> Sequence[File]:
        """The files of an asset in a folder, as any catalog of the user knows them."""
        for shared in self.shared.values():
            files = shared.catalog.shown(album_id, asset_id)
            if files:
                return files
        return ()

    def tell_album(self, album_id: str, album: Album | None) -> None:
        """Enter an album made, renamed or (None) gone into every catalog of the user."""
        for shared in self.shared.values():
            if album is None:
                shared.catalog.album_gone(album_id)
            else:
                shared.catalog.album_changed(album)
