"""Asks a vulnerability service about what the image is made of; fails on what it knows.

`python .ci/audit.py PIP-AUDIT LOCK...`: the path of the program pip-audit and the lock files.  The
service is on the network, and a registry that stands in for PyPI has none: then this says "could
not run" and why, with exit status 0, for a check that is silent would be taken for one that
passed.  pip-audit itself calls that a success with nothing found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

#: Seconds for one lock.
LIMIT = 300
#: Words of pip-audit's and urllib3's for a service that cannot be reached.
UNREACHABLE = ("ConnectionError", "Connection refused", "Max retries", "timed out", "resolve")


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit status and what to say about one report in pip-audit's JSON."""
    dependencies = report["dependencies"]
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    audited = [one for one in dependencies if "vulns" in one]
    if not dependencies:
        return 1, ["the lock is empty"]
    if not audited:
        return 0, [f"could not run: the service knows none of {len(skipped)} packages"]
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, "
        f"fixed in {', '.join(found.get('fix_versions') or ['no version yet'])}"
        for one in audited
        for found in one["vulns"]
    ]
    lines += [f"{name}: unknown to the service" for name in skipped]
    return (1 if lines else 0), [*lines, f"{len(audited)} packages audited"]


def audit(program: str, lock: str) -> tuple[int, list[str]]:
    """The same for a lock file."""
    done = subprocess.run(  # noqa: S603 -- the program that CI has just installed
        [
            *(program, "-r", lock, "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    try:
        return verdict(json.loads(done.stdout))
    except ValueError:
        said = done.stderr.strip().splitlines() or ["nothing"]
        if any(word in done.stderr for word in UNREACHABLE):
            return 0, [f"could not run: {said[-1]}"]
        return 1, [f"pip-audit ended with {done.returncode}: {said[-1]}"]


def main(arguments: Sequence[str]) -> int:
    """Audit each lock; 1 if anything is known about one of them."""
    program, *locks = arguments
    worst = 0
    for lock in locks:
        status, lines = audit(program, lock)
        for line in lines:
            print(f"{lock}: {line}")
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
