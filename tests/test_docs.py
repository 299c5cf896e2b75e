"""What README says holds: its options, its defaults, its files, and the compose files it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from immich_conch import settings
from immich_conch.loading import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.rst"), *(ROOT / "docs").glob("*.rst")])
COMPOSE = sorted(ROOT.glob("compose*.yaml"))

#: Options that are not settings: twistd's own, and where the settings may lie.
OTHER_OPTIONS = {"help", "version", "config"}
#: Hosts that documents may name: reserved ones, those of compose files, and public projects.
HOSTS = re.compile(
    r"127\.0\.0\.1|([\w-]+\.)*example\.(com|org|net)|immich-server|immich\.app|github\.com"
    r"|docs\.twisted\.org"
)

ROW = re.compile(r"^``--([a-z-]+)``\s+``([A-Z_]+)``\s+(?:``(\S+)``|none)\s+\S", re.MULTILINE)
SHOWN_FLAG = {True: "yes", False: "no"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_heading_is_underlined_and_nothing_else_is(document: Path) -> None:
    lines = document.read_text().splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.fullmatch(r"={4,}|-{4,}|~{4,}", line):
            assert 0 < len(above) <= len(line), f"{above!r} above {line!r}"


def shown_options() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "twisted", "immich-sftp", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(re.findall(r"^ +(?:-\w, )?--([a-z-]+)", done.stdout, re.MULTILINE))


def test_readme_has_every_option_that_help_shows_and_no_other() -> None:
    documented = {match[1] for match in ROW.finditer(README)}
    assert documented | OTHER_OPTIONS == shown_options()


def _plain(option: str, shown: str | None) -> str | None:
    """A default as the setting's own parser reads it: `16M` in bytes, `on` as a flag's yes."""
    [field] = [one for one in settings.fields() if settings.option_name(one.name) == option]
    if shown is None or field.metadata["parse"] not in (settings.parse_size, settings.parse_switch):
        return shown
    value = field.metadata["parse"](shown)
    return SHOWN_FLAG[value] if isinstance(value, bool) else str(value)


def test_readme_tells_each_options_variable_and_default() -> None:
    told = {match[1]: (match[2], _plain(match[1], match[3])) for match in ROW.finditer(README)}
    defaults = load({"immich_host": "http://immich"}, {})
    expected = {}
    for field in settings.fields():
        value = getattr(defaults, field.name)
        if isinstance(value, bool):
            shown = SHOWN_FLAG[value]
        elif isinstance(value, int):
            shown = str(value)
        elif isinstance(value, float):
            shown = f"{value:g}"
        elif isinstance(value, tuple):
            numbers = all(isinstance(one, int) for one in value)
            shown = (":" if numbers else " ").join(map(str, value)) or None
        else:
            shown = value or None
        if field.name == "immich_host":
            shown = None
        if field.name == "time_zone":
            shown = "UTC"
        expected[settings.option_name(field.name)] = (settings.environment_name(field), shown)
    assert told == expected


def test_readme_names_options_that_exist() -> None:
    known = {settings.option_name(field.name) for field in settings.fields()} | OTHER_OPTIONS
    # Those of docker compose and pip come with a blank before them, ours in double backquotes.
    named = set(re.findall(r"``--([a-z-]+)", README))
    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_private_host_and_no_path_of_a_machine(document: Path) -> None:
    text = document.read_text()
    hosts = set(re.findall(r"\b\w+://([\w.-]+)", text))
    assert {host for host in hosts if not HOSTS.fullmatch(host)} == set()
    addresses = set(re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", text))
    assert addresses <= {"127.0.0.1", "203.0.113.7"}  # the second is for examples: RFC 5737
    assert not re.search(r"(?<![\w.~/])/(home|root|work|tmp|opt|srv|mnt|Users)/", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"<([^>:]+)>`_", document.read_text())
    assert [link for link in links if not (document.parent / link).is_file()] == []


def test_readme_lists_the_temporary_names_that_are_built_in() -> None:
    from immich_conch.library.names import DEFAULT_TEMPORARY

    [entry] = re.findall(r"^- A temporary name \((.*?)\) waits", README, re.MULTILINE | re.DOTALL)
    named = re.findall(r"``([^`]+)``", entry)
    assert tuple(named[: len(DEFAULT_TEMPORARY)]) == DEFAULT_TEMPORARY


def test_readme_shows_the_settle_time_that_is_the_default() -> None:
    assert f"settle time ({settings.Settings().settle:g} s)" in " ".join(README.split())


# -- API keys ------------------------------------------------------------------------------------


def permissions() -> dict[str, set[str]]:
    section = README.split("API keys\n--------")[1].split("SSH keys\n--------")[0]
    read, full = section.split("Full use\n")
    names = re.compile(r"``([a-zA-Z]+\.[a-z]+)``")
    first = set(names.findall(read))
    return {"read": first, "full": first | set(names.findall(full.split("\n\n")[0]))}


def test_readmes_permissions_are_immichs_names() -> None:
    """Each is asked for by a route of the demo, which the recordings hold to be Immich's."""
    text = "".join(path.read_text() for path in (ROOT / "immich_conch" / "demo").glob("*.py"))
    known = set(re.findall(r'"([a-zA-Z]+\.[a-z]+)"', text))
    assert permissions()["full"] <= known
    assert permissions()["read"] == {"user.read", "album.read", "asset.read", "asset.download"}


