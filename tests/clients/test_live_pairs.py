"""Live photos with real clients: Immich links two uploaded halves behind the client's back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import User, World, eventually
from live_halves import motion, still
from meeting import RCLONES, VERSIONS, meet
from openssh import OpenSSH
from rclone import Rclone

COUNT = 3
TAKEN = 1_500_000_000


def halves(folder: Path, count: int = COUNT) -> list[str]:
    """Live photos as a phone's folder has them; their names, sorted."""
    folder.mkdir()
    for number in range(count):
        identifier = f"{folder.parent.name}-{number}"
        for name, data in (
            (f"IMG_{number}.JPG", still(identifier, identifier)),
            (f"IMG_{number}.MOV", motion(identifier, identifier)),
        ):
            (folder / name).write_bytes(data)
            os.utime(folder / name, (TAKEN, TAKEN))
    return sorted(path.name for path in folder.iterdir())


def linked(world: World, user: User, count: int = COUNT) -> None:
    """Wait until Immich has linked all of them: hidden, and out of the album."""

    def look() -> bool:
        found = user.everything().values()
        return sum(asset["livePhotoVideoId"] is not None for asset in found) == count

    eventually(look, lambda: f"linked halves: {user.everything()}")


@meet(which=RCLONES, world=VERSIONS)
def test_rclone_sync_finds_nothing_to_do_after_the_link(
    programs: Callable[[str], str],
    which: str,
    world: World,
    user: User,
    tmp_path: Path,
) -> None:
    rclone = Rclone(programs(which), tmp_path)
    names = halves(tmp_path / "phone")
    user.album("Phone")
    rclone(world.soon, user, "sync", tmp_path / "phone", "there:Phone")
    linked(world, user)
    assert all(name.endswith(".JPG") for name in user.names("Phone")), "Immich shows stills only"
    again = rclone(world.soon, user, "sync", "-v", tmp_path / "phone", "there:Phone").stderr
    assert "Copied" not in again
    assert "Deleted" not in again
    rclone(world.soon, user, "check", "--download", tmp_path / "phone", "there:Phone")
    listed = rclone(world.soon, user, "lsf", "there:Phone").stdout.split()
    assert sorted(listed) == names
    assert len(user.everything()) == len(names)


@pytest.mark.parametrize("order", [("JPG", "MOV"), ("MOV", "JPG")])
def test_openssh_moves_and_removes_both_halves_in_any_order(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path, order: tuple[str, str]
) -> None:
    halves(tmp_path / "phone", 1)
    user.album("Here")
    user.album("There")
    openssh.sftp(world.soon, user, "put -p phone/* Here/")
    linked(world, user, 1)
    moves = "\n".join(f"rename Here/IMG_0.{end} There/Pic.{end}" for end in order)
    openssh.sftp(world.soon, user, f"ls -1 Here\n{moves}\nget -p There/Pic.*")
    assert (tmp_path / "Pic.MOV").read_bytes() == (tmp_path / "phone/IMG_0.MOV").read_bytes()
    assert (tmp_path / "Pic.MOV").stat().st_mtime == TAKEN
    assert user.names("Here") == []
    listed = openssh.sftp(world.soon, user, "ls -1 Here\nls -1 There").stdout.split()
    assert [name for name in listed if "." in name] == ["There/Pic.JPG", "There/Pic.MOV"]
    openssh.sftp(world.soon, user, "\n".join(f"rm There/Pic.{end}" for end in order))
    listed = openssh.sftp(world.soon, user, "ls -1 There").stdout.split()
    assert [name for name in listed if "Pic" in name] == []
    trashed = {asset["name"]: asset["trashed"] for asset in user.everything().values()}
    assert trashed["IMG_0.JPG"]
