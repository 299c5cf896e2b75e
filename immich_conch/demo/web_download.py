"""`GET /assets/{id}/original`: the bytes, whole or one range of them.

As Express' `sendFile` answers: a weak ETag of size and time, several ranges are all of it, and a
range that lies nowhere is 404 in 3.1.0 and 500 in 2.5.6 instead of 416 (recordings).
"""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from urllib.parse import quote

from attrs import frozen

from immich_conch.demo.entities import Asset
from immich_conch.demo.media import mime_type
from immich_conch.demo.refusals import Refusal, no_access
from immich_conch.demo.routing import Answer, Call, Route

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@frozen
class Unsatisfiable:
    """A range outside of the file."""


def wanted_range(header: str | None, size: int) -> tuple[int, int] | Unsatisfiable | None:
    """First byte and count of what a Range header asks for; None is all of it (RFC 9110, 14.2)."""
    match = _ONE_RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return (size - count, count) if count else Unsatisfiable()
    start = int(match[1])
    end = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return None
    return (start, end - start + 1) if start < size else Unsatisfiable()


_UNCACHED = {"Cache-Control": "none"}
"""What 2.5.6 adds to an error."""


def _uncached(refusal: Refusal) -> Refusal:
    refusal.headers.update(_UNCACHED)
    return refusal


def _etag(asset: Asset, size: int) -> str:
    return f'W/"{size:x}-{asset.modified:x}"'


def _may_continue(call: Call, asset: Asset, etag: str) -> bool:
    """Whether If-Range, if it is there, still holds.

    Express compares the whole header's text, so a weak ETag matches itself.
    """
    condition = call.header("If-Range")
    if condition is None:
        return True
    return condition in (etag, formatdate(asset.modified // 1000, usegmt=True))


def _original(call: Call) -> Answer:
    try:
        asset = call.core.assets.find(call.user, call.id(), "asset.download")
    except Refusal as refusal:
        if call.modern and refusal.message == no_access("asset.download").message:
            raise Refusal(404, "Not Found") from refusal
        raise _uncached(refusal) from None
    storage = call.state.storage
    if not storage.has(asset):
        raise Refusal(404, "Not Found") if call.modern else _uncached(Refusal(500, "Not Found"))
    size = storage.size(asset)
    etag = _etag(asset, size)
    headers = {
        "Content-Type": mime_type(asset.name),
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": formatdate(asset.modified // 1000, usegmt=True),
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(asset.name)}",
        "Cache-Control": "private, max-age=86400, no-transform, "
        "stale-while-revalidate=2592000, stale-if-error=2592000",
    }
    wanted = wanted_range(call.header("Range"), size)
    if not _may_continue(call, asset, etag):
        wanted = None
    if isinstance(wanted, Unsatisfiable):
        return _nowhere(call, size, headers)
    start, count = wanted or (0, size)
    status = 200
    if wanted is not None:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
    pieces = iter(()) if call.head else storage.read(asset, start, count)
    return Answer(status, headers=headers, pieces=pieces, length=count)


def _nowhere(call: Call, size: int, headers: dict[str, str]) -> Answer:
    refusal = Refusal(404, "Not Found") if call.modern else Refusal(500, "Internal server error")
    body = json.dumps(refusal.body(call.modern, "00000000"), separators=(",", ":")).encode()
    headers["Content-Type"] += "; charset=utf-8"
    headers["Content-Range"] = f"bytes */{size}"
    headers |= {} if call.modern else _UNCACHED
    return Answer(refusal.status, headers=headers, pieces=iter((body,)), length=len(body))


ROUTES = (Route("GET", "/assets/{id}/original", _original, "asset.download"),)
