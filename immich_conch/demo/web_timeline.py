"""`/timeline/buckets`: the months of a user's own assets, the newest first."""

from __future__ import annotations

from collections import Counter

from immich_conch.demo.assets import VISIBILITIES
from immich_conch.demo.dates import js
from immich_conch.demo.routing import Answer, Call, Route


def _buckets(call: Call) -> Answer:
    visibility = call.query.get("visibility")
    if visibility is None:
        wanted: tuple[str, ...] = ("archive", "timeline")
    else:
        wanted = (call.option("visibility", visibility, VISIBILITIES),)
    trashed = call.query.get("isTrashed") == "true"
    months = Counter(
        js(asset.taken)[:7] + "-01"
        for asset in call.state.by_owner[call.user.id].values()
        if asset.visibility in wanted and (asset.deleted is not None) == trashed
    )
    return Answer(
        200,
        [{"timeBucket": day, "count": months[day]} for day in sorted(months, reverse=True)],
    )


ROUTES = (Route("GET", "/timeline/buckets", _buckets, "asset.read"),)
