"""`python -m benchmarks`: all measures, or those that are named, one after the other."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

#: A measure's name -> its module.  Each has a `main` that takes arguments, `--quick` and `--out`
#: among them, leaves a table and a CSV of its name, and returns 0 if all marks are met.
MEASURES = {
    "catalog": "benchmarks.catalog",
    "memory": "benchmarks.mirror_memory",
    "transport": "benchmarks.transport",
    "transfer": "benchmarks.transfer",
}
RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; the highest status that one of them returned."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Options of its own may follow a name: `python -m benchmarks.catalog --help`.",
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="smaller libraries, fewer runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for tables and CSVs")
    options, more = parser.parse_known_args(arguments)
    unknown = [name for name in options.measures if name not in MEASURES]
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if more and len(options.measures) != 1:
        parser.error(f"{more[0]} is for one measure; name it first")
    shared = [*(["--quick"] if options.quick else []), "--out", str(options.out)]
    statuses = []
    for name in options.measures or MEASURES:
        print(f"== {name}", flush=True)
        measure = importlib.import_module(MEASURES[name])
        statuses.append(int(measure.main([*shared, *more])))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
