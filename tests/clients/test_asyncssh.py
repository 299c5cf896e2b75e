"""asyncssh: `preserve` sends the time after CLOSE; and fifty of them at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from harness import CLIENT, Service, User, World, eventually, photo, posix, sha256
from meeting import VERSIONS, meet

MIB = 2**20
SESSIONS = 50


@asynccontextmanager
async def sftp(service: Service, user: User) -> AsyncIterator[asyncssh.SFTPClient]:
    """A connection and a channel."""
    async with (
        asyncssh.connect(
            "127.0.0.1",
            service.port,
            username=user.email,
            password=user.password,
            known_hosts=None,
            client_keys=None,
            agent_path=None,
            config=None,
            login_timeout=60,
        ) as connection,
        connection.start_sftp_client() as client,
    ):
        yield client


def bounded(work: Coroutine[Any, Any, None], limit: float = CLIENT) -> None:
    """Run it, within a time limit."""
    asyncio.run(asyncio.wait_for(work, limit))


@meet(size=[0, 1, 300 * 1024, 20 * MIB], world=VERSIONS)
def test_get_preserves_the_time(world: World, user: User, tmp_path: Path, size: int) -> None:
    data = photo(size)
    user.album("Album", [user.asset("a.jpg", data, 1.5e9)])

    async def work() -> None:
        async with sftp(world.later, user) as there:
            await there.get("Album/a.jpg", tmp_path / "a.jpg", preserve=True)

    bounded(work())
    assert sha256(tmp_path / "a.jpg") == sha256(data)
    assert (tmp_path / "a.jpg").stat().st_mtime == 1.5e9


@meet(size=[1, 300 * 1024, 20 * MIB], world=VERSIONS[::-1])
def test_put_with_preserve_is_in_immich_at_its_end(
    world: World, user: User, tmp_path: Path, size: int
) -> None:
    user.album("Album")
    data = photo(size)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", (1.4e9, 1.4e9))

    async def work() -> None:
        async with sftp(world.later, user) as there:
            await there.put(tmp_path / "a.jpg", "Album/a.jpg", preserve=True)

    bounded(work())
    asset = user.uploaded("Album", "a.jpg", data)
    assert posix(asset["fileModifiedAt"]) == 1.4e9


def test_put_without_a_time_and_a_folder_of_files(world: World, user: User, tmp_path: Path) -> None:
    folder = tmp_path / "Folder"
    folder.mkdir()
    contents = {f"{number}.jpg": photo(30_000) for number in range(8)}
    for name, data in contents.items():
        (folder / name).write_bytes(data)

    async def work() -> None:
        async with sftp(world.soon, user) as there:
            await there.put(folder, "/", recurse=True)
            assert sorted(await there.listdir("Folder")) == sorted([*contents])

    bounded(work())
    for name, data in contents.items():
        user.uploaded("Folder", name, data)


def test_the_file_system_tells_the_quota_and_links_are_refused(modern: World) -> None:
    user = modern.user(quota=10**9)
    user.album("Album", user.assets(["a.jpg"]))

    async def work() -> None:
        async with sftp(modern.later, user) as there:
            room = await there.statvfs("/")
            assert abs(room.frsize * room.blocks - 10**9) < 10**6
            with pytest.raises(asyncssh.SFTPOpUnsupported):
                await there.symlink("Album/a.jpg", "Album/b.jpg")
            with pytest.raises(asyncssh.SFTPOpUnsupported):
                await there.readlink("Album/a.jpg")
            with pytest.raises(asyncssh.SFTPNoSuchFile):
                await there.open("Album/none.jpg", "rb")
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                await there.open("a.jpg", "wb")

    bounded(work())


def test_renaming_within_an_album_never_replaces(modern: World, modern_user: User) -> None:
    modern_user.album("Album", modern_user.assets(["a.jpg", "b.jpg"]))

    async def work() -> None:
        async with sftp(modern.later, modern_user) as there:
            await there.rename("Album/a.jpg", "Album/c.jpg")
            with pytest.raises(asyncssh.SFTPFailure):
                await there.rename("Album/c.jpg", "Album/b.jpg")
            names = set(await there.listdir("Album")) - {".", ".."}
            assert names == {"b.jpg", "c.jpg"}

    bounded(work())
    assert modern_user.names("Album") == ["a.jpg", "b.jpg"]


def test_a_file_in_immichs_quota_at_close_is_an_error_of_close(world: World) -> None:
    user = world.user(quota=50_000)
    user.album("Album")

    async def work() -> None:
        async with sftp(world.later, user) as there:
            file = await there.open("Album/a.jpg", "wb")
            await file.write(photo(60_000))
            with pytest.raises(asyncssh.SFTPFailure, match="quota"):
                await file.close()
            assert not await there.exists("Album/a.jpg")

    bounded(work())
    assert user.everything() == {}


def test_fifty_sessions_at_once(modern: World, tmp_path: Path) -> None:
    service = modern.soon
    users = [modern.user() for _ in range(5)]
    data = {user.email: photo(500_000) for user in users}
    uploads = [photo(200_000) for _ in range(SESSIONS)]
    for user in users:
        user.album("Album", [user.asset("a.jpg", data[user.email])])

    async def one(number: int) -> None:
        user = users[number % len(users)]
        async with sftp(service, user) as there:
            assert "a.jpg" in await there.listdir("Album")
            async with there.open("Album/a.jpg", "rb") as file:
                assert await file.read() == data[user.email]
            async with there.open(f"Album/up {number}.jpg", "wb") as file:
                await file.write(uploads[number])
            assert (await there.stat(f"Album/up {number}.jpg")).size == 200_000

    async def work() -> None:
        await asyncio.gather(*(one(number) for number in range(SESSIONS)))

    bounded(work(), limit=100)
    for number, content in enumerate(uploads):
        users[number % len(users)].uploaded("Album", f"up {number}.jpg", content)
    eventually(lambda: modern.sessions() == 0 or None, "no session left at Immich")
    eventually(lambda: not service.spooled() or None, "an empty spool")


def test_many_channels_on_one_connection(modern: World, modern_user: User) -> None:
    modern_user.album("Album", [modern_user.asset("a.jpg", b"content")])

    async def work() -> None:
        async with asyncssh.connect(
            "127.0.0.1",
            modern.later.port,
            username=modern_user.email,
            password=modern_user.password,
            known_hosts=None,
            client_keys=None,
            agent_path=None,
            config=None,
        ) as connection:

            async def one() -> None:
                async with connection.start_sftp_client() as there:
                    assert list(await there.listdir("Album")) == ["a.jpg"]

            await asyncio.gather(*(one() for _ in range(5)))

    bounded(work())
