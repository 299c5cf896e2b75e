"""What the image is made of: locked by hash, built as the Dockerfile says, listed in its SBOM.

There is no Docker engine where the tests run, so the Dockerfile's own lines are carried out in a
directory: COPY copies, RUN runs, with the two places that they name moved into it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from attrs import frozen
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from immich_conch import __version__

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(DEPLOY.glob("*.lock"))
#: Seconds that a step of the Dockerfile may take.
STEP = 300


@frozen
class Pin:
    """A line of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> Version:
        [specifier] = self.requirement.specifier
        assert specifier.operator == "=="
        return Version(specifier.version)


def pins(lock: Path) -> dict[str, Pin]:
    found: dict[str, Pin] = {}
    for line in lock.read_text().replace("\\\n", " ").splitlines():
        if not line or line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+--hash=", line.strip())
        pin = Pin(Requirement(text), tuple(hashes))
        name = canonicalize_name(pin.requirement.name)
        assert name not in found, f"{name} is locked twice"
        found[name] = pin
    return found


RUNTIME = pins(DEPLOY / "requirements.lock")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_everything_by_hash_and_names_no_index(lock: Path) -> None:
    for pin in pins(lock).values():
        assert pin.version
        assert pin.hashes, f"{pin.requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in pin.hashes)
        assert pin.requirement.url is None
    assert "://" not in lock.read_text()
    assert not re.search(r"^-|--(extra-)?index|--find", lock.read_text(), re.MULTILINE)


