"""lftp: FSETSTAT of size and time before CLOSE, and `mirror` both ways."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from harness import Service, User, World, eventually, photo, posix, run, sha256

MIB = 2**20


@frozen
class Lftp:
    """lftp in a directory of its own."""

    program: str
    directory: Path

    def __call__(
        self, service: Service, user: User, commands: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run commands, separated by semicolons."""
        script = self.directory / "script.lftp"
        connect = "ssh -a -x -F /dev/null -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        script.write_text(
            f'set sftp:connect-program "{connect}"\n'
            "set sftp:auto-confirm yes\nset net:max-retries 1\nset net:timeout 20\n"
            "set cmd:fail-exit yes\nset cmd:trace no\n"
            f'open -u "{user.email},{user.password}" sftp://127.0.0.1:{service.port}\n'
            + commands.replace("; ", "\n")
            + "\n"
        )
        return run([self.program, "-f", script], cwd=self.directory, check=check)


@pytest.fixture
def lftp(tool: Callable[[str], str], tmp_path: Path) -> Lftp:
    return Lftp(tool("lftp"), tmp_path)


def test_listing(lftp: Lftp, world: World, user: User) -> None:
    user.album("Album", user.assets(["a b.jpg", "ü.jpg"], size=77))
    out = lftp(world.later, user, "cls -l --sort=name Album/").stdout
    assert "a b.jpg" in out
    assert "ü.jpg" in out
    assert out.count(" 77 ") == 2


def test_get_and_pget(lftp: Lftp, world: World, user: User, tmp_path: Path) -> None:
    contents = {"one.jpg": photo(1), "300k.jpg": photo(300 * 1024), "20m.mp4": photo(20 * MIB)}
    user.album("Album", [user.asset(name, data, 1.4e9) for name, data in contents.items()])
    lftp(world.later, user, "cd Album; get one.jpg 300k.jpg; pget -n 3 20m.mp4")
    for name, data in contents.items():
        assert sha256(tmp_path / name) == sha256(data)
    assert (tmp_path / "300k.jpg").stat().st_mtime == 1.4e9


def test_put_keeps_the_time(lftp: Lftp, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(5 * MIB)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))
    lftp(world.later, user, "put -O Album a.jpg")
    (asset,) = user.inside("Album")
    assert asset["name"] == "a.jpg"
    assert posix(asset["fileModifiedAt"]) == 1.4e9
    user.uploaded("Album", "a.jpg", data)


def test_put_with_a_temporary_name(lftp: Lftp, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(MIB)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))
    lftp(world.later, user, "set xfer:use-temp-file yes; put -O Album a.jpg")
    asset = user.uploaded("Album", "a.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9
    assert user.names("Album") == ["a.jpg"]


def test_put_c_of_what_is_there_changes_nothing(
    lftp: Lftp, world: World, user: User, tmp_path: Path
) -> None:
    data = photo(1000)
    asset = user.asset("a.jpg", data)
    user.album("Album", [asset])
    (tmp_path / "a.jpg").write_bytes(data)
    lftp(world.soon, user, "put -c -O Album a.jpg")
    assert [found["id"] for found in user.inside("Album")] == [asset]
    assert list(user.everything()) == [asset]


def test_mirror_up_twice_transfers_once_and_down_is_the_same(
    lftp: Lftp, world: World, user: User, tmp_path: Path
) -> None:
    folder = tmp_path / "Folder"
    folder.mkdir()
    contents = {f"IMG {number}.jpg": photo(40_000) for number in range(8)}
    for number, (name, data) in enumerate(contents.items()):
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1.4e9 + number, 1.4e9 + number))
    lftp(world.later, user, "mirror -R -P 4 Folder Folder")
    assert user.names("Folder") == sorted(contents)
    before = world.demo.counts()["requests"].get("POST /assets", 0)
    again = lftp(world.later, user, "mirror -R -v Folder Folder").stdout
    assert "Transferring" not in again
    assert world.demo.counts()["requests"].get("POST /assets", 0) == before
    lftp(world.later, user, "mirror -P 2 Folder Down")
    for name, data in contents.items():
        assert (tmp_path / "Down" / name).read_bytes() == data
        assert (tmp_path / "Down" / name).stat().st_mtime == (folder / name).stat().st_mtime


def test_removing(lftp: Lftp, world: World, user: User) -> None:
    one, two = user.assets(["a.jpg", "b.jpg"])
    user.album("Album", [one, two])
    user.album("Other", [two])
    lftp(world.later, user, "rm -r Album; mkdir New")
    everything = user.everything()
    assert everything[one]["trashed"]
    assert not everything[two]["trashed"]
    assert sorted(album["name"] for album in user.albums()) == ["New", "Other"]


def test_refusals_are_exit_statuses(lftp: Lftp, world: World, tmp_path: Path) -> None:
    user = world.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    (tmp_path / "a.txt").write_bytes(b"text")
    for name in ("a.jpg", "a.txt"):
        assert lftp(world.soon, user, f"put -O Album {name}", check=False).returncode != 0
    assert user.everything() == {}
    wrong = User(world, user.email, "wrong")
    assert lftp(world.soon, wrong, "cls", check=False).returncode != 0
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")
