"""Which addresses stand between this machine, or container, and the clients.

What comes through a container's port mapping or a router that rewrites addresses has the address of
the default gateway, or one of our own.  Linux tells its routes in /proc; elsewhere none are known.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from immich_conch.ssh.networks import Address, parsed

#: RTF_GATEWAY of linux/route.h: the route goes by way of another machine.
_BY_GATEWAY = 0x2
#: Addresses of documentation (RFC 5737, 3849): routed like any other, and nothing is sent.
_ANYWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def between(read: Callable[[str], str] | None = None) -> frozenset[Address]:
    """The default gateways and our own addresses; what cannot be found out is left out."""
    read = _read if read is None else read
    # Under /proc/self, which systemd's ProcSubset=pid leaves.
    found: set[Address] = set(gateways(read("/proc/self/net/route")))
    found.update(gateways6(read("/proc/self/net/ipv6_route")))
    found.update(_own())
    return frozenset(found)


def gateways(routes: str) -> Iterator[IPv4Address]:
    """The default gateways of /proc/self/net/route; addresses are in the machine's byte order."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or not int(fields[3], 16) & _BY_GATEWAY:
            continue
        yield IPv4Address(socket.htonl(int(fields[2], 16)))


def gateways6(routes: str) -> Iterator[IPv6Address]:
    """The default gateways of /proc/self/net/ipv6_route."""
    for line in routes.splitlines():
        fields = line.split()
        if len(fields) >= 10 and fields[1] == "00" and int(fields[8], 16) & _BY_GATEWAY:
            yield IPv6Address(int(fields[4], 16))


def _own() -> Iterator[Address]:
    for family, anywhere in _ANYWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                udp.connect((anywhere, 9))
                address = parsed(udp.getsockname()[0])
        except OSError:
            continue
        if address is not None:
            yield address


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, ValueError):
        return ""
