"""The soak's own checks find what they are there for, and nothing else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from .background import running
from .ledger import ABSENT, Ledger
from .verdict import There, unmarked, verdict
from .watch import Sample, Watch, handles_of, more_handles

PLACE = ("alice@example.com", "Rome")


def ledger(*said: tuple[str, str, bool]) -> Ledger:
    """Names with bytes and whether that is sure, one after the other."""
    made = Ledger()
    for name, digest, sure in said:
        made.told(PLACE, name, digest, sure=sure)
    return made


def wrong(made: Ledger, *immich: tuple[str, str], shown: str = "", **spool: str) -> list[str]:
    """What is found where Immich has these; shown is what it has, but for `shown`."""
    names = shown.split(",") if shown else [name for name, _ in immich]
    kept = {f"{name}.jpg": digest for name, digest in spool.items()}
    return list(verdict(made.of(PLACE), There(immich, kept, [*filter(None, names), *kept])))


def test_a_file_that_is_there_with_its_bytes_is_right() -> None:
    assert wrong(ledger(("a.jpg", "1", True)), ("a.jpg", "1")) == []


def test_a_file_that_is_nowhere_is_lost() -> None:
    found = wrong(ledger(("a.jpg", "1", True)))
    assert any("a.jpg is LOST" in one for one in found)
    assert any("a.jpg is not shown" in one for one in found)


def test_a_file_whose_bytes_another_has_is_found() -> None:
    made = ledger(("a.jpg", "1", True), ("b.jpg", "2", True))
    found = wrong(made, ("a.jpg", "2"), ("b.jpg", "2"))
    assert any("a.jpg is LOST" in one for one in found)
    assert any("a.jpg has other bytes in Immich" in one for one in found)
    assert not any("b.jpg" in one for one in found)


def test_an_overwrite_that_left_the_old_bytes_is_found() -> None:
    made = ledger(("a.jpg", "1", True), ("a.jpg", "2", True))
    assert any("LOST" in one for one in wrong(made, ("a.jpg", "1")))
    assert any("other bytes" in one for one in wrong(made, ("a.jpg", "1"), ("a.jpg", "2")))


def test_what_was_removed_may_not_be_there() -> None:
    made = ledger(("a.jpg", "1", True), ("a.jpg", ABSENT, True))
    assert wrong(made) == []
    found = wrong(made, ("a.jpg", "1"))
    assert any("other bytes" in one for one in found)
    assert any("was removed" in one for one in found)


def test_what_a_remove_took_back_that_failed_before_may_not_be_there() -> None:
    made = ledger(("a.jpg", "1", False), ("a.jpg", ABSENT, True))
    assert wrong(made) == []
    assert any("was removed" in one for one in wrong(made, ("a.jpg", "1")))


def test_an_upload_that_was_told_an_error_may_be_there_or_not() -> None:
    made = ledger(("a.jpg", "1", False))
    assert wrong(made) == []
    assert wrong(made, ("a.jpg", "1")) == []
    assert any("other bytes" in one for one in wrong(made, ("a.jpg", "2")))


@pytest.mark.parametrize("last", ["2", ABSENT])
def test_what_such_an_upload_left_is_a_file_of_its_own_with_a_mark(last: str) -> None:
    made = ledger(("a.jpg", "0", True), ("a.jpg", "1", False), ("a.jpg", last, True))
    own = [("a.jpg", last)] if last else []
    names = ",".join(["a ~0123abcd.jpg", *(["a.jpg"] if last else [])])
    assert wrong(made, ("a.jpg", "1"), *own, shown=names) == []
    assert wrong(made, ("a.jpg", "1"), *own, shown="a.jpg")
    assert wrong(made, ("a.jpg", "0"), *own, shown=names)


def test_what_immich_refused_is_kept_where_the_spool_has_its_bytes() -> None:
    made = ledger(("a.jpg", "1", True))
    assert wrong(made, a="1") == []
    found = wrong(made, a="2")
    assert any("other bytes in the spool" in one for one in found)
    assert any("LOST" in one for one in found)
    # What it was to overwrite stays until it is in.
    made.told(PLACE, "a.jpg", "3", sure=True)
    assert wrong(made, ("a.jpg", "1"), a="3") == []
    assert any("other bytes" in one for one in wrong(made, ("a.jpg", "2"), a="3"))


def test_what_nobody_sent_is_found() -> None:
    made = ledger(("a.jpg", "1", True))
    assert any("b.jpg is in Immich" in one for one in wrong(made, ("a.jpg", "1"), ("b.jpg", "2")))
    assert any("b.jpg is shown" in one for one in wrong(made, ("a.jpg", "1"), shown="a.jpg,b.jpg"))
    assert any("b.jpg is in the spool" in one for one in wrong(made, ("a.jpg", "1"), b="2"))


def test_a_mark_is_told_from_a_name() -> None:
    assert unmarked("a ~0123abcd.jpg") == "a.jpg"
    assert unmarked("a ~x.jpg") == "a ~x.jpg"
    assert unmarked("a.jpg") == "a.jpg"


def test_a_listing_is_held_against_what_was_said() -> None:
    made = ledger(("a.jpg", "1", True), ("b.jpg", "2", False), ("c.jpg", ABSENT, True))
    assert made.settle(PLACE, ["a.jpg", "b.jpg"]) == made.settle(PLACE, ["a.jpg"]) == []
    assert made.settle(PLACE, ["b.jpg"]) == ["a.jpg is missing"]
    assert len(made.settle(PLACE, ["a.jpg", "c.jpg", "d.jpg"])) == 2


def test_a_handle_that_is_left_open_is_found(tmp_path: Path) -> None:
    before = handles_of(os.getpid())
    with (tmp_path / "left").open("w"):
        assert more_handles(before, handles_of(os.getpid())) == [str(tmp_path / "left")]
    assert more_handles(before, handles_of(os.getpid())) == []


def test_sockets_are_counted_for_their_names_are_numbers() -> None:
    assert more_handles(["socket:[1]"], ["socket:[2]"]) == []
    assert more_handles(["socket:[1]"], ["socket:[2]", "socket:[3]"]) == ["socket:[2]"]
    assert more_handles(["/dev/null"], ["/dev/null", "/dev/null"]) == ["/dev/null"]


def test_memory_that_grows_in_step_is_found() -> None:
    def watched(growth: float) -> Watch:
        watch = Watch(os.getpid(), lambda: "fine")
        for second in range(1200):
            watch.samples.append(Sample(float(second), 80 + growth * second / 60, 40, 0.0, "fine"))
        return watch

    assert watched(0.1).growth(0)[1]
    assert not watched(3.0).growth(0)[1]


def test_work_in_the_background_ends_with_its_block_and_is_heard() -> None:
    ended: list[bool] = []
    with running(lambda stop: ended.append(stop.wait(10.0))):
        assert not ended
    assert ended == [True]

    def breaks(stop: threading.Event) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), running(breaks):
        pass
