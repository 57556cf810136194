"""What is made of a run of `cache`: figures, and every point in the plot."""

from __future__ import annotations

import pytest

from tests.made_up.cache import SHARES, record, results
from tests.made_up.views import charts_of, summary_of


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_a_cell_for_every_arm_and_two_contrasts_where_both_were_measured(summary):
    cells = {(row["batch_size"], row["share_pct"], row["arm"]) for row in summary["cells"]}
    assert cells == {(n, share, arm) for n in (1, 4) for share in SHARES for arm in ("reset", "warm")}
    names = [(row["contrast"], row["batch_size"], row["share_pct"]) for row in summary["contrasts"]]
    assert sorted(names) == sorted(
        {(name, n, share) for name in ("A/A", "warm") for n in (1, 4) for share in SHARES}
        - {("warm", 4, 100)}
    )


def test_the_reset_s_cost_is_that_of_the_resets_ahead_of_the_timed_prompts(summary):
    assert summary["reset"]["median_us"] == pytest.approx(180, rel=0.01)
    assert summary["reset"]["n"] == 2 * 2 * len(SHARES) * 12


def test_a_batch_of_half_cached_prompts_is_that_much_faster(summary):
    row = next(
        row
        for row in summary["contrasts"]
        if (row["contrast"], row["batch_size"], row["share_pct"]) == ("warm", 4, 50)
    )
    assert row["delta_pct"] == pytest.approx(-100 * 20 * 1024 / (3000 + 20 * 2048), abs=0.5)
    assert row["verdict"] == "faster"


@pytest.fixture(scope="module")
def charts(summary):
    (sheet,) = charts_of(record(), results())
    assert sheet.name == "cache"
    return sheet.charts


@pytest.mark.parametrize(("size", "name"), [(1, "one prompt"), (4, "batch of 4")])
def test_differences_and_savings_are_of_warm_against_reset_not_of_the_noise(summary, charts, size, name):
    """A/A has the same fields, and would be drawn as "warm" without a complaint."""
    differences, _, savings = charts
    warm = [r for r in summary["contrasts"] if (r["contrast"], r["batch_size"]) == ("warm", size)]
    drawn = {line.key.label: line.points for line in differences.lines}
    assert [(point.x, point.y) for point in drawn[name]] == [(r["share_pct"], r["delta_pct"]) for r in warm]
    rates = {r["share_pct"]: r["hit_rate_pct"] for r in summary["cells"] if r["arm"] == "warm" and r["n"]}
    saved = {line.key.label: line.points for line in savings.lines}
    for point, row in zip(saved[name], warm, strict=True):
        assert (point.x, point.y) == (pytest.approx(rates[row["share_pct"]], abs=0.5), -row["delta_pct"])
        low, high = row["ci95_pct"]
        assert list(point.interval) == [-high, -low]


def test_times_are_per_prompt_an_arm_a_line_with_a_cross_where_one_is_missing(summary, charts):
    lines = {line.key.label: line for line in charts[1].lines}
    assert {name: line.key.line for name, line in lines.items()} == {
        "one prompt, reset": "solid",
        "one prompt, warm": "dashed",
        "batch of 4, reset": "solid",
        "batch of 4, warm": "dashed",
    }
    for row in summary["cells"]:
        name, size = "one prompt" if row["batch_size"] == 1 else "batch of 4", row["batch_size"]
        (point,) = (p for p in lines[f"{name}, {row['arm']}"].points if p.x == row["share_pct"])
        if row["n"]:
            assert point.y == pytest.approx(row["median_us"] / 1000 / size)
            assert list(point.interval) == pytest.approx([bound / 1000 / size for bound in row["ci95_us"]])
            assert any(line.endswith("ms per prompt") for line in point.tip.lines) is (size > 1)
        else:
            assert point.y is None
            assert point.tip.lines == ["4 prompts, 100%, warm: out_of_memory", row["reason"]]
            assert "4 prompts, 100%, warm: out_of_memory" in charts[1].note
