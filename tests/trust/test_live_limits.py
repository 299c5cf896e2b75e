"""A full spool: who fills it is told, others go on, and what gets free can be used again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Service, User, World, eventually, photo
from rawsftp import CLOSE, FAILURE, OK, STAT, Raw, attrs, string

MIB = 2**20
THEN = 1_400_000_000
#: Bytes of the disk that is made for the test.
DISK = 24 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(there: Raw, handle: bytes, size: int) -> tuple[int, str]:
    """Write until a WRITE fails: how many went well, and what the one that failed was told."""
    for at in range(0, size, 32768):
        reply = there.answer(there.send_together(there.writing(handle, at, photo(32768)))[0])
        if reply.status != OK:
            assert reply.status == FAILURE
            return at, reply.text
    return size, ""


def put(service: Service, user: User, name: str, size: int) -> None:
    """An upload that has to work, to the end."""
    data = photo(size)
    with Raw(service, user) as there:
        handle = there.open(f"/Album/{name}", attributes=attrs(mtime=THEN))
        there.write(handle, data)
        reply = there.ask(CLOSE, string(handle))
        assert reply.status == OK, reply.text
    user.uploaded("Album", name, data)


def somebody(world: World) -> User:
    user = world.user()
    user.album("Album", [user.asset("there.jpg", b"there already", THEN)])
    return user


def is_gone(there: Raw, handle: bytes, path: str) -> None:
    """CLOSE of a handle whose WRITE failed fails, and the name is gone."""
    assert there.ask(CLOSE, string(handle)).status == FAILURE
    assert there.ask(STAT, string(path)).status != OK and path.rpartition("/")[2]


def test_a_full_disk(shared: World, disk: Path) -> None:
    service = shared.service(
        "disk", *("--spool-dir", str(disk / "spool"), "--spool-min-free", "0", "--settle", "0.3")
    )
    greedy, other = somebody(shared), somebody(shared)
    with Raw(service, greedy) as there, Raw(service, other) as elsewhere:
        sealed = photo(1000)
        elsewhere.put("/Album/sealed.jpg", sealed)
        handle = there.open("/Album/big.mp4", attributes=attrs(mtime=THEN))
        written, said = fill(there, handle, 2 * DISK)
        assert DISK / 2 < written <= DISK
        assert said.startswith("No space")
        # Whoever downloads, or has uploaded, is not concerned.
        assert elsewhere.read("/Album/there.jpg") == b"there already"
        other.uploaded("Album", "sealed.jpg", sealed)
        is_gone(there, handle, "/Album/big.mp4")
    put(service, other, "a.mp4", 4 * MIB)
    put(service, greedy, "small.mp4", 4 * MIB)
    assert greedy.names("Album") == ["small.mp4", "there.jpg"]
    assert [path.name for path in (disk / "spool").glob("*.data")] == []


def test_the_limit_of_all_uploads(shared: World) -> None:
    service = shared.service("limit", "--spool-limit", "8M", "--settle", "300")
    greedy, other = somebody(shared), somebody(shared)
    with Raw(service, greedy) as there:
        handle = there.open("/Album/big.mp4", attributes=attrs(mtime=THEN))
        written, said = fill(there, handle, 20 * MIB)
        assert written == 8 * MIB
        assert said.startswith("No space")
        is_gone(there, handle, "/Album/big.mp4")
        put(service, other, "a.mp4", 6 * MIB)
        # What was answered OK is never dropped to make room.
        there.put("/Album/sealed.mp4", photo(5 * MIB))
        with Raw(service, other) as elsewhere:
            handle = elsewhere.open("/Album/b.mp4", attributes=attrs(mtime=THEN))
            assert fill(elsewhere, handle, 5 * MIB)[0] == 3 * MIB
            is_gone(elsewhere, handle, "/Album/b.mp4")
        assert there.ask(STAT, string("/Album/sealed.mp4")).size == 5 * MIB
    assert greedy.names("Album") == ["there.jpg"]
    assert other.names("Album") == ["a.mp4", "there.jpg"]


def test_what_was_cut_off_makes_room(shared: World) -> None:
    service = shared.service("room", "--spool-limit", "8M", "--settle", "0.3")
    user, other = somebody(shared), somebody(shared)
    for number in range(2):
        with Raw(service, user) as there:
            there.write(there.open(f"/Album/cut{number}.mp4"), photo(3 * MIB))
        with Raw(service, user) as there:
            assert there.ask(STAT, string(f"/Album/cut{number}.mp4")).size == 3 * MIB
    put(service, other, "a.mp4", 4 * MIB)
    with Raw(service, user) as there:
        assert there.ask(STAT, string("/Album/cut0.mp4")).status > OK, "the oldest one goes"
        assert there.ask(STAT, string("/Album/cut1.mp4")).size == 3 * MIB


def test_one_users_limit_does_not_stop_another(shared: World) -> None:
    service = shared.service("users", "--spool-user-limit", "5M", "--settle", "0.3")
    greedy, other = somebody(shared), somebody(shared)
    with Raw(service, greedy) as there:
        handle = there.open("/Album/big.mp4", attributes=attrs(mtime=THEN))
        written, said = fill(there, handle, 8 * MIB)
        assert written == 5 * MIB
        assert said.startswith("No space")
        put(service, other, "a.mp4", 4 * MIB)
        is_gone(there, handle, "/Album/big.mp4")
    put(service, greedy, "b.mp4", 4 * MIB)
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")
