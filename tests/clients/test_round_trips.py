"""rclone as people use it: the same sync over and over, one way and both ways.

Whatever a run has brought over must be there as rclone left it when the next one looks: other
names, other times and second copies of known bytes included.  A run after which nothing was
changed transfers nothing and deletes nothing.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from harness import Service, User, World, photo, sha1
from meeting import FULL
from rclone import Rclone

#: Seconds that one run of thousands of files may take on a slow machine.
LONG = 200.0 if FULL else 100.0
#: Files at once.
TRANSFERS = "8"


@define
class Done:
    """What a run of rclone did, as its last line of statistics says."""

    transfers: int
    deletes: int
    renames: int
    errors: int


NOTHING = Done(0, 0, 0, 0)


@define
class Sync:
    """An rclone before a service, whose every run must go well."""

    rclone: Rclone
    service: Service
    user: User

    def __call__(self, *arguments: str) -> Done:
        """Run it, and tell what it did."""
        log = self.rclone(
            self.service,
            self.user,
            *("-v", "--use-json-log", "--transfers", TRANSFERS, "--checkers", TRANSFERS),
            *arguments,
            limit=LONG,
        ).stderr
        found = [
            entry["stats"] for line in log.splitlines() if "stats" in (entry := json.loads(line))
        ]
        assert found, log[-2000:]
        last = found[-1]
        return Done(*(last.get(key, 0) for key in ("transfers", "deletes", "renames", "errors")))


def write(path: Path, data: bytes, time: float) -> None:
    """A file with a time of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time, time))


def present(user: User) -> set[str]:
    """The SHA-1 of whatever the user has in Immich, the trash included."""
    return {asset["sha1"] for asset in user.everything().values()}


def uploads(world: World) -> int:
    """Uploads that the demo has been asked for."""
    return int(world.demo.counts()["requests"].get("POST /assets", 0))


@pytest.mark.parametrize(
    ("version", "which", "count", "there"),
    [
        ("2.5.6", "installed", 120, 0),
        ("2.5.6", "new", 120, 60),
        # With all of them brought over by rclone it takes a minute or two more.
        ("3.1.0", "new", 2000 if FULL else 1200, 0 if FULL else 1100),
    ],
)
@pytest.mark.timeout(8 * LONG)
def test_a_sync_after_which_nothing_was_changed_transfers_nothing(
    worlds: Callable[[str], World],
    programs: Callable[[str], str],
    tmp_path: Path,
    version: str,
    which: str,
    count: int,
    there: int,
) -> None:
    """Of `count` files `there` came into Immich by another client, and rclone finds them so."""
    world = worlds(version)
    user = world.user()
    sync = Sync(Rclone(programs(which), tmp_path), world.later, user)
    here = tmp_path / "here"
    albums = ["Rome", "Oslo ü", "2024", "Best of"]
    twice = photo(3000)
    contents, ready = set[str](), dict[str, list[dict[str, Any]]]()
    for number in range(count):
        # Four of a hundred are the same one, many times in each album.
        data = twice if number % 100 < len(albums) else photo(500 + number % 1000)
        contents.add(sha1(data))
        album = albums[number % len(albums)]
        write(here / album / f"IMG {number:04}.jpg", data, 1.5e9 + 60 * number)
        if number < there and data is not twice:
            entry = {"name": f"IMG {number:04}.jpg", "modified": 1.5e9 + 60 * number}
            entry["content"] = base64.b64encode(data).decode()
            ready.setdefault(album, []).append(entry)
    for album, entries in ready.items():
        answer = world.demo.ask("POST", "assets", email=user.email, assets=entries)
        user.album(album, answer["ids"])
    missing = count - sum(map(len, ready.values()))
    assert sync("sync", "here", "there:") == Done(missing, 0, 0, 0)
    before = uploads(world)
    assert sync("sync", "here", "there:") == NOTHING
    assert len(present(user)) == len(contents) == len(user.everything())

    def name(number: int) -> Path:
        return here / albums[number % len(albums)] / f"IMG {number:04}.jpg"

    renamed, touched, copied, removed = range(10, 15), range(20, 25), range(30, 35), range(40, 42)
    for number in renamed:
        name(number).rename(name(number).with_name(f"renamed {number}.jpg"))
    # One with twins, and one to another folder.
    name(0).rename(name(0).with_name("one of many.jpg"))
    name(5).rename(here / "Rome" / "moved.jpg")
    for number in touched:
        os.utime(name(number), (1.2e9 + number, 1.2e9 + number))
    for number in copied:
        data = name(number).read_bytes()
        write(name(number).with_name(f"copy {number}.jpg"), data, 1.3e9 + number)
        write(here / "Copies" / f"IMG {number:04}.jpg", data, 1.3e9 + number)
    for number in removed:
        name(number).unlink()
    write(here / "Rome" / "changed.jpg", photo(700), 1.4e9)
    moved = len(renamed) + 2
    done = sync("sync", "here", "there:")
    # What was touched is compared by hash and only gets its time set.
    assert (done.transfers, done.errors) == (moved + 2 * len(copied) + 1, 0)
    assert done.deletes == moved + len(removed)
    # Nothing but the new file was not in Immich.
    assert uploads(world) == before + 1
    assert sync("sync", "here", "there:") == NOTHING
    assert uploads(world) == before + 1
    sync("check", "--download", "here", "there:")
    assert present(user) >= contents
    assert len(user.everything()) == len(contents) + 1
    trashed = sum(asset["trashed"] for asset in user.everything().values())
    assert trashed == len(removed)
    assert world.later.spooled() == []


