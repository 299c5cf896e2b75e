"""Options, environment and an optional TOML file become one frozen Settings.

Later wins: default, TOML file, environment, command line.  In the environment `X_FILE` may stand
for `X` and names a file with the value.  Every setting is one attrs field whose metadata says how
it is spelt and parsed, so that the option, its environment twin and the TOML key cannot drift
apart.  A wrong value or an unknown key is a SettingsError whose text names the place (`--settle`,
`IMMICH_CONCH_SETTLE`, `conch.toml: settle`) and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any

import attrs
from attrs import Attribute, Factory, field, frozen

from immich_conch.errors import SettingsError
from immich_conch.parsing import (
    parse_bool,
    parse_count,
    parse_seconds,
    parse_separator,
    parse_size,
    parse_switch,
    parse_text,
    parse_url,
    parse_views,
    parse_whole,
    parse_words,
    parse_zone,
)
from immich_conch.sources import FILE_SUFFIX, toml_file, value_file

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
    secret: bool = False,
) -> Any:
    return field(
        default=Factory(default) if callable(default) else default,
        repr=not secret,
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


def load(
    options: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    config_file: str = "",
) -> Settings:
    """Join the sources; raises SettingsError for the first thing that is wrong.

    `options` maps field names to the texts given on the command line.
    """
    config_file = config_file or environment.get(ENVIRONMENT_PREFIX + "CONFIG", "")
    known = {attribute.name: attribute for attribute in fields()}
    values: dict[str, Any] = {}
    if config_file:
        for key, raw in toml_file(config_file).items():
            place = f"{config_file}: {key}"
            name = key.replace("-", "_")
            if name not in known:
                raise SettingsError(f"{place}: there is no such setting")
            values[name] = _parse_toml(known[name], raw, place)
    by_variable = {environment_name(attribute): attribute for attribute in known.values()}
    for variable in sorted(environment):
        if (
            variable.startswith(ENVIRONMENT_PREFIX)
            and variable not in by_variable
            and variable.removesuffix(FILE_SUFFIX) not in by_variable
            and variable != ENVIRONMENT_PREFIX + "CONFIG"
            and "_TEST_" not in variable
        ):
            raise SettingsError(f"{variable}: there is no such setting")
    for variable, attribute in by_variable.items():
        # An empty IMMICH_HOST or TZ is how compose files say "not set".
        empty_is_none = bool(attribute.metadata["env"])
        held = value_file(variable, environment, empty_is_none=empty_is_none)
        if held is not None:
            values[attribute.name] = _parse_held(attribute, variable, *held)
            continue
        text = environment.get(variable)
        if text is None or (not text and empty_is_none):
            continue
        values[attribute.name] = _parse(attribute, [text], variable)
    for name, given in options.items():
        texts = [given] if isinstance(given, str) else list(given)
        values[name] = _parse(known[name], texts, f"--{option_name(name)}")
    return _check(Settings(**values))


def _check(settings: Settings) -> Settings:
    if settings.demo and settings.immich_host:
        raise SettingsError("--demo: serves a library of its own, so it excludes --immich-host")
    if not settings.demo and not settings.immich_host:
        raise SettingsError(
            "--immich-host: missing; give the URL of the Immich server, with this option or in "
            "IMMICH_HOST (or try --demo)"
        )
    if settings.demo_version not in ("3.1.0", "2.5.6"):
        raise SettingsError("--demo-version: must be 3.1.0 or 2.5.6")
    if not settings.endpoint:
        default = "tcp:2222:interface=127.0.0.1" if settings.demo else "tcp:2222"
        settings = attrs.evolve(settings, endpoint=(default,))
    return settings


def _parse(attribute: Attribute[Any], texts: Sequence[str], place: str) -> Any:
    parse: Parser = attribute.metadata["parse"]
    if any("\0" in text for text in texts):
        # No name of a file may hold one, and nothing else has any use for it.
        raise SettingsError(f"{place}: holds a NUL character")
    try:
        if attribute.metadata["many"]:
            return tuple(parse(text) for text in texts)
        return parse(texts[-1])
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None


def _parse_held(attribute: Attribute[Any], variable: str, path: str, lines: list[str]) -> Any:
    """The value that a file held; one that may be repeated has one on each line."""
    texts = lines if attribute.metadata["many"] else ["\n".join(lines)]
    try:
        return _parse(attribute, texts, variable)
    except SettingsError:
        # The reason may quote what was read.
        raise SettingsError(
            f"{variable}{FILE_SUFFIX}: what {path} holds (not shown here) is not what {variable} "
            "may be"
        ) from None


def _parse_toml(attribute: Attribute[Any], raw: Any, place: str) -> Any:
    if isinstance(raw, bool):
        raw = "yes" if raw else "no"
    items = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(item, (str, int, float)) for item in items):
        raise SettingsError(f"{place}: must be a text, a number, true or false")
    texts = [str(item) for item in items]
    if isinstance(raw, list) and not attribute.metadata["many"]:
        texts = [",".join(texts)]
    return _parse(attribute, texts, place)
