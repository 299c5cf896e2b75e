"""Large files reach Immich while the client still writes, and no harm comes of it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from harness import User, World, eventually, photo
from openssh import OpenSSH
from rawsftp import CLOSE, F_CREAT, F_WRITE, NEW, OK, Raw, attrs, string

MIB = 2**20
SIZE = 20 * MIB
THEN = 1_400_000_000


@pytest.fixture
def user(shared: World) -> User:
    found = shared.user()
    found.album("Album")
    return found


def uploads(world: World) -> int:
    """Uploads that Immich has seen to their end, whatever the end was."""
    return int(world.demo.counts()["requests"].get("POST /assets", 0))


def watch(world: World) -> None:
    """Note that an upload begins: the fault does nothing but be used up by its first bytes."""
    world.demo.fault("slow", method="POST", route="/assets", rate=10**9)


def begun(world: World) -> bool:
    """Whether an upload has begun since."""
    return bool(world.demo.counts()["faults"] == 0)


def test_openssh_has_not_finished_when_immich_gets_the_first_bytes(
    openssh: OpenSSH, shared: World, user: User, tmp_path: Path
) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(photo(64 * MIB))
    before = uploads(shared)
    watch(shared)
    batch = tmp_path / "batch"
    batch.write_text("put -p a.mp4 Album/a.mp4\n")
    process = subprocess.Popen(
        # 240,000 Kbit/s: some two seconds, on a machine of any speed.
        openssh.command(shared.soon, user, batch, "-l", "240000"),
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **openssh.environment(user.password)},
        stdin=subprocess.DEVNULL,
    )
    eventually(lambda: begun(shared) or process.poll() is not None, "an upload")
    assert process.poll() is None, "the client had to wait for the end"
    assert process.wait(60) == 0
    user.uploaded("Album", "a.mp4", source)
    assert uploads(shared) == before + 1, "the bytes go out once"


def test_a_client_that_drops_leaves_no_asset(shared: World, user: User) -> None:
    watch(shared)
    with Raw(shared.soon, user) as there:
        there.write(there.open("/Album/a.mp4"), photo(SIZE))
        eventually(lambda: begun(shared) or None, "an upload")
    time.sleep(1)
    assert user.everything() == {}


def test_known_bytes_cost_no_second_asset(shared: World, user: User) -> None:
    data = photo(SIZE)
    asset = user.asset("a.mp4", data, THEN)
    watch(shared)
    with Raw(shared.soon, user) as there:
        handle = there.open("/Album/a.mp4", NEW, attrs(mtime=THEN))
        there.write(handle, data)
        eventually(lambda: begun(shared) or None, "an upload")
        assert there.ask(CLOSE, string(handle)).status == OK
    assert [found["id"] for found in user.inside("Album")] == [asset]
    time.sleep(0.5)
    assert list(user.everything()) == [asset]


def test_bytes_in_no_order_arrive_right(shared: World, user: User) -> None:
    data = photo(SIZE)
    with Raw(shared.soon, user) as there:
        handle = there.open("/Album/a.mp4", NEW, attrs(mtime=THEN))
        there.write(handle, data[: 17 * MIB])
        # The first bytes change when they are on their way, the last ones come in reverse.
        there.write(handle, data[-MIB:], offset=SIZE - MIB)
        there.write(handle, data[:100][::-1])
        there.write(handle, data[17 * MIB : -MIB], offset=17 * MIB)
        assert there.ask(CLOSE, string(handle)).status == OK
    user.uploaded("Album", "a.mp4", data[:100][::-1] + data[100:])
    assert len(user.everything()) == 1


def test_a_client_that_goes_on_elsewhere_is_right_too(shared: World, user: User) -> None:
    """The upload beside the writing ends with the connection; the resumed file starts anew."""
    data = photo(SIZE)
    with Raw(shared.soon, user) as there:
        there.write(there.open("/Album/a.mp4"), data[: 18 * MIB])
    with Raw(shared.soon, user) as there:
        handle = there.open("/Album/a.mp4", F_WRITE | F_CREAT, attrs(mtime=THEN))
        there.write(handle, data[18 * MIB :], offset=18 * MIB)
        assert there.ask(CLOSE, string(handle)).status == OK
    user.uploaded("Album", "a.mp4", data)
    assert len(user.everything()) == 1
