"""scp in its SFTP mode, which is the default since OpenSSH 9; the old protocol is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness import User, World, eventually, photo, posix, sha256
from openssh import OpenSSH

THERE = "127.0.0.1:"


def test_scp_up_and_down_is_the_same_file(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Summer trip")
    data = photo(3_000_000)
    (tmp_path / "a.jpg").write_bytes(data)
    before = time.time()
    openssh.scp(world.soon, user, "a.jpg", f"{THERE}Summer trip/")
    openssh.scp(world.soon, user, f"{THERE}Summer trip/a.jpg", "back.jpg")
    assert sha256(tmp_path / "back.jpg") == sha256(data)
    asset = user.uploaded("Summer trip", "a.jpg", data)
    assert before - 1 <= posix(asset["fileModifiedAt"]) <= time.time()


def test_scp_p_keeps_the_time_both_ways(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album")
    data = photo(300_000)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))
    openssh.scp(world.later, user, "-p", "a.jpg", f"{THERE}Album/")
    (asset,) = user.inside("Album")
    assert posix(asset["fileModifiedAt"]) == 1.4e9
    openssh.scp(world.later, user, "-p", f"{THERE}Album/a.jpg", "back.jpg")
    assert (tmp_path / "back.jpg").read_bytes() == data
    assert (tmp_path / "back.jpg").stat().st_mtime == 1.4e9


def test_scp_over_a_longer_file_leaves_nothing_of_it(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    old = user.asset("a.jpg", photo(400_000))
    user.album("Album", [old])
    data = photo(1000)
    (tmp_path / "a.jpg").write_bytes(data)
    openssh.scp(world.soon, user, "a.jpg", f"{THERE}Album/")
    user.uploaded("Album", "a.jpg", data)
    eventually(lambda: user.everything()[old]["trashed"] or None, "the old one in the trash")
    assert user.names("Album") == ["a.jpg"]


def test_scp_r_copies_a_folder_up_and_down(
    openssh: OpenSSH, world: World, user: User, tmp_path: Path
) -> None:
    folder = tmp_path / "Folder"
    folder.mkdir()
    contents = {f"IMG {number}.jpg": photo(10_000) for number in range(12)}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1.4e9, 1.4e9))
    openssh.scp(world.later, user, "-rp", "Folder", f"{THERE}/")
    assert user.names("Folder") == sorted(contents)
    folder.rename(tmp_path / "Sent")
    openssh.scp(world.later, user, "-rp", f"{THERE}/Folder", ".")
    for name, data in contents.items():
        assert (folder / name).read_bytes() == data


def test_the_old_scp_protocol_is_refused_at_once(
    openssh: OpenSSH, modern: World, modern_user: User, tmp_path: Path
) -> None:
    modern_user.album("Album", modern_user.assets(["a.jpg"]))
    (tmp_path / "b.jpg").write_bytes(photo(100))
    for arguments in (("b.jpg", f"{THERE}Album/"), (f"{THERE}Album/a.jpg", "got.jpg")):
        done = openssh.scp(modern.soon, modern_user, "-O", *arguments, check=False, limit=15)
        assert done.returncode != 0
    assert modern_user.names("Album") == ["a.jpg"]
