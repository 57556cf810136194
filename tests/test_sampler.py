"""The sampler on a simulated clock: interleaving, failing arms, budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.measure.sampler import Budget, Series, sample
from harness.measure.timers import CpuTimer, Step
from harness.record import Cell, Result, Status


class SimulatedTimer:
    """Runs each step and takes what it returns as its time; the clock slows down steadily."""

    name = "simulated"

    def __init__(self, drift: float = 0.0) -> None:
        self.drift, self.calls = drift, 0

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        times = []
        for step in steps:
            self.calls += 1
            times.append(float(step.run()) * (1 + self.drift * self.calls))  # type: ignore[arg-type]
        return times


def series_of(*runs):
    results = [
        Result(Cell("kernel", f"k{n}", "test", "dense", 1, 16, 0, "captured"), "s", Status.OK)
        for n, _ in enumerate(runs)
    ]
    return Series(results, [Step(run) for run in runs])


def budget(repeats):
    return Budget(seconds=1.0, series_left=1, repeats=repeats)


def test_drift_is_no_effect_when_arms_are_interleaved():
    series = series_of(lambda: 100.0, lambda: 100.0)
    timer = SimulatedTimer(drift=1e-4)
    first, second = (np.array(r.samples_us) for r in sample(series, timer, budget(200), seed=1))
    assert first[-1] > 1.03 * first[0], "the simulated clock must drift for this test to mean anything"
    assert abs(np.median(second - first)) < 0.1
    # One arm after the other, as many samples each, on the same clock:
    clock = SimulatedTimer(drift=1e-4)
    blocks = [clock.time_round([Step(lambda: 100.0)] * 200) for _ in range(2)]
    assert np.median(np.array(blocks[1]) - np.array(blocks[0])) == pytest.approx(2.0, rel=0.1)


def test_every_round_has_each_arm_once_in_changing_order():
    seen: list[int] = []
    arms = [lambda n=n: seen.append(n) or 1.0 for n in range(4)]
    sample(series_of(*arms), SimulatedTimer(), budget(20), seed=3)
    rounds = [tuple(seen[i : i + 4]) for i in range(0, len(seen), 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len(set(rounds)) > 5


def test_an_arm_that_runs_out_of_memory_leaves_the_others_measured():
    calls = iter(range(1000))

    def greedy() -> float:
        if next(calls) > 5:
            raise MemoryError("no room")
        return 1.0

    results = sample(series_of(lambda: 1.0, greedy, lambda: 2.0), SimulatedTimer(), budget(10), seed=0)
    assert [r.status for r in results] == [Status.OK, Status.OUT_OF_MEMORY, Status.OK]
    assert [len(r.samples_us) for r in results] == [10, results[1].samples_us.__len__(), 10]
    assert "no room" in (results[1].reason or "")


def test_interrupting_keeps_the_samples_and_says_so():
    calls = iter(range(1000))

    def interrupted() -> float:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return 1.0

    series = series_of(interrupted, lambda: 1.0)
    with pytest.raises(KeyboardInterrupt):
        sample(series, SimulatedTimer(), budget(100), seed=0)
    assert {r.status for r in series.results} == {Status.INTERRUPTED}
    assert len(series.results[0].samples_us) >= 4


def test_a_short_budget_cuts_rounds_but_not_below_the_least():
    slow = Budget(seconds=1.0, series_left=10)
    assert slow.rounds(seconds_per_round=1.0) == 3
    assert slow.shortened
    quick = Budget(seconds=10.0, series_left=1)
    assert quick.rounds(seconds_per_round=0.001) == 50
    assert not quick.shortened


def test_what_happens_before_a_call_is_not_timed():
    order: list[str] = []
    times = CpuTimer().time_round([Step(lambda: order.append("run"), before=lambda: order.append("before"))])
    assert order == ["before", "run"]
    assert len(times) == 1
