"""What the tests of trust share: worlds of their own to be killed, cut and filled up.

They drive `twistd` and the demo as the tests of clients do, and use the same harness.  A slice of
them runs with every test run; `IMMICH_CONCH_TEST_FULL=1 pytest tests/trust` runs the whole.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from harness import World
from openssh import OpenSSH

#: Whether everything is asked for and not the slice.
FULL = bool(os.environ.get("IMMICH_CONCH_TEST_FULL"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here drives a real service over a real connection."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("clients")


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether everything is asked for and not the slice."""
    return FULL


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds that nobody shares; what they logged is looked at in the end."""
    made: list[World] = []

    def make(version: str = "3.1.0") -> World:
        name = f"world-{len(made)}"
        made.append(World(version, tmp_path / name, tmp_path / "host-keys"))
        return made[-1]

    yield make
    complaints = []
    for world in made:
        complaints += world.complaints()
        world.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the tests of a module that leave it as it was."""
    directory = tmp_path_factory.mktemp("shared")
    world = World("3.1.0", directory / "world", directory / "host-keys")
    yield world
    complaints = world.complaints()
    world.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    """OpenSSH's clients with a password at hand."""
    if shutil.which("sftp") is None:
        pytest.skip("sftp is not installed")
    return OpenSSH.make(tmp_path)
