"""Files that settings come from: the TOML file, and files that each hold one value.

`IMMICH_CONCH_SPOOL_DIR_FILE=/run/secrets/spool_dir` is the usual convention of container images:
the value is what the named file holds.  Docker and systemd hand secrets over as files, and those
are neither in `ps` nor in what `docker inspect` shows.  Raises SettingsError; no text of an error
says what a value file holds, for it may be the wrong file, and that one secret.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

from immich_conch.errors import SettingsError

#: What is added to a variable's name to name the file with its value.
FILE_SUFFIX = "_FILE"

VALUE_BYTES = 64 * 2**10
"""What a value file may hold.  A value has some hundred bytes; `/dev/zero` has no end."""


def value_file(
    variable: str, environment: Mapping[str, str], *, empty_is_none: bool
) -> tuple[str, list[str]] | None:
    """The value of `variable` from the file that its twin names: the file and the value's lines.

    None where the twin is not set, or empty as compose files have it for "not set".  Both of them
    set is an error: nobody could say which was meant.  With `empty_is_none` an empty `variable`
    counts as not set.
    """
    twin = variable + FILE_SUFFIX
    path = environment.get(twin, "")
    if not path:
        return None
    given = environment.get(variable)
    if given is not None and (given or not empty_is_none):
        raise SettingsError(f"{twin}: {variable} is set as well; leave one of them out")
    return path, _value(twin, path)


def _value(twin: str, path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            data = file.read(VALUE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{twin}: {path} cannot be read: {error.strerror}") from None
    if len(data) > VALUE_BYTES:
        raise SettingsError(f"{twin}: {path} holds more than {VALUE_BYTES >> 10} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{twin}: {path} is no text in UTF-8") from None
    # Editors and `echo` end a file with a line end that is not part of the value.
    return text.rstrip("\r\n").splitlines() or [""]


def toml_file(path: str) -> dict[str, Any]:
    """What a TOML file holds."""
    try:
        with open(os.fspath(path), "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no TOML: {error}") from None
