"""The soak itself: who takes part, a line now and then, and what has to be so in the end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from harness import Service, User, World, eventually, photo, sha256
from rawsftp import Raw

from immich_conch import spool_tool

from .actor import LIBRARY, Actor
from .actors import GOOD
from .hostile import HOSTILE
from .ledger import ABSENT, Ledger
from .watch import Watch, handles_of
from .weather import Weather

#: Users who are there side by side; good clients are dealt out among them.
USERS = 3
#: Seconds that the mirrors outlive their users' last connections.
MIRROR_KEEP = 3.0
#: Seconds until actors have ended their last step, and until all is in Immich afterwards.
LAST_STEPS, AFTERWARDS = 90.0, 60.0
#: Files read again at the end, from each album.
READ_AGAIN = 5
OPTIONS = (
    *("--settle", "1", "--mirror-keep", str(MIRROR_KEEP), "--overlap-from", "2M"),
    # A client that hangs is gone within 25 s; one of a busy machine is not.
    *("--keepalive", "5", "--session-check", "10"),
    # An Immich that says no to the right password, as a fault, would get good users banned.
    *("--ban-threshold", "0"),
)


@define(eq=False)
class Soak:
    """One run.  `minutes` may be a part of one; `options` are those of the service."""

    directory: Path
    minutes: float
    seed: int = 1
    version: str = "3.1.0"
    storm_period: float = 20.0
    options: Sequence[str] = ()
    say: Callable[[str], None] = print
    every: float = 60.0
    #: Names of the clients that take part; empty is all.
    only: Sequence[str] = ()
    ledger: Ledger = field(factory=Ledger)
    watch: Watch | None = None
    _world: World = field(init=False)
    _service: Service = field(init=False)
    _weather: Weather = field(init=False)
    _actors: list[Actor] = field(factory=list)
    _assets: int = 0
    _handles: list[str] = field(factory=list)

    def run(self) -> bool:
        """Whether all went well; what did not is in `ledger.findings`."""
        self._world = World(self.version, self.directory / "world", self.directory / "host-keys")
        try:
            self._prepare()
            self._work()
            self._finish()
        finally:
            self._close()
        for finding in self.ledger.findings:
            self.say(f"FINDING {finding}")
        counts = ", ".join(f"{what}: {count}" for what, count in sorted(self.ledger.counts.items()))
        self.say(counts)
        verdict = "passed" if not self.ledger.findings else "FAILED"
        self.say(f"{verdict}: {self.minutes:g} minutes, seed {self.seed}, Immich {self.version}")
        return not self.ledger.findings

    def _prepare(self) -> None:
        dice = random.Random(self.seed)
        self._service = self._world.service("soak", *OPTIONS, *self.options)
        self._weather = Weather(
            self._world.demo, self.ledger, random.Random(dice.random()), self.storm_period
        )
        users = [self._world.user() for _ in range(USERS)]
        libraries = [self._library(user) for user in users]
        for number, kind in enumerate((*GOOD, *HOSTILE)):
            if self.only and kind.__name__ not in self.only:
                continue
            user, library = users[number % USERS], libraries[number % USERS]
            place = self.directory / kind.__name__
            own = random.Random(dice.random())
            self._actors.append(
                kind(self._service, user, self.ledger, self._weather, own, place, library)
            )
        # One connection, so that what is opened once and kept is there before it is counted.
        with Raw(self._service, users[0]) as there:
            there.names(f"/{LIBRARY}")
        self._wait_for_goodbyes()
        self._handles = handles_of(self._service.pid)

    def _library(self, user: User) -> dict[str, bytes]:
        """Files that are read and never changed; the first figure says how many clients do."""
        sizes = (1, 1_000, 40_000, 200_000)
        files = {f"{n % 4}-{n:02}.jpg": photo(sizes[n // 4 % 4] + n) for n in range(16)}
        files["3-large.mp4"] = photo(6 * 2**20)
        user.album(LIBRARY, [user.asset(name, data) for name, data in files.items()])
        return files

    def _work(self) -> None:
        self.ledger.began = time.monotonic()
        self.watch = watch = Watch(self._service.pid, lambda: self._weather.now)
        watch.start()
        self._weather.start()
        for actor in self._actors:
            actor.start()
        end = time.monotonic() + self.minutes * 60
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.every))
            self.say(self._line(watch))
            if not self._service.alive:
                self.ledger.found(f"the service has ended:\n{self._service.text()[-3000:]}")
                break
        for actor in self._actors:
            actor.stop()
        self._weather.stop()
        late = time.monotonic() + LAST_STEPS
        for actor in self._actors:
            if not actor.join(max(0.0, late - time.monotonic())):
                self.ledger.found(f"{actor.kind} has not ended its last step")
        watch.stop()

    def _line(self, watch: Watch) -> str:
        seen, counts = watch.look(), self.ledger.counts
        state = self._world.demo.state()
        self._assets = sum(len(album["assets"]) for album in state["albums"])
        steps = sum(count for what, count in counts.items() if what.startswith("steps"))
        return (
            f"{seen.seconds / 60:5.1f} min  {seen.resident:6.1f} MB  {seen.handles:4} fds  "
            f"{state['sessions']:3} sessions  cpu {seen.cpu:6.1f} s  {steps} steps, "
            f"{counts['uploads answered OK']} uploads OK, {counts['downloads']} downloads, "
            f"{counts['storms']} storms, {counts['errors, explained by faults']} errors explained, "
            f"{len(self.ledger.findings)} findings"
        )

    # -- the end

    def _finish(self) -> None:
        if not self._service.alive or self.watch is None:
            return
        text, flat = self.watch.growth(self._assets)
        self.say(text)
        if not flat:
            self.ledger.found(text)
        for what, check in (
            ("spool", self._empty_the_spool),
            ("library", self._look_into_immich),
            ("listings", self._look_by_sftp),
            ("sessions", self._wait_for_goodbyes),
            ("handles", self._count_handles),
        ):
            try:
                check()
            except (Exception, pytest.fail.Exception) as error:
                self.ledger.found(f"{what}: {error}"[:3000])
        counts = self.ledger.counts
        if counts["requests sent"] != counts["requests answered"]:
            # Those of connections that a revoked session ended are told by the end.
            lost = counts["requests sent"] - counts["requests answered"]
            self.say(f"{lost} requests were under way when their connection was ended")

    def _empty_the_spool(self) -> None:
        """What was cut off is an administrator's to drop; all else has to get in by itself."""
        spool = str(self._service.spool)
        users = {user.email: user for user in (actor.user for actor in self._actors)}
        sessions = [Raw(self._service, user) for user in users.values()]
        # Uploads whose session was revoked go on when their user is here.
        for session in sessions:
            session.__enter__()
        try:
            time.sleep(2.0)
            for entry in spool_tool.entries(spool):
                # The journal calls what was cut off `open`, as it was; no client is left by now.
                cut_off = entry["state"] in ("open", "partial", "parked")
                action = "drop" if cut_off else "retry"
                command = ["spool", "--spool-dir", spool, action, entry["id"]]
                # It may have got in by itself meanwhile, and what was refused and then removed by
                # its user can only be dropped.
                if spool_tool.main(command, lambda line: None) and action == "retry":
                    self._drop_if_removed(command, entry)
                self.ledger.count(f"spool: {entry['state']} at the end")
            eventually(
                lambda: not self._service.spooled(),
                lambda: f"not empty: {spool_tool.entries(spool)}",
                limit=AFTERWARDS,
            )
        finally:
            for session in sessions:
                session.__exit__(None, None, None)

    def _drop_if_removed(self, command: list[str], entry: dict[str, Any]) -> None:
        may = self.ledger.may_be((entry.get("email", ""), entry.get("folder", "")))
        if ABSENT in may.get(entry.get("name", ""), set()):
            spool_tool.main([*command[:-2], "drop", command[-1]], lambda line: None)

    def _look_into_immich(self) -> None:
        """All that was answered OK is there with its bytes, and nothing that nobody sent."""
        state = self._world.demo.state()
        for user, album in sorted(self.ledger.places()):
            inside = [
                asset
                for found in state["albums"]
                if (found["owner"], found["name"]) == (user, album)
                for asset in found["assets"]
                if not asset["trashed"]
            ]
            there: dict[str, list[str]] = {}
            for asset in inside:
                there.setdefault(asset["name"], []).append(asset["sha1"])
            for name, may in self.ledger.may_be((user, album)).items():
                digests = there.pop(name, [])
                if not digests and ABSENT not in may:
                    self.ledger.found(f"LOST: {album}/{name} was answered OK and is not in Immich")
                elif len(digests) > 1:
                    self.ledger.found(f"{album}/{name} is in Immich {len(digests)} times")
                elif digests and digests[0] not in may:
                    self.ledger.found(f"{album}/{name} has other bytes in Immich than any told")
                self.ledger.count("files checked in Immich")
            for name in there:
                self.ledger.found(f"{album}/{name} is in Immich, and nobody sent it")

    def _look_by_sftp(self) -> None:
        """The same by a new session: names, and the bytes of some."""
        for actor in self._actors:
            kept = sorted(actor.kept)
            with Raw(self._service, actor.user) as there:
                actor.listed(there.names(f"/{actor.album}"))
                for name in kept[-READ_AGAIN:]:
                    found = there.read(f"/{actor.album}/{name}")
                    if sha256(found) != sha256(actor.kept[name]):
                        # An overwriting whose answer was an error may have got in all the same.
                        may = self.ledger.may_be(actor.place)[name]
                        if len(may) == 1:
                            self.ledger.found(f"{actor.album}/{name} reads as other bytes")

    def _wait_for_goodbyes(self) -> None:
        """All Immich sessions are logged out once the mirrors have gone, too."""
        eventually(
            lambda: not self._world.sessions(),
            lambda: f"{self._world.sessions()} Immich sessions are left",
            limit=MIRROR_KEEP + 30.0,
        )

    def _count_handles(self) -> None:
        """As many files and sockets are open as in the beginning."""

        def more() -> list[str]:
            left = handles_of(self._service.pid)
            for known in self._handles:
                if known in left:
                    left.remove(known)
            # Sockets have numbers of their own: as many as in the beginning are no more.
            sockets = [handle for handle in left if handle.startswith("socket:")]
            before = [handle for handle in self._handles if handle.startswith("socket:")]
            now = [h for h in handles_of(self._service.pid) if h.startswith("socket:")]
            others = [handle for handle in left if handle not in sockets]
            return others + sockets[: max(0, len(now) - len(before))]

        eventually(lambda: not more(), lambda: f"open and not before: {more()}", limit=30.0)

    def _close(self) -> None:
        self._world.demo.clear_faults()
        for complaint in self._world.complaints():
            self.ledger.found(complaint)
        try:
            self._world.close()
        except (AssertionError, pytest.fail.Exception) as error:
            self.ledger.found(f"at the stop: {error}"[:3000])
