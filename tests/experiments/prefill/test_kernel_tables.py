"""The tables' exact text. To regenerate what is expected: `python -m tests.fixtures`, then read the diff."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.experiments import views
from harness.experiments.prefill.summary import summarise
from harness.experiments.prefill.view import document
from harness.report.document import Document
from harness.report.tables import difference
from harness.runs.record import Result, Status
from harness.runs.store import RunDirectory
from tests.fixtures import repaged, screen_table

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A copy of the frozen run."""
    shutil.copytree(DATA / "run", tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def tables_of(run: RunDirectory, results: list[Result]) -> Document:
    return document(run.record().to_json(), summarise(run.record().to_json(), results))


def test_the_frozen_run_gives_exactly_the_expected_texts(run: RunDirectory) -> None:
    tables = views.write(run)
    screen = "\n\n".join([screen_table(tables, k) for k in (1, 2, 4, 8)] + [tables.screen_summary()])
    assert screen + "\n" == (DATA / "screen.txt").read_text(encoding="utf-8")
    assert run.tables_path.read_text(encoding="utf-8") == (DATA / "tables.md").read_text(encoding="utf-8")
    assert run.csv_path.read_text(encoding="utf-8") == (DATA / "tables.csv").read_text(encoding="utf-8")


def test_what_is_doubtful_of_all_arms_is_one_line(run: RunDirectory) -> None:
    short = [replace(r, samples_us=r.samples_us[:3]) for r in run.results()]
    screen = screen_table(tables_of(run, short), 4)
    assert [line for line in screen.splitlines() if line.startswith("Warning")] == [
        "Warning: all cells: few samples: 3; a 95% interval needs 6"
    ]


def test_a_summary_read_from_its_file_gives_the_same_tables(run: RunDirectory) -> None:
    tables = views.write(run)
    again = document(run.record().to_json(), json.loads(run.summary_path.read_text(encoding="utf-8")))
    assert again.markdown() == tables.markdown()


def test_the_screen_is_80_columns_wide(run: RunDirectory) -> None:
    slow = [replace(r, samples_us=[s * 1000 for s in r.samples_us]) for r in run.results()]
    for results in (run.results(), slow):
        tables = tables_of(run, results)
        text = screen_table(tables, 8) + "\n" + tables.screen_summary()
        assert max(map(len, text.splitlines())) <= 80


def test_every_table_has_the_three_functions_and_a_core_diff(run: RunDirectory) -> None:
    text = screen_table(views.write(run), 4)
    assert text.startswith("Comparison Results (spread=4)\n")
    for function in ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache"):
        assert re.search(rf"^{function} \(SDPA stand-in \[1\]\)\nContiguous .*\nNon-contiguous ", text, re.M)
    found = re.findall(
        r"^Core Diff(?: \[\d\])? +[+-]\d+\.\d{4} \([+-]\d+\.\d\d%\) +95% \[.*\] +slower$", text, re.M
    )
    assert len(found) == 2


def test_an_arm_that_could_not_be_measured_says_why(run: RunDirectory) -> None:
    results = [
        replace(r, samples_us=[], status=Status.WRONG_OUTPUT, reason="off by 0.5 from the reference")
        if r.cell.arm == "dense"
        else r
        for r in run.results()
    ]
    text = screen_table(tables_of(run, results), 4)
    mark = re.search(r"^Dense +wrong_output (\[\d\])$", text, re.M)
    assert mark
    assert f"{mark[1]} wrong_output: off by 0.5 from the reference" in text
    assert "Paging tax" not in text
    assert "Fragmentation" in text


def test_a_partial_run_has_tables(run: RunDirectory) -> None:
    results = [r for r in run.results() if r.cell.stage == "kernel" and r.series == "spread=2 layer=0"]
    tables = tables_of(run, results)
    assert "Comparison Results (spread=2)" in screen_table(tables, 2)
    assert "## Summary" in tables.markdown()
    empty = tables_of(run, [])
    assert empty.screen_summary().startswith("nothing was measured")
    assert empty.csv().startswith("stage,kernel,")


def test_a_run_timed_only_end_to_end_has_one_table(run: RunDirectory) -> None:
    tables = tables_of(run, [r for r in run.results() if r.cell.stage == "end_to_end"])
    assert screen_table(tables, 1) == ""
    assert "Comparison Results" not in tables.markdown()
    for text in (tables.markdown(), tables.screen_summary()):
        assert "attention call" not in text
        assert "synth." not in text
        assert "ms per prefill" in text


def test_notices_and_doubts_about_the_prefill_are_with_the_summary(run: RunDirectory) -> None:
    drifting = [float(22_000 + 100 * i) for i in range(20)]
    results = [
        replace(r, samples_us=drifting) if r.cell.stage == "end_to_end" and r.samples_us else r
        for r in run.results()
    ]
    tables = tables_of(run, results)
    text = tables.screen_summary()
    assert text.index("Summary over") < text.index("Note: gpt2's weights are random")
    assert "Warning: prefill, paged 1: drift: +" in " ".join(text.split())
    assert "(drift also in 7 other cells)" in " ".join(text.split())
    assert "- prefill, paged 1: drift: +" in tables.markdown()


def test_the_summary_has_kernel_and_gather_together(run: RunDirectory) -> None:
    heading = "flash_attn_func (SDPA stand-in [1]): non-contiguous, with gather\n"
    section = tables_of(run, run.results()).screen_summary().partition(heading)[2].splitlines()
    assert [line.split()[:4] for line in section[:2]] == [
        ["1", "0.1465", "-", "-"],
        ["2", "0.1481", "-", "-"],
    ]
    lost = [
        replace(r, samples_us=[], status=Status.ERROR, reason="boom") if r.cell.kernel == "gather_kv" else r
        for r in run.results()
    ]
    text = tables_of(run, lost).screen_summary()
    assert re.search(r"with gather\n1 \[2\] +- +- +- +- ", text)
    assert "[2] its gather was not measured" in text


def test_larger_blocks_have_one_footnote(run: RunDirectory) -> None:
    text = tables_of(run, repaged(run.results())).screen_summary()
    assert text.count("re-paged") == 1
    assert "re-paged from 16 to 256 tokens a block, at most 2 runs" in text


@pytest.mark.parametrize(
    ("us", "text"), [(0.3, "+0.0003 (+0.40%)"), (-0.04, "0.0000 (-0.05%)"), (0.0, "0.0000 (0.00%)")]
)
def test_a_difference_has_the_table_s_digits_and_zero_no_sign(us: float, text: str) -> None:
    assert difference(us, us / 0.74345, 4) == text


def test_short_series_show_no_interval_and_say_so(run: RunDirectory) -> None:
    results = [replace(r, samples_us=r.samples_us[:3]) for r in run.results()]
    text = screen_table(tables_of(run, results), 4)
    assert re.search(r"^Core Diff(?: \[\d\])? +\S+ \(\S+\) +no interval +unclear$", text, re.M)
    assert "few samples: 3" in text


def test_the_csv_has_every_row_and_no_nan(run: RunDirectory) -> None:
    views.write(run)
    summary = json.loads(run.summary_path.read_text(encoding="utf-8"))
    with run.csv_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary["kernels"]) + len(summary["end_to_end"])
    assert "nan" not in run.csv_path.read_text(encoding="utf-8").lower()
    assert {row["layer"] for row in rows if row["stage"] == "kernel"} == {"0", "5", "mean", "sum"}
    assert {row["layers"] for row in rows if row["layer"] in ("mean", "sum")} <= {"0", "1", "2"}
    assert {"clock_mhz", "tflops", "gbps", "gather_gbps", "stopped"} <= rows[0].keys()
    assert float(rows[0]["median_us"]) == pytest.approx(summary["kernels"][0]["median_us"], abs=1e-4)
