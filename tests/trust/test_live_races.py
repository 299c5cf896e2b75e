"""Two things done to one content at once, in both orders and with a crash between.

Each pair is done one after the other, the second while Immich still works on the first, and with
the service killed while Immich works on the first; then whoever got no answer does it again.  The
end is the same each time.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from itertools import product
from typing import ClassVar

import pytest
from attrs import define, field
from harness import Service, User, World, eventually, photo, posix, sha1
from rawsftp import CLOSE, NEW, OK, REMOVE, Raw, attrs, string

THEN = 1_400_000_000
SETTLE = 0.3
#: Seconds that Immich takes for a request while another one comes.
HELD = 0.6
#: Seconds for a request to get from a client through the service to Immich.
ON_ITS_WAY = 0.2

Action = Callable[[], None]
Holds = tuple[tuple[str, str], tuple[str, str]]


def quick(world: World) -> Service:
    """The service of these tests."""
    return world.service("quick", "--settle", str(SETTLE))


@define(eq=False)
class Pair:
    """Two actions on one user's library, and what has to be true in the end.

    `holds` are the requests (method, route) in which each can be held up.
    """

    world: World
    user: User = field(init=False)
    data: bytes = field(init=False)
    holds: ClassVar[Holds] = (("DELETE", "*"), ("DELETE", "*"))

    def __attrs_post_init__(self) -> None:
        self.user = self.world.user()
        self.data = photo(20_000)

    def prepare(self) -> None:
        """What there is before."""
        self.user.album("One")
        self.user.album("Two")

    def first(self) -> None:
        """One action; raises AssertionError where the client is told that it failed."""
        raise NotImplementedError

    def second(self) -> None:
        """The other one."""
        raise NotImplementedError

    def wrong(self) -> str:
        """What is not as it has to be in the end."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """REMOVE on a connection of its own."""
        with Raw(quick(self.world), self.user) as there:
            there.done(REMOVE, string(path))

    def upload(self, path: str, data: bytes, known: bool = True) -> None:
        """An upload whose time is known before CLOSE, or never."""
        with Raw(quick(self.world), self.user) as there:
            handle = there.open(path, NEW, attrs(mtime=THEN) if known else b"\0\0\0\0")
            there.write(handle, data)
            reply = there.ask(CLOSE, string(handle))
            assert reply.status == OK, reply.text

    def shown(self, album: str) -> list[tuple[str, str]]:
        """Names and SHA-1s of what is in an album."""
        return sorted((found["name"], found["sha1"]) for found in self.user.inside(album))


class RemoveAgainstUpload(Pair):
    """REMOVE here, and an upload of the same bytes there."""

    holds = (("DELETE", "*"), ("PUT", "/albums/{id}/assets"))

    def prepare(self) -> None:
        self.user.album("One", [self.user.asset("a.jpg", self.data, THEN)])
        self.user.album("Two")

    def first(self) -> None:
        self.remove("/One/a.jpg")

    def second(self) -> None:
        self.upload("/Two/a.jpg", self.data)

    def wrong(self) -> str:
        here, there = self.shown("One"), self.shown("Two")
        fine = here == [] and there == [("a.jpg", sha1(self.data))]
        return "" if fine else f"{here} {there} {self.user.everything()}"


class TwoRemoves(Pair):
    """One asset removed from both of its albums."""

    def prepare(self) -> None:
        asset = self.user.asset("a.jpg", self.data, THEN)
        self.user.album("One", [asset])
        self.user.album("Two", [asset])

    def first(self) -> None:
        self.remove("/One/a.jpg")

    def second(self) -> None:
        self.remove("/Two/a.jpg")

    def wrong(self) -> str:
        (asset,) = self.user.everything().values()
        fine = asset["trashed"] and not self.shown("One") and not self.shown("Two")
        return "" if fine else f"{asset} {self.shown('One')} {self.shown('Two')}"


class TwoUploads(Pair):
    """One content uploaded into two albums."""

    holds = (("POST", "/assets"), ("POST", "/assets"))
    known: ClassVar[bool] = True

    def first(self) -> None:
        self.upload("/One/a.jpg", self.data, self.known)

    def second(self) -> None:
        self.upload("/Two/a.jpg", self.data, self.known)

    def wrong(self) -> str:
        wanted = [("a.jpg", sha1(self.data))]
        fine = self.shown("One") == self.shown("Two") == wanted
        fine = fine and len(self.user.everything()) == 1
        return "" if fine else f"{self.shown('One')} {self.shown('Two')}"


class TwoUploadsWithoutATime(TwoUploads):
    """The same, answered OK before Immich has them: nobody does these again."""

    known = False


class OverwriteAgainstWebDelete(Pair):
    """A file is overwritten while its owner deletes it in the web interface."""

    holds = (("PUT", "/assets/copy"), ("DELETE", "/assets"))
    old = b""
    asset = ""

    def prepare(self) -> None:
        self.old = photo(20_000)
        self.asset = self.user.asset("a.jpg", self.old, THEN - 1000)
        self.user.album("One", [self.asset])

    def first(self) -> None:
        self.upload("/One/a.jpg", self.data)

    def second(self) -> None:
        delete_in_web(self.user, self.asset)

    def wrong(self) -> str:
        fine = self.shown("One") == [("a.jpg", sha1(self.data))]
        fine = fine and self.user.everything()[self.asset]["trashed"]
        return "" if fine else f"{self.user.everything()}"


class KnownBytesAgainstWebDelete(OverwriteAgainstWebDelete):
    """Bytes that Immich has are uploaded into an album while they are deleted in the web."""

    holds = (("PUT", "/albums/{id}/assets"), ("DELETE", "/assets"))

    def prepare(self) -> None:
        self.asset = self.user.asset("a.jpg", self.data, THEN)
        self.user.album("One")

    def wrong(self) -> str:
        fine = self.shown("One") == [("a.jpg", sha1(self.data))]
        return "" if fine else f"{self.user.everything()}"


def delete_in_web(user: User, asset: str) -> None:
    """What the web interface asks for."""
    request = urllib.request.Request(
        f"{user.world.demo.url}/api/assets",
        method="DELETE",
        data=json.dumps({"ids": [asset]}).encode(),
        headers={"Content-Type": "application/json", "x-api-key": user.key()},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 204


PAIRS = [
    RemoveAgainstUpload,
    TwoRemoves,
    TwoUploads,
    TwoUploadsWithoutATime,
    OverwriteAgainstWebDelete,
]


@define(eq=False)
class Doing:
    """An action in a thread of its own, and whether its client was told that it worked."""

    action: Action
    ok: bool = False
    said: str = ""
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.action()
        except Exception as error:
            self.said = repr(error)
        else:
            self.ok = True

    def wait(self) -> bool:
        """Wait for the end; whether it worked."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "a client waits for ever"
        return self.ok


