"""Fails if a test was skipped for another reason than that FUSE is missing.

Reads pytest's JUnit report.  A test that is skipped without anybody noticing is one that was not
written; FUSE alone cannot be had in every container, and a skip for it says so by name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

ALLOWED = "FUSE"


def main(report: Path) -> int:
    """Print the sums and every skip; 1 if one is not allowed or nothing ran at all."""
    ran = wrong = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 -- our own
        ran += 1
        skip = case.find("skipped")
        if skip is None:
            continue
        ran -= 1
        reason = " ".join((skip.get("message") or skip.text or "").split())
        allowed = ALLOWED in reason
        wrong += not allowed
        name = f"{case.get('classname')}::{case.get('name')}"
        print(f"{'skipped' if allowed else 'NOT ALLOWED'}: {name}: {reason}")
    print(f"{ran} tests ran; {wrong} were skipped that must not be")
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
