"""The tables' exact text. To regenerate what is expected: `python -m tests.fixtures`, then read the diff."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness import report
from harness.record import Result, Status
from harness.report.tables import Tables
from harness.store import RunDirectory
from harness.summary import summarise

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A copy of the frozen run."""
    shutil.copytree(DATA / "run", tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def tables_of(run: RunDirectory, results: list[Result]) -> Tables:
    return Tables(run.record(), summarise(run.record(), results))


def test_the_frozen_run_gives_exactly_the_expected_texts(run: RunDirectory) -> None:
    tables = report.write(run)
    screen = "\n\n".join([tables.screen_table(k) for k in (1, 2, 4, 8)] + [tables.screen_summary()])
    assert screen + "\n" == (DATA / "screen.txt").read_text(encoding="utf-8")
    assert run.tables_path.read_text(encoding="utf-8") == (DATA / "tables.md").read_text(encoding="utf-8")
    assert run.csv_path.read_text(encoding="utf-8") == (DATA / "tables.csv").read_text(encoding="utf-8")


def test_a_summary_read_from_its_file_gives_the_same_tables(run: RunDirectory) -> None:
    tables = report.write(run)
    again = Tables(run.record(), json.loads(run.summary_path.read_text(encoding="utf-8")))
    assert again.markdown() == tables.markdown()


def test_the_screen_is_80_columns_wide(run: RunDirectory) -> None:
    slow = [replace(r, samples_us=[s * 1000 for s in r.samples_us]) for r in run.results()]
    for results in (run.results(), slow):
        tables = tables_of(run, results)
        text = tables.screen_table(8) + "\n" + tables.screen_summary()
        assert max(map(len, text.splitlines())) <= 80


def test_every_table_has_the_three_functions_and_a_core_diff(run: RunDirectory) -> None:
    text = report.write(run).screen_table(4)
    assert text.startswith("Comparison Results (spread=4)\n")
    for function in ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache"):
        assert re.search(rf"^{function} \(SDPA stand-in \[1\]\)\nContiguous .*\nNon-contiguous ", text, re.M)
    found = re.findall(r"^Core Diff +[+-]\d+\.\d{3} \([+-]\d+\.\d\d%\) +95% \[.*\] +slower$", text, re.M)
    assert len(found) == 2


def test_an_arm_that_could_not_be_measured_says_why(run: RunDirectory) -> None:
    results = [
        replace(r, samples_us=[], status=Status.WRONG_OUTPUT, reason="off by 0.5 from the reference")
        if r.cell.arm == "dense"
        else r
        for r in run.results()
    ]
    text = tables_of(run, results).screen_table(4)
    mark = re.search(r"^Dense +wrong_output (\[\d\])$", text, re.M)
    assert mark
    assert f"{mark[1]} wrong_output: off by 0.5 from the reference" in text
    assert "Paged - dense" not in text
    assert "Fragmentation" in text


def test_a_partial_run_has_tables(run: RunDirectory) -> None:
    results = [r for r in run.results() if r.cell.stage == "kernel" and r.series == "spread=2 layer=0"]
    tables = tables_of(run, results)
    assert "Comparison Results (spread=2)" in tables.screen_table(2)
    assert "## Summary" in tables.markdown()
    empty = tables_of(run, [])
    assert "Summary over all spread_k" in empty.screen_summary()
    assert empty.csv().startswith("stage,kernel,")


def test_short_series_show_no_interval_and_say_so(run: RunDirectory) -> None:
    results = [replace(r, samples_us=r.samples_us[:3]) for r in run.results()]
    text = tables_of(run, results).screen_table(4)
    assert re.search(r"^Core Diff +\S+ \(\S+\) +no interval +unclear$", text, re.M)
    assert "few samples: 3" in text


def test_the_csv_has_every_row_and_no_nan(run: RunDirectory) -> None:
    report.write(run)
    summary = json.loads(run.summary_path.read_text(encoding="utf-8"))
    with run.csv_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary["kernels"]) + len(summary["end_to_end"])
    assert "nan" not in run.csv_path.read_text(encoding="utf-8").lower()
    assert {row["layer"] for row in rows if row["stage"] == "kernel"} == {"0", "5", "mean", "sum"}
    assert float(rows[0]["median_us"]) == pytest.approx(summary["kernels"][0]["median_us"], abs=1e-4)
