"""Assets are put into albums, those that come together in one call.

The first one goes at once; what comes while it is under way goes with the next call, so nothing
waits for company, and eight uploads at a time need a third of the calls.  Immich's word comes by
asset, and each who waits hears that of its own.  A call that fails says nothing of the single
asset: unless Immich is out of reach, each is tried by itself, with the session it came with.
"""

from __future__ import annotations

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred

from immich_conch.errors import Unreachable
from immich_conch.immich.interfaces import IImmich
from immich_conch.library.gather import Shared

#: Assets in one call.
AT_ONCE = 100


@frozen(eq=False)
class _Waiter:
    """One asset on its way into an album, by a session, and who hears Immich's word for it."""

    immich: IImmich
    asset_id: str
    #: None is success, as for `IImmich.add_to_album`.
    told: Deferred[str | None] = Factory(Deferred)


@define(eq=False)
class Adds:
    """Adds of one user.  All password sessions may the same; a key goes by itself."""

    #: Who waits for the end of a call under way, by album and key.
    _waiting: dict[tuple[str, IImmich | None], list[_Waiter]] = Factory(dict)

    async def add(self, immich: IImmich, album_id: str, asset_id: str) -> str | None:
        """Immich's word for an asset, None if it is in the album; raises what Immich raised."""
        line = album_id, immich if immich.is_key else None
        waiter = _Waiter(immich, asset_id)
        if line in self._waiting:
            self._waiting[line].append(waiter)
        else:
            self._waiting[line] = []
            Shared.start(self._work(line, waiter))
        return await waiter.told

    async def _work(self, line: tuple[str, IImmich | None], first: _Waiter) -> None:
        group = [first]
        while group:
            await self._send(line[0], group)
            waiting = self._waiting[line]
            group, self._waiting[line] = waiting[:AT_ONCE], waiting[AT_ONCE:]
        del self._waiting[line]

    async def _send(self, album_id: str, group: list[_Waiter]) -> None:
        ids = list(dict.fromkeys(waiter.asset_id for waiter in group))
        try:
            words = await group[0].immich.add_to_album(album_id, ids)
        except BaseException as error:
            if len(group) > 1 and not isinstance(error, Unreachable):
                for waiter in group:
                    await self._send(album_id, [waiter])
                return
            for waiter in group:
                waiter.told.errback(error)
            return
        for waiter in group:
            waiter.told.callback(words[waiter.asset_id])
