"""What is made of a run of `allocate`: percentiles by pool, over time, and a pool that nothing fits."""

from __future__ import annotations

import pytest

from harness.report.charts.spec import Bars, Lines
from tests.made_up.allocate import BLOCKS, record, results
from tests.made_up.views import charts_of, document_from, summary_of


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_percentiles_and_sums_over_the_requests(summary):
    stock, by_id, longest, lost = summary["cells"]
    assert (stock["segments_per_block"], stock["p90_segments_per_block"]) == (0.75, 1)
    assert stock["blocks_per_segment"] == pytest.approx(sum(BLOCKS) / (sum(BLOCKS) / 2 + sum(BLOCKS) / 4))
    assert stock["hit_pct"] == pytest.approx(10)
    assert (stock["requests"], stock["left_out"]) == (len(BLOCKS), 2)
    assert longest["segments_per_block"] == 0.1
    assert by_id["layouts"] == "layouts-sorted-16-4096.jsonl.gz"
    assert (lost["status"], lost["segments_per_block"], lost["layouts"]) == ("unsupported", None, None)


def test_parts_over_time_keep_every_request_and_their_order(summary):
    rows = [row for row in summary["over_time"] if row["order"] == "stock"]
    assert sum(row["requests"] for row in rows) == len(BLOCKS)
    assert [row["segments_per_block"] for row in rows] == [1] * 12 + [0.5] * 12
    assert [row["end_s"] for row in rows] == sorted(row["end_s"] for row in rows)
    assert {row["order"] for row in summary["over_time"]} == {"stock", "sorted", "longest"}


def test_the_answer_is_of_a_pool_with_figures_and_the_other_says_why_it_has_none(summary):
    document = document_from(record(), summary)
    assert document.answer == (
        "In a pool of 4096 blocks of 16 tokens, prefix caching on, a request's segments per block are 0.750 "
        "(stock), 0.100 (sorted by id), 0.100 (longest stretches); medians."
    )
    screen = " ".join(document.screen_summary().split())
    assert "no request fits 8 blocks of 16 tokens; raise --num-blocks" in screen


def test_charts_draw_each_order_over_time_and_the_percentiles():
    (sheet,) = charts_of(record(), results())
    over_time, empty, spread = sheet.charts
    assert isinstance(over_time, Lines)
    assert isinstance(spread, Bars)
    assert [len(line.measured) for line in over_time.drawn] == [24, 24, 24]
    assert empty.empty
    assert [row.dots[0].interval for row in spread.rows[:1]] == [(0.5, 1)]
    assert spread.rows[3].label.endswith("unsupported")
