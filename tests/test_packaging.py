"""The wheel is whole: plugin, pictures, type marker; and twistd finds the plugin it installs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from immich_conch import __version__

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.rst", "LICENSE")
PACKAGES = ("immich_conch", "twisted")
#: Seconds that pip may take.
PIP = 240


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


@pytest.mark.slow
@pytest.mark.timeout(2 * PIP + 60)
def test_twistd_of_a_fresh_environment_lists_the_service(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    done = run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pip = environment / "bin" / "pip"
    done = run(pip, "install", "-q", wheel, cwd=tmp_path)
    if done.returncode:
        # No registry to be reached: what it depends on is lent by this environment.
        done = run(pip, "install", "-q", "--no-deps", wheel, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        site = sysconfig.get_path("purelib", vars={"base": str(environment)})
        (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = environment / "bin" / "python"
    start = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    listed = run(python, "-c", start, "--help", cwd=tmp_path)
    assert "immich-sftp" in listed.stdout, listed.stderr
    helped = run(python, "-m", "twisted", "immich-sftp", "--help", cwd=tmp_path)
    assert "--immich-host" in helped.stdout, helped.stderr
