"""The breakdown as people see it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.breakdown.rows import HostBound
from harness.config.kernel_names import FUNCTIONS, looks
from harness.experiments.prefill import breakdown_charts
from harness.experiments.prefill import spread_charts as sweep
from harness.experiments.prefill.breakdown_charts import COLOURS, OTHER, STEPS, TOTAL
from harness.experiments.prefill.breakdown_tables import host_line, tables
from harness.report.charts import mpl
from harness.report.charts.spec import INK, Bars
from harness.report.tables import WIDTH
from harness.report.tips import Tips
from harness.runs.record import Result, Status
from tests.drawings import assert_no_text_is_hidden
from tests.made_up import prefill, prefill_gpu
from tests.made_up.builder import run_record
from tests.made_up.views import Row, document_from, pair, prefill_summary, summary_of


@pytest.fixture(scope="module")
def frozen() -> tuple[Row, Row]:
    return prefill_gpu.breakdown()


@pytest.fixture
def breakdown(frozen: tuple[Row, Row]) -> tuple[Row, Row]:
    """Record and summary, to be changed."""
    return copy.deepcopy(frozen)


def of(results: list[Result], **record: Any) -> tuple[Row, Row]:
    changed = prefill_gpu.record() | record
    return changed, summary_of(changed, results)


def without(*arms: str) -> list[Result]:
    return [r for r in prefill_gpu.results() if r.cell.stage != "end_to_end" or r.cell.arm not in arms]


def scaled(factor: float) -> list[Result]:
    return [replace(r, samples_us=[s * factor for s in r.samples_us]) for r in prefill_gpu.results()]


def failed(arm: str) -> list[Result]:
    lost: Row = {"status": Status.ERROR, "reason": "no such operator", "samples_us": []}
    return [
        replace(r, **lost) if (r.cell.stage, r.cell.arm) == ("end_to_end", arm) else r
        for r in prefill_gpu.results()
    ]


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(start))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_run_without_attribution_looks_as_before_and_has_no_plot() -> None:
    record = prefill.record()
    sweep = [r for r in prefill.results() if r.cell.stage != "end_to_end" or r.cell.arm == "paged"]
    summary = summary_of(record, sweep)
    assert summary["attribution"] is None
    found = document_from(record, summary)
    for text in (found.screen_summary(), found.markdown()):
        assert "paged KV cache?" not in text
        assert "other arms" not in text
        assert "None" not in found.screen_summary()
    assert tables(prefill_summary(summary)) == []
    assert breakdown_charts.sheets(prefill_summary(summary), Tips.of([])) == []


@pytest.mark.parametrize("factor", [0.01, 1, 20, 300, 4000, 50_000])
def test_the_screen_is_80_columns_wide_at_every_scale(factor: float) -> None:
    record, summary = of(scaled(factor))
    for profile in record["profile"]:
        profile["profiled_ms"] *= factor
        profile["categories"] = {name: ms * factor for name, ms in profile["categories"].items()}
        profile["busy_ms"] *= factor
    _, summary = of(scaled(factor), profile=record["profile"])
    text = document_from(record, summary).screen_summary()
    assert max(map(len, text.splitlines())) <= 80, max(text.splitlines(), key=len)


def test_footnotes_do_not_widen_the_screen() -> None:
    for arm in ("engine", "paged", "dense", "no_write", "compact"):
        text = document_from(*of(failed(arm))).screen_summary()
        assert max(map(len, text.splitlines())) <= 80
        assert "no such operator" in text


def test_a_component_that_was_not_measured_says_why_and_keeps_its_prediction() -> None:
    text = document_from(*of(failed("no_write"))).screen_summary()
    cells = line(text.partition("How much of the prefill")[2], "cache write ").split()
    assert cells[2:] == ["-", "[1]", "-", "-", "+0.083", "-"]
    assert "[1] no_write: error: no such operator" in flat(text)
    assert line(text, "no write").split()[2:] == ["error", "[1]"]
    assert "+0." in line(text, "paging ")


def test_without_the_engine_s_own_arm_shares_are_of_one_segment() -> None:
    text = document_from(*of(without("engine"))).screen_summary()
    assert "engine: not measured; shares are of paged in one segment" in text
    assert "% of paged 1 [95%]" in text


def test_too_few_rounds_for_a_noise_floor_are_not_called_a_series_without_one() -> None:
    few = [replace(r, samples_us=r.samples_us[:3]) for r in prefill_gpu.results()]
    assert "noise floor not known: too few rounds" in flat(document_from(*of(few)).screen_summary())
    alone = [r for r in prefill_gpu.results() if not r.control and r.cell.arm != "placebo"]
    assert "noise floor not known: no A/A series" in flat(document_from(*of(alone)).screen_summary())


def test_a_replay_of_few_layers_is_said_once() -> None:
    some = [r for r in prefill_gpu.results() if r.cell.layer in (None, 0, 5)]
    text = flat(document_from(*of(some)).screen_summary())
    assert "summed over the layers (2 of 12 layers, times 12)" in text
    assert text.count("2 of 12 layers, times 12") == 1
    assert "where predicted from 2 of 12 layers, how these differ is in the interval." in text


def test_a_residual_is_marked_where_the_replay_misses_by_ten_times_the_cost() -> None:
    """With few layers, too, as these hardly differ."""
    off = [
        replace(r, samples_us=[10 * us for us in r.samples_us])
        if r.cell.layer is not None and r.cell.arm == "dense"
        else r
        for r in prefill_gpu.results()
    ]
    for results in (off, [r for r in off if r.cell.layer in (None, 0, 5)]):
        text = document_from(*of(results)).screen_summary()
        assert line(text, "paging ").split()[-2] == line(text, "total ").split()[-2] == "*"


def test_wrappers_that_cost_more_than_the_noise_floor_are_named(breakdown: tuple[Row, Row]) -> None:
    _, summary = breakdown
    (hooks,) = (row for row in summary["attribution"]["measured"] if row["component"] == "hooks")
    summary["attribution"]["noise_floor_pct"] = 1.1
    said = "The harness's idle wrappers cost 13.9% [13.0, 14.9] of the prefill here."
    for bounds, expected in (([13.0, 14.9], True), ([1.0, 14.9], False)):
        hooks |= {"pct": 13.9, "ci95_pct": bounds}
        assert (said in flat("\n".join(tables(prefill_summary(summary))[0].below))) is expected


def test_a_residual_is_marked_if_its_interval_excludes_zero(breakdown: tuple[Row, Row]) -> None:
    record, summary = breakdown
    residuals = {row["component"]: row for row in summary["attribution"]["residual"]}
    (
        residuals["paging"]["includes_zero"],
        residuals["total"]["includes_zero"],
        residuals["compact"]["includes_zero"],
    ) = (
        False,
        True,
        None,
    )
    text = document_from(record, summary).screen_summary()
    assert line(text, "paging").split()[-2] == "*"
    assert "*" not in line(text, "total") + line(text, "compact ")


def test_categories_longer_than_the_prefill_are_said_to_be(breakdown: tuple[Row, Row]) -> None:
    record, summary = breakdown
    row = next(c for c in summary["attribution"]["components"] if c["arm"] == "dense")
    row["ms"] += 3
    text = flat(document_from(record, summary).screen_summary())
    assert "[1] the categories add up to more than the prefill" in text


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (
            ("unknown", None, None, None, None, "no prefill was profiled"),
            "Host or GPU: unknown; no prefill was profiled",
        ),
        (
            ("host-bound", 41.2, 1.2, 3.4, [-2.0, 8.0], None),
            "Host or GPU: host-bound; the GPU is busy 41% of the step; 3% [-2, 8] of an injected 1.200 ms "
            "reached the latency",
        ),
    ],
)
def test_whether_the_step_is_host_bound_says_what_it_rests_on(host: tuple[Any, ...], text: str) -> None:
    keys = ("verdict", "gpu_busy_pct", "injected_ms", "pass_through_pct", "ci95_pct", "reason")
    found = HostBound.model_validate(dict(zip(keys, host, strict=True)) | {"injected_ci95_ms": None})
    assert host_line(found) == text


def test_other_arms_are_no_layouts_of_the_sweep(frozen: tuple[Row, Row]) -> None:
    spread, _ = sweep.sheets(run_record(frozen[0]), prefill_summary(frozen[1]), Tips.of([]))
    assert [chart.xs() for chart in spread.charts] == [[256], [256], [1, 256]]


def test_warnings_of_other_arms_are_by_their_name() -> None:
    drifting = [6900.0 + 20 * n for n in range(60)]
    results = [
        replace(r, samples_us=drifting) if r.cell.arm in ("dense", "spin") and r.cell.layer is None else r
        for r in prefill_gpu.results()
    ]
    text = flat(document_from(*of(results)).screen_summary())
    assert "Warning: drift: 1 cell, prefill, dense: " in text
    assert "spin" not in text.partition("Warning")[2]


def charts_of(record: Row, summary: Row) -> tuple[Bars, Bars]:
    """What the paged KV cache costs, and where the time goes."""
    (sheet,) = breakdown_charts.sheets(prefill_summary(summary), Tips.of([]))
    costs, times = sheet.charts
    assert isinstance(costs, Bars)
    assert isinstance(times, Bars)
    return costs, times


def test_a_bar_is_an_arm_s_categories_up_to_its_median(frozen: tuple[Row, Row]) -> None:
    _, times = charts_of(*frozen)
    names = [row.label.partition(":")[0] for row in times.rows]
    assert names == ["engine", "paged 256", "paged 1", "dense", "no write", "compact"]
    medians = {(r["arm"], r["spread_k"]): r for r in frozen[1]["end_to_end"]}
    for row, arm in zip(times.rows, [("engine", 250), ("paged", 256), ("paged", 1)], strict=False):
        (median,) = row.dots
        assert (median.value, median.interval) == (medians[arm]["median_ms"], pair(medians[arm]["ci95_ms"]))
        if arm != ("paged", 1):
            assert sum(part.value for part in row.parts) == pytest.approx(median.value)


def test_tables_fit_the_screen_though_a_profiler_slows_a_step_fifty_times(breakdown: tuple[Row, Row]) -> None:
    """And though one disturbed round makes an interval's end five digits long."""
    of_layout = breakdown[1]["attribution"]
    for row in of_layout["profiled"]:
        row |= {"profiled_ms": 60 * row["unprofiled_ms"], "overhead_pct": 5900.0}
    for row in of_layout["components"]:
        row["ms"] *= 60
    for row in of_layout["break_even"]:
        row["saving_ci95_us"] = [123.45, 13951.0]
    for table in tables(prefill_summary(breakdown[1])):
        assert max(map(len, table.screen().splitlines())) <= WIDTH
    told = "\n".join(table.screen() for table in tables(prefill_summary(breakdown[1])))
    assert "x60 [1]" in told
    assert "[+123, +13951]" in told


