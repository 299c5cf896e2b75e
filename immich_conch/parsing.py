"""What a setting's text may look like: one parser for each kind.

A parser takes the text of an option, a variable or a TOML value and returns the value, or raises
ValueError with a text that reads on after the setting's name: `--settle: must be a number of
seconds`.
"""

from __future__ import annotations

import re
from datetime import timedelta, timezone, tzinfo
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

#: The views that there are (`library/relations.py` says what they are).
VIEWS = ("archive", "favorites", "people", "tags", "timeline", "trash", "unsorted")

#: What points are given for (`guard/gate.py`).
SCORES = ("unknown-user", "bad-password", "no-auth", "limit")

_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("0", "false", "no", "off", ""))
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bool(text: str) -> bool:
    """`yes`, `no`, `on`, `off`, `true`, `false`, `1`, `0`, in any case."""
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("must be yes or no")


def parse_switch(text: str) -> bool:
    """As `parse_bool`, for an option that takes a value because it is on by itself."""
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError("must be on or off") from None


def parse_seconds(text: str) -> float:
    """A number of seconds, 0 or more, of at most ten years."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not 0 <= value <= 315_360_000:
        raise ValueError("must be a number of seconds, 0 or more")
    return value


def parse_size(text: str) -> int:
    """A number of bytes, with an optional K, M, G or T (powers of 1024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 500M or 20G")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_whole(text: str) -> int:
    """A whole number, 0 or more."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None
    if value < 0:
        raise ValueError("must be 0 or more")
    return value


def parse_url(text: str) -> str:
    """An `http://` or `https://` URL of the Immich server, without user, query or fragment.

    A missing scheme is an error and not a guess: `https` guessed as `http` would send passwords
    in the clear.  A trailing slash and a trailing `/api` are dropped.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no URL ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be a URL like http://immich-server:2283, not {text[:80]!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain URL, without user, password, ? or #")
    if port == 0:
        raise ValueError("names port 0")
    path = parts.path.rstrip("/").removesuffix("/api").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def parse_zone(text: str) -> tzinfo:
    """A zone name (`Europe/Berlin`) or an offset (`+02:00`, `UTC-5`)."""
    text = text.strip().removeprefix(":")
    if text.startswith("/"):
        # TZ=:/etc/localtime is how many systems say "as this machine".
        try:
            with open(text, "rb") as file:
                return ZoneInfo.from_file(file, key=text)
        except (ValueError, OSError):
            raise ValueError(f"is no time zone file: {text[:60]!r}") from None
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", text, re.IGNORECASE)
    if match is not None:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        if offset >= timedelta(hours=24):
            raise ValueError("is no offset from UTC")
        return timezone(offset if match[1] == "+" else -offset)
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"is no time zone: {text[:60]!r}") from None


def parse_words(text: str) -> tuple[str, ...]:
    """Words separated by commas or white space."""
    return tuple(word for word in re.split(r"[,\s]+", text.strip()) if word)


def parse_names(text: str) -> tuple[str, ...]:
    """As `parse_words`, at least one; each once."""
    names = tuple(dict.fromkeys(parse_words(text)))
    if not names:
        raise ValueError("must name at least one")
    return names


def parse_algorithms(text: str) -> str:
    """Which set of algorithms: `default` or `strict`."""
    if text not in ("default", "strict"):
        raise ValueError("must be default or strict")
    return text


def parse_separator(text: str) -> str:
    """What separates folders in an album's name; empty for nothing.

    It must not stand in what is shown instead of a name or behind one: `(unnamed)`, ` ~` with
    digits, look-alikes.
    """
    if text and (not text.isascii() or not text.isprintable()):
        raise ValueError("must be of printable ASCII characters")
    if text and not set(text) & set("/|\\:;,.-_+=#!?@$%^&*<>'\"`{}[]"):
        raise ValueError("must hold a character such as / | : - _ >")
    return text


def parse_views(text: str) -> tuple[str, ...]:
    """Names of views, separated by commas or white space; `all` for all of them."""
    words = tuple(dict.fromkeys(word.lower() for word in parse_words(text)))
    if words == ("all",):
        return VIEWS
    for word in words:
        if word not in VIEWS:
            raise ValueError(f"knows no view {word[:40]!r}; there are {', '.join(VIEWS)}")
    return words


def parse_text(text: str) -> str:
    """Any text, as it is."""
    return text


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks or addresses, separated by commas or white space: `192.168.0.0/16, fd00::/8`."""
    networks = []
    for word in parse_words(text):
        try:
            networks.append(ip_network(word))
        except ValueError as error:
            raise ValueError(f"holds {word[:60]!r}, which is no network: {error}") from None
    return tuple(networks)


def parse_startups(text: str) -> tuple[int, int, int]:
    """OpenSSH's MaxStartups: `start:rate:full`, or one number for a plain limit; 0 is none."""
    numbers = text.strip().split(":")
    if len(numbers) == 1:
        numbers = [numbers[0], "100", numbers[0]]
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError("must look like 30:30:100, or be one number")
    start, rate, full = map(int, numbers)
    if rate > 100 or start > full:
        raise ValueError("must have a rate of at most 100 percent, and start no later than full")
    return start, rate, full


def parse_scores(text: str) -> tuple[tuple[str, float], ...]:
    """Points by what they are for, separated by commas: `bad-password=8, no-auth=0`."""
    given = {}
    for word in parse_words(text):
        name, _, points = word.partition("=")
        if name not in SCORES:
            raise ValueError(f"gives no points for {name[:40]!r}; there are {', '.join(SCORES)}")
        try:
            given[name] = parse_seconds(points)
        except ValueError:
            raise ValueError(f"must give {name} a number of points, 0 or more") from None
    return tuple(given.items())


def parse_addresses(text: str) -> str:
    """`auto`, `real` or `hidden`."""
    if text not in ("auto", "real", "hidden"):
        raise ValueError("must be auto, real or hidden")
    return text


def parse_rate(text: str) -> float:
    """A number a second, 0 or more."""
    try:
        return parse_seconds(text)
    except ValueError:
        raise ValueError("must be a number, 0 or more") from None
