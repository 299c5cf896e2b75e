"""An Immich session that must outlive its SSH connection while uploads still need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute, define, field

from immich_conch.immich.interfaces import IImmich
from immich_conch.library.catalog import Catalog

#: What a key must be allowed for an upload (README: permissions for full use).
UPLOAD_PERMISSIONS = ("asset.upload", "albumAsset.create")


def _tell(lease: Lease, attribute: Attribute[bool], revoked: bool) -> bool:
    if revoked and not lease.revoked:
        for hear in list(lease.watchers):
            hear()
    return revoked


@define(eq=False)
class Lease:
    """A session with the catalog it sees, counted: `on_idle` runs when nobody holds it any more.

    The SSH connection holds it once, each upload on its way once more.
    """

    immich: IImmich
    catalog: Catalog
    on_idle: Callable[[Lease], None]
    holders: int = 0
    #: Immich does not know the session any more.
    revoked: bool = field(default=False, on_setattr=_tell)
    #: Hears that a holder has gone while others are left.
    on_release: Callable[[Lease], None] | None = None
    #: Each hears that the session is revoked, whoever it was that noticed.
    watchers: list[Callable[[], Any]] = field(factory=list, repr=False)

    def hold(self) -> Lease:
        """One more holder."""
        self.holders += 1
        return self

    def release(self) -> None:
        """One holder less; the last one ends the lease."""
        self.holders -= 1
        if self.holders == 0:
            self.on_idle(self)
        elif self.on_release is not None:
            self.on_release(self)
