"""Options, environment and TOML file become Settings, or one line that says what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from immich_conch.errors import SettingsError
from immich_conch.loading import load
from immich_conch.settings import Settings, environment_name, fields
from immich_conch.sources import VALUE_BYTES

HOST = {"IMMICH_HOST": "http://immich:2283"}


def test_the_originals_variables_are_enough() -> None:
    found = load({}, {**HOST, "TZ": "Europe/Berlin"})
    assert found.immich_host == "http://immich:2283"
    assert found.endpoint == ("tcp:2222",)
    moment = datetime(2026, 7, 1, tzinfo=UTC)
    assert moment.astimezone(found.time_zone).utcoffset() == timedelta(hours=2)


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "conch.toml"
    file.write_text('settle = 1\nfreshness = 1.5\nspool-dir = "a"\nimmich_host = "http://a"\n')
    environment = {"IMMICH_CONCH_SETTLE": "2", "IMMICH_CONCH_SPOOL_DIR": "b"}
    found = load({"spool_dir": "c"}, environment, str(file))
    assert (found.settle, found.freshness, found.spool_dir) == (2, 1.5, "c")
    assert load({}, {"IMMICH_CONCH_CONFIG": str(file)}).spool_dir == "a"


@pytest.mark.parametrize(
    ("options", "environment", "place"),
    [
        ({"settle": "soon"}, {}, "--settle: must be a number"),
        ({"settle": "nan"}, {}, "--settle: must be a number"),
        ({"settle": "-1"}, {}, "--settle: must be a number"),
        ({}, {"IMMICH_CONCH_SETTLE": "inf"}, "IMMICH_CONCH_SETTLE: must be a number"),
        ({}, {"IMMICH_CONCH_SETTEL": "5"}, "IMMICH_CONCH_SETTEL: there is no such setting"),
        ({}, {"IMMICH_CONCH_READ_ONLY": "maybe"}, "IMMICH_CONCH_READ_ONLY: must be yes or no"),
        ({}, {"TZ": "Mars/Olympus"}, "TZ: is no time zone"),
        ({}, {"TZ": "+25:00"}, "TZ: is no offset"),
        ({"immich_host": "immich:2283"}, {}, "--immich-host: must be a URL"),
        ({"immich_host": "http://u:p@immich"}, {}, "--immich-host: must be a plain URL"),
        ({"immich_host": "http://immich:x"}, {}, "--immich-host: is no URL"),
        ({"max_startups": "10:30"}, {}, "--max-startups: must look like"),
        ({"max_startups": "10:101:100"}, {}, "--max-startups: must have a rate"),
        ({"max_startups": "10:30:5"}, {}, "--max-startups: must have a rate"),
        ({"max_startups": "-1"}, {}, "--max-startups: must look like"),
        ({"ban_scores": "root=5"}, {}, "--ban-scores: gives no points for 'root'"),
        ({"ban_scores": "limit"}, {}, "--ban-scores: must give limit a number"),
        ({"ban_observation": "0"}, {}, "--ban-observation: must be more"),
        ({"login_memory": "61"}, {}, "--login-memory: must be 60"),
        ({"login_rate": "x"}, {}, "--login-rate: must be a number,"),
        ({"allow_networks": "10.0.0.1/8"}, {}, "--allow-networks: holds '10.0.0.1/8'"),
        ({"deny_networks": "everybody"}, {}, "--deny-networks: holds 'everybody'"),
        ({"addresses": "maybe"}, {}, "--addresses: must be auto, real or hidden"),
        ({"demo": "yes"}, {}, "--demo: "),
        ({"password_login": "off"}, {}, "--password-login: off, and without --users-file nobody"),
        ({"demo_version": "1.0.0"}, {}, "--demo-version: "),
    ],
)
def test_what_is_wrong_is_refused_with_place_and_reason(
    options: dict[str, str], environment: dict[str, str], place: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(options, {**HOST, **environment})
    assert str(caught.value).startswith(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("settel = 5", "settel: there is no such setting"),
        ("settle = true", "settle: must be a number"),
        ("settle = [1, 2]", "settle: must be a number"),
        ("[settle]\nx = 1", "settle: must be a text"),
        ("settle", "is no TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "conch.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({}, HOST, str(file))
    assert str(caught.value).startswith(str(file))
    assert reason in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load({}, HOST, str(tmp_path / "none.toml"))


def test_without_a_host_nothing_starts_and_an_empty_one_counts_as_none() -> None:
    for environment in ({}, {"IMMICH_HOST": "", "TZ": ""}):
        with pytest.raises(SettingsError, match="--immich-host: missing"):
            load({}, environment)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://immich:2283/", "http://immich:2283"),
        ("http://immich:2283/api", "http://immich:2283"),
        ("https://example.com/immich/api/", "https://example.com/immich"),
        (" http://[::1]:2283 ", "http://[::1]:2283"),
    ],
)
def test_a_host_may_end_in_api_or_a_slash(given: str, kept: str) -> None:
    assert load({"immich_host": given}, {}).immich_host == kept


@pytest.mark.parametrize("text", ["+02:00", "UTC+2", "gmt+0200", ":Africa/Cairo", "UTC", "-0530"])
def test_a_zone_is_a_name_or_an_offset(text: str) -> None:
    assert load({"time_zone": text}, HOST).time_zone is not None


def test_lists_come_from_every_source(tmp_path: Path) -> None:
    file = tmp_path / "conch.toml"
    file.write_text('endpoint = ["tcp:22", "tcp6:22"]\ntemporary = ["*.x", "*.y"]\n')
    found = load({}, HOST, str(file))
    assert found.endpoint == ("tcp:22", "tcp6:22")
    assert found.temporary == ("*.x", "*.y")
    found = load({"endpoint": ["tcp:1", "tcp:2"]}, {**HOST, "IMMICH_CONCH_TEMPORARY": "*.x, *.y"})
    assert found.endpoint == ("tcp:1", "tcp:2")
    assert found.temporary == ("*.x", "*.y")


def test_variables_of_the_tests_are_nobodys_mistake() -> None:
    assert load({}, {**HOST, "IMMICH_CONCH_TEST_URL": "http://x"}).settle == 5


@pytest.mark.parametrize("field", list(fields()), ids=lambda field: field.name)
def test_every_setting_has_a_variable_and_a_sentence(field: Any) -> None:
    assert environment_name(field).isupper()
    assert field.metadata["doc"].rstrip("]").endswith((".", ")", "2222"))


def test_the_demo_listens_for_this_machine_only() -> None:
    assert load({"demo": "yes"}, {}).endpoint == ("tcp:2222:interface=127.0.0.1",)
    assert isinstance(load({}, HOST), Settings)


@pytest.mark.parametrize("text", ["/", " - ", "", ">", "::"])
def test_what_may_stand_between_folders(text: str) -> None:
    """An empty one in the environment means none, not the default."""
    assert load({}, {**HOST, "IMMICH_CONCH_ALBUM_SEPARATOR": text}).album_separator == text


@pytest.mark.parametrize("text", [" ", "a", "~", " ~", "(", "\n", "∕", "→", "/\n"])
def test_what_names_are_shown_with_may_not_stand_between_folders(text: str) -> None:
    with pytest.raises(SettingsError, match="--album-separator"):
        load({"album_separator": text}, HOST)


# -- values in files: X_FILE -----------------------------------------------------------------------


def held(tmp_path: Path, data: bytes | str) -> str:
    """The path of a file that holds this."""
    file = tmp_path / "value"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(file)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_value_may_lie_in_a_file_as_docker_hands_over_secrets(tmp_path: Path, end: str) -> None:
    place = held(tmp_path, f"http://immich:2283{end}")
    assert load({}, {"IMMICH_HOST_FILE": place}).immich_host == "http://immich:2283"
    # An empty IMMICH_HOST is how compose files say "not set", and so is an empty file's name.
    found = load({}, {"IMMICH_HOST_FILE": place, "IMMICH_HOST": "", "TZ_FILE": ""})
    assert found.immich_host == "http://immich:2283"


def test_an_option_beats_a_value_in_a_file_and_that_beats_the_toml_file(tmp_path: Path) -> None:
    config = tmp_path / "conch.toml"
    config.write_text("settle = 1\nfreshness = 1.5\n")
    environment = {
        **HOST,
        "IMMICH_CONCH_CONFIG": str(config),
        "IMMICH_CONCH_SETTLE_FILE": held(tmp_path, "2\n"),
    }
    assert load({}, environment).settle == 2
    assert load({}, environment).freshness == 1.5
    assert load({"settle": "3"}, environment).settle == 3


def test_a_list_in_a_file_has_an_item_on_each_line(tmp_path: Path) -> None:
    place = held(tmp_path, "tcp:22\ntcp6:22\n")
    assert load({}, {**HOST, "IMMICH_CONCH_ENDPOINT_FILE": place}).endpoint == ("tcp:22", "tcp6:22")
    place = held(tmp_path, "*.x\n*.y, *.z\n")
    found = load({}, {**HOST, "IMMICH_CONCH_TEMPORARY_FILE": place})
    assert found.temporary == ("*.x", "*.y", "*.z")


@pytest.mark.parametrize("field", list(fields()), ids=lambda field: field.name)
def test_every_variable_has_a_twin_that_names_a_file(field: Any) -> None:
    """And no twin is a variable with a meaning of its own."""
    twin = environment_name(field) + "_FILE"
    assert twin not in {environment_name(other) for other in fields()}
    with pytest.raises(SettingsError, match=f"^{twin}: /nowhere/value cannot be read: "):
        load({}, {twin: "/nowhere/value"})


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("variable", "data", "reason"),
    [
        ("IMMICH_CONCH_SETTLE", SECRET, "is not what IMMICH_CONCH_SETTLE may be"),
        ("IMMICH_HOST", SECRET, "is not what IMMICH_HOST may be"),
        ("TZ", SECRET, "is not what TZ may be"),
        ("IMMICH_CONCH_VIEWS", SECRET, "is not what IMMICH_CONCH_VIEWS may be"),
        ("IMMICH_CONCH_SPOOL_DIR", SECRET + "\0", "is not what IMMICH_CONCH_SPOOL_DIR may be"),
        ("IMMICH_CONCH_SPOOL_DIR", b"\xff" + SECRET.encode(), "is no text in UTF-8"),
        ("IMMICH_CONCH_SPOOL_DIR", SECRET * VALUE_BYTES, "holds more than 64 KiB"),
    ],
)
def test_what_a_file_holds_is_in_no_error(
    tmp_path: Path, variable: str, data: bytes | str, reason: str
) -> None:
    """It may be the wrong file, with something secret in it."""
    with pytest.raises(SettingsError) as caught:
        load({}, {f"{variable}_FILE": held(tmp_path, data)})
    assert str(caught.value).startswith(f"{variable}_FILE: ")
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_and_a_file_with_it_are_one_too_many(tmp_path: Path) -> None:
    place = held(tmp_path, "http://immich:2283")
    with pytest.raises(SettingsError, match=r"^IMMICH_HOST_FILE: IMMICH_HOST is set as well"):
        load({}, {**HOST, "IMMICH_HOST_FILE": place})
    # An empty separator is a value.
    with pytest.raises(SettingsError, match=r"_SEPARATOR is set as well"):
        load(
            {},
            {
                **HOST,
                "IMMICH_CONCH_ALBUM_SEPARATOR": "",
                "IMMICH_CONCH_ALBUM_SEPARATOR_FILE": place,
            },
        )


def test_a_twin_of_nothing_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^IMMICH_CONCH_SETTEL_FILE: there is no such setting"):
        load({}, {**HOST, "IMMICH_CONCH_SETTEL_FILE": "x"})
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
        load({}, {**HOST, "IMMICH_CONCH_SETTLE_FILE": str(tmp_path)})


def test_a_nul_in_a_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "conch.toml"
    file.write_text('spool-dir = "a\\u0000b"')
    with pytest.raises(SettingsError, match="spool-dir: holds a NUL character"):
        load({}, HOST, str(file))


def test_no_setting_is_a_secret_for_options_are_seen_by_everybody_in_ps() -> None:
    """What is secret lies in files, and a setting names the file."""
    assert [field.name for field in fields() if not field.repr] == []


def test_limits_and_bans_are_read_as_administrators_write_them() -> None:
    found = load(
        {
            "max_startups": "10:30:60",
            "ban_scores": "bad-password=5, no-auth=0",
            "allow_networks": "192.168.0.0/16, 2001:db8::/32 203.0.113.7",
        },
        {**HOST, "IMMICH_CONCH_MAX_CONNECTIONS": "50"},
    )
    assert found.max_startups == (10, 30, 60) and found.max_connections == 50
    assert dict(found.ban_scores) == {"bad-password": 5, "no-auth": 0}
    assert [str(network) for network in found.allow_networks] == [
        "192.168.0.0/16",
        "2001:db8::/32",
        "203.0.113.7/32",
    ]
    assert load({"max_startups": "7"}, HOST).max_startups == (7, 100, 7)
    assert load({"max_startups": "0"}, HOST).max_startups == (0, 100, 0)
