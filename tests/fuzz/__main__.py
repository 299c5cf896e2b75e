"""`python -m tests.fuzz`: broken sessions for so many seconds, and what came of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from .run import fuzzer, load
from .targets import Crash

NAMES = ("transport", "userauth", "channels", "sftp")


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=0, help="stop after so many")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--target", choices=NAMES, action="append")
    parser.add_argument("--replay", type=Path, nargs="+", help="inputs that were kept")
    given = parser.parse_args()
    with fuzzer() as fuzz:
        if given.replay:
            for path in given.replay:
                name, case = load(path)
                try:
                    print(path, fuzz.one(name, case))
                except Crash as crash:
                    print(path, "CRASH", crash)
                    fuzz.log.lines.clear()
                    fuzz.log.failures.clear()
            return 0
        report = fuzz.run(given.target or list(NAMES), given.seed, given.seconds, given.inputs)
    print(report.text())
    return 1 if report.crashes else 0


if __name__ == "__main__":
    sys.exit(_main())
