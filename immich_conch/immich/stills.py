"""Which live photos a video is the motion part of.

Immich can search for live photos and for a part of a name, not for a motion part's id.  The two
halves of a live photo have one name but for the extension; a still that was called otherwise from
the start is not found this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from immich_conch.immich.answers import Page
from immich_conch.immich.dialects import Dialect
from immich_conch.immich.limits import PAGE
from immich_conch.immich.model import Asset

MAX_PAGES = 5
"""Pages of live photos looked through that have the name in theirs."""


async def stills_of(
    part: Asset, dialect: Dialect, search: Callable[[Mapping[str, Any]], Awaitable[Page]]
) -> list[Asset]:
    """Own live photos with this motion part, trashed ones too."""
    stem, dot, _ = part.name.rpartition(".")
    query = {
        "originalFileName": stem if dot and stem else part.name,
        "isMotion": True,
        "withDeleted": True,
        "withExif": True,
        "size": PAGE,
    }
    found: dict[str, Asset] = {}
    for more in dialect.searches:
        for number in range(1, MAX_PAGES + 1):
            page = await search({**query, **more, "page": number})
            mine = (one for one in page.assets if one.live_photo_video_id == part.id)
            found.update((asset.id, asset) for asset in mine)
            if not page.more:
                break
    return list(found.values())
