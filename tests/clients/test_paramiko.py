"""paramiko: it reads a whole file at once, and looks at the size after it has put one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from harness import CLIENT, Service, User, World, eventually, photo, posix
from meeting import VERSIONS, meet

MIB = 2**20


@contextmanager
def sftp(service: Service, user: User) -> Iterator[paramiko.SFTPClient]:
    """A connection and a channel."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        "127.0.0.1",
        service.port,
        user.email,
        user.password,
        allow_agent=False,
        look_for_keys=False,
        timeout=20,
        banner_timeout=20,
        auth_timeout=20,
    )
    try:
        channel = client.open_sftp()
        channel.get_channel().settimeout(CLIENT)
        yield channel
    finally:
        client.close()


def test_listing_tells_names_sizes_times_and_longnames(world: World, user: User) -> None:
    user.album("Album", user.assets(["a b.jpg", "ü.jpg"], modified=1.5e9, size=77))
    with sftp(world.later, user) as there:
        assert there.listdir("/") == ["Album"]
        entries = {entry.filename: entry for entry in there.listdir_attr("Album")}
        assert sorted(entries) == ["a b.jpg", "ü.jpg"]
        for name, entry in entries.items():
            assert entry.st_size == 77
            assert entry.st_mtime in (1.5e9, 1.5e9 + 1)
            assert entry.st_mode == 0o100644
            assert entry.longname.startswith("-rw-r--r--")
            assert entry.longname.endswith(name)
        assert sorted(entry.filename for entry in there.listdir_iter("Album")) == sorted(entries)
        assert there.normalize("Album/../Album//./a b.jpg") == "/Album/a b.jpg"
        with pytest.raises(FileNotFoundError):
            there.stat("Album/none.jpg")


@meet(size=[0, 1, 300 * 1024, 20 * MIB], world=VERSIONS)
def test_get(world: World, user: User, tmp_path: Path, size: int) -> None:
    data = photo(size)
    user.album("Album", [user.asset("a.jpg", data)])
    with sftp(world.later, user) as there:
        there.get("Album/a.jpg", str(tmp_path / "a.jpg"))
    assert hashlib.sha256((tmp_path / "a.jpg").read_bytes()).digest() == (
        hashlib.sha256(data).digest()
    )


def test_reading_here_and_there(world: World, user: User) -> None:
    data = photo(3 * MIB)
    user.album("Album", [user.asset("a.jpg", data)])
    with sftp(world.later, user) as there, there.open("Album/a.jpg", "rb") as file:
        for offset in (2_000_000, 5, 3_100_000, 1_000_000, 0):
            file.seek(offset)
            assert file.read(1000) == data[offset : offset + 1000]
        file.seek(len(data))
        assert file.read(10) == b""
        assert list(file.readv([(0, 10), (MIB, 20), (7, 100_000)])) == [
            data[:10],
            data[MIB : MIB + 20],
            data[7:100_007],
        ]


@meet(size=[1, 300 * 1024, 20 * MIB], world=VERSIONS[::-1])
def test_put_finds_the_size_that_it_sent(
    world: World, user: User, tmp_path: Path, size: int
) -> None:
    user.album("Album")
    data = photo(size)
    (tmp_path / "a.jpg").write_bytes(data)
    with sftp(world.soon, user) as there:
        assert there.put(str(tmp_path / "a.jpg"), "Album/a.jpg").st_size == size
    user.uploaded("Album", "a.jpg", data)


def test_put_and_utime_is_in_immich_at_once(world: World, user: User) -> None:
    user.album("Album")
    with sftp(world.later, user) as there:
        with there.open("Album/a.jpg", "wb") as file:
            file.write(b"a photo")
        assert user.names("Album") == []
        there.utime("Album/a.jpg", (1.4e9, 1.4e9))
        (asset,) = user.inside("Album")
        assert posix(asset["fileModifiedAt"]) == 1.4e9
        assert there.stat("Album/a.jpg").st_mtime == 1.4e9
        # A time for what is committed is answered OK and has no effect at this stage.
        there.utime("Album/a.jpg", (1.3e9, 1.3e9))


