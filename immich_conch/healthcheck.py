"""`python -m immich_conch.healthcheck`: exit status 0 if the service greets as an SSH server.

A program of its own for the container's health check: it reads the endpoint from the environment
as the service does, connects and waits for the banner (RFC 4253, section 4.2).  It logs nobody in
and asks nothing of Immich: a restart of this container would not bring Immich back.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence

from immich_conch.errors import SettingsError
from immich_conch.sources import value_file

#: Seconds for connecting and for the banner.
TIMEOUT = 5.0
#: The variable of `--endpoint`, and its default.
VARIABLE = "IMMICH_CONCH_ENDPOINT"
DEFAULT = "tcp:2222"

#: Twisted's prefix of endpoints that want a PROXY header; ours names nobody.
_PROXY, _HEADER = "haproxy:", b"PROXY UNKNOWN\r\n"
_ENDPOINT = re.compile(r"(tcp6?):(?:port=)?(\d+)(?::(.*))?")
_LOOPBACK = {"tcp": "127.0.0.1", "tcp6": "::1"}
_ANY = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 -- compared with, not listened on


def address(endpoint: str) -> tuple[str, int]:
    """Host and port under which a `tcp:` or `tcp6:` endpoint answers; raises ValueError.

    One of them behind `haproxy:` answers at the same place.
    """
    match = _ENDPOINT.fullmatch(endpoint.removeprefix(_PROXY))
    if match is None:
        raise ValueError(f"{endpoint!r} is no tcp: or tcp6: endpoint")
    kind, port, rest = match[1], int(match[2]), match[3] or ""
    interface = re.search(r"(?:^|:)interface=((?:\\:|[^:])*)", rest)
    host = interface[1].replace("\\:", ":") if interface else ""
    return (_LOOPBACK[kind] if host in _ANY else host), port


def check(endpoint: str, timeout: float = TIMEOUT) -> str:
    """The banner without its line end; raises ValueError or OSError."""
    with socket.create_connection(address(endpoint), timeout) as connection:
        if endpoint.startswith(_PROXY):
            connection.sendall(_HEADER)
        # An SSH server may say other lines first, but this one does not.
        banner = connection.makefile("rb").readline(256)
    if not banner.startswith(b"SSH-2.0-"):
        raise ValueError(f"{endpoint!r} does not greet as an SSH server")
    return banner.decode("ascii", "replace").strip()


def chosen(environment: Mapping[str, str]) -> str:
    """The endpoint that the service listens on, the first of several; raises SettingsError."""
    held = value_file(VARIABLE, environment, empty_is_none=False)
    return held[1][0] if held is not None else environment.get(VARIABLE, DEFAULT)


def main(arguments: Sequence[str]) -> int:
    """Check the endpoint given, or the one of the environment."""
    try:
        print(check(arguments[0] if arguments else chosen(os.environ)))
    except (OSError, ValueError, SettingsError) as error:
        print(f"immich-sftp: not healthy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
