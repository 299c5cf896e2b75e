"""The soak itself: who takes part, a line now and then, and what has to be so in the end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import define, field
from harness import Service, User, World, eventually, photo
from rawsftp import Raw

from .actor import LIBRARY, Actor
from .actors import GOOD
from .background import running
from .finish import Finish
from .hostile import HOSTILE
from .ledger import Ledger
from .watch import Watch, handles_of
from .weather import Weather

#: Users who are there side by side; good clients are dealt out among them.
USERS = 3
#: Seconds that the mirrors outlive their users' last connections.
MIRROR_KEEP = 3.0
#: Seconds until actors have ended their last step.
LAST_STEPS = 90.0
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
    #: Seconds that sessions and handles are given to go in the end.
    patience: float = 30.0
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
        eventually(lambda: not self._world.sessions(), "a log-out", limit=MIRROR_KEEP + 30.0)
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
        with running(watch.run):
            with running(self._weather.run):
                for actor in self._actors:
                    actor.start()
                self._wait(watch)
                for actor in self._actors:
                    actor.stop()
            late = time.monotonic() + LAST_STEPS
            for actor in self._actors:
                if not actor.join(max(0.0, late - time.monotonic())):
                    self.ledger.found(f"{actor.kind} has not ended its last step")

    def _wait(self, watch: Watch) -> None:
        end = time.monotonic() + self.minutes * 60
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.every))
            self.say(self._line(watch))
            if not self._service.alive:
                self.ledger.found(f"the service has ended:\n{self._service.text()[-3000:]}")
                return

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

    def _finish(self) -> None:
        if not self._service.alive or self.watch is None:
            return
        text, flat = self.watch.growth(self._assets)
        self.say(text)
        if not flat:
            self.ledger.found(text)
        users = {actor.user.email: actor.user for actor in self._actors}
        kept = {actor.place: actor.kept for actor in self._actors}
        Finish(
            self._world,
            self._service,
            self.ledger,
            list(users.values()),
            MIRROR_KEEP + self.patience,
        ).look(kept, self._handles)
        counts = self.ledger.counts
        if counts["requests sent"] != counts["requests answered"]:
            # Those of connections that a revoked session ended are told by the end.
            lost = counts["requests sent"] - counts["requests answered"]
            self.say(f"{lost} requests were under way when their connection was ended")

    def _close(self) -> None:
        self._world.demo.clear_faults()
        for complaint in self._world.complaints():
            self.ledger.found(complaint)
        try:
            self._world.close()
        except (AssertionError, pytest.fail.Exception) as error:
            self.ledger.found(f"at the stop: {error}"[:3000])
