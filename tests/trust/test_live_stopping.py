"""The service is stopped and started, and an administrator looks after what Immich refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import ROOT, Service, User, World, eventually, photo, posix
from rawsftp import CLOSE, F_CREAT, F_WRITE, RENAME, SETSTAT, STAT, Raw, attrs, string

THEN = 1_400_000_000
SIGTERM = 15


def stop(service: Service) -> None:
    """SIGTERM, which twistd obeys in order."""
    assert service.stop() == -SIGTERM


def tool(service: Service, *arguments: str, check: bool = True) -> str:
    """`immich-conch spool` in a process of its own, as an administrator runs it."""
    program = "import sys; from immich_conch.spool_tool import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "spool", "--spool-dir", str(service.spool), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode == 0) is check, done.stderr
    return done.stdout if check else done.stderr


def listed(service: Service) -> list[list[str]]:
    """The lines of `spool list` in words."""
    return [line.split() for line in tool(service, "list").splitlines()]


def shown(service: Service, file_id: str) -> dict[str, Any]:
    """What `spool show` tells of one."""
    found: dict[str, Any] = json.loads(tool(service, "show", file_id))
    return found


def data_files(service: Service) -> list[Path]:
    return sorted(service.spool.glob("*.data"))


def test_sigterm_commits_what_is_sealed_and_keeps_the_rest(
    new_world: Callable[..., World],
) -> None:
    world = new_world()
    user, service = world.user(), world.service("later", "--settle", "300")
    user.album("Album")
    contents = {f"{number}.jpg": photo(5000) for number in range(3)}
    part, parked = photo(4000), photo(3000)
    began = time.time()
    there = Raw(service, user).__enter__()
    for name, data in contents.items():
        there.put(f"/Album/{name}", data)
    there.put("/Album/parked.jpg.filepart", parked)
    there.done(SETSTAT, string("/Album/parked.jpg.filepart"), attrs(mtime=THEN))
    there.write(there.open("/Album/part.mp4"), part[:2500])
    assert user.everything() == {}
    stop(service)
    for name, data in contents.items():
        asset = user.uploaded("Album", name, data)
        assert began - 1 <= posix(asset["fileModifiedAt"]) <= time.time() + 1
    assert len(user.everything()) == 3
    assert len(data_files(service)) == 2
    service.start_again()
    with Raw(service, user) as there:
        assert there.names("/Album") == [*contents, "parked.jpg.filepart"]
        assert there.ask(STAT, string("/Album/part.mp4")).size == 2500
        there.done(RENAME, string("/Album/parked.jpg.filepart"), string("/Album/parked.jpg"))
        handle = there.open("/Album/part.mp4", F_WRITE | F_CREAT, attrs(mtime=THEN))
        there.write(handle, part[2500:], offset=2500)
        there.done(CLOSE, string(handle))
    assert posix(user.uploaded("Album", "parked.jpg", parked)["fileModifiedAt"]) == THEN
    assert posix(user.uploaded("Album", "part.mp4", part)["fileModifiedAt"]) == THEN
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")
    eventually(lambda: world.sessions() == 0 or None, "no session left at Immich")


def test_sigterm_while_immich_is_away_keeps_everything_for_the_next_login(
    new_world: Callable[..., World],
) -> None:
    world = new_world()
    user = world.user()
    service = world.service("later", "--settle", "300", "--stop-timeout", "2")
    user.album("Album")
    known, unknown = photo(5000), photo(6000)
    with Raw(service, user) as there:
        there.put("/Album/unknown.jpg", unknown)
        there.put("/Album/known.jpg", known)
        world.demo.fault("status", method="POST", route="/assets", status=503, count=None)
        # It hears that Immich is away; the time is kept all the same.
        assert there.ask(SETSTAT, string("/Album/known.jpg"), attrs(mtime=THEN)).status > 0
    began = time.monotonic()
    stop(service)
    assert time.monotonic() - began < 10
    assert user.everything() == {}
    assert len(data_files(service)) == 2
    service.start_again()
    with Raw(service, user) as there:
        # Shown, whole and readable, before they are in Immich.
        assert there.names("/Album") == ["known.jpg", "unknown.jpg"]
        assert there.ask(STAT, string("/Album/known.jpg")).size == 5000
        assert there.ask(STAT, string("/Album/known.jpg")).mtime == THEN
        assert there.read("/Album/unknown.jpg") == unknown
        assert user.everything() == {}
        world.demo.clear_faults()
        asset = user.uploaded("Album", "known.jpg", known)
        assert posix(asset["fileModifiedAt"]) == THEN
        user.uploaded("Album", "unknown.jpg", unknown)
        assert there.names("/Album") == ["known.jpg", "unknown.jpg"]
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")


def test_a_restart_tells_nothing_to_anybody_else(new_world: Callable[..., World]) -> None:
    world = new_world()
    user, other = world.user(), world.user()
    service = world.service("later", "--settle", "1")
    user.album("Album", shared={other.email: "editor"})
    with Raw(service, user) as there:
        there.put("/Album/a.jpg", photo(1000))
    service.kill()
    service.start_again()
    with Raw(service, other) as there:
        assert all("a.jpg" not in there.names(f"/{name}") for name in there.names("/"))
        time.sleep(0.5)
    assert user.everything() == {}, "only its own user's login commits it"
    with Raw(service, user):
        eventually(lambda: user.names("Album") == ["a.jpg"] or None, "the file")


def refused(world: World, service: Service, user: User, data: bytes) -> str:
    """Let Immich refuse an upload that was answered OK; its id."""
    world.demo.fault("quota-full", method="POST", route="/assets", count=None)
    with Raw(service, user) as there:
        there.put("/Album/a.jpg", data)
        said = service.wait_for(
            rf"Immich refused Album/a\.jpg of user {re.escape(user.email)}; its bytes are kept "
            r"in the spool as (\w+): .*[Qq]uota"
        )
    world.demo.clear_faults()
    assert "#error" in service.text()[: said.start()].splitlines()[-1]
    return said[1]


def test_what_immich_refuses_is_kept_until_the_administrator_decides(
    new_world: Callable[..., World],
) -> None:
    world = new_world()
    user, service = world.user(quota=10**9), world.service("soon", "--settle", "0.3")
    user.album("Album")
    data = photo(5000)
    file_id = refused(world, service, user, data)
    # A new login does not try it again by itself.
    with Raw(service, user):
        time.sleep(0.7)
    assert user.everything() == {}

    (line,) = listed(service)
    assert line[:2] == [file_id, "refused"]
    assert user.email in line
    assert "Album/a.jpg" in line
    entry = shown(service, file_id[:10])
    assert (entry["name"], entry["bytes"], entry["folder"]) == ("a.jpg", 5000, "Album")
    assert "uota" in entry["reason"]
    for secret in world.secrets:
        assert secret not in json.dumps(entry)
    assert "no upload" in tool(service, "drop", "ffffffff", check=False)

    # A crash does not change that.
    service.kill()
    service.start_again()
    assert [words[:2] for words in listed(service)] == [[file_id, "refused"]]
    with Raw(service, user):
        assert "running service" in tool(service, "retry", file_id)
        user.uploaded("Album", "a.jpg", data)
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")
    assert listed(service) == []


def test_retry_and_drop_while_the_service_is_down(new_world: Callable[..., World]) -> None:
    world = new_world()
    user, service = world.user(quota=10**9), world.service("soon", "--settle", "0.3")
    user.album("Album")
    data = photo(5000)
    file_id = refused(world, service, user, data)
    stop(service)
    assert [words[:2] for words in listed(service)] == [[file_id, "refused"]]
    assert "next log-in" in tool(service, "retry", file_id)
    assert [words[:2] for words in listed(service)] == [[file_id, "sealed"]]
    service.start_again()
    with Raw(service, user):
        user.uploaded("Album", "a.jpg", data)

    gone = photo(6000)
    world.demo.fault("quota-full", method="POST", route="/assets", count=None)
    with Raw(service, user) as there:
        there.put("/Album/b.jpg", gone)
        file_id = service.wait_for(r"Immich refused Album/b\.jpg .* as (\w+):")[1]
    world.demo.clear_faults()
    stop(service)
    assert "dropped" in tool(service, "drop", file_id)
    assert service.spooled() == []
    service.start_again()
    with Raw(service, user) as there:
        assert there.names("/Album") == ["a.jpg"]
    assert user.names("Album") == ["a.jpg"]


def test_drop_in_a_running_service(new_world: Callable[..., World]) -> None:
    world = new_world()
    user, service = world.user(quota=10**9), world.service("soon", "--settle", "0.3")
    user.album("Album")
    file_id = refused(world, service, user, photo(5000))
    assert "running service" in tool(service, "drop", file_id)
    assert service.spooled() == []
    with Raw(service, user) as there:
        assert there.names("/Album") == []
    assert user.everything() == {}
