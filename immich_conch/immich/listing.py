"""The whole content of one album, or an error: never a part (rule 2 of the behaviour contract).

2.x answers with everything at once.  3.x gives pages by offset, and while an album changes an
asset can slip from a page not yet read to one read already.  So: a listing of one page that has
as many listed assets as the album says is taken as it is.  Any other is compared with the
album's validator before and after; while that moves, the album is listed again, up to
LISTING_TRIES times.  An album that never holds still gets the union of all tries: an asset that
was removed meanwhile may be in it for as long as the next refresh takes, none is left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults

from immich_conch.errors import BadAnswer
from immich_conch.immich.answers import Page
from immich_conch.immich.limits import LISTING_TRIES, PAGE, PAGES_AT_ONCE
from immich_conch.immich.model import Album, Asset


class Search(Protocol):
    """How a page is fetched."""

    def __call__(self, number: int, exif: bool, /) -> Awaitable[Page]:
        """Page `number` from 1 on, with sizes (`exif`) or without."""


async def list_pages(
    album: Album, search: Search, look: Callable[[], Awaitable[Album]]
) -> list[Asset]:
    """An album's content by search pages; `look` reads the album afresh."""
    before = album
    found: dict[str, Asset] = {}
    for _ in range(LISTING_TRIES):
        pages, assets = await _all_pages(before.asset_count, search, exif=True)
        found |= assets
        if pages == 1 and _listed(assets.values()) == before.asset_count:
            return list(assets.values())
        after = await look()
        if after.validator == before.validator:
            if _listed(assets.values()) < after.asset_count:
                # The search with exif leaves out assets whose metadata were not read yet.
                _, bare = await _all_pages(after.asset_count, search, exif=False)
                assets = bare | assets
                if _listed(assets.values()) < after.asset_count:
                    raise BadAnswer("Immich listed fewer assets than the album has.")
            return list(assets.values())
        before = after
    return list(found.values())


def _listed(assets: Iterable[Asset]) -> int:
    return sum(1 for asset in assets if asset.listed)


async def _all_pages(count: int, search: Search, exif: bool) -> tuple[int, dict[str, Asset]]:
    """All pages: as many as `count` assets need side by side, then on while more follow."""
    promised = max(1, -(-count // PAGE))
    pages = await _side_by_side(
        [partial(search, number, exif) for number in range(1, promised + 1)]
    )
    while pages[-1].more:
        pages.append(await search(len(pages) + 1, exif))
    return len(pages), {asset.id: asset for page in pages for asset in page.assets}


async def _side_by_side(calls: Sequence[Callable[[], Awaitable[Page]]]) -> list[Page]:
    """All results in order; the first failure ends the others and is raised."""
    gate = DeferredSemaphore(PAGES_AT_ONCE)

    async def one(call: Callable[[], Awaitable[Page]]) -> Page:
        return await call()

    def begin(call: Callable[[], Awaitable[Page]]) -> Deferred[Page]:
        return Deferred.fromCoroutine(one(call))

    running = [gate.run(begin, call) for call in calls]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        for other in running:
            other.cancel()
        error.subFailure.raiseException()
