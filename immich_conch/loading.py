"""Options, environment and an optional TOML file become the Settings.

Later wins: default, TOML file, environment, command line.  In the environment `X_FILE` may stand
for `X` and names a file with the value.  A wrong value or an unknown key is a SettingsError whose
text names the place (`--settle`, `IMMICH_CONCH_SETTLE`, `conch.toml: settle`) and the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import Attribute

from immich_conch.errors import SettingsError
from immich_conch.settings import (
    ENVIRONMENT_PREFIX,
    Parser,
    Settings,
    environment_name,
    fields,
    option_name,
)
from immich_conch.sources import FILE_SUFFIX, toml_file, value_file

MAX_LOGIN_MEMORY = 60.0
"""Seconds; the longest that a password is taken for right without asking Immich about it."""


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
    if not settings.password_login and not settings.users_file:
        raise SettingsError("--password-login: off, and without --users-file nobody could log in")
    if settings.demo_version not in ("3.1.0", "2.5.6"):
        raise SettingsError("--demo-version: must be 3.1.0 or 2.5.6")
    if settings.login_memory > MAX_LOGIN_MEMORY:
        raise SettingsError("--login-memory: must be 60 seconds at most")
    if settings.ban_threshold and not settings.ban_observation:
        raise SettingsError("--ban-observation: must be more than 0")
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
