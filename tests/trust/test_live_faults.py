"""Every fault at every step of a commit, with each way of telling a time: nothing is lost.

The slice takes under a minute; the whole matrix (`IMMICH_CONCH_TEST_FULL=1`) some minutes.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections import Counter
from pathlib import Path

import pytest
from cells import NAMES, Cell, Run, every_cell, service_of, slice_of_cells
from harness import World

#: Worlds side by side: they mostly wait.
LANES = {"3.1.0": 3, "2.5.6": 2}


class Lane(threading.Thread):
    """Runs cells of one version in a world of its own until there are no more."""

    def __init__(self, world: World, cells: queue.SimpleQueue[Cell]) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._cells = cells

    def run(self) -> None:
        """One cell after the other; what goes wrong in one does not spoil the next."""
        service_of(self.world)
        while True:
            try:
                cell = self._cells.get_nowait()
            except queue.Empty:
                return
            self._one(cell)

    def _one(self, cell: Cell) -> None:
        run = Run(self.world, cell)
        try:
            run.run()
        except (Exception, pytest.fail.Exception):
            self.failures.append(f"{cell}\n{traceback.format_exc(limit=-4)}")
        self.world.demo.clear_faults()
        self.failures += [f"{cell}\n{found}" for found in self.world.complaints()]
        self.counts["faults injected"] += run.faults
        self.counts["files checked"] += len(NAMES)
        self.counts["clients told"] += len(run.told)
        if not run.faults:
            self.counts["cells without a fault"] += 1


@pytest.mark.timeout(3600)
def test_no_fault_at_any_step_loses_a_file(tmp_path: Path, full: bool) -> None:
    cells = every_cell() if full else slice_of_cells()
    lanes = []
    for version, count in LANES.items():
        waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        for cell in cells:
            if cell.version == version:
                waiting.put(cell)
        for number in range(count):
            directory = tmp_path / f"{version}-{number}"
            lanes.append(Lane(World(version, directory, tmp_path / "host-keys"), waiting))
    try:
        for lane in lanes:
            # The first makes the host keys.
            service_of(lane.world)
            lane.start()
        for lane in lanes:
            lane.join()
    finally:
        for lane in lanes:
            lane.world.close()
    failures = [failure for lane in lanes for failure in lane.failures]
    counts = sum((lane.counts for lane in lanes), Counter())
    lost = f"cells failed: {len(failures)} of {len(cells)}"
    print(", ".join(f"{what}: {count}" for what, count in sorted(counts.items())), lost)
    assert not failures, lost + "\n\n" + "\n".join(failures)
    assert counts["faults injected"] >= len(cells) * 0.9
