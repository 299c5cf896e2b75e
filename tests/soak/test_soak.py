"""A slice of the soak with every test run; `python -m tests.soak --minutes 30` is the whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .run import Soak


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_or_left_behind_in_a_short_soak(tmp_path: Path) -> None:
    for program in ("sftp", "rclone", "lftp", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lines: list[str] = []
    soak = Soak(tmp_path, minutes=0.6, storm_period=10.0, say=lines.append, every=20.0)
    passed = soak.run()
    report = "\n".join(lines)
    print(report)
    assert passed, report
    counts = soak.ledger.counts
    assert counts["uploads answered OK"] >= 5 and counts["downloads"] >= 10
    assert counts["storms"] >= 2
    assert counts["requests sent"] > 100
    soak.watch.write(tmp_path / "soak.csv")
    assert len((tmp_path / "soak.csv").read_text().splitlines()) > 10