def test_overwriting_appending_and_writing_in_the_middle(world: World, user: User) -> None:
    user.album("Album", [user.asset("a.jpg", b"0123456789" * 1000, 1.3e9)])
    with sftp(world.later, user) as there:
        with there.open("Album/a.jpg", "r+b") as file:
            file.seek(10)
            file.write(b"xxxxx")
            file.seek(0)
            assert file.read(20) == b"0123456789xxxxx56789"
        there.utime("Album/a.jpg", (1.4e9, 1.4e9))
        assert there.stat("Album/a.jpg").st_size == 10_000
        user.uploaded("Album", "a.jpg", b"0123456789xxxxx56789" + b"0123456789" * 998)
        with there.open("Album/a.jpg", "ab") as file:
            file.write(b"the end")
        there.utime("Album/a.jpg", (1.4e9, 1.4e9))
    user.uploaded("Album", "a.jpg", b"0123456789xxxxx56789" + b"0123456789" * 998 + b"the end")
    assert user.names("Album") == ["a.jpg"]


def test_an_upload_over_quota_is_not_there_afterwards(world: World, tmp_path: Path) -> None:
    user = world.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    with sftp(world.later, user) as there:
        with pytest.raises(OSError):
            # paramiko does not look at CLOSE's answer; it misses the file.
            there.put(str(tmp_path / "a.jpg"), "Album/a.jpg")
        assert there.listdir("Album") == []


def test_removing_making_and_renaming(world: World, user: User) -> None:
    (asset,) = user.assets(["a.jpg"])
    user.album("Album", [asset])
    with sftp(world.later, user) as there:
        there.remove("Album/a.jpg")
        with pytest.raises(OSError):
            there.remove("Album/a.jpg")
        there.mkdir("New")
        with pytest.raises(OSError):
            there.mkdir("New")
        there.rename("New", "Newer")
        there.rmdir("Album")
        assert there.listdir() == ["Newer"]
    assert user.everything()[asset]["trashed"]


def test_paths_that_are_not_utf8_are_refused(modern: World, modern_user: User) -> None:
    modern_user.album("Album")
    with sftp(modern.later, modern_user) as there:
        with pytest.raises(OSError, match="UTF-8"):
            there.stat(b"Album/\xff\xfe.jpg")
        assert there.listdir("/") == ["Album"], "the session goes on"


def test_two_sessions_of_a_user_see_one_anothers_uploads(world: World, user: User) -> None:
    user.album("Album")
    with sftp(world.later, user) as one, sftp(world.later, user) as two:
        with one.open("Album/a.jpg", "wb") as file:
            file.write(b"some bytes")
            file.flush()
            assert two.stat("Album/a.jpg").st_size == 10
            assert two.listdir("Album") == ["a.jpg"]
        with two.open("Album/a.jpg", "rb") as file:
            assert file.read() == b"some bytes"
        two.utime("Album/a.jpg", (1.4e9, 1.4e9))
        user.uploaded("Album", "a.jpg", b"some bytes")
        assert one.listdir("Album") == ["a.jpg"]


def test_a_connection_that_breaks_during_an_upload_commits_nothing(
    world: World, user: User
) -> None:
    user.album("Album")
    with sftp(world.soon, user) as there:
        file = there.open("Album/a.jpg", "wb")
        file.set_pipelined(True)
        file.write(photo(5 * MIB))
        transport = there.get_channel().get_transport()
        assert transport is not None
        transport.sock.shutdown(2)
        transport.close()
    world.soon.wait_for(r"upload of Album/a\.jpg was cut off")
    eventually(lambda: world.sessions() == 0 or None, "the session logged out")
    assert user.everything() == {}
    with sftp(world.soon, user) as there:
        assert there.listdir("Album") == []
        # What came can be resumed by its exact path, until somebody removes it.
        assert 0 < (there.stat("Album/a.jpg").st_size or 0) <= 5 * MIB
        there.remove("Album/a.jpg")
    eventually(lambda: not world.soon.spooled() or None, "an empty spool")
