"""sshfs: a mounted library.  It needs FUSE, which not every machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from harness import Service, User, World, eventually, photo, posix, run

MIB = 2**20

Mounted = Callable[[Service, User], AbstractContextManager[Path]]


@pytest.fixture(scope="session")
def sshfs(request: pytest.FixtureRequest, tool: Callable[[str], str]) -> str:
    """sshfs, on a machine where FUSE runs."""
    program = tool("sshfs")
    here = Path(__file__).parents[1] / "conftest.py"
    fuse = request.config.pluginmanager.get_plugin(str(here))
    assert fuse is not None
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"{fuse.FUSE}: {error}")
    return program


@pytest.fixture
def mounted(sshfs: str, request: pytest.FixtureRequest, tmp_path: Path) -> Mounted:
    """Mounts a user's library."""

    @contextmanager
    def mount(service: Service, user: User) -> Iterator[Path]:
        place = tmp_path / "mnt"
        place.mkdir()
        options = (
            "password_stdin,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,"
            f"port={service.port}"
        )
        run(
            [sshfs, "-F", "/dev/null", "-o", options, f"{user.email}@127.0.0.1:/", place],
            cwd=tmp_path,
            text=user.password + "\n",
        )
        try:
            yield place
        finally:
            unmount = shutil.which("fusermount3") or shutil.which("fusermount") or "umount"
            command = [unmount, *(["-u"] if "fusermount" in unmount else []), str(place)]
            subprocess.run(command, check=False, timeout=30)

    return mount


def test_the_library_as_a_file_system(
    mounted: Mounted, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user = modern_user
    data = photo(3 * MIB)
    user.album("Album", [user.asset("a.jpg", data, 1.5e9)])
    (tmp_path / "b.jpg").write_bytes(photo(MIB))
    os.utime(tmp_path / "b.jpg", (1.4e9, 1.4e9))
    with mounted(modern.later, user) as place:
        assert os.listdir(place) == ["Album"]
        assert run(["ls", "-l", place / "Album"], cwd=tmp_path).stdout.count("a.jpg") == 1
        run(["cp", "-p", place / "Album" / "a.jpg", tmp_path / "got.jpg"], cwd=tmp_path)
        assert (tmp_path / "got.jpg").read_bytes() == data
        assert (tmp_path / "got.jpg").stat().st_mtime == 1.5e9
        run(["cp", "-p", tmp_path / "b.jpg", place / "Album" / "b.jpg"], cwd=tmp_path)
        asset = user.uploaded("Album", "b.jpg", tmp_path / "b.jpg")
        assert posix(asset["fileModifiedAt"]) == 1.4e9
        run(["rm", place / "Album" / "a.jpg"], cwd=tmp_path)
        run(["mkdir", place / "New"], cwd=tmp_path)
    assert user.names("Album") == ["b.jpg"]
    assert sorted(album["name"] for album in user.albums()) == ["Album", "New"]


def test_cp_without_a_time(
    mounted: Mounted, modern: World, modern_user: User, tmp_path: Path
) -> None:
    modern_user.album("Album")
    (tmp_path / "b.jpg").write_bytes(photo(MIB))
    with mounted(modern.soon, modern_user) as place:
        run(["cp", tmp_path / "b.jpg", place / "Album" / "b.jpg"], cwd=tmp_path)
        run(["df", place], cwd=tmp_path)
        modern_user.uploaded("Album", "b.jpg", tmp_path / "b.jpg")
    eventually(lambda: modern.sessions() == 0 or None, "no session left at Immich")


def _albums_of(user: User, asset: str) -> list[str]:
    """The own albums that hold an asset."""
    return sorted(
        album["name"]
        for album in user.albums()
        if any(entry["id"] == asset for entry in album["assets"])
    )


def test_links_moves_and_the_space(mounted: Mounted, modern: World, tmp_path: Path) -> None:
    user = modern.user(quota=2**30)
    asset = user.asset("a.jpg", photo(3 * 2**20), 1.4e9)
    user.album("Rome", [asset])
    user.album("Best")
    with mounted(modern.later, user) as place:
        size = os.statvfs(place)
        assert size.f_blocks * size.f_frsize == 2**30
        assert size.f_bavail * size.f_frsize == 2**30 - 3 * 2**20
        out = run(["df", "-k", place], cwd=tmp_path).stdout
        assert f" {2**20} " in out
        os.link(place / "Rome" / "a.jpg", place / "Best" / "b.jpg")
        assert _albums_of(user, asset) == ["Best", "Rome"]
        os.unlink(place / "Rome" / "a.jpg")
        run(["mv", place / "Best" / "b.jpg", place / "Rome" / "c.jpg"], cwd=tmp_path)
        assert os.listdir(place / "Rome") == ["c.jpg"]
    assert _albums_of(user, asset) == ["Rome"]
    assert not user.everything()[asset]["trashed"]
