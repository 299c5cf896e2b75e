"""curl, with libssh2: it does not look at the answer to CLOSE and reads far beyond the end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from harness import Service, User, World, photo, run, sha1, sha256
from meeting import VERSIONS, meet

MIB = 2**20


@frozen
class Curl:
    """curl in a directory of its own."""

    program: str
    directory: Path

    def __call__(
        self,
        service: Service,
        user: User,
        path: str,
        *arguments: str,
        check: bool = True,
        password: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run it on a path."""
        return run(
            [
                *(self.program, "-sS", "--insecure", "--max-time", "50"),
                *("--user", f"{user.email}:{password or user.password}"),
                *(*arguments, f"sftp://127.0.0.1:{service.port}/{path}"),
            ],
            cwd=self.directory,
            check=check,
        )


@pytest.fixture
def curl(tool: Callable[[str], str], tmp_path: Path) -> Curl:
    program = tool("curl")
    if "sftp" not in run([program, "--version"], cwd=tmp_path).stdout:
        pytest.skip("curl is built without SFTP")
    return Curl(program, tmp_path)


def test_listing(curl: Curl, world: World, user: User) -> None:
    user.album("Album", user.assets(["a b.jpg", "ü.jpg"], size=77))
    lines = curl(world.later, user, "Album/").stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("-rw-r--r--") and line.split()[4] == "77" for line in lines)
    names = curl(world.later, user, "Album/", "--list-only").stdout.splitlines()
    assert sorted(names) == ["a b.jpg", "ü.jpg"]


@meet(size=[1, 300 * 1024, 20 * MIB], world=VERSIONS[::-1])
def test_download(curl: Curl, world: World, user: User, tmp_path: Path, size: int) -> None:
    data = photo(size)
    user.album("Album", [user.asset("a.jpg", data)])
    curl(world.later, user, "Album/a.jpg", "-o", "a.jpg")
    assert sha256(tmp_path / "a.jpg") == sha256(data)


def test_ranges(curl: Curl, world: World, user: User, tmp_path: Path) -> None:
    data = photo(MIB)
    user.album("Album", [user.asset("a.jpg", data)])
    for text, part in (
        ("0-0", data[:1]),
        ("1000-70000", data[1000:70001]),
        ("1000000-", data[1000000:]),
        ("-500", data[-500:]),
    ):
        curl(world.later, user, "Album/a.jpg", "-o", "part", "-r", text)
        assert (tmp_path / "part").read_bytes() == part, text


def test_continuing_a_download(curl: Curl, world: World, user: User, tmp_path: Path) -> None:
    data = photo(MIB)
    user.album("Album", [user.asset("a.jpg", data)])
    (tmp_path / "a.jpg").write_bytes(data[:123_456])
    curl(world.later, user, "Album/a.jpg", "-o", "a.jpg", "-C", "-")
    assert sha256(tmp_path / "a.jpg") == sha256(data)


@meet(size=[1, 300 * 1024, 20 * MIB], world=VERSIONS[::-1])
def test_upload(curl: Curl, world: World, user: User, tmp_path: Path, size: int) -> None:
    user.album("Album")
    data = photo(size)
    (tmp_path / "a.jpg").write_bytes(data)
    curl(world.soon, user, "Album/a.jpg", "-T", "a.jpg")
    user.uploaded("Album", "a.jpg", data)


def test_upload_of_a_new_album(curl: Curl, world: World, user: User, tmp_path: Path) -> None:
    data = photo(1000)
    (tmp_path / "a.jpg").write_bytes(data)
    curl(world.soon, user, "New/a.jpg", "-T", "a.jpg", "--ftp-create-dirs")
    user.uploaded("New", "a.jpg", data)


def test_over_quota_leaves_no_name(curl: Curl, world: World, tmp_path: Path) -> None:
    user = world.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    # Whatever curl makes of CLOSE's answer: the file must not seem to be there.
    curl(world.soon, user, "Album/a.jpg", "-T", "a.jpg", check=False)
    assert curl(world.soon, user, "Album/", "--list-only").stdout.split() == []
    assert user.everything() == {}


def test_refused_types_and_wrong_passwords_have_an_exit_status(
    curl: Curl, modern: World, modern_user: User, tmp_path: Path
) -> None:
    modern_user.album("Album")
    (tmp_path / "a.txt").write_bytes(b"text")
    assert curl(modern.soon, modern_user, "Album/a.txt", "-T", "a.txt", check=False).returncode in (
        9,
        78,
        79,
    )
    assert curl(modern.soon, modern_user, "", check=False, password="wrong").returncode == 67
    assert curl(modern.soon, modern_user, "Album/none.jpg", check=False).returncode == 78


def test_quote_commands(curl: Curl, world: World, user: User) -> None:
    (asset,) = user.assets(["a.jpg"])
    user.album("Album", [asset])
    curl(world.later, user, "", "-Q", "rm Album/a.jpg", "-Q", "mkdir New", "-Q", "rmdir Album")
    assert user.everything()[asset]["trashed"]
    assert [album["name"] for album in user.albums()] == ["New"]


def test_a_large_upload(curl: Curl, modern: World, modern_user: User, tmp_path: Path) -> None:
    modern_user.album("Album")
    with (tmp_path / "big.mp4").open("wb") as file:
        for _ in range(60):
            file.write(photo(MIB))
    curl(modern.soon, modern_user, "Album/big.mp4", "-T", "big.mp4")
    asset = modern_user.uploaded("Album", "big.mp4", tmp_path / "big.mp4")
    assert asset["sha1"] == sha1(tmp_path / "big.mp4")
