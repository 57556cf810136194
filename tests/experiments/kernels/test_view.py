"""What is made of a run of `kernels`: figures, and every point in the plot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.config.kernel_names import looks
from harness.runs.record import Status
from tests.made_up.builder import TOO_MUCH
from tests.made_up.kernels import SPREADS, other_results, record, results
from tests.made_up.views import charts_of, document_of, pair, summary_of


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_six_points_and_their_contrasts_for_every_spread_k(summary):
    points = {(row["spread_k"], row["kernel"], row["arm"]) for row in summary["cells"]}
    assert len(points) == len(summary["cells"]) == 6 * len(SPREADS)
    names = [(row["spread_k"], row["contrast"]) for row in summary["contrasts"]]
    assert sorted(set(names)) == sorted(
        {(k, name) for k in SPREADS for name in ("A/A", "core", "fragmentation")} - {(1, "fragmentation")}
    )
    assert len(names) == 3 * 3 - 1 + 3 + 2  # packed at spread_k = 8 has none


def test_what_none_of_the_spreads_could_hold_is_one_row():
    lost = [replace(r, status=Status.OUT_OF_MEMORY, reason=TOO_MUCH, samples_us=[]) for r in results()]
    (over_all,) = document_of(record(), lost).parts[-1].tables
    rows = [line for section in over_all.sections for line in section.lines]
    assert [(line.label, line.text) for line in rows] == [("all", "out_of_memory [1]")] * 3


def test_a_gather_goes_with_the_point_that_needs_it(summary):
    gathers = {(r["kernel"], r["arm"], r["spread_k"]): r["gather_us"] for r in summary["cells"]}
    assert gathers["flash_attn_func", "fragmented", 2] == pytest.approx(17, rel=0.01)
    assert gathers["flash_attn_func", "contiguous", 2] is None
    assert gathers["flash_attn_qkvpacked_func", "fragmented", 8] is None
    assert gathers["flash_attn_with_kvcache", "fragmented", 2] is None


def test_rates_count_every_sequence_and_only_what_is_seen(summary):
    row = next(row for row in summary["cells"] if row["kernel"] == "flash_attn_func")
    pairs = 4096 * 4097 / 2
    assert row["tflops"] == pytest.approx(2 * 4 * 12 * 64 * pairs / row["median_us"] / 1e6)
    assert row["gbps"] == pytest.approx(2 * 4 * 4096 * 12 * 64 * 2 / row["median_us"] / 1e3)


def charts(kept):
    (sheet,) = charts_of(record(), kept)
    return sheet


def test_every_kernel_has_a_look_of_its_own_and_what_never_ran_is_named_once():
    sheet = charts(other_results())
    _, times = sheet.charts
    assert "Attention kernels on contiguous" in sheet.title
    lines = {line.key.label: line for line in times.drawn}
    assert "sdpa-math, gather + kernel" in lines
    looks = {(line.key.colour, line.key.marker) for name, line in lines.items() if "gather +" not in name}
    assert len(looks) == 2
    assert times.note.count("flashinfer-paged, non-contiguous: unsupported") == 1
    assert "flashinfer-paged, non-contiguous, spread_k" not in times.note


def test_a_colour_a_function_contiguous_solid_non_contiguous_dashed(summary):
    differences, times = charts(results()).charts
    lines = {line.key.label.split(" (")[0]: line for line in times.lines}
    functions = {name.split(",")[0] for name in lines}
    assert len(functions) == len({line.key.colour for line in lines.values()}) == 3
    for function in functions:
        assert lines[f"{function}, contiguous"].key.line == "solid"
        assert lines[f"{function}, non-contiguous"].key.line == "dashed"
    for row in summary["cells"]:
        arm = {"contiguous": "contiguous", "fragmented": "non-contiguous"}[row["arm"]]
        (point,) = (p for p in lines[f"{row['kernel']}, {arm}"].points if p.x == row["spread_k"])
        assert point.y == (row["median_us"] / 1000 if row["n"] else None)
        if row["gather_us"] is not None and row["n"]:
            whole = lines[f"{row['kernel']}, gather + kernel"].points
            expected = pytest.approx((row["median_us"] + row["gather_us"]) / 1000)
            assert [p.y for p in whole if p.x == row["spread_k"]] == [expected]
    assert [p.y is None for p in lines["flash_attn_qkvpacked_func, non-contiguous"].points] == [0, 0, 1]
    assert "flash_attn_qkvpacked_func, non-contiguous, spread_k = 8: out_of_memory" in times.note
    compared = {line.key.label.split(",")[0]: line.points for line in differences.lines}
    for row in summary["contrasts"]:
        if row["contrast"] == ("fragmentation" if row["kernel"] == "flash_attn_with_kvcache" else "core"):
            (point,) = (p for p in compared[row["kernel"]] if p.x == row["spread_k"])
            assert (point.y, point.interval) == (row["delta_pct"], pair(row["ci95_pct"]))


def test_a_kernel_that_this_version_does_not_know_gets_the_next_free_look():
    """As after `docs/extending.md`, or in a run stored by another version."""
    made_up = [
        replace(r, cell=replace(r.cell, kernel="my-kernel")) if r.cell.kernel == "flash_attn_func" else r
        for r in results()
    ]
    lines = {line.key.label: line.key for line in charts(made_up).charts[1].lines}
    look = lines["my-kernel, contiguous"].colour, lines["my-kernel, contiguous"].marker
    declared = looks([])
    assert look not in declared.values()
    assert looks(["my-kernel", "zzz"])["my-kernel"] == look
    assert len({*looks(f"kernel {n}" for n in range(60)).values()}) == len(declared) + 60
