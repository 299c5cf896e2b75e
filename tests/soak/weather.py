"""Immich's faults, switched on and off: those of the upload matrix, and of reading."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from attrs import define, field
from cells import FAULTS, STEPS, UPLOAD_ONLY
from harness import Demo

from .ledger import Ledger

#: What is read, beside the steps of a commit.
READING = {
    "download": ("GET", "/assets/{id}/original"),
    "stream": ("POST", "/sync/stream"),
    "search": ("POST", "/search/metadata"),
    "me": ("GET", "/users/me"),
}
#: At 300 bytes a second a download would last longer than a client waits.
DOWNLOAD_RATE = 50_000
#: Seconds after the end of a fault in which it still explains what goes wrong: calls of the
#: service that met it are retried, sessions that were revoked end.
AFTERMATH = 6.0


@define(eq=False)
class Weather:
    """Good for a while, bad for a while.  `period` is seconds from one storm to the next."""

    demo: Demo
    ledger: Ledger
    dice: random.Random
    period: float = 20.0
    storms: list[tuple[float, float, str]] = field(factory=list)

    def run(self, stop: threading.Event) -> None:
        """Begin with a fine spell, go on until told to stop, and leave fine weather."""
        while not stop.wait(self.period * self.dice.uniform(0.4, 0.6)):
            faults = [self._draw() for _ in range(self.dice.choice((1, 1, 2)))]
            name = ", ".join(name for name, _ in faults)
            began = time.monotonic()
            self.storms.append((began, float("inf"), name))
            try:
                for _, fault in faults:
                    self.demo.fault(**fault)
                stop.wait(self.period * self.dice.uniform(0.2, 0.5))
            finally:
                self.demo.clear_faults()
                self.storms[-1] = (began, time.monotonic(), name)
            self.ledger.count("storms")

    def _draw(self) -> tuple[str, dict[str, Any]]:
        fault = self.dice.choice(sorted(FAULTS))
        routes = {**STEPS, **READING}
        if fault in UPLOAD_ONLY:
            step = "upload"
        else:
            step = self.dice.choice(sorted(routes))
        method, route = routes[step]
        options = dict(FAULTS[fault], method=method, route=route)
        if step == "download" and fault == "slow":
            options["rate"] = DOWNLOAD_RATE
        # Some meet all, some every second one, some just three.
        options["count"] = self.dice.choice((None, None, 3))
        options["probability"] = self.dice.choice((1.0, 0.5))
        return f"{fault} at {step}", options

    @property
    def now(self) -> str:
        """What is wrong with Immich just now."""
        _, ended, name = self.storms[-1] if self.storms else (0.0, 0.0, "")
        return name if ended == float("inf") else "fine"

    def explains(self, began: float) -> str:
        """The faults that a call which began then, and ends now, may have met; or nothing."""
        names = [name for _, end, name in self.storms.copy() if end + AFTERMATH >= began]
        return "; ".join(names)
