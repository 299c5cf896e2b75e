"""A slice of the soak with every test run; `python -m tests.soak --minutes 30` is the whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import photo, sha1
from rawsftp import Raw

from .actors import Paramiko
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


class Wronged(Soak):
    """A run in which everything is wrong in the end."""

    def _finish(self) -> None:
        actor = self._actors[0]
        user, album = actor.user, actor.album
        # Answered OK, and nowhere.
        self.ledger.told(actor.place, "lost.jpg", sha1(photo(100)), sure=True)
        # Answered OK, and another's bytes under its name.
        self.ledger.told(actor.place, "other.jpg", sha1(photo(100)), sure=True)
        with Raw(self._service, user) as there:
            there.put(f"/{album}/other.jpg", photo(100))
            there.put(f"/{album}/nobody.jpg", photo(100))
        # A connection that nobody ends: a session, and a socket.
        with Raw(self._service, user):
            super()._finish()


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_soak_finds_what_is_lost_another_s_or_left_behind(tmp_path: Path) -> None:
    lines: list[str] = []
    soak = Wronged(
        tmp_path,
        minutes=0.05,
        storm_period=1000.0,
        say=lines.append,
        only=[Paramiko.__name__],
        patience=2.0,
    )
    assert not soak.run()
    found = "\n".join(soak.ledger.findings)
    assert "lost.jpg is LOST" in found
    assert "other.jpg has other bytes in Immich" in found
    assert "nobody.jpg is in Immich, and nobody sent it" in found
    assert "Immich sessions are left" in found
    assert "open and not before" in found and "socket:" in found
    # And nothing else but its short time.
    sound = ("lost.jpg", "other.jpg", "nobody.jpg", "sessions are left", "open and not before")
    rest = [one for one in soak.ledger.findings if not any(word in one for word in sound)]
    assert all("too short to tell whether memory grows" in one for one in rest), rest
