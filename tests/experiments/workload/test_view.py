"""What is made of a run of `workload`: the breakdown by kind, contrasts of passes, what the answer says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.runs.record import Status
from tests.made_up.views import charts_of, document_of, summary_of
from tests.made_up.workload import LEVELS_US, REQUESTS, STEPS, TOKENS, record, results


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_the_kinds_of_steps_share_out_the_pass(summary):
    kinds = {row["kind"]: row for row in summary["kinds"]}
    assert [*kinds] == ["pure prefill", "chunk", "all"]
    assert kinds["all"]["wall_us"] == sum(us + gap_us for *_, us, gap_us in STEPS)
    assert kinds["pure prefill"]["wall_pct"] + kinds["chunk"]["wall_pct"] == pytest.approx(100)
    assert [kind for kind, row in kinds.items() if row["without_cache"]] == ["pure prefill"]
    assert kinds["all"]["tokens"] == sum(step[1] for step in STEPS) == TOKENS


def test_kernels_of_profiled_steps_are_scaled_to_the_recorded_ones_and_the_rest_waits(summary):
    (chunk,) = (row for row in summary["kinds"] if row["kind"] == "chunk")
    of_step = chunk["mean_us"] / (chunk["wall_us"] / chunk["steps"])
    assert chunk["attention_pct"] == pytest.approx(100 * 52e3 * 0.2 / (chunk["wall_us"] / chunk["steps"]))
    parts = ("attention_pct", "cache_write_pct", "other_pct", "waiting_pct")
    assert sum(chunk[part] for part in parts) == pytest.approx(100 * of_step)
    assert sum(chunk[part] for part in parts) + chunk["between_pct"] == pytest.approx(100)


def test_on_a_cpu_shares_are_of_the_profiled_steps():
    on_cpu = record() | {"device": {"name": "abacus", "kind": "cpu"}}
    (chunk,) = (row for row in summary_of(on_cpu, results())["kinds"] if row["kind"] == "chunk")
    of_step = chunk["mean_us"] / (chunk["wall_us"] / chunk["steps"])
    assert chunk["attention_pct"] == pytest.approx(100 * of_step * 0.2 / 2)  # it took twice as long


def test_waiting_for_requests_of_a_trace_is_no_step_s_time():
    arriving = record() | {"config": record()["config"] | {"arrivals": True}}
    kinds = {row["kind"]: row for row in summary_of(arriving, results())["kinds"]}
    assert kinds["all"]["wall_us"] == sum(us for *_, us, _ in STEPS)
    assert kinds["all"]["between_pct"] == 0


def test_requests_per_second_are_the_inverse_of_the_passes(summary):
    arms = {row["arm"]: row for row in summary["arms"]}
    stock = arms["stock"]
    assert stock["requests_per_s"] == pytest.approx(1e6 * REQUESTS / stock["median_us"])
    low, high = stock["ci95_requests_per_s"]
    assert low < stock["requests_per_s"] < high
    (saved,) = (
        row
        for row in summary["contrasts"]
        if (row["contrast"], row["figure"]) == ("without the cache", "pass")
    )
    expected = 100 * (LEVELS_US["wrapped"] / LEVELS_US["no_cache"] - 1)
    low, high = saved["ci95_requests_per_s_pct"]
    assert low < expected < high
    assert saved["verdict"] == "faster"


def test_an_arm_that_was_not_measured_is_in_no_contrast(summary):
    names = [row["contrast"] for row in summary["contrasts"] if row["figure"] == "pass"]
    assert names == ["whole prompts", "wrappers", "without the cache", "all of it", "A/A"]


def test_where_prompts_cannot_be_kept_whole_the_wrappers_are_set_against_stock():
    lost = [
        replace(each, status=Status.UNSUPPORTED, reason="cut", samples_us=[], readings={})
        if each.cell.arm == "whole"
        else each
        for each in results()
    ]
    (wrappers,) = (
        row
        for row in summary_of(record(), lost)["contrasts"]
        if (row["contrast"], row["figure"]) == ("wrappers", "pass")
    )
    assert wrappers["baseline"] == "stock"


def test_the_answer_says_what_can_do_without_and_why_nothing_was_saved():
    answer = document_of(record(), results()).answer
    assert answer.startswith(
        "Of the time of your 40 requests 10% went to steps that can do without the KV cache"
    )
    assert "Without the cache: +5." in answer
    no_cache = [
        replace(
            each, status=Status.UNSUPPORTED, reason="encoder-only: no KV cache", samples_us=[], readings={}
        )
        if each.cell.arm == "no_cache"
        else each
        for each in results()
    ]
    assert (
        "Without the cache: not measured, as encoder-only: no KV cache."
        in document_of(record(), no_cache).answer
    )


def test_the_first_chart_is_the_account_of_the_steps():
    breakdown, passes, layout = charts_of(record(), results())
    (bars,) = breakdown.charts
    assert [row.label.split(",")[0] for row in bars.rows] == ["pure prefill", "chunk"]
    total_ms = sum(part.value for row in bars.rows for part in row.parts)
    assert total_ms == pytest.approx(sum(us + gap_us for *_, us, gap_us in STEPS) / 1000)
    assert len(passes.charts[1].rows) == len(LEVELS_US)
    (line,) = layout.charts[0].drawn
    assert [point.y for point in line.points] == [step[5] / step[4] for step in STEPS]
