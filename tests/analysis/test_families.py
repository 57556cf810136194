"""Verdicts of one page hold together, by simulation on the harness's own sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.analysis import figures
from harness.analysis.families import judge_together
from harness.measure.budget import Budget
from harness.measure.sampler import Series, sample
from harness.measure.timers import Step
from harness.runs.record import Cell, Result, Status
from harness.runs.stored import Stored
from harness.runs.summary import ContrastFigures

ARMS = 15


class Page(Stored):
    """A summary with the contrasts of ARMS treatments with one baseline."""

    contrasts: list[ContrastFigures]


class Simulated:
    """A timer for which each step returns its time."""

    name = "simulated"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        return [float(step.run()) for step in steps]  # type: ignore[arg-type]


def judged(seed: int, slower_pct: float = 0.0) -> list[str]:
    """The page's verdicts; the first treatment is slower by that much, all others are like the baseline."""
    rng = np.random.default_rng(seed)
    levels = [100.0, 100.0 + slower_pct, *[100.0] * (ARMS - 1)]
    steps = [Step(lambda level=level: level + rng.normal(0, 2)) for level in levels]
    cells = [Cell("kernel", f"k{n}", "made up", "dense", 1, 16, 0, "captured") for n in range(ARMS + 1)]
    series = Series([Result(cell, "s", Status.OK) for cell in cells], list(steps), pairs=[])
    baseline, *others = sample(series, Simulated(), Budget(seconds=1.0, series_left=1, repeats=12), seed)
    rows = [figures.contrast_row("against the first", baseline, other) for other in others]
    page = Page(contrasts=[ContrastFigures(**row) for row in rows if row])
    judge_together(page)
    return [row.verdict for row in page.contrasts]


def test_of_fifteen_true_nulls_a_false_verdict_is_on_at_most_five_percent_of_pages():
    pages = [judged(seed) for seed in range(400)]
    wrong = sum("slower" in page or "faster" in page for page in pages)
    assert wrong / len(pages) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(pages))


def test_a_true_difference_is_still_found_among_them():
    pages = [judged(seed, slower_pct=5.0) for seed in range(40)]
    assert sum(page[0] == "slower" for page in pages) > 30


def test_single_layers_are_another_family_and_a_sum_is_the_mean_again():
    from harness.analysis.rows import ContrastRow, Layer

    class Layers(Stored):
        rows: list[ContrastRow]

    def row(layer: Layer, p_value: float) -> ContrastRow:
        return ContrastRow(
            kernel="k", baseline="dense", treatment="paged", spread_k=1, layer=layer, noise_floor_pct=None,
            p_value=p_value, verdict="slower", n=20, ci95_us=None, ci95_pct=None, baseline_us=1.0,
            delta_us=1.0, delta_pct=1.0,
        )  # fmt: skip

    rows = [row("mean", 0.04), row("sum", 0.04), *(row(n, 0.04) for n in range(2))]
    judge_together(Layers(rows=rows))
    assert [each.verdict for each in rows] == ["slower", "slower", "unclear", "unclear"]


@pytest.mark.parametrize("verdict", ["same", "unclear"])
def test_other_verdicts_stay(verdict):
    row = ContrastFigures(
        contrast="c", kernel="k", spread_k=1, baseline_us=1.0, delta_us=0.0, delta_pct=0.0, ci95_us=None,
        ci95_pct=None, p_value=0.9, verdict=verdict, n=20,
    )  # fmt: skip
    judge_together(Page(contrasts=[row]))
    assert row.verdict == verdict
