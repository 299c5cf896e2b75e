"""What the benchmarks conclude from figures, and what they refuse; nothing is timed here."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as every
from benchmarks import catalog, mirror_memory, raw, transfer, transport
from benchmarks.clients import expect, quoted
from benchmarks.fit import NoPlot, fit, need_matplotlib
from benchmarks.libraries import copy_of, put_file
from benchmarks.peers import PASSWORD_VARIABLE, CannotMeasure, Immich, Login, need
from benchmarks.process import TICKS, busy, cpu_seconds_of
from benchmarks.tables import Figure, Limit, Ratio, Report, Series, table

FOLDER, FILE = 0o040755, 0o100644


def series(*values: float, name: str = "ours", unit: str = "s") -> Series:
    return Series(name, values, unit)


# -- verdicts --------------------------------------------------------------------------------------


def test_a_series_shows_its_median_and_its_spread() -> None:
    assert str(series(3.0, 1.0, 2.0)) == "2 s (1..3)"
    assert series(1.0, 2.0, 3.0, 10.0).median == 2.5


def test_a_ratio_is_that_of_medians_so_that_one_bad_run_does_not_decide() -> None:
    row = Ratio("walk", series(1.0, 1.0, 9.0), series(2.0, 2.0, 2.0, name="sshd"), 1.0)
    assert row.value == 0.5
    assert row.met
    assert row.cells[2] == "0.500 x (0.50..4.50)"


@pytest.mark.parametrize(("ours", "met"), [(1.3, True), (1.31, False)])
def test_a_mark_is_met_up_to_itself(ours: float, met: bool) -> None:
    assert Ratio("walk", series(ours), series(1.0), 1.3).met is met


@pytest.mark.parametrize(("ours", "met"), [(500.0, True), (499.0, False)])
def test_throughput_has_to_be_at_least_its_mark(ours: float, met: bool) -> None:
    row = Ratio("stats", series(ours), series(1000.0), 0.5, at_most=False)
    assert row.met is met
    assert row.cells[3] == ">= 0.5 x"


def test_runs_that_are_no_pairs_have_no_ratio_of_their_own() -> None:
    assert Ratio("walk", series(1.0, 2.0), series(1.0), 1.0).cells[2] == "1.500 x"


def test_a_limit_for_the_worst_value_is_missed_by_one_late_change() -> None:
    values = series(0.1, 0.1, 2.1)
    assert Limit("shows", values, 2.0).met
    assert not Limit("shows", values, 2.0, of_worst=True).met
    assert not Limit("fits", series(0.999, 0.9), 0.95, at_most=False, of_worst=True).met


def test_a_report_fails_by_its_marks_alone_and_keeps_every_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("walks", tmp_path / "new")
    report.add(Figure("delta", series(3.0, 4.0)))
    report.add(Ratio("walk", series(1.0), series(2.0, name="sshd"), 1.0))
    report.note("load 0.1")
    assert report.finish() == 0
    report.add(Limit("memory", series(81.0, unit="MB"), 80.0))
    assert report.finish() == 1
    assert "walks: 1 marks met, 1 missed" in capsys.readouterr().out
    written = (tmp_path / "new" / "walks.txt").read_text()
    assert "load 0.1" in written and "MISSED" in written
    with (tmp_path / "new" / "walks.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["measure", "who", "run", "value", "unit"]
    assert ["delta", "ours", "1", "4.000000", "s"] in lines
    assert ["walk", "sshd", "0", "2.000000", "s"] in lines
    assert ["memory", "ours", "0", "81.000000", "MB"] in lines
    assert len(lines) == 1 + 2 + 2 + 1


def test_a_table_has_a_line_for_each_row_in_columns() -> None:
    rows = [Figure("short", series(1.0)), Ratio("much longer", series(1.0), series(1.0), 1.0)]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    column = lines[0].index("ours")
    assert [line[column:].startswith("1 s") for line in lines[2:]] == [True, True]
    assert lines[2].rstrip() == lines[2]


# -- growth ----------------------------------------------------------------------------------------


def test_points_on_a_line_are_linear() -> None:
    line = fit([1, 2, 4], [5, 7, 11])
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(3))
    assert line.r_squared == pytest.approx(1)
    assert line.deviation == pytest.approx(0)
    assert line.at(10) == pytest.approx(23)


def test_squares_are_not_linear() -> None:
    sizes = [1, 2, 3, 4, 5, 6]
    line = fit(sizes, [size**2 for size in sizes])
    assert line.r_squared < mirror_memory.LINEAR
    assert line.deviation > 0.2


def test_what_does_not_grow_at_all_is_on_a_line() -> None:
    assert fit([1, 2, 3], [4, 4, 4]).r_squared == 1


def test_growth_by_the_square_is_not_taken_for_linear() -> None:
    sizes = mirror_memory.SIZES
    assert fit(sizes, [size**2 for size in sizes]).r_squared < mirror_memory.LINEAR


def test_two_points_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="three"):
        fit([1, 2], [1, 2])


def point(assets: int, memory: float, reset: float = 1.0) -> mirror_memory.Point:
    load = mirror_memory.Load(memory, reset, 0.001, 0.001)
    return mirror_memory.Point(assets, memory, (load,))


@pytest.mark.parametrize(("memory", "met"), [(80.0, True), (80.1, False)])
def test_a_hundred_thousand_assets_have_a_mark(tmp_path: Path, memory: float, met: bool) -> None:
    report = Report("memory", tmp_path)
    mirror_memory.add_point(report, point(100_000, memory))
    assert [row.met for row in report.rows] == [met, met, None, None, None]


def test_other_sizes_have_none_and_the_table_says_so(tmp_path: Path) -> None:
    report = Report("memory", tmp_path)
    mirror_memory.add_point(report, point(10_000, 500.0))
    assert {row.met for row in report.rows} == {None}
    mirror_memory.add_growth(report, [point(size, size / 1000, size / 1e5) for size in (1, 2, 3)])
    assert any("No verdict on 80 MB" in note for note in report.notes)


def test_growth_that_bends_misses_its_mark(tmp_path: Path) -> None:
    report = Report("memory", tmp_path)
    sizes = range(10_000, 60_000, 10_000)
    points = [point(size, size / 1000, (size / 10_000) ** 3) for size in sizes]
    mirror_memory.add_growth(report, points)
    assert [row.met for row in report.rows] == [True, True, False]


def test_the_lines_of_a_made_up_library_are_what_the_mirror_takes(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    mirror_memory.write_lines(path, 150)
    seen = mirror_memory.resident(path, 150)
    assert seen.reset > 0
    tables, _ = mirror_memory.loaded(path, 150)
    assert len(tables.albums) == 2
    with pytest.raises(RuntimeError, match="150 of 151"):
        mirror_memory.loaded(path, 151)


# -- what is measured ------------------------------------------------------------------------------


def test_a_listing_that_lacks_something_is_no_measurement() -> None:
    expect("ours", 3, 3)
    with pytest.raises(CannotMeasure, match="ours: 2 entries instead of 3"):
        expect("ours", 2, 3)


def test_only_the_last_acknowledgement_of_a_type_is_sent() -> None:
    stream = b'{"ack": "A|1"}\n{"ack": "B|1"}\n{"ack": "A|2"}\n'
    assert sorted(raw.last_acks(stream)) == ["A|2", "B|1"]


class FakeServer:
    """Tells a change in its first streams, and remembers what was acknowledged."""

    def __init__(self, changes: int) -> None:
        self.changes, self.streams = changes, 0
        self.acks: list[list[str]] = []

    @contextmanager
    def session(self) -> Iterator[FakeServer]:
        yield self

    def read(self, method: str, path: str, data: Any) -> bytes:
        assert (method, path) == ("POST", "/api/sync/stream")
        self.streams += 1
        changed = b'{"ack": "AssetV2|1"}\n' if self.streams <= self.changes else b""
        return changed + b'{"ack": "SyncCompleteV1|1"}\n'

    def call(self, method: str, path: str, data: Any) -> None:
        assert (method, path) == ("POST", "/api/sync/ack")
        self.acks.append(sorted(data["acks"]))


def test_a_delta_is_timed_only_after_everything_was_acknowledged() -> None:
    server = FakeServer(changes=2)
    assert len(raw.deltas(server, 3, 5)) == 5  # type: ignore[arg-type]
    assert server.acks == [["AssetV2|1", "SyncCompleteV1|1"]] * 2
    assert server.streams == 3 + 5


def test_a_library_that_never_rests_gives_no_delta_without_changes() -> None:
    with pytest.raises(CannotMeasure, match="changes all the time"):
        raw.deltas(FakeServer(changes=1000), 3, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("version", "dialect"), [("2.5.6", 2), ("3.1.0", 3), ("4.0.0", 3)])
def test_a_version_has_a_dialect(version: str, dialect: int) -> None:
    assert raw.major(version) == dialect


def test_the_local_tree_is_that_of_the_walk(tmp_path: Path) -> None:
    def entry(name: str, mode: int, size: int | None = None) -> Any:
        return SimpleNamespace(filename=name, st_mode=mode, st_size=size, st_mtime=1_500_000_000)

    tree = [
        ("", [entry("Rome", FOLDER), entry("Empty", FOLDER)]),
        ("Empty", []),
        ("Rome", [entry("a.jpg", FILE, 5_000_000_000), entry("2024", FOLDER)]),
        ("Rome/2024", [entry("b.jpg", FILE), entry("c “d”.jpg", FILE, 7)]),
    ]
    biggest, files = copy_of(tree, tmp_path / "tree")
    assert (biggest, files) == ("Rome/2024", ("b.jpg", "c “d”.jpg"))
    made = tmp_path / "tree" / "Rome" / "a.jpg"
    assert made.stat().st_size == 5_000_000_000
    assert made.stat().st_blocks * 512 < 1_000_000
    assert made.stat().st_mtime == 1_500_000_000
    found = {path.relative_to(tmp_path / "tree").as_posix() for path in tmp_path.rglob("tree/**/*")}
    assert found == {"Rome", "Empty", "Rome/a.jpg", "Rome/2024", "Rome/2024/b.jpg"} | {
        "Rome/2024/c “d”.jpg"
    }


def test_a_made_up_file_takes_no_room(tmp_path: Path) -> None:
    put_file(tmp_path / "file", 10_000_000, 1_500_000_000.0)
    assert (tmp_path / "file").stat().st_size == 10_000_000
    assert (tmp_path / "file").stat().st_blocks == 0


def test_a_path_is_quoted_for_sftps_batch() -> None:
    assert quoted('/a "b"\\c') == '"/a \\"b\\"\\\\c"'


def test_cpu_time_is_read_whatever_the_process_is_called() -> None:
    line = f"7 (a) b (c)) S 1 7 7 0 -1 4194304 96 0 0 0 {3 * TICKS} {TICKS} 0 0 20 0 1 0"
    assert cpu_seconds_of(line) == 4


def test_a_busy_machine_is_told_of_and_a_quiet_one_is_not() -> None:
    assert busy(0.4) == ""
    assert "load 5.60 before" in busy(5.6)


def test_neither_a_password_nor_a_token_is_shown() -> None:
    shown = repr(Immich("http://127.0.0.1", "a@example.com", "secret one", "secret two"))
    shown += repr(Login("ours", 1, "a@example.com", "secret three"))
    assert "a@example.com" in shown and "secret" not in shown


def test_a_program_that_is_missing_is_named() -> None:
    need("sh")
    with pytest.raises(CannotMeasure, match="not installed: no-such-program"):
        need("sh", "no-such-program")


# -- arguments -------------------------------------------------------------------------------------


def refused(main: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--login", "a@example.com"], "are for --immich"),
        (["--may-write"], "are for --immich"),
        (["--immich", "http://127.0.0.1:1"], "needs --login"),
        (["--immich", "127.0.0.1:1", "--login", "a@example.com"], "must be a URL"),
        (["--immich", "http://127.0.0.1:1", "--login", "a@example.com"], PASSWORD_VARIABLE),
        (["--immich", "http://127.0.0.1:1", "--version", "2.5.6"], "has its own"),
        (["--runs", "0"], "at least 1"),
    ],
)
def test_the_catalog_refuses(
    arguments: list[str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    assert why in refused(catalog.arguments_of, arguments, capsys)


def test_a_real_server_is_only_read_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    real = ["--immich", "http://127.0.0.1:1/api/", "--login", "a@example.com"]
    options = catalog.arguments_of(real)
    assert (options.immich, options.may_write) == ("http://127.0.0.1:1", False)
    assert catalog.arguments_of([*real, "--may-write"]).may_write
    assert "secret" not in repr(options)


def test_the_runs_follow_from_quick_unless_given() -> None:
    assert catalog.arguments_of([]).runs == 5
    assert catalog.arguments_of(["--quick"]).runs == 3
    assert catalog.arguments_of(["--quick", "--runs", "1"]).runs == 1


def test_what_keeps_the_catalog_from_being_measured_is_one_line_and_no_missed_mark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(options: Any) -> int:
        raise CannotMeasure("not installed: rclone")

    monkeypatch.setattr(catalog, "measure", measure)
    assert catalog.main([]) == 2
    assert capsys.readouterr().err == "cannot measure: not installed: rclone\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--assets", "1000", "2000"], "three sizes"),
        (["--assets", "1", "2000", "3000"], "at least 100"),
        (["--runs", "0"], "at least 1"),
    ],
)
def test_the_memory_measure_refuses(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why in refused(mirror_memory.arguments_of, arguments, capsys)


def test_the_memory_measure_has_the_size_of_its_mark_among_five() -> None:
    options = mirror_memory.arguments_of([])
    assert len(options.assets) >= 5
    assert mirror_memory.MARKED in options.assets


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoPlot):
        need_matplotlib()
    assert "immich-conch[bench]" in refused(mirror_memory.arguments_of, ["--plot"], capsys)
    assert not mirror_memory.arguments_of([]).plot


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []

    def import_module(name: str) -> Any:
        def main(arguments: list[str]) -> int:
            found.append((name, arguments))
            return int(name == "benchmarks.catalog")

        return SimpleNamespace(main=main)

    monkeypatch.setattr(every, "importlib", SimpleNamespace(import_module=import_module))
    return found


def test_all_measures_run_and_one_missed_mark_is_told(called: list[tuple[str, list[str]]]) -> None:
    assert every.main(["--quick", "--out", "there"]) == 1
    assert called == [(name, ["--quick", "--out", "there"]) for name in every.MEASURES.values()]


def test_a_named_measure_gets_options_of_its_own(called: list[tuple[str, list[str]]]) -> None:
    assert every.main(["memory", "--out", "there", "--assets", "1", "2"]) == 0
    assert called == [("benchmarks.mirror_memory", ["--out", "there", "--assets", "1", "2"])]


def test_options_of_no_measure_are_refused(
    called: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "name it first" in refused(every.main, ["--plot"], capsys)
    assert "no such measure: nothing" in refused(every.main, ["nothing"], capsys)
    assert called == []


def test_every_measure_is_there() -> None:
    there = {module.__name__ for module in (catalog, mirror_memory, transfer, transport)}
    assert set(every.MEASURES.values()) == there


@pytest.mark.parametrize("size", transport.MOVED)
def test_packets_are_measured_with_each_suite(size: int) -> None:
    for suite in transport.SUITES:
        for row in transport.rows(suite, size, size * 40, 1):
            assert [series.values[0] > 0 for series in row.series] == [True, True]


def test_bytes_that_do_not_arrive_are_no_measurement() -> None:
    suite = transport.SUITES[0]
    stream = transport.stream_of(suite, 64, 640)
    with pytest.raises(RuntimeError, match="640 bytes of 704"):
        transport.ours(suite).into(stream, 704)
