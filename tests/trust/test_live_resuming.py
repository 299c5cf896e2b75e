"""Uploads that are cut again and again, and gone on with each time: the bytes are right."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cutter import Cutter
from harness import Service, User, World, eventually, photo, posix, run, sha1
from openssh import OpenSSH
from rawsftp import F_CREAT, F_WRITE, NO_SUCH_FILE, RENAME, SETSTAT, STAT, Raw, attrs, string

from immich_conch.ssh.session import WINDOW_BYTES

MIB = 2**20
THEN = 1_400_000_000
SEED = 7


@contextmanager
def cut(service: Service, budgets: list[int]) -> Iterator[Cutter]:
    """The service behind a line that breaks."""
    cutter = Cutter(service.port, budgets)
    yield cutter
    cutter.close()


def resumable(shared: World) -> Service:
    """The service of these tests."""
    return shared.service("resumable", "--settle", "0.3")


def arrived(service: Service, user: User, path: str) -> int:
    """The size that a client is told of what was cut off, once the service has seen the cut."""
    with Raw(service, user) as there:
        reply = there.ask(STAT, string(path))
        return 0 if reply.status == NO_SUCH_FILE else reply.size


@pytest.mark.timeout(240)
def test_200_mib_that_are_cut_ten_times_arrive_whole(
    openssh: OpenSSH, shared: World, tmp_path: Path
) -> None:
    user = shared.user()
    user.album("Album")
    source = tmp_path / "big.mp4"
    source.write_bytes(photo(200 * MIB))
    numbers = random.Random(SEED)
    budgets = [numbers.randrange(MIB, 25 * MIB) for _ in range(10)]
    service = resumable(shared)
    sizes = [0]
    with cut(service, list(budgets)) as line:
        for number in range(len(budgets) + 1):
            # `put -a` and `reput` are one and the same; the first one has nothing to go on with.
            verb = ("put", "put -a", "reput")[min(number, 1 + number % 2)]
            done = openssh.sftp(line, user, f"{verb} big.mp4 Album/big.mp4", check=False)  # type: ignore[arg-type]
            if number < len(budgets):
                assert done.returncode, "the line was cut"
                assert line.cuts == number + 1
                sizes.append(arrived(service, user, "/Album/big.mp4"))
                assert user.everything() == {}, "nothing of a file that is not whole"
    assert done.returncode == 0, done.stderr
    assert sizes == sorted(sizes)
    # What was received before a cut is not sent again, but for what was in flight: on a busy
    # machine that is all the window allows, beside the packets' own bytes.
    least = [max(0, budget - budget // 100 - WINDOW_BYTES - MIB) for budget in budgets]
    assert sum(least) > 30 * MIB
    assert sizes[-1] >= sum(least)
    user.uploaded("Album", "big.mp4", source)
    assert len(user.everything()) == 1
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")


def test_lftp_goes_on_by_itself(shared: World, tmp_path: Path) -> None:
    if shutil.which("lftp") is None:
        pytest.skip("lftp is not installed")
    user = shared.user()
    user.album("Album")
    source = tmp_path / "a.mp4"
    source.write_bytes(photo(12 * MIB))
    with cut(resumable(shared), [3 * MIB, 4 * MIB]) as line:
        script = tmp_path / "script"
        connect = "ssh -a -x -F /dev/null -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        script.write_text(
            f'set sftp:connect-program "{connect}"\nset sftp:auto-confirm yes\n'
            "set net:max-retries 5\nset net:timeout 10\nset net:reconnect-interval-base 1\n"
            f'open -u "{user.email},{user.password}" sftp://127.0.0.1:{line.port}\n'
            "put -c a.mp4 -o Album/a.mp4\n"
        )
        run(["lftp", "-f", script], cwd=tmp_path)
        assert line.cuts == 2
    user.uploaded("Album", "a.mp4", source)


def test_curl_goes_on_where_it_was_cut(shared: World, tmp_path: Path) -> None:
    if shutil.which("curl") is None or "sftp" not in run(["curl", "-V"], cwd=tmp_path).stdout:
        pytest.skip("curl is not installed, or built without SFTP")
    user = shared.user()
    user.album("Album")
    source = tmp_path / "a.mp4"
    source.write_bytes(photo(8 * MIB))
    with cut(resumable(shared), [3 * MIB]) as line:
        command = [
            *("curl", "-sS", "--insecure", "--max-time", "50", "-C", "-", "-T", source),
            *("--user", f"{user.email}:{user.password}"),
            f"sftp://127.0.0.1:{line.port}/Album/a.mp4",
        ]
        assert run(command, cwd=tmp_path, check=False).returncode
        assert user.everything() == {}
        run(command, cwd=tmp_path)
        assert line.cuts == 1
    user.uploaded("Album", "a.mp4", source)


def test_winscp_goes_on_with_its_filepart(shared: World) -> None:
    user = shared.user()
    user.album("Album")
    data = photo(3 * MIB)
    service = resumable(shared)
    with Raw(service, user) as there:
        there.write(there.open("/Album/a.mp4.filepart"), data[:MIB])
    # Until then the first session still holds the file open, and a listing shows that.
    service.wait_for(r"upload of Album/a\.mp4\.filepart was cut off")
    assert arrived(service, user, "/Album/a.mp4.filepart") == MIB
    with Raw(service, user) as there:
        handle = there.open("/Album/a.mp4.filepart", F_WRITE | F_CREAT)
        there.write(handle, data[MIB:], offset=MIB)
        there.close(handle)
        there.done(RENAME, string("/Album/a.mp4.filepart"), string("/Album/a.mp4"))
        there.done(SETSTAT, string("/Album/a.mp4"), attrs(mtime=THEN))
        assert there.names("/Album") == ["a.mp4"]
    asset = user.uploaded("Album", "a.mp4", data)
    assert posix(asset["fileModifiedAt"]) == THEN


def test_what_was_cut_survives_a_crash_and_is_gone_on_with(shared: World) -> None:
    user = shared.user()
    user.album("Album")
    data = photo(3 * MIB)
    service = resumable(shared)
    with Raw(service, user) as there:
        there.write(there.open("/Album/a.mp4"), data[: 2 * MIB])
        service.kill()
    service.start_again()
    assert arrived(service, user, "/Album/a.mp4") == 2 * MIB
    with Raw(service, user) as there:
        assert there.names("/Album") == [], "what is not whole is not listed"
        handle = there.open("/Album/a.mp4", F_WRITE | F_CREAT)
        there.write(handle, data[2 * MIB :], offset=2 * MIB)
        there.done(4, string(handle))
    assert user.uploaded("Album", "a.mp4", data)["sha1"] == sha1(data)
