"""PuTTY's psftp and pscp: 4 KiB writes without end, and CLOSE's answer unread."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from harness import Service, User, World, photo, posix, run, sha256

MIB = 2**20


@frozen
class Putty:
    """psftp and pscp in a directory of their own."""

    tool: Callable[[str], str]
    directory: Path

    def _options(self, service: Service, user: User) -> list[str]:
        secret = self.directory / "password"
        secret.write_text(user.password + "\n")
        keys = [part for key in service.fingerprints() for part in ("-hostkey", key)]
        port = str(service.port)
        return [*keys, "-P", port, "-l", user.email, "-pwfile", str(secret), "-batch"]

    def psftp(
        self, service: Service, user: User, commands: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run commands, separated by line ends."""
        script = self.directory / "script"
        script.write_text(commands + "\nquit\n")
        options = [*self._options(service, user), "-b", str(script), "127.0.0.1"]
        return run([self.tool("psftp"), *options], cwd=self.directory, check=check)

    def pscp(
        self, service: Service, user: User, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run pscp over SFTP."""
        options = [*self._options(service, user), "-q", "-sftp", *arguments]
        return run([self.tool("pscp"), *options], cwd=self.directory, check=check)


@pytest.fixture
def putty(tool: Callable[[str], str], tmp_path: Path) -> Putty:
    tool("psftp"), tool("pscp")
    return Putty(tool, tmp_path)


def test_listing(putty: Putty, world: World, user: User) -> None:
    user.album("Album", [user.asset("a b.jpg", size=77)])
    out = putty.psftp(world.later, user, "ls\nls Album").stdout
    assert any(line.endswith(" Album") and line.startswith("d") for line in out.splitlines())
    assert any(line.endswith(" a b.jpg") and " 77 " in line for line in out.splitlines())


def test_both_ways(putty: Putty, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(6 * MIB)
    (tmp_path / "a.jpg").write_bytes(data)
    putty.psftp(world.soon, user, "put a.jpg Album/a.jpg\nget Album/a.jpg back.jpg")
    assert sha256(tmp_path / "back.jpg") == sha256(data)
    user.uploaded("Album", "a.jpg", data)


def test_pscp_p_sends_the_time(putty: Putty, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(200_000)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))
    putty.pscp(world.later, user, "-p", "a.jpg", f"{user.email}@127.0.0.1:Album/a.jpg")
    asset = user.uploaded("Album", "a.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9


def test_reget_and_reput(putty: Putty, world: World, user: User, tmp_path: Path) -> None:
    data = photo(900_000)
    user.album("Album", [user.asset("down.jpg", data), user.asset("up.jpg", data[:200_000])])
    (tmp_path / "down.jpg").write_bytes(data[:333_333])
    (tmp_path / "up.jpg").write_bytes(data[:200_000] + photo(500_000, "rest"))
    putty.psftp(world.soon, user, "reget Album/down.jpg down.jpg\nreput up.jpg Album/up.jpg")
    assert sha256(tmp_path / "down.jpg") == sha256(data)
    user.uploaded("Album", "up.jpg", tmp_path / "up.jpg")


def test_removing(putty: Putty, modern: World, modern_user: User) -> None:
    (asset,) = modern_user.assets(["a.jpg"])
    modern_user.album("Album", [asset])
    putty.psftp(modern.later, modern_user, "rm Album/a.jpg\nrmdir Album\nmkdir New")
    assert modern_user.everything()[asset]["trashed"]
    assert [album["name"] for album in modern_user.albums()] == ["New"]


def test_over_quota_leaves_no_name(putty: Putty, modern: World, tmp_path: Path) -> None:
    user = modern.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    out = putty.psftp(modern.soon, user, "put a.jpg Album/a.jpg\nls Album", check=False).stdout
    assert not any(line.startswith("-rw") for line in out.splitlines())
    assert user.everything() == {}
