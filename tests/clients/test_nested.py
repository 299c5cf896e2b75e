"""Trees of folders with OpenSSH's sftp and rclone: what they make, move and remove is albums."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from harness import User, World, photo
from openssh import OpenSSH
from rclone import Rclone

TREE = ("2023/Oslo/a.jpg", "2024/b.jpg", "2024/Rome/c.jpg", "2024/Rome/Night/d.jpg", "e.jpg")


@pytest.fixture
def rclone(programs: Callable[[str], str], tmp_path: Path) -> Rclone:
    """The installed rclone."""
    return Rclone(programs("installed"), tmp_path)


def local(directory: Path) -> dict[str, bytes]:
    """A tree of photos with times of their own."""
    contents = {name: photo(5_000) for name in TREE}
    for number, (name, data) in enumerate(contents.items()):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1.4e9 + number, 1.4e9 + number))
    return contents


def found(directory: Path) -> dict[str, bytes]:
    """The files below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def in_albums(user: User, top: str, contents: Mapping[str, bytes]) -> None:
    """Assert that a tree is in albums, each file in the one of its folder."""
    expected: dict[str, list[str]] = {}
    for name in contents:
        folder, _, last = f"{top}/{name}".rpartition("/")
        expected.setdefault(folder, []).append(last)
    shown = {album["name"]: user.names(album["name"]) for album in user.albums()}
    assert {name: inside for name, inside in shown.items() if inside} == expected
    for name, data in contents.items():
        folder, _, last = f"{top}/{name}".rpartition("/")
        user.uploaded(folder, last, data)


def test_rclone_copies_a_tree_up_and_down_again(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = local(tmp_path / "Trips")
    rclone(world.later, user, "copy", "Trips", "there:Photos/Trips")
    in_albums(user, "Photos/Trips", contents)
    rclone(world.later, user, "check", "--download", "Trips", "there:Photos/Trips")
    again = rclone(world.later, user, "copy", "-vv", "Trips", "there:Photos/Trips").stderr
    assert "There was nothing to transfer" in again
    rclone(world.later, user, "copy", "there:", "Down")
    assert found(tmp_path / "Down" / "Photos" / "Trips") == contents
    assert world.later.spooled() == []


def test_rclone_moves_a_tree_on_the_server(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = local(tmp_path / "Trips")
    rclone(world.later, user, "copy", "Trips", "there:Trips")
    before = world.demo.counts()["requests"]
    rclone(world.later, user, "moveto", "there:Trips", "there:Old/Journeys")
    in_albums(user, "Old/Journeys", contents)
    assert not [album for album in user.albums() if album["name"].startswith("Trips")]
    after = world.demo.counts()["requests"]
    assert after.get("POST /assets", 0) == before.get("POST /assets", 0)


def test_rclone_removes_a_tree_and_the_folders_that_vanish_with_it(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    local(tmp_path / "Trips")
    user.album("Keep/me", [user.asset("k.jpg")])
    rclone(world.later, user, "copy", "Trips", "there:All/Trips")
    rclone(world.later, user, "purge", "there:All")
    assert [album["name"] for album in user.albums()] == ["Keep/me"]
    assert sorted(rclone(world.later, user, "lsf", "-R", "there:").stdout.split()) == [
        "Keep/",
        "Keep/me/",
        "Keep/me/k.jpg",
    ]


def test_rclone_sync_makes_the_tree_the_same(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = local(tmp_path / "Trips")
    user.album("Trips/2020/Gone", [user.asset("gone.jpg")])
    rclone(world.later, user, "sync", "Trips", "there:Trips")
    in_albums(user, "Trips", contents)
    assert not [album for album in user.albums() if "2020" in album["name"]]


def test_openssh_puts_and_gets_a_tree(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    contents = local(tmp_path / "Trips")
    openssh.sftp(world.later, user, "put -pR Trips /")
    in_albums(user, "Trips", contents)
    openssh.sftp(world.later, user, "get -pR Trips Down")
    assert found(tmp_path / "Down") == contents
    # A second time nothing is new.
    openssh.sftp(world.later, user, "put -pR Trips /")
    in_albums(user, "Trips", contents)


def test_openssh_makes_renames_and_removes_nested_folders(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1_000))
    commands = (
        *("mkdir Trips", "mkdir Trips/2024", "mkdir Trips/2024/Rome"),
        *("cd Trips/2024/Rome", "put -p a.jpg", "cd ..", "rename Rome Roma", "cd /"),
        *("rename Trips Journeys", "ls -l Journeys/2024", "ls Journeys/2024/Roma"),
    )
    out = openssh.sftp(world.later, user, "\n".join(commands)).stdout
    assert "drwxr-xr-x" in out
    assert "Journeys/2024/Roma/a.jpg" in out
    assert sorted(album["name"] for album in user.albums()) == [
        "Journeys",
        "Journeys/2024",
        "Journeys/2024/Roma",
    ]
    for refused in ("rmdir Journeys/2024", "rename Journeys Journeys/2024/x", "mkdir Journeys"):
        assert openssh.sftp(world.later, user, refused, check=False).returncode == 1, refused
    commands = ("rm Journeys/2024/Roma/a.jpg", "rmdir Journeys/2024/Roma", "rmdir Journeys/2024")
    openssh.sftp(world.later, user, "\n".join((*commands, "rmdir Journeys")))
    assert user.albums() == []


def test_openssh_removes_folders_that_were_no_albums(
    openssh: OpenSSH, world: World, user: User
) -> None:
    user.album("Trips/2024/Rome", [user.asset("a.jpg")])
    openssh.sftp(
        world.later,
        user,
        "rm Trips/2024/Rome/a.jpg\nrmdir Trips/2024/Rome\nrmdir Trips/2024\nrmdir Trips",
    )
    assert user.albums() == []
    assert openssh.sftp(world.later, user, "rmdir Trips", check=False).returncode == 1


def test_another_separator_is_an_option(openssh: OpenSSH, modern: World, modern_user: User) -> None:
    user = modern_user
    user.album("Trips - Rome")
    dashes = modern.service("dashes", "--album-separator", " - ")
    out = openssh.sftp(dashes, user, "mkdir Trips/Oslo\nls -1 Trips").stdout
    assert "Trips/Oslo" in out
    assert "Trips/Rome" in out
    assert {album["name"] for album in user.albums()} == {"Trips - Rome", "Trips - Oslo"}
    none = modern.service("flat", "--album-separator", "")
    assert openssh.sftp(none, user, "mkdir Trips/x", check=False).returncode == 1
    assert "Trips - Oslo" in openssh.sftp(none, user, "ls -1").stdout
