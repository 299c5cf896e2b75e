"""From what went wrong on the wire to the classes of `immich_conch.errors`; pure functions.

Immich says 400 "Not found or no … access" both for what is not there and for what this user may
not do (FACTS.md, Albums); which of the two it was is asked by the operation, not decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.web._newclient import (
    ParseError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
)

from immich_conch.errors import (
    BadAnswer,
    BadCredentials,
    ConchError,
    Denied,
    MissingPermission,
    NotFound,
    QuotaExceeded,
    Refused,
    SessionRevoked,
    Unreachable,
)
from immich_conch.immich.limits import MAX_MESSAGE

WIRE_ERRORS = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    TimeoutError,
    OSError,
    SSL.Error,
    CancelledError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
)
"""What treq raises for a connection that could not be made, broke, or was cancelled."""

_NOT_FOUND = re.compile(r"Not found or no |\w+ not found$")
"""`Not found or no album.read access`; `Album not found` where assets are put into one that is
gone (seen on 2.5.6 and 3.1.0)."""
_PERMISSION = "Missing required permission:"
_QUOTA = "Quota has been exceeded"
_WAIT = frozenset({408, 429})


def root_causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that Twisted wrapped in it."""
    yield error
    for reason in getattr(error, "reasons", None) or ():
        cause = reason.value if isinstance(reason, Failure) else reason
        if isinstance(cause, BaseException):
            yield from root_causes(cause)


def wire_problem(error: BaseException) -> ConchError:
    """The error of a connection as a user's error; the detail names the class, never an address.

    An answer that is no HTTP, or from a stranger, is a BadAnswer, which is not tried again; all
    else is Unreachable.
    """
    causes = list(root_causes(error))
    if any(isinstance(cause, ParseError) for cause in causes):
        return BadAnswer()
    if any(isinstance(cause, (SSL.Error, VerificationError)) for cause in causes):
        return BadAnswer("Immich is not reachable (its certificate is not accepted).")
    return Unreachable()


def in_a_word(error: BaseException) -> str:
    """The innermost cause's class, for a log line."""
    return type(list(root_causes(error))[-1]).__name__


def cancelled(error: BaseException) -> bool:
    """Whether somebody cancelled the request."""
    return any(isinstance(cause, CancelledError) for cause in root_causes(error))


def own_error(error: BaseException) -> Exception | None:
    """What the producer of a request's body raised, if that is what ended the request."""
    if isinstance(error, RequestGenerationFailed):
        for cause in root_causes(error):
            if cause is not error and not isinstance(cause, CancelledError):
                return cause if isinstance(cause, Exception) else None
    return None


def message_of(body: bytes) -> str:
    """Immich's own words in an answer that says no: printable, bounded, or empty."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    words = data.get("message") if isinstance(data, dict) else None
    if isinstance(words, list):
        words = "; ".join(str(word) for word in words)
    if not isinstance(words, str):
        return ""
    clean = "".join(char if char.isprintable() else " " for char in words[: 4 * MAX_MESSAGE])
    return clean if len(clean) <= MAX_MESSAGE else clean[: MAX_MESSAGE - 1] + "…"


def retry_after(header: bytes | None) -> float | None:
    """Seconds of a Retry-After header; its date form is not worth a calendar and counts as none."""
    text = (header or b"").strip()
    return float(text) if text.isdigit() and len(text) < 8 else None


def problem(
    code: int, body: bytes, pause: float | None = None, *, login: bool = False, file: bool = False
) -> ConchError:
    """The error that an answer with `code` means.

    `login` is true where a credential is being tried; `file` for the routes of originals, the
    only ones where Immich itself says 404 for something that is gone.
    """
    words = message_of(body)
    if code == 401:
        return BadCredentials() if login else SessionRevoked()
    if code == 403:
        if words.startswith(_PERMISSION):
            return MissingPermission(words[len(_PERMISSION) :].strip())
        return Denied(words)
    if code == 404:
        return NotFound() if file else BadAnswer()
    if code in _WAIT or code >= 500:
        return Unreachable(retry_after=pause)
    if code == 400 and login:
        return BadCredentials()
    if _NOT_FOUND.match(words):
        return NotFound()
    if words.startswith(_QUOTA):
        return QuotaExceeded()
    if code == 413:
        return Refused("The file is larger than Immich, or a proxy in front of it, takes.")
    if 400 <= code < 500:
        return Refused(f"Immich refused the request: {words}" if words else "")
    return BadAnswer()
