"""The demo answers as real Immich servers did: every recorded step of both versions is replayed.

How values are compared, and what of them is not, stands in `demo_replay`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from demo_replay import ORDER, RECORDINGS, Replay, steps_of

VERSIONS = ("2.5.6", "3.1.0")


@cache
def replayed(version: str) -> Replay:
    replay = Replay(version)
    replay.run()
    return replay


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", ORDER)
def test_the_demo_answers_as_the_real_server_did(version: str, scenario: str) -> None:
    assert replayed(version).differences[scenario] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_step_is_replayed(version: str) -> None:
    recorded = {path.stem for path in (RECORDINGS / version).glob("*.json")}
    assert recorded == set(ORDER)
    assert replayed(version).compared == sum(len(steps_of(version, s)) for s in ORDER)


SHARED = Path(__file__).parents[2] / "shared" / "immich" / "recordings"

if SHARED.is_dir():  # beside a working copy and in CI; a clone by itself has only the copies

    def test_the_recordings_are_the_shared_ones() -> None:
        for original in SHARED.glob("*/*.json"):
            copy = RECORDINGS / original.parent.name / original.name
            assert json.loads(copy.read_text("utf-8")) == json.loads(original.read_text("utf-8"))
        assert len(list(SHARED.glob("*/*.json"))) == len(list(RECORDINGS.glob("*/*.json")))
