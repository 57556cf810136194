"""The run directory: what a crash leaves behind stays readable, and nothing of the user's is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.charts import mpl
from harness.report.charts.spec import Axis, Key, Line, Lines, Point, Sheet
from harness.runs.record import Cell, Result, Status
from harness.runs.store import PLOTS, RunDirectory, RunExists
from tests.made_up.builder import run_record


def result(spread_k: int, samples: list[float] | None = None) -> Result:
    cell = Cell("kernel", "flash_attn_func", "flash-attn 2.8.3", "contiguous", spread_k, 16, 0, "captured")
    return Result(cell, f"spread={spread_k} layer=0", Status.OK, samples_us=samples or [1.5, 2.5])


def test_results_come_back_as_they_were_appended(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run")
    run.write_record(run_record())
    run.append([result(1)])
    run.append([result(2), result(4)])
    again = RunDirectory.open(tmp_path / "deep" / "run")
    assert again.results() == [result(1), result(2), result(4)]
    assert again.record() == run_record()


@pytest.mark.parametrize("kept", range(1, 40, 6))
def test_a_line_cut_short_is_ignored_and_removed_by_the_next_append(tmp_path: Path, kept: int) -> None:
    run = RunDirectory.create(tmp_path)
    run.append([result(1)])
    whole = run.samples_path.read_bytes()
    run.samples_path.write_bytes(whole + whole[:kept])
    assert run.results() == [result(1)]
    run.append([result(2)])
    assert run.results() == [result(1), result(2)]


def test_nan_is_refused_and_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.write_record(run_record())
    run.append([result(1)])
    with pytest.raises(ValueError, match="JSON"):
        run.append([result(2, [float("nan")])])
    with pytest.raises(ValueError, match="finite"):
        run.record().engine_start_s = float("inf")
    assert run.results() == [result(1)]
    assert run.record() == run_record()


def test_clocks_are_appended_a_line_each_with_the_same_care(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.append_clocks({"series": "a", "mhz": [1980]})
    with run.clocks_path.open("a") as file:
        file.write('{"series": "cut sh')
    run.append_clocks({"series": "b"})
    with pytest.raises(ValueError, match="JSON"):
        run.append_clocks({"mhz": float("nan")})
    assert run.clocks_path.read_text() == '{"series": "a", "mhz": [1980]}\n{"series": "b"}\n'


def test_a_directory_with_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunExists, match="--overwrite"):
        RunDirectory.create(tmp_path)


@pytest.mark.parametrize("file", ["samples.jsonl", "clocks.jsonl", "report.html", "tables.md", "trace.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_no_record_calls_a_run_s_are_the_user_s(
    tmp_path: Path, file: str, overwrite: bool
) -> None:
    mine = [tmp_path / file, tmp_path / "errors.txt", tmp_path / "captures" / "layer-000.safetensors"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with pytest.raises(RunExists, match=rf"holds {file}, but no run\.json"):
        RunDirectory.create(tmp_path, overwrite)
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_overwrite_removes_the_run_s_own_files_only(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.write_record(run_record(status="finished", config={"save_captures": True}))
    run.append([result(1)])
    run.append_clocks({"series": "a"})
    run.captures_path.mkdir()
    (run.captures_path / "layer-000.safetensors").write_bytes(b"")
    run.plots_path.mkdir()
    line = Line(Key("paged"), [Point(1, 2.0)])
    mpl.write(Sheet("made_up", "Made up", [Lines("A chart", Axis("x"), Axis("y"), [line])]), run.plots_path)
    run.trace_path.write_text("{}")
    mine = [tmp_path / "notes.txt", run.captures_path / "mine.txt", run.captures_path / "weights.safetensors"]
    mine += [run.plots_path / f"mine{end}" for end in PLOTS]
    for file in mine:
        file.write_text("mine")
    assert (run.plots_path / "made_up.pdf").is_file()
    fresh = RunDirectory.create(tmp_path, overwrite=True)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted([*mine, run.samples_path])
    assert fresh.results() == []


@pytest.mark.parametrize("saved", [None, False])
def test_captures_that_no_run_left_are_the_user_s(tmp_path: Path, saved: bool | None) -> None:
    (tmp_path / "captures").mkdir()
    file = tmp_path / "captures" / "layer-000.safetensors"
    file.write_bytes(b"")
    run = RunDirectory.create(tmp_path)
    if saved is not None:
        run.write_record(run_record(config={"save_captures": saved}))
    RunDirectory.create(tmp_path, overwrite=True)
    assert file.exists()


def test_a_file_and_an_empty_directory_hold_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        RunDirectory.create(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        RunDirectory.open(tmp_path)
