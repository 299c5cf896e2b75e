"""Views, as OpenSSH's sftp and rclone see and change them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Service, User, World, eventually, photo, run
from meeting import VERSIONS, meet
from openssh import OpenSSH
from rclone import remote

#: All views there are.
VIEWS = ["@Archive", "@Favorites", "@People", "@Tags", "@Timeline", "@Trash", "@Unsorted"]


def views(world: World) -> Service:
    """A service that shows all of them."""
    return world.service("views", "--settle", "0.5", "--views", "all")


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What `ls -1` listed."""
    return sorted(line for line in done.stdout.splitlines() if line and "sftp>" not in line)


def asset(user: User, name: str) -> dict[str, Any]:
    """The one asset of a name, wherever it is."""
    (found,) = [one for one in user.everything().values() if one["name"] == name]
    return found


def test_sftp_walks_through_all_views(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    data = photo(300_000)
    user.album("Rome", [user.asset("in.jpg", data, 1.6e9)])
    user.album("@Home")
    user.assets(["loose.jpg"], modified=1.5e9)
    service = views(world)
    assert lines(openssh.sftp(service, user, "ls -1")) == sorted([*VIEWS, "Rome", "＠Home"])
    done = openssh.sftp(
        service,
        user,
        "ls -1 @Unsorted\nls -1 @Timeline/2020/2020-09\nget @Timeline/2020/2020-09/in.jpg",
    )
    assert [Path(line).name for line in lines(done) if "/" in line] == ["in.jpg", "loose.jpg"]
    assert (tmp_path / "in.jpg").read_bytes() == data


def test_sftp_writes_into_views_and_restores_from_the_trash(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Rome")
    for name in ("liked.jpg", "tagged.jpg", "loose.jpg"):
        (tmp_path / name).write_bytes(photo(100_000))
    service = views(world)
    openssh.sftp(
        service,
        user,
        "put -p liked.jpg @Favorites/\n"
        "mkdir @Tags/Places\n"
        "mkdir @Tags/Places/Rome\n"
        "put tagged.jpg @Tags/Places/Rome/\n"
        "put -p loose.jpg @Unsorted/",
    )
    eventually(lambda: len(user.everything()) == 3, "three assets")
    assert asset(user, "liked.jpg")["favorite"]
    assert eventually(lambda: asset(user, "tagged.jpg")["tags"], "a tag") == ["Places/Rome"]
    openssh.sftp(service, user, "rm @Favorites/liked.jpg\nrm @Unsorted/loose.jpg")
    assert not asset(user, "liked.jpg")["favorite"]
    assert not asset(user, "liked.jpg")["trashed"]
    assert asset(user, "loose.jpg")["trashed"]
    denied = openssh.sftp(service, user, "rm @Trash/loose.jpg", check=False)
    assert denied.returncode
    openssh.sftp(service, user, "rename @Trash/loose.jpg Rome/back.jpg\nls @Trash")
    assert user.names("Rome") == ["loose.jpg"]
    assert lines(openssh.sftp(service, user, "ls -1 Rome")) == ["Rome/back.jpg"]
    refused = openssh.sftp(service, user, "rmdir @Tags/Places", check=False)
    assert refused.returncode


@pytest.fixture
def rclone(tool: Callable[[str], str], tmp_path: Path) -> Callable[..., str]:
    """The rclone that is installed."""
    program = tool("rclone")

    def call(service: Service, user: User, *arguments: str) -> str:
        config = tmp_path / "rclone.conf"
        config.write_text(remote(service, user))
        quick = ("--retries", "1", "--low-level-retries", "1")
        done = run([program, "--config", config, *quick, *arguments], cwd=tmp_path)
        return done.stdout + done.stderr

    return call


@meet(view=["@Unsorted", "@Favorites", "@Tags/Trips"], world=VERSIONS)
def test_a_second_rclone_sync_into_a_view_transfers_nothing(
    rclone: Callable[..., str], world: World, user: User, tmp_path: Path, view: str
) -> None:
    (tmp_path / "local").mkdir()
    for number in range(8):
        path = tmp_path / "local" / f"IMG {number}.jpg"
        path.write_bytes(photo(50_000 + number))
        os.utime(path, (1.4e9 + number, 1.4e9 + number))
    service = views(world)
    if view.startswith("@Tags"):
        rclone(service, user, "mkdir", f"there:{view}")
    rclone(service, user, "sync", "local", f"there:{view}")
    assert len(user.everything()) == 8
    again = rclone(service, user, "sync", "-v", "local", f"there:{view}")
    assert "Copied" not in again
    assert "Updated modification time" not in again
    (tmp_path / "local" / "IMG 3.jpg").unlink()
    rclone(service, user, "sync", "local", f"there:{view}")
    assert len(rclone(service, user, "lsf", f"there:{view}").splitlines()) == 7
    gone = asset(user, "IMG 3.jpg")
    assert gone["trashed"] == (view == "@Unsorted")
    assert not gone["favorite"]
    assert not gone["tags"]


def test_rclone_lists_a_large_view_whole(
    rclone: Callable[..., str], modern: World, modern_user: User
) -> None:
    names = [f"IMG_{number:05}.jpg" for number in range(5000)]
    modern_user.assets(names)
    listed = rclone(views(modern), modern_user, "lsf", "there:@Unsorted").splitlines()
    assert sorted(listed) == names