def test_a_gather_that_costs_next_to_nothing_pays_from_one_token_on(breakdown: tuple[Row, Row]) -> None:
    rows = breakdown[1]["attribution"]["break_even"]
    rows[0] |= {"reuses": 0.0123, "reuses_ci95": [0.0101, 0.0149], "length_for_one_use": 0}
    (table,) = (
        table for table in tables(prefill_summary(breakdown[1])) if table.title.startswith("Break-even")
    )
    assert table.screen().count("0.012 [0.010, 0.015]             1") == 1


def test_one_segment_of_blocks_is_singular() -> None:
    alone = [r for r in prefill_gpu.results() if r.cell.spread_k != 256]
    found = tables(prefill_summary(of(alone, engine_spread_k={"min": 1, "median": 1, "max": 1})[1]))
    text = flat("\n".join(table.screen() for table in found))
    assert "median 1 segment;" in text
    assert "fragmentation: many segments against 1" in text
    assert "1 segments" not in text


def test_a_step_begins_where_the_one_before_ends(frozen: tuple[Row, Row]) -> None:
    costs, _ = charts_of(*frozen)
    measured = {row["component"]: row for row in frozen[1]["attribution"]["measured"]}
    predicted = {row["component"]: row["ms"] for row in frozen[1]["attribution"]["predicted"]}
    rows = {row.label.partition(":")[0].replace(" ", "_"): row for row in costs.rows}
    assert [*rows][:4] == ["cache_write", "paging", "fragmentation", "total"]
    assert rows.keys() == measured.keys()
    level = 0.0
    for name, row in rows.items():
        start = level if name in ("paging", "fragmentation") else 0.0
        (bar,) = row.parts
        assert (row.start, bar.value) == (pytest.approx(start), measured[name]["ms"])
        assert list(bar.interval or ()) == pytest.approx([start + end for end in measured[name]["ci95_ms"]])
        assert [dot.value for dot in row.dots] == pytest.approx(
            [start + predicted[name]] if predicted.get(name) is not None else []
        )
        level = start + bar.value
    floor = frozen[1]["attribution"]["noise_floor_pct"] / 100
    (one_segment,) = (r for r in frozen[1]["end_to_end"] if (r["arm"], r["spread_k"]) == ("paged", 1))
    assert rows["total"].band == pytest.approx(
        (-floor * one_segment["median_ms"], floor * one_segment["median_ms"])
    )