def check(pair: Pair) -> None:
    """The end, which somebody who logs in sees too."""
    with Raw(quick(pair.world), pair.user) as there:
        eventually(lambda: not pair.wrong() or None, pair.wrong)
        for album in there.names("/"):
            assert there.names(f"/{album}") == [name for name, _ in pair.shown(album)]
    for asset in pair.user.everything().values():
        assert posix(asset["fileModifiedAt"]) > 0


@pytest.mark.parametrize("turned", [False, True], ids=["in-order", "turned"])
@pytest.mark.parametrize("kind", PAIRS)
def test_one_after_the_other(shared: World, kind: Callable[[World], Pair], turned: bool) -> None:
    pair = kind(shared)
    pair.prepare()
    actions = [pair.first, pair.second]
    for action in reversed(actions) if turned else actions:
        action()
    check(pair)


@pytest.mark.parametrize(
    ("kind", "turned"),
    # What is deleted in the web after it came in stays deleted, so that pair is not turned.
    [*product(PAIRS, (False, True)), (KnownBytesAgainstWebDelete, False)],
)
def test_one_while_immich_works_on_the_other(
    shared: World, kind: Callable[[World], Pair], turned: bool
) -> None:
    pair = kind(shared)
    pair.prepare()
    quick(shared)
    order = (1, 0) if turned else (0, 1)
    actions = (pair.first, pair.second)
    method, route = pair.holds[order[0]]
    shared.demo.fault("hang", seconds=HELD, method=method, route=route)
    doing = [Doing(actions[order[0]])]
    time.sleep(ON_ITS_WAY)
    doing.append(Doing(actions[order[1]]))
    for one in doing:
        assert one.wait(), one.said
    check(pair)
    shared.demo.clear_faults()


@pytest.mark.parametrize(
    ("kind", "turned"),
    # The service has no part in what is done in the web interface.
    [pair for pair in product(PAIRS, (False, True)) if pair != (OverwriteAgainstWebDelete, True)],
)
def test_a_crash_while_immich_works_on_one_and_the_other_after_it(
    shared: World, kind: Callable[[World], Pair], turned: bool
) -> None:
    pair = kind(shared)
    pair.prepare()
    service = quick(shared)
    order = (1, 0) if turned else (0, 1)
    actions = (pair.first, pair.second)
    method, route = pair.holds[order[0]]
    shared.demo.fault("hang", method=method, route=route, count=1)
    cut = Doing(actions[order[0]])
    eventually(
        lambda: shared.demo.counts()["faults"] == 0 or None,
        lambda: f"the request to be held {cut.said}",
    )
    service.kill()
    answered = cut.wait()
    shared.demo.clear_faults()
    service.start_again()
    actions[order[1]]()
    if not answered:
        actions[order[0]]()
    check(pair)
    eventually(lambda: not service.spooled() or None, lambda: f"{service.spooled()}")
