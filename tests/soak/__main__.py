"""`python -m tests.soak`: one run, its CSV and its plot; exit status 1 if anything was wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.fit import NoPlot, need_matplotlib

from .run import Soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--version", choices=("2.5.6", "3.1.0"), default="3.1.0")
    parser.add_argument("--storms", type=float, default=20.0, help="seconds from one to the next")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between lines")
    parser.add_argument("--csv", type=Path, help="a sample a second")
    parser.add_argument("--plot", type=Path, help="a PNG; needs matplotlib")
    parser.add_argument("--keep", type=Path, help="an empty directory for what is else removed")
    parser.add_argument(
        "--option", action="append", default=[], help="for the service, as in --option=--settle=2"
    )
    parser.add_argument("--only", nargs="+", default=[], help="clients that take part (all)")
    options = parser.parse_args(arguments)
    if options.plot is not None:
        try:
            need_matplotlib()
        except NoPlot as error:
            parser.error(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        soak = Soak(
            directory,
            options.minutes,
            options.seed,
            options.version,
            options.storms,
            options.option,
            say=partial(print, flush=True),
            every=options.every,
            only=options.only,
        )
        try:
            passed = soak.run()
        finally:
            if soak.watch is not None and options.csv is not None:
                soak.watch.write(options.csv)
            if soak.watch is not None and options.plot is not None:
                soak.watch.plot(options.plot)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
