"""Moves, links and copies within the server as clients make them: no bytes move, none are lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import User, World, eventually, photo
from meeting import RCLONES, VERSIONS, meet
from openssh import OpenSSH
from rclone import Rclone
from test_asyncssh import bounded
from test_asyncssh import sftp as asyncssh_sftp
from test_lftp import Lftp
from test_paramiko import sftp as paramiko_sftp

DOWNLOAD = "GET /assets/{id}/original"
UPLOAD = "POST /assets"


@pytest.fixture
def lftp(tool: Callable[[str], str], tmp_path: Path) -> Lftp:
    return Lftp(tool("lftp"), tmp_path)


def bytes_moved(world: World) -> int:
    """How many files were read from or written to Immich so far."""
    requests = world.demo.counts()["requests"]
    return int(requests.get(DOWNLOAD, 0)) + int(requests.get(UPLOAD, 0))


def albums_of(user: User, asset: str) -> list[str]:
    """The own albums that hold an asset."""
    return sorted(
        album["name"]
        for album in user.albums()
        if any(entry["id"] == asset for entry in album["assets"])
    )


# -- OpenSSH ---------------------------------------------------------------------------------------


def test_sftp_cp_and_ln_put_the_asset_into_the_other_album(
    openssh: OpenSSH, world: World, user: User
) -> None:
    data = photo(700_000)
    asset = user.asset("a.jpg", data, 1.4e9)
    user.album("Rome", [asset])
    user.album("Best")
    user.album("Linked")
    before = bytes_moved(world)
    openssh.sftp(
        world.later,
        user,
        "cp Rome/a.jpg Best/copied.jpg\nln Rome/a.jpg Linked/a.jpg\ncp Rome/a.jpg Rome/two.jpg",
    )
    assert albums_of(user, asset) == ["Best", "Linked", "Rome"]
    assert bytes_moved(world) == before
    listed = openssh.sftp(world.later, user, "ls -l Best\nls -l Linked\nls -l Rome").stdout
    assert listed.count("700000 May 13  2014") == 4
    openssh.sftp(world.later, user, "get Best/copied.jpg\nrm Rome/a.jpg")
    assert (openssh.directory / "copied.jpg").read_bytes() == data
    left = openssh.sftp(world.later, user, "ls -1 Best\nls -1 Linked\nls -1 Rome").stdout
    assert [line for line in left.splitlines() if line.endswith(".jpg")] == [
        "Best/copied.jpg",
        "Linked/a.jpg",
        "Rome/two.jpg",
    ]
    assert len(user.everything()) == 1


def test_sftp_cp_replaces_and_ln_does_not(openssh: OpenSSH, world: World, user: User) -> None:
    asset, old = user.asset("a.jpg", photo(5000)), user.asset("b.jpg", photo(4000))
    user.album("Rome", [asset])
    user.album("Best", [old])
    done = openssh.sftp(world.later, user, "ln Rome/a.jpg Best/b.jpg", check=False)
    assert done.returncode and albums_of(user, asset) == ["Rome"]
    openssh.sftp(world.later, user, "cp Rome/a.jpg Best/b.jpg")
    assert albums_of(user, asset) == ["Best", "Rome"]
    everything = user.everything()
    assert (everything[asset]["trashed"], everything[old]["trashed"]) == (False, True)
    assert openssh.sftp(world.later, user, "ls -1 Best").stdout.splitlines()[1:] == ["Best/b.jpg"]


def test_sftp_cp_of_a_file_on_its_way(openssh: OpenSSH, world: World, user: User) -> None:
    user.album("Rome")
    data = photo(900_000)
    (openssh.directory / "a.jpg").write_bytes(data)
    openssh.sftp(
        world.soon, user, "put a.jpg Rome/a.jpg\ncp Rome/a.jpg Rome/b.jpg\nln Rome/a.jpg Rome/c.jpg"
    )
    eventually(lambda: world.soon.spooled() == [] or None, "an empty spool")
    listed = openssh.sftp(world.soon, user, "ls -1 Rome").stdout.splitlines()[1:]
    assert listed == ["Rome/a.jpg", "Rome/b.jpg", "Rome/c.jpg"]
    # The same bytes: one asset by three names.
    assert len(user.everything()) == 1


def test_sftp_rename_between_albums(openssh: OpenSSH, world: World, user: User) -> None:
    asset, old = user.asset("a.jpg", photo(5000), 1.4e9), user.asset("b.jpg", photo(4000))
    user.album("Rome", [asset])
    user.album("Best", [old])
    openssh.sftp(world.later, user, "rename Rome/a.jpg Best/b.jpg")
    assert albums_of(user, asset) == ["Best"]
    assert user.everything()[old]["trashed"]
    # -l asks for the plain RENAME, which never replaces.
    done = openssh.sftp(world.later, user, "rename -l Best/b.jpg Rome/c.jpg\nls -l Rome")
    assert "c.jpg" in done.stdout and "5000 May 13  2014" in done.stdout


def test_df_shows_the_quota_else_the_disk(openssh: OpenSSH, world: World) -> None:
    limited = world.user(quota=2**30)
    limited.album("Rome", [limited.asset("a.jpg", photo(2**20))])
    out = openssh.sftp(world.later, limited, "df Rome").stdout.splitlines()[-1].split()
    assert [int(out[0]), int(out[1])] == [2**20, 2**10]
    free = world.user()
    out = openssh.sftp(world.later, free, "df").stdout.splitlines()[-1].split()
    assert int(out[0]) > 0 and out[-1].endswith("%")


def test_a_key_that_may_only_look_sees_a_read_only_library(
    openssh: OpenSSH, world: World, user: User
) -> None:
    user.album("Rome", [user.asset("a.jpg", photo(5000))])
    look = ("user.read", "album.read", "asset.read", "asset.download", "server.about")
    key = user.key(*look)
    out = openssh.sftp(world.later, user, "ls -la Rome\nls -l", password=key).stdout
    assert "-r--r--r--" in out and "dr-xr-xr-x" in out and "-rw" not in out
    (openssh.directory / "b.jpg").write_bytes(photo(10))
    for command, missing in (
        ("put b.jpg Rome/b.jpg", "asset.upload"),
        ("mkdir New", "album.create"),
        ("rm Rome/a.jpg", "asset.delete"),
    ):
        done = openssh.sftp(world.later, user, command, check=False, password=key)
        assert done.returncode and "denied" in done.stderr.lower(), missing
    assert openssh.sftp(world.later, user, "df", check=False, password=key).returncode
    assert user.names("Rome") == ["a.jpg"]
    assert "asset.upload" in world.later.text()


# -- rclone ----------------------------------------------------------------------------------------


@meet(rclone=RCLONES, world=VERSIONS)
def test_rclone_moves_files_between_albums_without_their_bytes(
    rclone: Rclone, world: World, user: User
) -> None:
    names = [f"IMG {number:03}.jpg" for number in range(40)]
    ids = user.assets(names, modified=1.4e9, size=2000)
    user.album("Rome", ids)
    kept = user.asset("kept.jpg", photo(10))
    user.album("Best", [kept])
    before = bytes_moved(world)
    rclone(world.later, user, "move", "there:Rome", "there:Best")
    assert user.names("Best") == sorted([*names, "kept.jpg"])
    assert user.inside("Rome") == [] if any(a["name"] == "Rome" for a in user.albums()) else True
    assert bytes_moved(world) == before
    rclone(world.later, user, "moveto", "there:Best/kept.jpg", "there:Best/other.jpg")
    assert "other.jpg" in rclone(world.later, user, "lsf", "there:Best").stdout
    assert not any(asset["trashed"] for asset in user.everything().values())


def test_rclone_copies_by_link_if_told_to(
    programs: Callable[[str], str], world: World, user: User, tmp_path: Path
) -> None:
    rclone = Rclone(programs("new"), tmp_path)  # the old one does not know how
    asset = user.asset("a.jpg", photo(5000), 1.4e9)
    user.album("Rome", [asset])
    user.album("Best")
    before = bytes_moved(world)
    rclone(world.later, user, "copy", "--sftp-copy-is-hardlink", "there:Rome", "there:Best")
    assert albums_of(user, asset) == ["Best", "Rome"]
    assert bytes_moved(world) == before


@meet(rclone=RCLONES, world=VERSIONS)
def test_rclone_moves_across_two_configurations_of_one_server(
    rclone: Rclone, world: World, user: User
) -> None:
    asset = user.asset("a.jpg", photo(5000), 1.4e9)
    user.album("Rome", [asset])
    user.album("Best")
    rclone(world.later, user, "lsf", "there:")
    (config,) = rclone.directory.glob("rclone-*.conf")
    config.write_text(config.read_text() + config.read_text().replace("[there]", "[again]"))
    flag = "--server-side-across-configs"
    rclone(world.later, user, "move", flag, "there:Rome", "again:Best")
    assert albums_of(user, asset) == ["Best"]
    assert not user.everything()[asset]["trashed"]


# -- lftp ------------------------------------------------------------------------------------------


def test_lftp_moves_one_and_many(lftp: Lftp, world: World, user: User) -> None:
    ids = user.assets(["a.jpg", "b.jpg", "c.jpg", "d.mp4"], size=2000)
    user.album("Rome", ids)
    user.album("Best")
    before = bytes_moved(world)
    lftp(world.later, user, "mv Rome/a.jpg Best/z.jpg; mmv Rome/*.jpg Best")
    assert user.names("Rome") == ["d.mp4"]
    assert [albums_of(user, one) for one in ids[:3]] == [["Best"]] * 3
    assert "z.jpg" in lftp(world.later, user, "cls -1 Best").stdout
    assert bytes_moved(world) == before
    assert not any(asset["trashed"] for asset in user.everything().values())


# -- the others ------------------------------------------------------------------------------------


def test_asyncssh_copies_within_the_server(world: World, user: User) -> None:
    data = photo(600_000)
    asset = user.asset("a.jpg", data, 1.4e9)
    user.album("Rome", [asset])
    user.album("Best")
    before = bytes_moved(world)

    async def work() -> None:
        async with asyncssh_sftp(world.later, user) as there:
            assert there.supports_remote_copy
            async with (
                there.open("Rome/a.jpg", "rb") as old,
                there.open("Best/b.jpg", "wb") as new,
            ):
                await there.remote_copy(old, new)
            await there.copy("Rome/a.jpg", "Best/c.jpg", preserve=True, remote_only=True)
            await there.link("Rome/a.jpg", "Best/d.jpg")
            entries = {entry.filename: entry.attrs for entry in await there.readdir("Best")}
            assert {name: attrs.size for name, attrs in entries.items()} == {
                "b.jpg": 600_000,
                "c.jpg": 600_000,
                "d.jpg": 600_000,
            }
            assert {attrs.mtime for attrs in entries.values()} == {int(1.4e9)}
            async with there.open("Rome/a.jpg", "rb") as file:
                assert (await file.statvfs()).blocks == (await there.statvfs("/")).blocks

    bounded(work())
    assert albums_of(user, asset) == ["Best", "Rome"]
    assert bytes_moved(world) == before


def test_paramiko_checks_a_file_without_reading_it(world: World, user: User) -> None:
    data = photo(600_000)
    user.album("Rome", [user.asset("a.jpg", data, 1.4e9)])
    before = bytes_moved(world)
    with paramiko_sftp(world.later, user) as there:
        file = there.open("Rome/a.jpg")
        assert file.check("sha1") == hashlib.sha1(data).digest()
        assert bytes_moved(world) == before
        assert file.check("md5") == hashlib.md5(data).digest()
        blocks = file.check("sha1", 0, 0, 200_000)
        assert blocks == b"".join(
            hashlib.sha1(data[at : at + 200_000]).digest() for at in range(0, 600_000, 200_000)
        )
        with pytest.raises(OSError):
            file.check("whirlpool")
        file.close()