@define
class Web:
    """Another client of Immich's, with an API key."""

    user: User
    key: str

    def __call__(self, method: str, path: str, data: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.user.world.demo.url}/api{path}",
            method=method,
            data=None if data is None else json.dumps(data).encode(),
            headers={"Content-Type": "application/json", "x-api-key": self.key},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def asset(self, album: str, name: str) -> str:
        """The id of an asset by its own name."""
        [found] = [asset["id"] for asset in self.user.inside(album) if asset["name"] == name]
        return str(found)

    def album(self, album: str) -> str:
        """The id of an album."""
        [found] = [entry["id"] for entry in self.user.albums() if entry["name"] == album]
        return str(found)


def test_bisync_brings_both_sides_together_and_then_rests(
    world: World, user: User, programs: Callable[[str], str], tmp_path: Path
) -> None:
    rclone = Rclone(programs("new"), tmp_path)
    run = Sync(rclone, world.later, user)
    web = Web(user, user.key())
    here, ever = tmp_path / "here", set()

    def local(name: str, time: float, size: int = 2000) -> None:
        data = photo(size)
        ever.add(sha1(data))
        write(here / name, data, time)

    def remote(name: str, time: float) -> str:
        data = photo(2500)
        ever.add(sha1(data))
        return user.asset(name, data, time)

    def bisync(*more: str) -> Done:
        return run(
            *("bisync", "here", "there:", "--workdir", str(tmp_path / "bisync")),
            # What is called `a.jpg.conflict1` is no picture.
            *("--suffix-keep-extension", *more),
        )

    for number in range(12):
        local(f"Rome/here {number}.jpg", 1.5e9 + number)
        local(f"Oslo/{number}.mp4", 1.5e9 + number)
    user.album("Rome", [remote(f"there {number}.jpg", 1.4e9) for number in range(12)])
    bisync("--resync")
    assert len(list(here.rglob("*.*"))) == 36
    assert len(user.inside("Rome")) == 24
    run("check", "--download", "here", "there:")
    # Here: new, changed, deleted, renamed, touched, copied.
    local("Rome/new here.jpg", 1.45e9)
    local("Rome/here 1.jpg", 1.55e9, 3000)
    (here / "Rome" / "here 2.jpg").unlink()
    (here / "Rome" / "there 3.jpg").rename(here / "Rome" / "renamed here.jpg")
    os.utime(here / "Oslo" / "4.mp4", (1.56e9, 1.56e9))
    write(here / "New" / "copy.jpg", (here / "Rome" / "here 5.jpg").read_bytes(), 1.3e9)
    # There, by another client of Immich's: new, out of the album, into the trash.
    new = remote("new there.jpg", 1.46e9)
    web("PUT", f"/albums/{web.album('Rome')}/assets", {"ids": [new]})
    gone = web.asset("Rome", "there 7.jpg")
    web("DELETE", f"/albums/{web.album('Rome')}/assets", {"ids": [gone]})
    web("DELETE", "/assets", {"ids": [web.asset("Rome", "there 8.jpg")], "force": False})
    # There, by another SFTP client: changed, renamed, moved, touched.
    local("../changed there.mp4", 1.57e9, 4000)
    run("copyto", "changed there.mp4", "there:Oslo/9.mp4")
    run("moveto", "there:Rome/here 10.jpg", "there:Rome/renamed there.jpg")
    run("moveto", "there:Rome/here 11.jpg", "there:Oslo/moved there.jpg")
    rclone(world.later, user, "touch", "-t", "2018-01-02T03:04:05", "there:Oslo/10.mp4")
    # On both sides another one: both are kept.
    local("Oslo/11.mp4", 1.58e9, 5000)
    local("../changed too.mp4", 1.59e9, 6000)
    run("copyto", "changed too.mp4", "there:Oslo/11.mp4")
    assert bisync().errors == 0
    run("check", "--download", "here", "there:")
    names = {str(path.relative_to(here)) for path in here.rglob("*.*")}
    assert {
        *("Rome/new here.jpg", "Rome/renamed here.jpg", "New/copy.jpg", "Rome/new there.jpg"),
        *("Rome/renamed there.jpg", "Oslo/moved there.jpg", "Rome/here 1.jpg"),
        *("Oslo/11.conflict1.mp4", "Oslo/11.conflict2.mp4"),
    } <= names
    assert not names & {
        *("Rome/here 2.jpg", "Rome/there 3.jpg", "Rome/there 7.jpg", "Rome/there 8.jpg"),
        *("Rome/here 10.jpg", "Rome/here 11.jpg", "Oslo/11.mp4"),
    }
    times = {name: (here / "Oslo" / name).stat().st_mtime for name in ("4.mp4", "10.mp4")}
    assert times == {"4.mp4": 1.56e9, "10.mp4": 1514862245}
    before = uploads(world)
    assert bisync() == NOTHING
    assert uploads(world) == before
    assert {str(path.relative_to(here)) for path in here.rglob("*.*")} == names
    # Whatever was in Immich once is there still, in an album, in none, or in the trash.
    assert present(user) == ever
    assert world.later.spooled() == []
