"""Everything that an administrator can choose, in one frozen table.

Every setting is one attrs field whose metadata says how it is spelt and parsed, so that the option,
its environment twin and the TOML key cannot drift apart.  `loading` fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import tzinfo
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import attrs
from attrs import Attribute, Factory, field, frozen

from immich_conch.parsing import (
    parse_addresses,
    parse_algorithms,
    parse_bool,
    parse_count,
    parse_names,
    parse_networks,
    parse_rate,
    parse_scores,
    parse_seconds,
    parse_separator,
    parse_size,
    parse_startups,
    parse_switch,
    parse_text,
    parse_url,
    parse_views,
    parse_whole,
    parse_words,
    parse_zone,
)

ENVIRONMENT_PREFIX = "IMMICH_CONCH_"

Parser = Callable[[str], Any]


def _setting(
    default: Any,
    parse: Parser,
    doc: str,
    *,
    env: str = "",
    metavar: str = "VALUE",
    many: bool = False,
) -> Any:
    return field(
        default=Factory(default) if callable(default) else default,
        metadata={"parse": parse, "doc": doc, "env": env, "metavar": metavar, "many": many},
    )


@frozen(kw_only=True)
class Settings:
    """Everything an administrator can choose.  Times are seconds, sizes bytes."""

    immich_host: str = _setting(
        "", parse_url, "URL of the Immich server.", env="IMMICH_HOST", metavar="URL"
    )
    time_zone: tzinfo | None = _setting(  # noqa: RUF009 -- _setting is attrs.field
        None,
        parse_zone,
        "Time zone whose offset the dates sent to Immich carry (default UTC).",
        env="TZ",
        metavar="ZONE",
    )
    endpoint: tuple[str, ...] = _setting(
        (),
        parse_text,
        "Twisted endpoint to listen on; may be given several times. [default: tcp:2222]",
        metavar="STRING",
        many=True,
    )
    host_key_dir: str = _setting(
        "host-keys",
        parse_text,
        "Directory of the SSH host keys, made on first start.",
        metavar="DIR",
    )
    spool_dir: str = _setting(
        "spool", parse_text, "Directory of uploads that are on their way to Immich.", metavar="DIR"
    )
    immich_ca_file: str = _setting(
        "",
        parse_text,
        "PEM file of the authority that signed Immich's certificate.",
        metavar="FILE",
    )
    read_only: bool = _setting(False, parse_bool, "Serve without allowing any change.")
    users_file: str = _setting(
        "",
        parse_text,
        "TOML file with users, their Immich API keys and the SSH keys that they log in with.",
        metavar="FILE",
    )
    password_login: bool = _setting(
        True,
        parse_switch,
        "Take passwords, and API keys in their place; off leaves the SSH keys of --users-file.",
        metavar="ON|OFF",
    )
    settle: float = _setting(
        5.0,
        parse_seconds,
        "Seconds to wait for a client's SETSTAT before an upload without a time is committed.",
        metavar="SECONDS",
    )
    temporary: tuple[str, ...] | None = _setting(
        None,
        parse_words,
        "Patterns of temporary names, separated by commas; replaces the built-in list.",
        metavar="PATTERNS",
    )
    ignore_case: bool = _setting(
        False, parse_bool, "Tell names apart without case (Windows and Android clients only)."
    )
    album_separator: str = _setting(
        "/",
        parse_separator,
        "What stands between folders in an album's name (default /); empty for no nested folders.",
        metavar="TEXT",
    )
    final_delete: bool = _setting(
        False, parse_bool, "Allow removing for good where Immich's trash is switched off."
    )
    views: tuple[str, ...] = _setting(
        (),
        parse_views,
        "Views to show as folders beside the albums (@Favorites and so on), separated by commas: "
        "archive, favorites, people, tags, timeline, trash, unsorted, or all.",
        metavar="VIEWS",
    )
    freshness: float = _setting(
        1.0,
        parse_seconds,
        "Age in seconds from which the mirror of a library is brought up to date before it is "
        "shown; listings, where there is no mirror, may be twice as old.",
        metavar="SECONDS",
    )
    mirror_keep: float = _setting(
        1800.0,
        parse_seconds,
        "Seconds that a user's mirror, and its Immich session, outlive the last connection.",
        metavar="SECONDS",
    )
    mirror_max_assets: int = _setting(
        500_000,
        parse_whole,
        "Assets up to which a library is mirrored in memory; 0 mirrors none.",
        metavar="COUNT",
    )
    login_delay: float = _setting(
        1.0, parse_seconds, "Seconds before a failed log-in is answered.", metavar="SECONDS"
    )
    max_startups: tuple[int, int, int] = _setting(
        (30, 30, 100),
        parse_startups,
        "Connections that have not logged in: from the first number on new ones are dropped with "
        "the second's probability in percent, rising to all at the third (as OpenSSH's); 0 is no "
        "limit.",
        metavar="START:RATE:FULL",
    )
    address_startups: int = _setting(
        20,
        parse_whole,
        "Connections of one address (IPv6: /64) that have not logged in; 0 is no limit.",
        metavar="COUNT",
    )
    max_connections: int = _setting(
        1000, parse_whole, "Connections in all; 0 is no limit.", metavar="COUNT"
    )
    max_per_address: int = _setting(
        200, parse_whole, "Connections of one address (IPv6: /64); 0 is no limit.", metavar="COUNT"
    )
    max_per_user: int = _setting(
        100, parse_whole, "Connections of one user; 0 is no limit.", metavar="COUNT"
    )
    login_rate: float = _setting(
        10.0,
        parse_rate,
        "Log-ins a second that are passed on to Immich; 0 is no limit.",
        metavar="NUMBER",
    )
    login_memory: float = _setting(
        60.0,
        parse_seconds,
        "Seconds, 60 at most, that a verified password is remembered (as a salted hash) together "
        "with its Immich session; 0 is never.",
        metavar="SECONDS",
    )
    ban_threshold: float = _setting(
        100.0, parse_rate, "Points from which an address is banned; 0 bans none.", metavar="POINTS"
    )
    ban_scores: tuple[tuple[str, float], ...] = _setting(
        (),
        parse_scores,
        "Points for each wrong, where they are not to be "
        "unknown-user=20,bad-password=8,no-auth=1,limit=2.",
        metavar="SCORES",
    )
    ban_observation: float = _setting(
        600.0,
        parse_seconds,
        "Seconds in which a score falls from the threshold to nothing.",
        metavar="SECONDS",
    )
    ban_time: float = _setting(
        600.0,
        parse_seconds,
        "Seconds of a first ban; each further one is twice as long.",
        metavar="SECONDS",
    )
    ban_time_max: float = _setting(
        86_400.0, parse_seconds, "Seconds of the longest ban.", metavar="SECONDS"
    )
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        (),
        parse_networks,
        "Networks that are never banned, denied or limited by address, separated by commas.",
        metavar="NETWORKS",
    )
    deny_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        (),
        parse_networks,
        "Networks that may not connect, separated by commas.",
        metavar="NETWORKS",
    )
    proxy_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        (),
        parse_networks,
        "Networks of the proxies whose PROXY protocol is believed on haproxy: endpoints.",
        metavar="NETWORKS",
    )
    addresses: str = _setting(
        "auto",
        parse_addresses,
        "Whether clients' addresses are seen: real, hidden (by a gateway or proxy: bans are by "
        "user), or auto to find out.",
        metavar="real|hidden|auto",
    )
    spool_sync: bool = _setting(
        True,
        parse_switch,
        "Sync uploads to the disk before they are answered OK; off trusts the power supply.",
        metavar="ON|OFF",
    )
    spool_limit: int = _setting(
        0,
        parse_size,
        "Bytes that all uploads on their way may take; 0 is no limit.",
        metavar="SIZE",
    )
    spool_user_limit: int = _setting(
        0,
        parse_size,
        "Bytes that one user's uploads on their way may take; 0 is no limit.",
        metavar="SIZE",
    )
    spool_min_free: int = _setting(
        256 * 2**20, parse_size, "Bytes of its disk that the spool leaves free.", metavar="SIZE"
    )
    keep_parked: float = _setting(
        604_800.0,
        parse_seconds,
        "Seconds until a file under a temporary name that nobody renames is dropped (7 days).",
        metavar="SECONDS",
    )
    keep_partial: float = _setting(
        86_400.0,
        parse_seconds,
        "Seconds that an upload that was cut off can be resumed (24 hours).",
        metavar="SECONDS",
    )
    overlap_from: int = _setting(
        16 * 2**20,
        parse_size,
        "Size from which on a file goes to Immich while it is still written; 0 is never.",
        metavar="SIZE",
    )
    stop_timeout: float = _setting(
        30.0,
        parse_seconds,
        "Seconds that uploads may take to get into Immich when the service stops.",
        metavar="SECONDS",
    )
    algorithms: str = _setting(
        "default",
        parse_algorithms,
        "Algorithms to offer: default, or strict for those alone that nobody has a word against.",
        metavar="default|strict",
    )
    kex: tuple[str, ...] = _setting(
        (),
        parse_names,
        "Methods of key exchange to offer, separated by commas, the best first.",
        metavar="NAMES",
    )
    ciphers: tuple[str, ...] = _setting(
        (), parse_names, "Ciphers to offer, as for --kex.", metavar="NAMES"
    )
    macs: tuple[str, ...] = _setting(
        (), parse_names, "MACs to offer beside AES-CTR, as for --kex.", metavar="NAMES"
    )
    host_key_algorithms: tuple[str, ...] = _setting(
        (), parse_names, "Signatures of host keys to offer, as for --kex.", metavar="NAMES"
    )
    keepalive: float = _setting(
        30.0,
        parse_seconds,
        "Seconds of silence after which a client is asked whether it is there; after three "
        "questions without an answer it is cut off; 0 asks nobody.",
        metavar="SECONDS",
    )
    idle_timeout: float = _setting(
        0.0,
        parse_seconds,
        "Seconds after which a client that has nothing open and wants nothing is cut off; "
        "0 is never.",
        metavar="SECONDS",
    )
    session_check: float = _setting(
        300.0,
        parse_seconds,
        "Seconds between looks whether Immich still knows the sessions of those who are connected; "
        "0 is never.",
        metavar="SECONDS",
    )
    max_channels: int = _setting(
        16, parse_count, "Channels that one connection may have.", metavar="COUNT"
    )
    max_user_handles: int = _setting(
        1024,
        parse_count,
        "Files and folders that one user may have open, over all connections.",
        metavar="COUNT",
    )
    log_requests: bool = _setting(False, parse_bool, "Log every request that is made to Immich.")
    demo: bool = _setting(
        False, parse_bool, "Serve a small embedded demo library instead of an Immich server."
    )
    demo_dir: str = _setting(
        "", parse_text, "Keep the demo library's state in this directory.", metavar="DIR"
    )
    demo_version: str = _setting(
        "3.1.0",
        parse_text,
        "Immich version that the demo answers as: 3.1.0 or 2.5.6.",
        metavar="X.Y.Z",
    )


def fields() -> Iterator[Attribute[Any]]:
    """The settings in their order of documentation."""
    yield from attrs.fields(Settings)


def option_name(name: str) -> str:
    """`host_key_dir` -> `host-key-dir`."""
    return name.replace("_", "-")


def environment_name(attribute: Attribute[Any]) -> str:
    """The environment variable that sets this setting."""
    return str(attribute.metadata["env"] or ENVIRONMENT_PREFIX + attribute.name.upper())
