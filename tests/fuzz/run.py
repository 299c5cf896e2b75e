"""Running inputs one after the other, and keeping those that crash something.

Input `n` of a target depends on the seed and on `n` alone; the time that a run has decides only how
many there are.
"""

from __future__ import annotations

import gc
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field

from immich_conch.ssh.hostkeys import load_host_keys
from immich_conch.ssh.wire import Reader, string

from .targets import SFTP, SSH, Case, Crash, Log, targets, watching

CRASHES = Path(__file__).parent / "crashes"

#: Seconds of computing for one input, a hundred times what it needs on a slow machine.
SECONDS_EACH = 5.0
#: Inputs between two looks at what is left behind in memory, and before the first.
STEP, WARM = 5_000, 10_000
#: Python's blocks of memory (some 80 bytes each) that may come on top of those after `WARM` inputs.
#: What is kept for good, by as much as one block for each input, is more after 100,000 of them.
GROWTH = 50_000


class _TooLong(BaseException):
    """Not an Exception: the server may not catch it."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@define(eq=False)
class Report:
    """What came of a run."""

    outcomes: dict[str, Counter[str]] = field(factory=dict)
    crashes: list[tuple[str, Path, str]] = field(factory=list)
    slowest: tuple[float, str] = (0.0, "")
    blocks: list[int] = field(factory=list)

    @property
    def inputs(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    def text(self) -> str:
        """Counts by target and outcome."""
        lines = []
        for name, counts in self.outcomes.items():
            lines.append(f"{name:10} {sum(counts.values()):>9,}")
            lines += [f"  {count:>9,}  {outcome}" for outcome, count in counts.most_common()]
        lines.append(f"{'together':10} {self.inputs:>9,}")
        lines.append(f"slowest: {self.slowest[0]:.3f} s of computing, {self.slowest[1]}")
        if self.blocks:
            lines.append(f"blocks of memory: {self.blocks[0]:,} to {self.blocks[-1]:,}")
        lines += [f"CRASH {target}: {path}: {text}" for target, path, text in self.crashes]
        return "\n".join(lines)


def save(place: Path, target: str, case: Case, name: str) -> Path:
    """Keep an input."""
    place.mkdir(exist_ok=True)
    path = place / f"{target}-{name}.input"
    parts = [target.encode(), case.plan.to_bytes(4, "big"), *case.reads]
    path.write_bytes(b"".join(map(string, parts)))
    return path


def load(path: Path) -> tuple[str, Case]:
    """An input that was kept, and its target."""
    fields, parts = Reader(path.read_bytes()), []
    while fields.rest():
        parts.append(fields.string())
    return parts[0].decode(), Case(int.from_bytes(parts[1], "big"), parts[2:])


@define(eq=False)
class Fuzzer:
    """The targets, and where inputs that crash go."""

    targets: Mapping[str, SSH | SFTP]
    log: Log
    crashes: Path = CRASHES

    def one(self, name: str, case: Case) -> str:
        """Run one input; raises Crash for whatever is wrong with what came of it."""
        try:
            with _at_most(SECONDS_EACH):
                return self.targets[name].run(case)
        except Crash:
            raise
        except _TooLong:
            raise Crash(f"more than {SECONDS_EACH} s\n{traceback.format_exc()}") from None
        except Exception:
            raise Crash(f"escaped\n{traceback.format_exc()}") from None

    def run(
        self, names: list[str], seed: str, seconds: float, inputs: int = 0, most: int = 20
    ) -> Report:
        """Run until the time is over or there were as many; the targets get equal times."""
        report = Report({name: Counter() for name in names})
        spent = dict.fromkeys(names, 0.0)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not 0 < inputs <= report.inputs:
            name = min(names, key=lambda name: spent[name])
            if inputs:
                name = names[report.inputs % len(names)]
            number = sum(report.outcomes[name].values())
            case = self.targets[name].make(Random(f"{seed}/{name}/{number}"))
            began = time.process_time()
            try:
                outcome = self.one(name, case)
            except Crash as crash:
                outcome = "CRASH"
                path = save(self.crashes, name, case, f"{seed}-{number}")
                report.crashes.append((name, path, str(crash)))
                self.log.lines.clear()
                self.log.failures.clear()
                if len(report.crashes) >= most:
                    break
            took = time.process_time() - began
            spent[name] += took
            report.outcomes[name][outcome] += 1
            report.slowest = max(report.slowest, (took, f"{name} {number}"))
            if not report.inputs % STEP:
                self._weigh(report, f"{name} {number}")
        return report

    def _weigh(self, report: Report, where: str) -> None:
        gc.collect()
        if report.inputs < WARM:
            return
        report.blocks.append(sys.getallocatedblocks())
        if report.blocks[-1] > report.blocks[0] + GROWTH:
            report.crashes.append((where, self.crashes, f"memory grows: {report.blocks}"))


@contextmanager
def fuzzer(crashes: Path = CRASHES) -> Iterator[Fuzzer]:
    """A fuzzer with host keys of its own."""
    with tempfile.TemporaryDirectory() as place:
        keys = load_host_keys(Path(place) / "keys")
    with watching() as log, warnings.catch_warnings():
        # Of finite fields, whose end cryptography announces with each use.
        warnings.simplefilter("ignore")
        yield Fuzzer(targets(keys, log), log, crashes)
