"""Charts over spread_k: every arm is a line of its own, and what was not measured is named."""

from __future__ import annotations

from typing import Any

import pytest

from harness.report.charts.spec import Line, Lines
from tests.made_up.prefill import record, repaged, results
from tests.made_up.views import charts_of, pair, summary_of


def by_title(results: list[Any]) -> dict[str, Lines]:
    """The charts of spread_k.png, by their titles' first words."""
    sheets = {sheet.name: sheet for sheet in charts_of(record(), results)}
    return {chart.title.split(":")[0].split(",")[0]: chart for chart in sheets["spread_k"].charts}


@pytest.fixture(scope="module")
def charts() -> dict[str, Lines]:
    return by_title(results())


def by_arm(chart: Lines) -> dict[str, Line]:
    return {line.key.label.split(" (")[0]: line for line in chart.lines}


def test_one_line_per_arm_contiguous_solid_fragmented_dashed(charts: dict[str, Lines]) -> None:
    lines = by_arm(charts["Attention kernels"])
    drawn = charts["Attention kernels"].drawn
    assert len(lines) == len(charts["Attention kernels"].lines) == 10
    styles = {"contiguous": "solid", "dense": "solid", "gather + kernel": "dotted"}
    for name, line in lines.items():
        assert line.key.line == styles.get(name.split(", ")[1], "dashed")
    looks = {(line.key.colour, line.key.marker) for line in drawn if line.key.line != "dotted"}
    assert len(looks) == 3
    assert "flash_attn_qkvpacked_func, contiguous: unsupported" in charts["Attention kernels"].note
    assert "(SDPA stand-in; after a gather, not counted)" in drawn[1].key.label


def test_a_point_is_a_median_in_ms_and_a_cross_where_there_is_none(charts: dict[str, Lines]) -> None:
    summary = summary_of(record(), results())
    wanted = {"kernel": "flash_attn_func", "arm": "contiguous", "layer": "mean", "data": "captured"}
    rows = [row for row in summary["kernels"] if wanted.items() <= row.items()]
    points = by_arm(charts["Attention kernels"])["flash_attn_func, contiguous"].points
    assert [point.y for point in points] == [row["median_us"] / 1000 for row in rows]
    for point, row in zip(points, rows, strict=True):
        assert list(point.interval or ()) == [bound / 1000 for bound in row["ci95_us"]]
    (prefill,) = charts["Prefill"].lines
    rows = [row for row in summary["end_to_end"] if row["arm"] == "paged"]
    assert [(p.x, p.y, p.interval) for p in prefill.points] == [
        (row["spread_k"], row["median_ms"], pair(row["ci95_ms"])) for row in rows
    ]
    (cross,) = prefill.lost
    assert cross.tip is not None
    assert (cross.x, cross.tip.lines[0]) == (4, "prefill, 4 segments: out_of_memory")


def test_differences_are_of_k_segments_against_one_and_bands_the_noise(charts: dict[str, Lines]) -> None:
    summary = summary_of(record(), results())
    lines = {line.key.label.split(",")[0]: line for line in charts["Fragmentation"].lines}
    for kernel, arm in (("flash_attn_with_kvcache", "fragmented"), ("prefill", "paged")):
        rows = [
            r
            for r in summary["contrasts"]
            if (r["kernel"], r["baseline"], r["treatment"]) == (kernel, f"{arm}@1", arm)
            and r["layer"] in ("mean", None)
            and r["data"] == "captured"
            and r["spread_k"] > 1
        ]
        shown = [(p.x, p.y, p.interval) for p in lines[kernel].points]
        assert shown == [(r["spread_k"], r["delta_pct"], pair(r["ci95_pct"])) for r in rows]
    (tolerance,) = charts["Fragmentation"].bands
    assert tolerance.edges[0][1:] == (-summary["tolerance_pct"], summary["tolerance_pct"])
    noise = [r for r in summary["contrasts"] if r["treatment"] == "paged@1 again"]
    (of_kernel,), (of_prefill,) = charts["Attention kernels"].bands, charts["Prefill"].bands
    rows = [r for r in noise if r["layer"] == "mean" and r["data"] == "captured"]
    for (k, low, high), row in zip(of_kernel.edges, rows, strict=True):
        level, share = row["baseline_us"] / 1000, row["noise_floor_pct"] / 100
        assert (k, low, high) == (
            row["spread_k"],
            pytest.approx(level * (1 - share)),
            pytest.approx(level * (1 + share)),
        )
    (row,) = (r for r in noise if r["kernel"] == "prefill")
    _, low, high = of_prefill.edges[0]
    assert (low + high) / 2 == pytest.approx(row["baseline_us"] / 1000)


def test_a_line_ends_where_larger_blocks_have_no_more_segments() -> None:
    chart = by_title(repaged(results()))["Attention kernels"]
    line = by_arm(chart)["flash_attn_with_kvcache, non-contiguous"]
    assert "256-token blocks: at most 2 segments" in line.key.label
    assert [point.x for point in line.points] == [1, 2]


def test_kernel_and_gather_together_are_a_line(charts: dict[str, Lines]) -> None:
    lines = by_arm(charts["Attention kernels"])
    kernel, total = (
        [point.y for point in lines[f"flash_attn_func, {name}"].measured]
        for name in ("non-contiguous", "gather + kernel")
    )
    assert [b - a for a, b in zip(kernel, total, strict=True) if a and b] == pytest.approx(
        [0.022, 0.023, 0.025, 0.029], rel=0.01
    )


def test_a_run_without_results_has_charts_with_nothing_to_draw() -> None:
    assert all(chart.empty for chart in by_title([]).values())
