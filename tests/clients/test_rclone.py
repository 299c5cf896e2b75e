"""rclone, as Debian packages it (1.60: final names) and as it is now (`.partial`, then a rename).

rclone sends the time after CLOSE, and compares sizes and times on its next run: what it finds
changed then it transfers again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness import User, World, eventually, photo, posix, sha256
from meeting import RCLONES, VERSIONS, meet
from rclone import Rclone

MIB = 2**20


def folder(directory: Path, count: int = 10, size: int = 100_000) -> dict[str, bytes]:
    """A folder of files with times of their own."""
    directory.mkdir(parents=True)
    contents = {f"IMG {number:03}.jpg": photo(size + number) for number in range(count)}
    contents["größe 😀.mp4"] = photo(3 * MIB)
    for number, (name, data) in enumerate(contents.items()):
        (directory / name).write_bytes(data)
        os.utime(directory / name, (1.4e9 + number, 1.4e9 + number))
    return contents


@meet(rclone=RCLONES, world=VERSIONS)
def test_copy_up_then_check_then_copy_again_transfers_nothing(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = folder(tmp_path / "Folder")
    rclone(world.later, user, "copy", "Folder", "there:Folder")
    assert user.names("Folder") == sorted(contents)
    for asset in user.inside("Folder"):
        local = tmp_path / "Folder" / asset["name"]
        assert posix(asset["fileModifiedAt"]) == local.stat().st_mtime
    rclone(world.later, user, "check", "--size-only", "Folder", "there:Folder")
    rclone(world.later, user, "check", "--download", "Folder", "there:Folder")
    before = world.demo.counts()["requests"]
    again = rclone(world.later, user, "copy", "-vv", "Folder", "there:Folder").stderr
    assert "There was nothing to transfer" in again
    after = world.demo.counts()["requests"]
    assert after.get("POST /assets", 0) == before.get("POST /assets", 0)
    assert world.later.spooled() == []


@meet(rclone=RCLONES, world=VERSIONS)
def test_sync_down_is_the_same_folder(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = {f"IMG {number}.jpg": photo(50_000) for number in range(20)}
    contents["one.jpg"] = b"1"
    ids = [user.asset(name, data, 1.5e9) for name, data in contents.items()]
    user.album("Album ü", ids)
    rclone(world.later, user, "sync", "there:Album ü", "Down")
    for name, data in contents.items():
        assert (tmp_path / "Down" / name).read_bytes() == data
        assert (tmp_path / "Down" / name).stat().st_mtime == 1.5e9
    again = rclone(world.later, user, "sync", "-vv", "there:Album ü", "Down").stderr
    assert "There was nothing to transfer" in again


@meet(rclone=RCLONES, world=VERSIONS)
def test_listing_and_ranges(rclone: Rclone, world: World, user: User) -> None:
    data = "".join(chr(33 + number % 90) for number in range(200_000))
    user.album("Album", [user.asset("a.jpg", data.encode(), 1.5e9)])
    out = rclone(world.later, user, "lsf", "--format", "pst", "there:", "-R").stdout
    assert "Album/a.jpg;200000;2017-07-14 02:40:00" in out
    part = rclone(
        world.later, user, "cat", "--offset", "70000", "--count", "70001", "there:Album/a.jpg"
    )
    assert part.stdout == data[70000:140001]
    tail = rclone(world.later, user, "cat", "--tail", "9", "there:Album/a.jpg").stdout
    assert tail == data[-9:]


@meet(rclone=RCLONES, world=VERSIONS)
def test_a_changed_file_replaces_the_old_one(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    old = user.asset("a.jpg", photo(400_000), 1.3e9)
    user.album("Folder", [old])
    (tmp_path / "Folder").mkdir()
    data = photo(90_000)
    (tmp_path / "Folder" / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "Folder" / "a.jpg", (1.4e9, 1.4e9))
    rclone(world.later, user, "copy", "Folder", "there:Folder")
    asset = user.uploaded("Folder", "a.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9
    assert user.names("Folder") == ["a.jpg"]
    assert user.everything()[old]["trashed"]


@meet(rclone=RCLONES, world=VERSIONS)
def test_copyto_rcat_and_touch(rclone: Rclone, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(10_000)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))
    rclone(world.later, user, "copyto", "a.jpg", "there:Album/renamed on the way.jpg")
    asset = user.uploaded("Album", "renamed on the way.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9


@meet(rclone=RCLONES, world=VERSIONS)
def test_delete_and_purge(rclone: Rclone, world: World, user: User) -> None:
    one, two, three = user.assets(["a.jpg", "b.jpg", "c.jpg"])
    user.album("Album", [one, two])
    user.album("Other", [two, three])
    rclone(world.later, user, "purge", "there:Album")
    everything = user.everything()
    assert everything[one]["trashed"]
    assert not everything[two]["trashed"]
    rclone(world.later, user, "deletefile", "there:Other/b.jpg")
    assert user.everything()[two]["trashed"]
    rclone(world.later, user, "mkdir", "there:New")
    rclone(world.later, user, "rmdir", "there:New")
    assert [album["name"] for album in user.albums()] == ["Other"]


@meet(rclone=RCLONES, world=VERSIONS)
def test_a_refused_type_fails_and_the_others_arrive(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = folder(tmp_path / "Folder", 3)
    (tmp_path / "Folder" / "notes.txt").write_bytes(b"text")
    done = rclone(world.later, user, "copy", "Folder", "there:Folder", check=False)
    assert done.returncode != 0
    assert "notes.txt" in done.stderr
    assert user.names("Folder") == sorted(contents)


@meet(rclone=RCLONES, world=VERSIONS)
def test_over_quota_fails_and_leaves_nothing(rclone: Rclone, world: World, tmp_path: Path) -> None:
    user = world.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    done = rclone(world.later, user, "copy", "a.jpg", "there:Album", check=False)
    assert done.returncode != 0
    assert user.everything() == {}
    assert rclone(world.later, user, "lsf", "there:Album").stdout == ""
    about = rclone(world.later, user, "about", "there:").stdout
    assert "48 KiB" in about


def test_a_large_file_both_ways(
    rclone: Rclone, modern: World, modern_user: User, tmp_path: Path
) -> None:
    user = modern_user
    user.album("Album")
    with (tmp_path / "big.mp4").open("wb") as file:
        for _ in range(64):
            file.write(photo(MIB))
    rclone(modern.later, user, "copy", "big.mp4", "there:Album")
    user.uploaded("Album", "big.mp4", tmp_path / "big.mp4")
    # Big downloads come as ranges on several connections; small here, to be quick.
    ranges = ["--multi-thread-streams", "4", "--multi-thread-cutoff", "8M"]
    rclone(modern.later, user, "copy", *ranges, "there:Album/big.mp4", "Down")
    assert sha256(tmp_path / "Down" / "big.mp4") == sha256(tmp_path / "big.mp4")


@meet(rclone=RCLONES, world=VERSIONS)
def test_an_immich_that_is_away_fails_the_copy_and_the_next_one_mends_it(
    rclone: Rclone, world: World, user: User, tmp_path: Path
) -> None:
    contents = folder(tmp_path / "Folder", 2)
    user.album("Folder")
    world.demo.fault("refuse", method="POST", route="/assets", count=None)
    done = rclone(world.later, user, "copy", "Folder", "there:Folder", check=False)
    assert done.returncode != 0
    assert user.names("Folder") == []
    world.demo.clear_faults()
    rclone(world.later, user, "copy", "Folder", "there:Folder")
    rclone(world.later, user, "check", "--download", "Folder", "there:Folder")
    # What was whole and durable when Immich went away gets there without the client.
    eventually(
        lambda: user.names("Folder") == sorted(contents) or None,
        lambda: f"all files: {user.names('Folder')}",
    )


def test_rclone_is_told_no_md5(
    rclone: Rclone, modern: World, modern_user: User, tmp_path: Path
) -> None:
    modern_user.album("Album", [modern_user.asset("a.jpg", b"content")])
    done = rclone(modern.later, modern_user, "hashsum", "md5", "there:Album", check=False)
    assert not re.search(r"[0-9a-f]{32}", done.stdout)
    eventually(lambda: modern.sessions() == 0 or None, "no session left at Immich")
