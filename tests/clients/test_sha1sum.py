"""`ssh … sha1sum`: what rclone finds out about the server, and what comparing by hash costs."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from harness import Service, User, World, eventually, photo, posix
from meeting import RCLONES, VERSIONS, meet
from openssh import OpenSSH
from rclone import Rclone

DOWNLOAD = "GET /assets/{id}/original"
EMPTY = "da39a3ee5e6b4b0d3255bfef95601890afd80709  -\n"


def hexed(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def asked(world: World, what: str) -> int:
    """How often the demo was asked something so far."""
    return int(world.demo.counts()["requests"].get(what, 0))


def folder(directory: Path, count: int = 5) -> dict[str, bytes]:
    """A folder of files with times of their own, and with names that need quotes."""
    directory.mkdir(parents=True)
    contents = {f"IMG {number:03}.jpg": photo(50_000 + number) for number in range(count)}
    contents["größe '😀' $(x) \"&\" \\ ~.mp4"] = photo(300_000)
    for number, (name, data) in enumerate(contents.items()):
        (directory / name).write_bytes(data)
        os.utime(directory / name, (1.4e9 + number, 1.4e9 + number))
    return contents


# -- ssh -------------------------------------------------------------------------------------------


def test_sha1sum_prints_what_coreutils_prints(openssh: OpenSSH, world: World, user: User) -> None:
    contents = {"a.jpg": b"one", "b c's.jpg": b"two", "back\\slash.jpg": b"three"}
    user.album("Album ü", [user.asset(name, data) for name, data in contents.items()])
    paths = [f"/Album ü/{name}" for name in contents]
    done = openssh.ssh(world.later, user, "sha1sum", *map(shlex.quote, paths))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{hexed(b'one')}  /Album ü/a.jpg\n"
        f"{hexed(b'two')}  /Album ü/b c's.jpg\n"
        f"\\{hexed(b'three')}  /Album ü/back\\\\slash.jpg\n"
    )
    paths.insert(1, "/Album ü/none.jpg")
    done = openssh.ssh(world.later, user, "sha1sum", *map(shlex.quote, [*paths, "/Album ü"]))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 3
    assert done.stderr == (
        "sha1sum: /Album ü/none.jpg: No such file\n"
        "sha1sum: /Album ü: This is a folder, not a file.\n"
    )


def test_files_on_their_way_have_a_checksum(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Album")
    data = photo(70_000)
    (openssh.directory / "a.jpg").write_bytes(data)
    openssh.sftp(world.later, user, "put a.jpg Album/a.jpg\nput a.jpg Album/b.jpg.part")
    assert user.names("Album") == []
    done = openssh.ssh(world.later, user, "sha1sum", "Album/a.jpg", "/Album/b.jpg.part")
    assert done.stdout == f"{hexed(data)}  Album/a.jpg\n{hexed(data)}  /Album/b.jpg.part\n"
    # Or they keep their session for as long as this service waits for a time.
    openssh.sftp(world.later, user, "rm Album/a.jpg\nrm Album/b.jpg.part")


@pytest.mark.parametrize("command", ["sha1sum", "sha1sum -", "sha1sum  "])
def test_a_bare_sha1sum_ends_at_once_though_stdin_stays_open(
    openssh: OpenSSH, modern: World, modern_user: User, command: str
) -> None:
    done = _with_open_stdin(openssh, modern.later, modern_user, command)
    assert (done.stdout, done.returncode) == (EMPTY, 0)


@pytest.mark.parametrize(
    "command",
    ["md5sum", "md5 -r", "rclone sha1sum", "echo hello", "sha1sum a; rm b", "sha1sum $(ls)", "ls"],
)
def test_everything_else_is_refused_at_once(
    openssh: OpenSSH, modern: World, modern_user: User, command: str
) -> None:
    done = _with_open_stdin(openssh, modern.later, modern_user, command)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == "This is an SFTP service; there is no shell here.\n"


def _with_open_stdin(
    openssh: OpenSSH, service: Service, user: User, command: str
) -> subprocess.CompletedProcess[str]:
    """Run ssh with a stdin that nobody closes."""
    read, write = os.pipe()
    began = time.monotonic()
    try:
        done = openssh.ssh(service, user, command, stdin=read)
    finally:
        os.close(read)
        os.close(write)
    assert time.monotonic() - began < 20
    return done


# -- rclone ----------------------------------------------------------------------------------------


@meet(rclone=RCLONES, world=VERSIONS)
def test_rclone_compares_by_hash_without_a_download(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = folder(tmp_path / "Folder")
    rclone(world.later, user, "copy", "Folder", "there:Folder")
    assert user.names("Folder") == sorted(contents)
    before = asked(world, DOWNLOAD)
    sums = rclone(world.later, user, "hashsum", "sha1", "there:Folder").stdout
    assert sorted(sums.splitlines()) == sorted(
        f"{hexed(data)}  {name}" for name, data in contents.items()
    )
    checked = rclone(world.later, user, "check", "-vv", "Folder", "there:Folder").stderr
    assert "0 differences found" in checked
    assert "hashes could not be checked" not in checked
    # Of the same size, and other bytes.
    name = "IMG 000.jpg"
    (tmp_path / "Folder" / name).write_bytes(photo(len(contents[name])))
    os.utime(tmp_path / "Folder" / name, (1.4e9, 1.4e9))
    checked = rclone(world.later, user, "check", "Folder", "there:Folder", check=False).stderr
    assert "1 differences found" in checked
    assert f"{name}: sha1 differ" in checked
    assert asked(world, DOWNLOAD) == before
    config = next(tmp_path.glob("rclone-*.conf")).read_text()
    assert "shell_type = unix" in config and "sha1sum_command = sha1sum" in config
    assert "md5sum_command = none" in config


@meet(rclone=RCLONES, world=VERSIONS)
def test_rclone_transfers_nothing_the_second_time(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = folder(tmp_path / "Folder")
    rclone(world.later, user, "sync", "--checksum", "Folder", "there:Folder")
    uploads = asked(world, "POST /assets")
    again = rclone(world.later, user, "sync", "-vv", "--checksum", "Folder", "there:Folder").stderr
    assert "There was nothing to transfer" in again
    # With hashes a time that changed is only set, and kept.
    name = "IMG 001.jpg"
    os.utime(tmp_path / "Folder" / name, (1.6e9, 1.6e9))
    rclone(world.later, user, "sync", "Folder", "there:Folder")
    out = rclone(world.later, user, "lsf", "--format", "t", f"there:Folder/{name}").stdout
    assert out == "2020-09-13 12:26:40\n"
    again = rclone(world.later, user, "sync", "-vv", "Folder", "there:Folder").stderr
    assert "There was nothing to transfer" in again
    assert asked(world, "POST /assets") == uploads
    assert user.names("Folder") == sorted(contents)
    assert all(posix(asset["fileModifiedAt"]) < 1.5e9 for asset in user.inside("Folder"))
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")
