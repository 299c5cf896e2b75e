"""Pure: what an address is worth counting by, and what kind of place it is.

IPv6 is counted by /64, for that is what one customer has at least (RFC 6177); an IPv4 address that
came in over an IPv6 socket is an IPv4 address.  An address that hides the clients' own -- a
container's gateway, a proxy that does not speak the PROXY protocol, this machine -- says nothing
about who is behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import (
    IPv6Address,
    ip_network,
)
from typing import Any

from attrs import define, field, frozen

from immich_conch.guard.recent import Recent
from immich_conch.ssh.networks import Address, Network, parsed

#: Where gateways and proxies of one's own are: RFC 1918, 6598, 3927, 4193, 4291.  Not what Python
#: calls private, which is whatever is not routed.
PRIVATE = tuple(
    map(
        ip_network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("169.254.0.0/16", "fc00::/7", "fe80::/10"),
        ),
    )
)
#: Bits of an IPv6 address that are one customer's.
CUSTOMER_BITS = 64
#: Users who log in from one private address before it is taken for a proxy's.
CROWD = 4
#: Private addresses whose users are remembered.
MAX_CROWDS = 1000


class Place(Enum):
    """What an address tells."""

    #: It is the client's own.
    REAL = "real"
    #: It is that of something in between, or of this machine.
    HIDDEN = "hidden"
    #: An administrator trusts it.
    ALLOWED = "allowed"
    #: An administrator does not want it.
    DENIED = "denied"


@frozen
class Origin:
    """Where a connection comes from.  `source` is what is counted, empty where nothing is."""

    text: str
    port: int
    source: str
    place: Place
    loopback: bool = False
    private: bool = False


UNKNOWN = Origin("unknown", 0, "", Place.HIDDEN, loopback=True)


def source(address: Address) -> str:
    """What connections of an address are counted by."""
    if isinstance(address, IPv6Address):
        return str(ip_network((address, CUSTOMER_BITS), strict=False))
    return str(address)


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of some networks."""
    return any(address.version == one.version and address in one for one in networks)


@define(eq=False)
class Atlas:
    """Tells what kind of place an address is.

    `mode` is `real`, `hidden` or `auto`; with `auto` a private address hides others if it is one
    of `between` (the default gateways, our own addresses), or once `CROWD` users have logged in
    from it.  Loopback hides others in any mode.
    """

    allowed: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    mode: str = "auto"
    between: frozenset[Address] = frozenset()
    _crowds: Recent[set[str]] = field(factory=lambda: Recent(MAX_CROWDS))

    def origin(self, peer: Any) -> Origin:
        """Of a Twisted address; a UNIX socket's, or none at all, is this machine's own."""
        host, port = getattr(peer, "host", None), getattr(peer, "port", 0)
        address = parsed(host) if isinstance(host, str) else None
        if address is None:
            return UNKNOWN
        return Origin(
            text=str(address),
            port=port,
            source=source(address),
            place=self._place(address),
            loopback=address.is_loopback,
            private=within(address, PRIVATE),
        )

    def _place(self, address: Address) -> Place:
        if within(address, self.allowed):
            return Place.ALLOWED
        if within(address, self.denied):
            return Place.DENIED
        if address.is_loopback or self.mode == "hidden":
            return Place.HIDDEN
        if self.mode == "auto" and within(address, PRIVATE):
            crowd = self._crowds.get(source(address)) or ()
            if address in self.between or len(crowd) >= CROWD:
                return Place.HIDDEN
        return Place.REAL

    def logged_in(self, origin: Origin, user: str) -> None:
        """Somebody logged in from there; enough of them, and it is a proxy or a gateway."""
        if self.mode == "auto" and origin.private:
            crowd = self._crowds.get(origin.source)
            if crowd is None:
                crowd = set()
                self._crowds.put(origin.source, crowd)
            if len(crowd) < CROWD:
                crowd.add(user)
