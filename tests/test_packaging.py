"""The wheel is whole: plugin, pictures, type marker; and twistd finds the plugin it installs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from immich_conch import __version__

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.rst", "LICENSE")
PACKAGES = ("immich_conch", "twisted")
#: Seconds that pip may take.
PIP = 60


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PIP,
        check=False,
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by hatchling in a copy of the sources that holds a plugin cache."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    (source / "twisted" / "plugins" / "dropin.cache").write_bytes(b"of another machine")
    target = tmp_path_factory.mktemp("wheel")
    # In an isolated environment pip fetches hatchling, which no registry may be there for.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation),
        *("-w", target, source),
        cwd=source,
    )
    assert done.returncode == 0, done.stderr
    [built] = target.iterdir()
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_no_plugin_cache(wheel: Path) -> None:
    assert wheel.name.startswith(f"immich_conch-{__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        pictures = [name for name in names if "/pictures/" in name]
        assert all(archive.getinfo(name).file_size > 0 for name in pictures)
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "dropin.cache"
    }
    assert names == expected
    assert "twisted/plugins/immich_conch_plugin.py" in names
    assert "immich_conch/py.typed" in names
    assert len(pictures) > 10
    # With an __init__ of its own it would hide Twisted.
    assert not [name for name in names if name.startswith("twisted/") and "__init__" in name]


def needed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that these requirements name, and those that they need."""
    found: dict[str, Distribution] = {}
    waiting = [(text, "") for text in requirements]
    seen = set(waiting)
    while waiting:
        text, extra = waiting.pop()
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        there = found.setdefault(one.name, distribution(one.name))
        assert one.specifier.contains(there.version), text
        for extra in ("", *one.extras):
            more = [(text, extra) for text in there.requires or ()]
            waiting += [entry for entry in more if entry not in seen]
            seen.update(more)
    return found


def lend(requirements: Iterable[str], site: Path) -> None:
    """Link what these requirements need, and nothing else, into another environment."""
    for one in needed(requirements).values():
        for file in one.files or ():
            source, target = Path(str(one.locate_file(file))), site / file
            if ".." not in file.parts and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)


@pytest.mark.slow
def test_twistd_of_a_fresh_environment_lists_the_service(wheel: Path, tmp_path: Path) -> None:
    """In it are the wheel and what the wheel says that it needs."""
    environment = tmp_path / "venv"
    done = run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    done = run(*pip, "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (metadata,) = site.glob("immich_conch-*.dist-info")
    lend(PathDistribution(metadata).requires or (), site)
    start = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    listed = run(python, "-c", start, "--help", cwd=tmp_path)
    assert "immich-sftp" in listed.stdout, listed.stderr
    helped = run(python, "-m", "twisted", "immich-sftp", "--help", cwd=tmp_path)
    assert "--immich-host" in helped.stdout, helped.stderr
