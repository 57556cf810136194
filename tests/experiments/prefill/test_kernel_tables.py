"""The tables of kernels: what stands in them, and what is said below."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from harness.report.tables import difference
from harness.runs.record import Status
from tests.made_up.prefill import record, repaged, results
from tests.made_up.views import document_of, spread_table, summary_of


def test_the_screen_is_80_columns_wide() -> None:
    slow = [replace(r, samples_us=[s * 1000 for s in r.samples_us]) for r in results()]
    for found in (results(), slow):
        tables = document_of(record(), found)
        text = spread_table(tables, 8) + "\n" + tables.screen_summary()
        assert max(map(len, text.splitlines())) <= 80


def test_an_arm_that_could_not_be_measured_says_why() -> None:
    found = [
        replace(r, samples_us=[], status=Status.WRONG_OUTPUT, reason="off by 0.5 from the reference")
        if r.cell.arm == "dense"
        else r
        for r in results()
    ]
    text = spread_table(document_of(record(), found), 4)
    mark = re.search(r"^Dense +wrong_output (\[\d\])$", text, re.M)
    assert mark
    assert f"{mark[1]} wrong_output: off by 0.5 from the reference" in text
    assert "Paging tax" not in text
    assert "Fragmentation" in text


def test_a_partial_run_has_tables() -> None:
    found = [r for r in results() if r.cell.stage == "kernel" and r.series == "spread=2 layer=0"]
    tables = document_of(record(), found)
    assert "Comparison Results (spread=2)" in spread_table(tables, 2)
    assert "## Summary" in tables.markdown()
    empty = document_of(record(), [])
    assert empty.screen_summary().startswith("nothing was measured")
    assert empty.csv().startswith("stage,kernel,")


def test_a_run_timed_only_end_to_end_has_one_table() -> None:
    tables = document_of(record(), [r for r in results() if r.cell.stage == "end_to_end"])
    assert spread_table(tables, 1) == ""
    assert "Comparison Results" not in tables.markdown()
    for text in (tables.markdown(), tables.screen_summary()):
        assert "attention call" not in text
        assert "synth." not in text
        assert "ms per prefill" in text


def test_notices_and_doubts_about_the_prefill_are_with_the_summary() -> None:
    drifting = [float(22_000 + 100 * i) for i in range(20)]
    found = [
        replace(r, samples_us=drifting) if r.cell.stage == "end_to_end" and r.samples_us else r
        for r in results()
    ]
    tables = document_of(record(), found)
    text = tables.screen_summary()
    assert text.index("Summary over") < text.index("Note: gpt2's weights are random")
    assert "Warning: drift: 8 cells, e.g. prefill, paged 1: +" in " ".join(text.split())
    assert "- prefill, paged 1: drift: +" in tables.markdown()


def test_the_summary_has_kernel_and_gather_together() -> None:
    heading = "Basic Attention (flash_attn_func), SDPA stand-in [1]: non-contiguous, with\n    gather\n"
    section = document_of(record(), results()).screen_summary().partition(heading)[2].splitlines()
    assert [line.split()[:4] for line in section[:2]] == [
        ["1", "0.1465", "-", "-"],
        ["2", "0.1481", "-", "-"],
    ]
    lost = [
        replace(r, samples_us=[], status=Status.ERROR, reason="boom") if r.cell.kernel == "gather_kv" else r
        for r in results()
    ]
    text = document_of(record(), lost).screen_summary()
    assert re.search(r"with\s+gather\n1 \[2\] +- +- +- +- ", text)
    assert "[2] its gather was not measured" in text


def test_larger_blocks_have_one_footnote() -> None:
    text = document_of(record(), repaged(results())).screen_summary()
    assert text.count("re-paged") == 1
    assert "re-paged from 16 to 256 tokens per block, at most 2 segments" in text


@pytest.mark.parametrize(
    ("us", "text"), [(0.3, "+0.0003 (+0.40%)"), (-0.04, "0.0000 (-0.05%)"), (0.0, "0.0000 (0.00%)")]
)
def test_a_difference_has_the_table_s_digits_and_zero_no_sign(us: float, text: str) -> None:
    assert difference(us, us / 0.74345, 4) == text


def test_short_series_show_no_interval_and_say_so() -> None:
    found = [replace(r, samples_us=r.samples_us[:3]) for r in results()]
    text = spread_table(document_of(record(), found), 4)
    assert re.search(r"^Core Diff(?: \[\d\])? +\S+ \(\S+\) +no interval +unclear$", text, re.M)
    assert [line for line in text.splitlines() if line.startswith("Warning")] == [
        "Warning: all cells: few samples: 3; a 95% interval needs 6"
    ]


def test_the_csv_has_layers_their_mean_and_their_sum() -> None:
    rows = list(csv.DictReader(io.StringIO(document_of(record(), results()).csv())))
    assert {row["layer"] for row in rows if row["stage"] == "kernel"} == {"0", "5", "mean", "sum"}
    assert {row["layers"] for row in rows if row["layer"] in ("mean", "sum")} <= {"0", "1", "2"}
    assert {"clock_mhz", "tflops", "gbps", "gather_gbps", "stopped"} <= rows[0].keys()


def test_the_csv_has_every_difference_with_its_interval_and_verdict() -> None:
    made = summary_of(record(), results())
    rows = list(csv.DictReader(io.StringIO(document_of(record(), results()).csv())))
    contrasts = [row for row in rows if row["stage"] == "contrast"]
    assert [row["verdict"] for row in contrasts] == [row["verdict"] for row in made["contrasts"]]
    for row, stored in zip(contrasts, made["contrasts"], strict=True):
        assert (row["baseline"], row["arm"]) == (stored["baseline"], stored["treatment"])
        low, high = float(row["ci95_low_delta_pct"]), float(row["ci95_high_delta_pct"])
        assert [low, high] == pytest.approx(stored["ci95_pct"], abs=1e-4)
        assert row["ci95_low_us"] == ""  # that is a median's
    parts = {row["kernel"]: row for row in rows if row["stage"] == "breakdown"}
    measured = {row["component"]: row for row in made["attribution"]["measured"]}
    assert parts.keys() == measured.keys()
    assert float(parts["total"]["delta_us"]) == pytest.approx(1000 * measured["total"]["ms"], abs=1e-3)
    assert parts["total"]["verdict"] == "slower"
