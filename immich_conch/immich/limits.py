"""How long and how much: the limits of talking to Immich, with their units and reasons.

What an administrator may want to change is a setting and is handed in; these are not.
"""

from __future__ import annotations

CONNECT_TIMEOUT = 10.0
"""Seconds for a TCP and TLS connection to come up."""

SILENCE_TIMEOUT = 60.0
"""Seconds without a byte in either direction while Immich is the one to move."""

UPLOAD_ANSWER_TIMEOUT = 330.0
"""Seconds from an upload's last byte to its answer: Immich moves the file, maybe across disks."""

CACHED_CONNECTION_TIMEOUT = 4
"""Seconds an idle connection is kept.  Immich closes it after 5 to 6 (FACTS.md, Upload)."""

MAX_IDLE_CONNECTIONS = 32
"""Idle connections kept; a busy moment may open more, they are closed after use."""

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of an ordinary answer."""

MAX_LISTING = 512 * 1024 * 1024
"""Bytes of a listing: 10,000 assets are 13 MiB (FACTS.md), so this is room for some 400,000."""

MAX_ERROR = 64 * 1024
"""Bytes read of an answer that says no."""

MAX_MESSAGE = 200
"""Characters of Immich's own words that are passed on to a user."""

PARSE_IN_THREAD = 256 * 1024
"""Bytes of JSON from which on parsing leaves the reactor's thread (13 MiB take 0.2 s)."""

RETRY_PAUSES = (0.2, 0.6, 1.8)
"""Seconds between the tries of a call that may be repeated, before jitter of up to half."""

RETRY_AFTER_PATIENCE = 2.0
"""Seconds of Retry-After that are waited for here; more is left to the caller to decide."""

PAGE = 1000
"""Assets a search page; Immich refuses more."""

PAGES_AT_ONCE = 4
"""Search pages asked for side by side: two are twice as fast as one (FACTS.md), eight no more."""

LISTING_TRIES = 4
"""How often an album that changes while it is listed is listed, before the union is taken."""

IDS_AT_ONCE = 500
"""Ids in one call that takes many."""

UPLOAD_PIECE = 256 * 1024
"""Bytes read from an upload's body at a time."""

UPLOAD_WATCH = 1.0
"""Seconds between looks for an answer that comes before an upload's body has ended."""

VERSION_KEPT = 300.0
"""Seconds the server's version is believed."""

MEDIA_TYPES_KEPT = 600.0
"""Seconds the list of media types is believed."""

FEATURES_KEPT = 60.0
"""Seconds the trash switch is believed."""

MAX_KEY = 512
"""Characters of an API key; Immich's have 43."""
