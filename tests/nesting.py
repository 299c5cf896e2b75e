"""Folders in folders, as the tests of nested albums make them and look at them."""

from __future__ import annotations

import stat

import pytest
from rig import VERSIONS, Rig, Session

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)


def albums(r: Rig) -> list[str]:
    """The names of all albums in Immich."""
    return sorted(album.name for album in r.demo.state.albums.values())


async def mkdir(session: Session, path: str) -> None:
    await session.sftp.makeDirectory(path.encode(), {})


async def rmdir(session: Session, path: str) -> None:
    await session.sftp.removeDirectory(path.encode())


async def folders(session: Session, path: str = "/") -> list[str]:
    """The paths of all folders at and below one, sorted."""
    found = []
    for name, attributes in (await session.ls(path)).items():
        if stat.S_ISDIR(attributes["permissions"]):
            child = f"{path.rstrip('/')}/{name}"
            found += [child, *await folders(session, child)]
    return sorted(found)
