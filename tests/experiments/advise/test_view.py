"""What is recommended, of made-up samples whose differences are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.made_up.advise import CHANGES, LOST, TIMES, record, results, serve
from tests.made_up.views import charts_of, document_of, summary_of


def scaled(factors):
    """The made-up results with the samples of some candidates' engines times a factor."""
    return [
        replace(r, samples_us=[us * factors.get(r.cell.at("candidate"), 1.0) for us in r.samples_us])
        if r.cell.arm != "stock" or r.control
        else r
        for r in results()
    ]


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def outcomes(summary):
    return {row["candidate"]: row["outcome"] for row in summary["candidates"]}


def test_what_each_change_gives_is_what_was_put_in(summary):
    rows = {(r["contrast"], r["metric"]): r["delta_pct"] for r in summary["contrasts"]}
    for name, (throughput, latency) in TIMES.items():
        assert rows[name, "throughput"] == pytest.approx(100 * (throughput - 1), abs=0.3)
        assert rows[name, "latency"] == pytest.approx(100 * (latency - 1), abs=0.3)


def test_the_best_that_beats_two_engines_of_stock_is_recommended(summary):
    assert summary["recommended"] == "graphs+plugin-step"
    assert outcomes(summary) == {
        "graphs": "helps",
        "plugin-step": "helps",
        "prefix-caching": "hurts",
        "block-size=128": "unclear",
        "graphs+plugin-step": "helps",
        **dict.fromkeys(LOST, "not measured"),
    }


def test_a_gain_below_the_difference_of_two_engines_of_stock_is_none(summary):
    """0.5% faster, which its own interval excludes from zero; A/A shows 0.4%."""
    row = next(r for r in summary["contrasts"] if r["contrast"] == "block-size=128")
    assert row["ci95_pct"][1] < 0
    assert (row["verdict"], row["reason_code"]) == ("unclear", "within_noise")
    noisy = summary_of(record(), scaled({"stock again": 1.4}))
    assert noisy["recommended"] == "stock"


def test_without_a_noise_floor_nothing_is_recommended():
    alone = [r for r in results() if r.cell.at("candidate") != "stock again"]
    found = summary_of(record(), alone)
    assert found["recommended"] == "stock"
    assert "helps" not in outcomes(found).values()


def test_of_many_useless_changes_one_lucky_interval_is_not_claimed():
    """p is 0.02 of 1 in 16 contrasts; Holm's procedure asks for 0.003."""
    lucky = []
    for r in results():
        if r.cell.arm == r.cell.at("candidate") and r.samples_us:
            base = next(s for s in results() if s.series == r.series and s.cell.arm == "stock").samples_us
            push = 20_000 if r.series == "graphs: throughput" else 0.0
            jump = [30_000.0, -30_000.0] * 6
            r = replace(r, samples_us=[us - push + j * us / 1e6 for us, j in zip(base, jump, strict=True)])
        lucky.append(r)
    found = summary_of(record(), lucky)
    row = next(r for r in found["contrasts"] if (r["contrast"], r["metric"]) == ("graphs", "throughput"))
    assert 0.003 < row["p_value"] < 0.05
    assert (row["verdict"], found["recommended"]) == ("unclear", "stock")


def test_break_even_hit_rates(summary):
    """From 40% to 90% of hits stock saves half its time: a quarter more is at 15%, 30% less at 70%."""
    found = {row["against"]: row["hit_rate_pct"] for row in summary["break_even"]}
    assert found == {
        "the same without it": pytest.approx(15, abs=1),
        "graphs+plugin-step": pytest.approx(70, abs=1),
    }


def test_break_even_where_stock_has_no_cache():
    """The same engines, with the change the other way round: on, 20% faster at 40%, and 60% at 90%."""
    turned = {"stock": "prefix-caching", "prefix-caching": "stock"}
    members = [
        replace(r, cell=replace(r.cell, arm=turned.get(r.cell.arm, r.cell.arm)))
        if r.series == "prefix-caching: throughput"
        else r
        for r in results()
        if "plugin" not in r.series
    ]
    (row,) = summary_of(record(), members)["break_even"]
    assert row["hit_rate_pct"] == pytest.approx(15, abs=1)


def test_another_goal_has_another_winner():
    factors = {"graphs+plugin-step": 3.0}
    by_latency = record() | {"config": {"goal": "latency"}}
    assert summary_of(record(), scaled(factors))["recommended"] == "plugin-step"
    assert summary_of(by_latency, scaled(factors))["recommended"] == "graphs"


def test_the_last_line_is_the_command_to_type():
    document = document_of(record(), results())
    expected = serve(CHANGES["graphs+plugin-step"])
    assert document.screen_summary().splitlines()[-1] == expected
    assert f"```\n{expected}\n```" in document.markdown()
    text = " ".join(document.screen_summary().split())
    for name, (_, reason) in LOST.items():
        assert name in text
        assert reason in text


def test_every_candidate_has_a_row_in_both_charts(summary):
    (sheet,) = charts_of(record(), results())
    for chart in sheet.charts:
        assert [row.label.partition(":")[0] for row in chart.rows] == [*outcomes(summary)]
        assert sum(len(row.dots) for row in chart.rows) == len(TIMES)
