"""The motion parts of live photos: which are shown, and what is known of each.

A part is an asset of its own, hidden by Immich and named by its still; here it is a file beside
the still.  One that Immich itself cut out of a motion photo was never a file and is not shown.
What Immich says of a part is asked for once and kept: nothing of it changes but that it is
trashed, and a part that we trash is forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from immich_conch.errors import MissingPermission, NotFound
from immich_conch.immich.interfaces import IImmich
from immich_conch.immich.model import Asset
from immich_conch.library.gather import gather

#: `GET /assets/{id}` side by side for parts that nobody has seen yet; about 5 ms each.
PART_REQUESTS = 16
#: Looks more, a pause apart (seconds), for a video that has left its album, and for one that is
#: hidden and that no still names: Immich makes a motion part of a video by three updates side by
#: side, and what is asked meanwhile may show some of them only.
LEFT_LOOKS, HIDDEN_LOOKS, LINK_PAUSE = 1, 5, 0.1
#: Looks in all, where Immich links one live photo after the other; then it is an error.
LINK_TRIES = 40
LINKING = "Immich is just linking live photos; try again in a moment."
#: What a key must be allowed to see a part.
PERMISSION = "asset.read"


def visible(part: Asset) -> bool:
    """Whether a part is shown beside its still."""
    return not part.trashed and not part.cut_out and part.visibility != "locked"


def never_cut_out(name: str) -> bool:
    """Whether a part of this name was uploaded for sure.

    What Immich cuts out it calls `.mp4`, and once called like the still; never `.mov`, which is
    what phones call theirs.
    """
    return name.lower().endswith(".mov")


async def moment(clock: IReactorTime) -> None:
    """Let Immich end what it is at."""
    await deferLater(clock, LINK_PAUSE)


@define(eq=False)
class Parts:
    """What Immich says of motion parts, by id; those that are never shown included."""

    _known: dict[str, Asset] = field(factory=dict)

    _log = Logger()

    def forget(self, part_id: str) -> None:
        """Something of a part has changed."""
        self._known.pop(part_id, None)

    async def of(
        self,
        part_ids: Iterable[str],
        ask: Callable[[Callable[[IImmich], Awaitable[None]]], Awaitable[None]],
    ) -> dict[str, Asset]:
        """Those of these parts that are shown; raises what Immich raised.

        One that is gone or that the credential may not see is left out.
        """
        wanted = list(dict.fromkeys(part_ids))
        unknown = [part_id for part_id in wanted if part_id not in self._known]
        if unknown:
            await ask(partial(self._learn, unknown))
        found = {part_id: self._known.get(part_id) for part_id in wanted}
        shown = {id: part for id, part in found.items() if part is not None and visible(part)}
        for part_id, part in found.items():
            if part is not None and part.trashed:
                self._known.pop(part_id, None)  # it may be restored
        return shown

    async def _learn(self, part_ids: Iterable[str], immich: IImmich) -> None:
        if not immich.allowed(PERMISSION):
            return

        async def learn(part_id: str) -> None:
            try:
                self._known[part_id] = await immich.asset(part_id)
            except (NotFound, MissingPermission) as error:
                self._log.debug("motion part {id} is not to be had: {why}", id=part_id, why=error)

        await gather([partial(learn, part_id) for part_id in part_ids], PART_REQUESTS)
