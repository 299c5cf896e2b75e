"""Whatever a client does to one name, in whatever order: what was answered OK is in Immich at last.

Each example is a list of steps on one path, faults and deaths of the service among them, against a
model that knows the bytes of the last CLOSE that was answered OK.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import pytest_twisted
from rig import NO_TRUNC, TAKEN, Rig, Session, jpeg, rig, until

from immich_conch.errors import ConchError

STEPS = ["put", "put", "put timed", "part", "cut", "resume", "rename", "replace", "remove"]
STEPS += ["time", "wait", "wait", "fault", "heal", "die", "other session"]

#: Sequences played.
SEEDS = 40


class Model:
    """What a name may hold: the bytes of what was answered OK, or of what failed after it."""

    def __init__(self) -> None:
        self.may: set[bytes | None] = {None}
        self.part: set[bytes | None] = {None}
        self.count = 0

    def fresh(self) -> bytes:
        self.count += 1
        return jpeg(f"step {self.count} ", 100 + self.count)


async def step(r: Rig, s: Session, m: Model, what: str) -> None:
    """One step of a client."""
    data = m.fresh()
    if what in ("put", "put timed"):
        try:
            await s.put("/Rome/a.jpg", data, TAKEN if what == "put timed" else None)
        except ConchError:
            # Not OK: the old one is there, or the new one if only the answer got lost.
            m.may |= {data}
        else:
            m.may = {data}
    elif what == "part":
        try:
            await s.put("/Rome/a.jpg.part", data)
        except ConchError:
            m.part |= {None}
        else:
            m.part = {data}
    elif what == "cut":
        try:
            handle = await s.open("/Rome/a.jpg")
        except ConchError:
            return
        handle.writeChunk(0, data)
        handle.abort()
    elif what == "resume":
        handle = await s.open("/Rome/cut.jpg", NO_TRUNC)
        handle.writeChunk(handle.getAttrs()["size"], b"more")
        handle.abort()
    elif what in ("rename", "replace"):
        move = s.mv if what == "rename" else s.posix_mv
        try:
            await move("/Rome/a.jpg.part", "/Rome/a.jpg")
        except ConchError:
            m.may |= m.part - {None}
        else:
            m.may, m.part = m.part - {None}, {None}
    elif what == "remove":
        try:
            await s.rm("/Rome/a.jpg")
        except ConchError:
            m.may |= {None}
        else:
            m.may = {None}
    elif what == "time":
        await s.utime("/Rome/a.jpg")


async def play(r: Rig, steps: list[str]) -> None:
    """The steps, then all is healed and has the time it needs."""
    album = r.album("Rome")
    s, m = await r.session(), Model()
    for what in steps:
        if what == "wait":
            await r.pass_time(6)
            await until(lambda: not any(r.busy()))
        elif what == "fault":
            r.demo.faults.add("status", method="POST", route="/assets", count=None)
        elif what == "heal":
            r.demo.faults.clear()
        elif what == "die":
            await until(lambda: not any(r.busy()))
            r.restart()
            s = await r.session()
        elif what == "other session":
            s = await r.session()
        else:
            try:
                await step(r, s, m, what)
            except ConchError:
                continue
    r.demo.faults.clear()
    uploads = r.accounts.uploads(s.lease)
    for _ in range(12):
        await r.pass_time(400)
        await until(lambda: not any(r.busy()))
    r.clock.advance(8 * 86_400)
    r.accounts.sweep()
    assert r.in_spool() == [], steps
    assert not uploads.busy
    shown = [a for a in r.demo.assets_of(album) if a.deleted is None]
    assert len(shown) <= 1, steps
    held = r.demo.content(shown[0]) if shown else None
    assert held in m.may, steps
    s.lease.catalog.stale()
    assert list(await s.ls("/Rome")) == [a.name for a in shown]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest_twisted.ensureDeferred
async def test_what_was_answered_ok_is_in_immich_once_and_the_spool_is_empty(
    tmp_path: Path, seed: int
) -> None:
    # pytest-twisted runs a test inside the reactor, where Hypothesis cannot wait for an example.
    chance = random.Random(seed)
    steps = [chance.choice(STEPS) for _ in range(chance.randint(1, 14))]
    async with rig(tmp_path) as r:
        await play(r, steps)
