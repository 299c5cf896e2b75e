"""What Immich's answers say, where a model's `from_json` is not all of it; pure functions.

Each takes parsed JSON and raises BadAnswer where it does not say what it has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from immich_conch.errors import BadAnswer
from immich_conch.immich.model import Asset, Known, Person, Storage, Tag, Uploaded


@frozen
class Page:
    """One page of a search, and whether another follows."""

    assets: tuple[Asset, ...]
    more: bool

    @classmethod
    def from_json(cls, data: Any) -> Page:
        """Parse an answer of `POST /search/metadata`; raises BadAnswer."""
        try:
            found = data["assets"]
            items, following = found["items"], found["nextPage"]
        except (KeyError, TypeError):
            raise BadAnswer("Immich's answer holds no page of assets.") from None
        return cls(assets_from_json(items), following is not None)


def assets_from_json(items: Any) -> tuple[Asset, ...]:
    """Parse a list of assets; raises BadAnswer."""
    if not isinstance(items, list):
        raise BadAnswer("Immich's answer holds no list of assets.")
    return tuple(Asset.from_json(item) for item in items)


def storage(data: Any) -> Storage:
    """The server's disk."""
    try:
        return Storage(*(int(data[f"disk{part}Raw"]) for part in ("Size", "Use", "Available")))
    except (KeyError, TypeError, ValueError):
        raise BadAnswer("Immich's answer lacks the disk's sizes.") from None


def content(data: Any) -> tuple[Asset, ...]:
    """The assets in a 2.x album."""
    return assets_from_json(data.get("assets") if isinstance(data, Mapping) else None)


def per_id(data: Any) -> dict[str, str | None]:
    """For each id None or Immich's error word."""
    try:
        return {
            str(item["id"]): None if item["success"] is True else str(item.get("error", "unknown"))
            for item in data
        }
    except (KeyError, TypeError, AttributeError):
        raise BadAnswer("Immich's answer does not say what became of each asset.") from None


def checked(data: Any, size: int) -> list[Known | None]:
    """The verdicts of `bulk-upload-check` for ids 0 to `size` - 1."""
    try:
        told = {item["id"]: item for item in data["results"]}
        return [_verdict(told[str(place)]) for place in range(size)]
    except (KeyError, TypeError):
        raise BadAnswer("Immich's answer does not say which bytes it knows.") from None


def _verdict(item: Mapping[str, Any]) -> Known | None:
    if item["action"] == "accept":
        return None
    asset_id = item["assetId"]
    if item["action"] != "reject" or not isinstance(asset_id, str):
        raise BadAnswer("Immich's answer does not say which bytes it knows.")
    return Known(asset_id, item.get("isTrashed") is True)


def uploaded(data: Any) -> Uploaded:
    """What became of an upload."""
    asset_id = data.get("id") if isinstance(data, Mapping) else None
    status = data.get("status") if isinstance(data, Mapping) else None
    if not isinstance(asset_id, str) or status not in ("created", "duplicate"):
        raise BadAnswer("Immich's answer does not say what became of the upload.")
    return Uploaded(asset_id, status == "duplicate")


def metadata(data: Any) -> dict[str, Any]:
    """An asset's own metadata, value by key."""
    try:
        return {str(item["key"]): item["value"] for item in data}
    except (KeyError, TypeError):
        raise BadAnswer("Immich's answer holds no metadata.") from None


def tags(data: Any) -> list[Tag]:
    """A list of tags."""
    if not isinstance(data, list):
        raise BadAnswer("Immich's answer holds no list of tags.")
    return [Tag.from_json(item) for item in data]


def people(data: Any) -> tuple[list[Person], bool]:
    """One page of people, and whether another follows."""
    try:
        return [Person.from_json(item) for item in data["people"]], data["hasNextPage"] is True
    except (KeyError, TypeError):
        raise BadAnswer("Immich's answer holds no page of people.") from None


def months(data: Any) -> list[str]:
    """The months (`2024-05`) of a timeline's buckets."""
    try:
        found = [str(bucket["timeBucket"])[:7] for bucket in data]
    except (KeyError, TypeError):
        raise BadAnswer("Immich's answer holds no months.") from None
    if not all(len(month) == 7 and month[4] == "-" for month in found):
        raise BadAnswer("Immich named a month that is none.")
    return found