# -- compose files and image ----------------------------------------------------------------------


def entries(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and value of each line of the little YAML that the compose files are written in.

    Mappings of plain keys, lists of plain items, comments; anything else is an AssertionError.
    """
    above: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assert "\t" not in line, f"line {number}: a tab"
        indent = len(line) - len(line.lstrip())
        assert indent % 2 == 0, f"line {number}: odd indentation"
        while above and above[-1][0] >= indent:
            above.pop()
        assert indent == (above[-1][0] + 2 if above else 0), f"line {number}: a jump"
        match = re.fullmatch(r"([\w-]+):(?: (\S.*))?", line.strip())
        if line.strip().startswith("- "):
            key, value = "-", line.strip()[2:]
        else:
            assert match is not None, f"line {number}: neither a key nor an item"
            key, value = match[1], match[2] or ""
        if value.startswith('"'):
            value = json.loads(value)
        yield (*(name for _, name in above), key), value
        above.append((indent, key))


def variables() -> set[str]:
    return {settings.environment_name(field) for field in settings.fields()}


def snippet() -> str:
    """README's service for Immich's own compose file."""
    [block] = re.findall(r"compose file::\n\n((?:    .*\n|\n)+)", README)
    return re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


TEXTS = {path.name: path.read_text() for path in COMPOSE} | {"README": snippet()}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_compose_file_says_what_the_image_understands(name: str) -> None:
    service = ("services", "immich-sftp")
    found = list(entries(TEXTS[name]))
    environment = {path[-1] for path, _ in found if path[:3] == (*service, "environment")}
    environment.discard("environment")
    assert {"IMMICH_HOST", "TZ"} <= environment <= variables()
    ports = [value for path, value in found if path == (*service, "ports", "-")]
    assert ports == ["2222:22"]
    mounts = [value for path, value in found if path == (*service, "volumes", "-")]
    assert mounts == ["immich-sftp:/data"]
    assert ("volumes", "immich-sftp") in {path for path, _ in found}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_stopped_container_has_time_to_bring_uploads_in(name: str) -> None:
    found = dict(entries(TEXTS[name]))
    grace = found["services", "immich-sftp", "stop_grace_period"]
    assert int(grace.removesuffix("s")) > settings.Settings().stop_timeout


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_leaves_the_service_nothing_to_gain(path: Path) -> None:
    """A root file system that cannot be written to, no capability, no way to any."""
    service = ("services", "immich-sftp")
    found = [(key[2:], value) for key, value in entries(path.read_text()) if key[:2] == service]
    for expected in (
        (("read_only",), "true"),
        (("cap_drop", "-"), "ALL"),
        (("security_opt", "-"), "no-new-privileges:true"),
        (("ulimits", "core"), "0"),
    ):
        assert expected in found
    [tmpfs] = [value for key, value in found if key == ("tmpfs", "-")]
    assert {"noexec", "nosuid", "nodev"} <= set(tmpfs.partition(":")[2].split(","))
    names = {key[0] for key, _ in found if key}
    assert not names & {"privileged", "cap_add", "user", "devices", "network_mode", "pid"}


def test_the_compose_file_with_a_secret_in_it_says_what_the_service_understands() -> None:
    """The commented lines, taken in place of the variable as the comment says."""
    text = (ROOT / "compose.standalone.yaml").read_text()
    text = re.sub(r"^ +IMMICH_HOST: .*\n", "", text, flags=re.MULTILINE)
    assert text.count("# secret: ") == 6
    text = text.replace("# secret: ", "", 1).replace("# secret: ", "")
    found = dict(entries(text))
    service = ("services", "immich-sftp")
    name = found[(*service, "secrets", "-")]
    assert found[(*service, "environment", "IMMICH_HOST_FILE")] == f"/run/secrets/{name}"
    assert ("secrets", name, "file") in found


def test_readme_names_every_compose_file() -> None:
    named = set(re.findall(r"compose[.\w-]*\.yaml", README))
    # The first one is what docker compose takes by itself.
    assert named | {"compose.yaml"} == {path.name for path in COMPOSE}


def test_the_image_sets_variables_that_exist_and_keeps_its_data_on_the_volume() -> None:
    values = dict(re.findall(r"\b(IMMICH_\w+)=(\S+)", DOCKERFILE.split("# No root")[0]))
    assert set(values) <= variables()
    loaded = load({}, {**values, "IMMICH_HOST": "http://immich-server:2283", "TZ": ""})
    assert loaded.endpoint == ("tcp:22",)
    [volume] = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    for place in (loaded.host_key_dir, loaded.spool_dir):
        assert place.startswith(volume + "/")
        assert f"``{place}``" in README
    [user] = re.findall(r"^USER (\d+:\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"``chown {user}``" in README


def test_the_image_is_built_from_files_that_are_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        copied |= set(line.split())
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