def wanted(requirements: list[str], extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """Those that are needed here, with these extras."""
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": one}) for one in extras or {""}):
            yield requirement


def test_the_lock_is_what_the_project_depends_on() -> None:
    """Directly, at a version that is allowed, and by way of what is installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(one, True) for one in wanted(PROJECT["project"]["dependencies"])]
    assert todo
    while todo:
        requirement, direct = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in RUNTIME, f"{name} is not locked"
        if direct:
            assert RUNTIME[name].version in requirement.specifier, f"{name} is locked too old"
        extras = frozenset(requirement.extras)
        if (name, extras) not in seen:
            seen.add((name, extras))
            below = metadata.distribution(name).requires or []
            todo += [(one, False) for one in wanted(below, extras | {""})]
    # What nobody asks for has no business in the image.  Markers may leave some out on this one.
    loose = {
        name
        for name, pin in RUNTIME.items()
        if pin.requirement.marker is None and name not in {one for one, _ in seen}
    }
    assert loose - {"typing-extensions"} == set()


def test_the_build_backend_is_locked() -> None:
    built_with = pins(DEPLOY / "build.lock")
    asked = [
        line for line in (DEPLOY / "build.in").read_text().split("\n") if line and line[0] != "#"
    ]
    assert {canonicalize_name(name) for name in asked} <= set(built_with)
    for text in PROJECT["build-system"]["requires"]:
        requirement = Requirement(text)
        assert built_with[canonicalize_name(requirement.name)].version in requirement.specifier


# -- the Dockerfile --------------------------------------------------------------------------------


def instructions() -> Iterator[tuple[int, str, str]]:
    """Stage, instruction and argument."""
    stage = 0
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        yield stage, word, " ".join(rest.split())


def test_nothing_is_installed_without_a_hash_or_from_an_index_nobody_named() -> None:
    installs = [
        command
        for _, word, rest in instructions()
        if word == "RUN"
        for command in rest.split("&&")
        if re.search(r"\bpip\b.* (install|wheel|download) ", command)
    ]
    assert len(installs) == 4
    for command in installs:
        own = command.rstrip().endswith(" .") or "dist/*.whl" in command
        assert "--no-deps" in command
        assert own or {"--require-hashes", "--only-binary=:all:"} <= set(command.split())
        if own:
            assert "--no-index" in command or "--no-build-isolation" in command


@frozen
class Image:
    """What the Dockerfile's first stage left behind, and how long that took."""

    environment: Path
    sbom: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The first stage, and the second one's check, carried out in a directory."""
    place = tmp_path_factory.mktemp("image")
    source = place / "src"
    source.mkdir()
    ours = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    for stage, word, rest in instructions():
        if word == "COPY" and stage == 1:
            *names, target = rest.split()
            for name in names:
                made = source / target
                if (ROOT / name).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
                    shutil.copytree(ROOT / name, made, ignore=ignored)
                else:
                    made.mkdir(exist_ok=True)
                    shutil.copy(ROOT / name, made)
        elif word == "RUN":
            command = rest.split("&& install -d -o")[0] if stage == 2 else rest
            command = command.replace("/opt/", f"{place}/")
            command = re.sub(r"(^|&& )python ", rf"\1{sys.executable} ", command)
            done = subprocess.run(
                ["/bin/sh", "-ec", command],
                cwd=source,
                env=ours,
                capture_output=True,
                text=True,
                timeout=STEP,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    environment = place / "immich-conch"
    return Image(environment, environment / "share/doc/immich-conch/sbom.cdx.json")


@pytest.mark.slow
@pytest.mark.timeout(3 * STEP)
def test_the_image_holds_what_is_locked_and_nothing_else(image: Image) -> None:
    [site] = image.environment.glob("lib/python*/site-packages")
    there = {
        canonicalize_name(found.name): Version(found.version)
        for found in metadata.distributions(path=[str(site)])
    }
    assert there.pop("immich-conch") == Version(__version__)
    assert there == {
        name: pin.version
        for name, pin in RUNTIME.items()
        if pin.requirement.marker is None or pin.requirement.marker.evaluate()
    }


@pytest.mark.slow
@pytest.mark.timeout(3 * STEP)
def test_the_sbom_lists_every_part_of_the_image(image: Image) -> None:
    sbom = json.loads(image.sbom.read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "immich-conch"
    listed = {canonicalize_name(component["name"]): component for component in sbom["components"]}
    for name, pin in RUNTIME.items():
        if pin.requirement.marker is None or pin.requirement.marker.evaluate():
            assert Version(listed[name]["version"]) == pin.version
            assert re.fullmatch(r"pkg:pypi/[\w.-]+@[\w.]+", listed[name]["purl"])
    # Where it was built is nobody's business.
    assert str(image.environment.parent) not in image.sbom.read_text()


@pytest.mark.slow
@pytest.mark.timeout(3 * STEP)
def test_the_image_serves_from_files_that_nobody_may_write(image: Image, tmp_path: Path) -> None:
    """With the Dockerfile's own command and variables, as if `/data` were a directory here."""
    [[_, _, command]] = [one for one in instructions() if one[1] == "CMD"]
    [[_, _, variables]] = [one for one in instructions() if one[1] == "ENV"]
    program, *options = json.loads(command)
    environment = dict(re.findall(r"(\w+)=(\S+)", variables.replace("/data", str(tmp_path))))
    # Port 22 is the container's own.
    environment["IMMICH_CONCH_ENDPOINT"] = "tcp:0:interface=127.0.0.1"
    environment["PATH"] = f"{image.environment / 'bin'}:/usr/bin:/bin"
    files = [path for path in image.environment.rglob("*") if not path.is_symlink()]
    before = {path: path.stat().st_mtime_ns for path in files}
    for path in files:
        path.chmod(path.stat().st_mode & 0o555)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [image.environment / "bin" / program, *options, "--demo"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 60
        while b"Immich 3.1.0 at" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
    finally:
        process.terminate()
        status = process.wait(60)
        for path in files:
            path.chmod(path.stat().st_mode | 0o200)
    assert status == -signal.SIGTERM
    assert "Traceback" not in log.read_text()
    assert (tmp_path / "host-keys").is_dir()
    # Nothing was written beside the program, not even by who may write anywhere.
    after = [path for path in image.environment.rglob("*") if not path.is_symlink()]
    assert {path: path.stat().st_mtime_ns for path in after} == before


# -- what CI makes of pip-audit -----------------------------------------------------------------


def audited(*dependencies: dict[str, object]) -> tuple[int, str]:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    status, lines = module.verdict({"dependencies": list(dependencies), "fixes": []})
    return int(status), "\n".join(lines)


CLEAN: dict[str, object] = {"name": "treq", "version": "1", "vulns": []}
HOLE: dict[str, object] = {
    "name": "twisted",
    "version": "1",
    "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["2"]}],
}
SKIPPED: dict[str, object] = {"name": "attrs", "skip_reason": "not found"}


def test_an_audit_fails_on_a_finding_and_on_what_was_left_out() -> None:
    assert audited(CLEAN) == (0, "1 packages audited")
    assert audited(CLEAN, HOLE)[0] == 1
    assert "PYSEC-2024-1, fixed in 2" in audited(HOLE)[1]
    assert audited(CLEAN, SKIPPED)[0] == 1
    assert audited()[0] == 1


def test_an_audit_that_audited_nothing_says_so() -> None:
    status, text = audited(SKIPPED)
    assert status == 0
    assert "could not run" in text
