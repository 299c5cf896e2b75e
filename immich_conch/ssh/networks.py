"""Networks that a client's address may have to be in."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks and addresses with commas between; raises ValueError with a text.

    Names and patterns of OpenSSH's (`*.example.com`, `!…`) are not taken: what a name means is
    for whoever answers DNS to say.
    """
    found = []
    for word in text.split(","):
        try:
            found.append(ip_network(word.strip()))
        except ValueError:
            raise ValueError(f"{word.strip()[:60]!r} is no network or address") from None
    return tuple(found)


def parsed(host: str) -> Address | None:
    """An address without zone, as IPv4 if it is one; None for what is no address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def within(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address, as a socket gives it, is in one of the networks."""
    found = parsed(address)
    return found is not None and any(found in network for network in networks)
