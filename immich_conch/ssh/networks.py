"""Networks that a client's address may have to be in."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

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


def within(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address, as a socket gives it, is in one of the networks."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False  # a Unix socket, or none
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
