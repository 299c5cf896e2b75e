"""JSch 0.1.54, which old Android programs are built with: ECDSA host keys, SETSTAT after CLOSE."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from harness import Service, User, World, photo, posix, run, sha256

MIB = 2**20
#: Where Debian's libjsch-java puts it.
JAR = Path("/usr/share/java/jsch.jar")
SOURCE = Path(__file__).with_name("Jsch.java")


@frozen
class Jsch:
    """The little Java program in a directory of its own."""

    java: str
    classes: Path
    directory: Path

    def __call__(
        self, service: Service, user: User, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one command."""
        return run(
            [
                *(self.java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"),
                *("-cp", f"{self.classes}:{JAR}", "Jsch", str(service.port), user.email),
                *arguments,
            ],
            cwd=self.directory,
            env={"CLIENT_PASSWORD": user.password},
            check=check,
        )


@pytest.fixture(scope="session")
def classes(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    javac = tool("javac")
    if not JAR.exists():
        pytest.skip("libjsch-java is not installed")
    target = tmp_path_factory.mktemp("classes")
    run([javac, "-cp", JAR, "-d", target, SOURCE], cwd=target)
    return target


@pytest.fixture
def jsch(tool: Callable[[str], str], classes: Path, tmp_path: Path) -> Jsch:
    return Jsch(tool("java"), classes, tmp_path)


def test_listing(jsch: Jsch, world: World, user: User) -> None:
    user.album("Album", [user.asset("ü b.jpg", photo(77), 1.5e9)])
    (line,) = jsch(world.later, user, "ls", "/Album").stdout.splitlines()
    name, size, mtime, longname = line.split("\t")
    assert (name, size, mtime) == ("ü b.jpg", "77", "1500000000")
    assert longname.startswith("-rw-r--r--")
    assert longname.endswith("ü b.jpg")


def test_download(jsch: Jsch, world: World, user: User, tmp_path: Path) -> None:
    data = photo(20 * MIB)
    user.album("Album", [user.asset("a.mp4", data)])
    jsch(world.later, user, "get", "Album/a.mp4", "a.mp4")
    assert sha256(tmp_path / "a.mp4") == sha256(data)


def test_upload_with_a_time_is_in_immich_at_its_end(
    jsch: Jsch, world: World, user: User, tmp_path: Path
) -> None:
    user.album("Album")
    data = photo(5 * MIB)
    (tmp_path / "a.jpg").write_bytes(data)
    jsch(world.later, user, "put", "a.jpg", "Album/a.jpg", "1400000000")
    asset = user.uploaded("Album", "a.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9


def test_upload_without_a_time(jsch: Jsch, world: World, user: User, tmp_path: Path) -> None:
    user.album("Album")
    data = photo(100_000)
    (tmp_path / "a.jpg").write_bytes(data)
    jsch(world.soon, user, "put", "a.jpg", "Album/a.jpg")
    user.uploaded("Album", "a.jpg", data)


def test_resuming_a_shorter_file(jsch: Jsch, world: World, user: User, tmp_path: Path) -> None:
    data = photo(400_000)
    user.album("Album", [user.asset("a.jpg", data[:150_000])])
    (tmp_path / "a.jpg").write_bytes(data)
    jsch(world.soon, user, "resume", "a.jpg", "Album/a.jpg")
    user.uploaded("Album", "a.jpg", data)


def test_removing_and_making(jsch: Jsch, modern: World, modern_user: User) -> None:
    (asset,) = modern_user.assets(["a.jpg"])
    modern_user.album("Album", [asset])
    jsch(modern.later, modern_user, "rm", "Album/a.jpg")
    jsch(modern.later, modern_user, "rmdir", "Album")
    jsch(modern.later, modern_user, "mkdir", "New")
    jsch(modern.later, modern_user, "rename", "New", "Newer")
    assert modern_user.everything()[asset]["trashed"]
    assert [album["name"] for album in modern_user.albums()] == ["Newer"]


def test_refusals_are_exceptions(jsch: Jsch, modern: World, tmp_path: Path) -> None:
    user = modern.user(quota=50_000)
    user.album("Album")
    (tmp_path / "a.jpg").write_bytes(photo(60_000))
    (tmp_path / "a.txt").write_bytes(b"text")
    # JSch's exceptions are SFTP's status codes and the text that came with them.
    for arguments, told in (
        (("put", "a.jpg", "Album/a.jpg"), "4: The Immich quota is exceeded"),
        (("put", "a.txt", "Album/a.txt"), "3: "),
        (("get", "Album/none.jpg", "none.jpg"), "2: "),
    ):
        done = jsch(modern.later, user, *arguments, check=False)
        assert done.returncode != 0
        assert f'Exception in thread "main" {told}' in done.stderr
    assert user.everything() == {}
