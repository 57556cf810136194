"""Figures over processes, against the formula by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis import stats
from harness.analysis.breakdown.rows import Breakdown
from harness.sweep import between
from harness.sweep.summary import PointSummary, SweepSummary
from harness.sweep.tables import tables
from tests.made_up import prefill_gpu


def point(seed: int, paging_pct: float, **options: object) -> PointSummary:
    """A finished run whose block table costs this much."""
    breakdown = Breakdown.model_validate(prefill_gpu.breakdown()[1]["attribution"])
    for row in breakdown.measured:
        if row.component == "paging":
            row.pct = paging_pct
    own = {"model": "gpt2", "seed": seed} | options
    return PointSummary(name=str(seed), options=own, status="finished", attribution=breakdown)


def paging(rows: list[between.BetweenRow]) -> list[between.BetweenRow]:
    return [row for row in rows if row.component == "paging"]


def test_the_interval_is_student_s_over_processes():
    (row,) = paging(between.rows([point(n, pct) for n, pct in enumerate([8.0, 8.3, 8.1, 7.9, 8.2])]))
    assert (row.processes, row.pct, row.options) == (5, pytest.approx(8.1), {"model": "gpt2"})
    sd = np.std([8.0, 8.3, 8.1, 7.9, 8.2], ddof=1)
    assert row.sd_pct == pytest.approx(sd)
    assert row.ci95_pct == pytest.approx((8.1 - 2.776 * sd / 5**0.5, 8.1 + 2.776 * sd / 5**0.5), rel=1e-4)


def test_only_points_that_differ_in_their_seed_alone_are_one_group():
    points = [point(0, 8.0), point(1, 8.2), point(0, 1.0, block_size=128), point(1, 2.0, block_size=128)]
    rows = paging(between.rows([*points, point(0, 5.0, length=9)]))
    assert [row.options.get("block_size") for row in rows] == [None, 128]
    assert [row.pct for row in rows] == pytest.approx([8.1, 1.5])


def test_a_sweep_s_tables_end_with_what_may_be_quoted():
    points = [point(n, pct, length=length) for length in (64, 128) for n, pct in enumerate([8.0, 8.3, 8.1])]
    made = SweepSummary(
        status="finished", varies=["length", "seed"], points=points, between=between.rows(points)
    )
    text = tables(made, "A sweep", [])[-1].screen()
    assert text.startswith("Between processes")
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("+8.13% [+7.75, +8.51]") == 2
    assert "length 128" in text


def test_a_point_knows_how_many_processes_share_its_options():
    points = [point(0, 8.0), point(1, 8.2), point(0, 1.0, block_size=128)]
    rows = between.rows(points)
    assert [between.processes_of(rows, each) for each in points] == [2, 2, 1]


def test_it_holds_what_differs_between_processes():
    """Processes apart by three times what a run's own interval knows of: 94% to 97% hold the truth."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(1500):
        figures = 8 + rng.normal(0, 0.26, 5) + rng.normal(0, 0.08, 5)
        low, high = stats.mean(figures).interval()
        held += low <= 8 <= high
    assert 0.94 <= held / 1500 <= 0.97
