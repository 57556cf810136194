"""The plot: every arm is a line of its own, and what was not measured is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from harness.experiments.prefill.summary import summarise
from harness.report.plots import draw, over_spread_k, write_plots
from harness.runs.store import RunDirectory
from tests.fixtures import repaged

RUN = Path(__file__).resolve().parents[2] / "data" / "run"


@pytest.fixture(scope="module")
def record_and_summary() -> tuple[dict, dict]:
    run = RunDirectory.open(RUN)
    return run.record().to_json(), summarise(run.record().to_json(), run.results())


def test_files_have_every_legend_entry_and_do_not_change(
    tmp_path: Path, record_and_summary: tuple[dict, dict]
) -> None:
    png, svg = write_plots(*record_and_summary, tmp_path / "plots")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    for label in (
        "flash_attn_func, contiguous",
        "flash_attn_func, non-contiguous",
        "flash_attn_with_kvcache, non-contiguous",
        "(SDPA stand-in; unsupported)",
        "cpu_attention_with_kv_cache, dense",
        "cpu_attention_with_kv_cache, paged, k runs",
        "A/A noise floor",
        "out_of_memory at k = 4",
    ):
        assert label in text
    again = write_plots(*record_and_summary, tmp_path / "again")
    assert again[1].read_text(encoding="utf-8") == text


def test_one_line_per_arm_contiguous_solid_fragmented_dashed(record_and_summary: tuple[dict, dict]) -> None:
    upper, lower = draw(*record_and_summary).axes
    lines = {str(line.get_label()).split("\n")[0]: line for line in upper.get_lines()}
    assert len(lines) == len(upper.get_lines()) == 9
    styles = {"contiguous": "-", "dense": "-", "gather + kernel": ":"}
    for name, line in lines.items():
        assert line.get_linestyle() == styles.get(name.split(", ")[1], "--")
    colours = {str(line.get_color()) for line in lines.values()}
    markers = {str(line.get_marker()) for line in lines.values()}
    assert len(colours) == len(markers) == 4
    assert lower.get_xscale() == "log"
    assert [text.get_text() for text in lower.get_xticklabels()] == ["1", "2", "4", "8"]


def test_a_point_is_a_median_in_ms_and_a_gap_where_there_is_none(
    record_and_summary: tuple[dict, dict],
) -> None:
    upper, lower = draw(*record_and_summary).axes
    wanted = {"kernel": "flash_attn_func", "arm": "contiguous", "layer": "mean", "data": "captured"}
    rows = [row for row in record_and_summary[1]["kernels"] if wanted.items() <= row.items()]
    line = next(x for x in upper.get_lines() if str(x.get_label()).startswith("flash_attn_func, contiguous"))
    assert list(line.get_ydata()) == pytest.approx([row["median_us"] / 1000 for row in rows])
    prefill = next(list(x.get_ydata()) for x in lower.get_lines() if len(x.get_ydata()) == 4)
    assert [math.isnan(y) for y in prefill] == [False, False, True, False]


def test_a_line_ends_where_larger_blocks_have_no_more_runs(record_and_summary: tuple[dict, dict]) -> None:
    record, _ = record_and_summary
    upper, _ = draw(record, summarise(record, repaged(RunDirectory.open(RUN).results()))).axes
    names = {str(line.get_label()): list(line.get_xdata()) for line in upper.get_lines()}
    (found,) = (name for name in names if name.startswith("flash_attn_with_kvcache, non-contiguous"))
    assert "256-token blocks: at most 2 runs" in found
    assert names[found] == [1, 2]


def test_kernel_and_gather_together_are_a_line(record_and_summary: tuple[dict, dict]) -> None:
    upper, _ = draw(*record_and_summary).axes
    lines = {str(line.get_label()).split("\n")[0]: list(line.get_ydata()) for line in upper.get_lines()}
    kernel, total = lines["flash_attn_func, non-contiguous"], lines["flash_attn_func, gather + kernel"]
    assert [b - a for a, b in zip(kernel, total, strict=True)] == pytest.approx(
        [0.022, 0.023, 0.025, 0.029], rel=0.01
    )


def test_a_run_without_results_can_be_drawn(tmp_path: Path, record_and_summary: tuple[dict, dict]) -> None:
    record, _ = record_and_summary
    _, svg = write_plots(record, summarise(record, []), tmp_path)
    assert "not measured" in svg.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spreads", "scale"),
    [([1, 2, 4, 8], "log"), ([1, 2], "log"), ([1], "log"), (list(range(1, 17)), "linear")],
)
def test_a_regular_sweep_has_a_regular_axis(spreads: list[int], scale: str) -> None:
    axes = Figure().subplots()
    over_spread_k(axes, spreads)
    assert axes.get_xscale() == scale