def test_a_component_that_was_not_measured_is_named_below_its_chart() -> None:
    costs, times = charts_of(*of(failed("no_write")))
    assert "cache write: not measured (no_write: error: no such operator)" in costs.note
    assert not any(row.label.startswith("cache write") for row in costs.rows)
    assert costs.axis.label == "ms per prefill, for the components measured"
    assert not any(row.label.startswith("no write") for row in times.rows)


CASES = {
    "no profile": lambda: of(prefill_gpu.results(), profile=[]),
    "no prediction": lambda: of([r for r in prefill_gpu.results() if r.cell.layer is None]),
    "no no_write": lambda: of(failed("no_write")),
    "no dense": lambda: of(without("dense")),
    "bars alone": lambda: of([r for r in prefill_gpu.results() if r.cell.arm in ("engine", "spin")]),
    "three rounds": lambda: of([replace(r, samples_us=r.samples_us[:3]) for r in prefill_gpu.results()]),
    "long": lambda: of(scaled(300)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plot_is_written_and_no_text_lies_on_another_or_outside(case: str, tmp_path: Path) -> None:
    (sheet,) = breakdown_charts.sheets(prefill_summary(CASES[case]()[1]), Tips.of([]))
    png, svg, pdf = mpl.write(sheet, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert "per prefill" in svg.read_text(encoding="utf-8")
    assert_no_text_is_hidden(sheet)


def test_nothing_to_draw_is_no_file(tmp_path: Path) -> None:
    _, summary = of([r for r in prefill_gpu.results() if r.cell.arm in ("engine", "spin")], profile=[])
    assert summary["attribution"] is not None
    (sheet,) = breakdown_charts.sheets(prefill_summary(summary), Tips.of([]))
    assert mpl.write(sheet, tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_on_a_page_no_colour_of_a_category_is_a_kernel_s() -> None:
    of_kernels = {look[0] for name, look in looks([]).items() if name in FUNCTIONS}
    of_kernels |= {sweep.PREFILL.colour, INK}
    of_bars = [*COLOURS.values(), STEPS["paging"], STEPS["fragmentation"], TOTAL, OTHER]
    assert len(set(of_bars)) == len(of_bars)
    assert not of_kernels & set(of_bars)
