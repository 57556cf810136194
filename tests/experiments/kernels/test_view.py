"""What is made of a run of `kernels`: texts as they were, and every point in the plot."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from harness.experiments.kernels import charts as page
from harness.experiments.kernels import view as kernels
from harness.report.page.cells import Cells
from harness.report.tables import WIDTH
from harness.runs.record import Status
from tests.kernels_run import DATA, SPREADS, TOO_MUCH, markdown, other_results, record, results, screen


@pytest.fixture(scope="module")
def summary():
    return kernels.summarise(record(), results())


def test_the_tables_read_as_they_did():
    assert screen(results()) == (DATA / "kernels.txt").read_text(encoding="utf-8")
    assert screen(other_results()) == (DATA / "kernels_others.txt").read_text(encoding="utf-8")
    assert markdown() == (DATA / "kernels.md").read_text(encoding="utf-8")


def test_the_screen_s_tables_fit_it():
    lines = (screen(results()) + screen(other_results())).splitlines()
    assert max(map(len, lines)) <= WIDTH


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
    (over_all,) = kernels.document(record(), kernels.summarise(record(), lost)).tables
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


def test_csv_has_a_row_a_point_with_its_status(summary):
    rows = list(csv.DictReader(io.StringIO(kernels.document(record(), summary).csv())))
    assert len(rows) == len(summary["cells"])
    assert [row["status"] for row in rows].count("out_of_memory") == 1


def test_every_kernel_has_a_line_of_its_own(tmp_path):
    summary = kernels.summarise(record(), other_results())
    figure = kernels.draw(record(), summary)
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 3
    kernels.plots(record(), summary, tmp_path)
    text = (tmp_path / "kernels.svg").read_text(encoding="utf-8")
    assert "sdpa-math, gather + kernel" in text
    assert "flashinfer-paged, non-contiguous" in text
    assert "Attention kernels on contiguous" in text


def test_the_page_names_what_never_ran_once():
    summary = kernels.summarise(record(), other_results())
    shown = "".join(page.figures(summary, Cells.of(other_results())))
    assert shown.count("flashinfer-paged, fragmented: unsupported") == 1
    assert "flashinfer-paged, fragmented, spread_k" not in shown


def test_a_colour_a_function_contiguous_solid_non_contiguous_dashed(summary, tmp_path):
    (axes,) = kernels.draw(record(), summary).axes
    lines = {str(line.get_label()).split("\n")[0]: line for line in axes.get_lines()}
    functions = {name.split(",")[0] for name in lines}
    assert len(functions) == len({str(line.get_color()) for line in lines.values()}) == 3
    for function in functions:
        assert lines[f"{function}, contiguous"].get_linestyle() == "-"
        assert lines[f"{function}, non-contiguous"].get_linestyle() == "--"
    packed = [math.isnan(y) for y in lines["flash_attn_qkvpacked_func, non-contiguous"].get_ydata()]
    assert packed == [False, False, True]
    kernels.plots(record(), summary, tmp_path)
    assert "out_of_memory at k = 8" in (tmp_path / "kernels.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("kept", [[], results()[:1]])
def test_a_run_that_hardly_began_has_a_report(kept, tmp_path):
    summary = kernels.summarise(record(), kept)
    document = kernels.document(record(), summary)
    assert document.screen_summary()
    assert document.markdown()
    kernels.plots(record(), summary, tmp_path)
