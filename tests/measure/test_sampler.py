"""The sampler on a simulated clock: interleaving, drift, throttling, stopping, failing arms, budgets."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import config, interrupts
from harness.analysis import sample_warnings, stats
from harness.experiments.prefill.options import RunConfig, resolve
from harness.measure.budget import MIN_ROUNDS, Budget
from harness.measure.clocks import ClockReading
from harness.measure.sampler import ENOUGH_ROUNDS, MAX_WARMUP_ROUNDS, Series, sample
from harness.measure.timers import Step
from harness.running.recorder import Recorder
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Result, Status


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


class SimulatedGpu:
    """Timer, clock monitor and passing time in one: a call takes what its step returns, in us, or three times
    that while the GPU is throttled, which it is between `throttled`'s seconds."""

    name = "simulated"

    def __init__(self, *throttled: tuple[float, float]) -> None:
        self.throttled, self.seconds, self.sleeps = throttled, 0.0, list[float]()

    def hot(self) -> bool:
        return any(start <= self.seconds < end for start, end in self.throttled)

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        times = []
        for step in steps:
            times.append(float(step.run()) * (3 if self.hot() else 1))  # type: ignore[arg-type]
            self.seconds += 1e-6 * times[-1]
        return times

    def read(self) -> ClockReading:
        if self.hot():
            return ClockReading(660, throttle_reasons=("hardware thermal slowdown",))
        return ClockReading(1980, power_capped=True)

    def sm_mhz(self) -> int | None:
        return self.read().sm_mhz

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds

    def sample(self, series: Series, budget: Budget, **more) -> list[Result]:
        how: dict[str, Any] = {"seed": 0, "monitor": self, "sleep": self.sleep, "now": lambda: self.seconds}
        return sample(series, self, budget, **how | more)


def series_of(*runs):
    results = [
        Result(Cell("kernel", f"k{n}", "test", "dense", 1, 16, 0, "captured"), "s", Status.OK)
        for n, _ in enumerate(runs)
    ]
    return Series(results, [Step(run) for run in runs])


def pair_of(baseline, treatment):
    """Two arms that make a contrast."""
    series = series_of(baseline, treatment)
    for n, arm in enumerate(("dense", "paged")):
        series.results[n] = replace(
            series.results[n], cell=replace(series.results[n].cell, kernel="k", arm=arm)
        )
    return series


def noisy(level, noise, seed):
    rng = np.random.default_rng(seed)
    return lambda: level * (1 + noise * rng.standard_normal())


def budget(repeats):
    return Budget(seconds=1.0, series_left=1, repeats=repeats)


def test_clocks_read_by_the_timer_stay_with_their_samples_and_go_with_a_throttled_batch():
    class Clocked(SimulatedGpu):
        def time_round(self, steps: Sequence[Step]) -> list[float]:
            times = super().time_round(steps)
            self.clocks_mhz = [int(us / 10) for us in times]
            return times

    series = series_of(lambda: 10_000.0, lambda: 20_000.0)
    for result in Clocked((0.5, 0.7)).sample(series, budget(repeats=40)):
        assert len(result.clock_mhz) == len(result.samples_us) == 40
        assert result.clock_mhz == [int(us / 10) for us in result.samples_us]


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
    arms = [lambda n=n: seen.append(n) or 1.0 for n in range(4)]  # type: ignore[func-returns-value]
    sample(series_of(*arms), SimulatedTimer(), budget(20), seed=3)
    rounds = [tuple(seen[i : i + 4]) for i in range(0, len(seen), 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len(set(rounds)) > 5


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


def test_a_signal_within_a_round_waits_for_its_end():
    calls: list[int] = []

    def run() -> float:
        calls.append(1)
        if len(calls) == 50:
            signal.raise_signal(signal.SIGINT)
        return 100.0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    series = series_of(run, run, run)
    with pytest.raises(KeyboardInterrupt), interrupts.caught():
        sample(series, SimulatedTimer(), budget(1000), seed=0)
    signal.signal(signal.SIGINT, before)
    assert {result.status for result in series.results} == {Status.INTERRUPTED}
    assert len({len(result.samples_us) for result in series.results}) == 1
    assert len(calls) == 51


def test_two_modes_of_the_clock_are_seen_but_no_effect():
    """The clock jumps between two speeds every few rounds; a treatment 1% slower stays 1% slower."""
    calls = iter(range(10_000))
    speed = [1.0]

    def run(level):
        n = next(calls)
        if n % 2 == 0:  # a round has two calls
            speed[0] = 1.0 if n // 14 % 2 else 1.1
        return level * speed[0]

    series = pair_of(lambda: run(1000.0), lambda: run(1010.0))
    dense, paged = sample(series, SimulatedTimer(), budget(100), seed=1)
    found = stats.paired_difference(dense.samples_us, paged.samples_us)
    assert found.ci95_us is not None
    assert 9.9 < found.ci95_us[0] <= found.ci95_us[1] < 11.1
    assert "two modes" in " ".join(sample_warnings.warnings(dense.samples_us))


def test_throttled_blocks_are_discarded_and_done_again():
    gpu = SimulatedGpu((0.07, 0.20))
    results = gpu.sample(pair_of(lambda: 1000.0, lambda: 1010.0), budget(60))
    assert [(r.status, len(r.samples_us), r.stopped) for r in results] == [(Status.OK, 60, "repeats")] * 2
    assert set(results[0].samples_us) == {1000.0}, "no sample of a throttled block is left"
    assert set(results[0].clock_mhz) == {1980}
    assert gpu.sleeps, "it must have waited for this test to mean anything"


def test_pairs_survive_a_discarded_block():
    """n-th samples are of the same round: each arm's time says which round it was, the second's 5 us more."""
    one, two = (iter(range(1000, 9000)) for _ in range(2))
    gpu = SimulatedGpu((0.15, 0.25))
    results = gpu.sample(pair_of(lambda: next(one), lambda: next(two) + 5), budget(80))
    first, second = (np.array(r.samples_us) for r in results)
    assert (np.diff(first) > 1).any(), "rounds must be missing for this test to mean anything"
    assert set(second - first) == {5.0}


def test_too_much_throttling_ends_the_series_and_keeps_its_samples():
    gpu = SimulatedGpu((0.0, 1e9))
    series = pair_of(lambda: 1000.0, lambda: 1010.0)
    budget = Budget(seconds=100.0, series_left=2)
    results = gpu.sample(series, budget)
    assert {r.status for r in results} == {Status.THROTTLED}
    assert "4 of 4 batches of rounds: hardware thermal slowdown" in (results[0].reason or "")
    assert len(results[0].samples_us) == len(results[1].samples_us) > 4
    assert results[0].stopped is None
    assert len(results[0].clock_mhz) == 4
    assert gpu.sleeps == [0.05, 0.1, 0.2], "back-off doubles, and there is none after the last block"
    assert budget.series_left == 1


def test_throttling_cannot_spend_more_than_the_series_share_by_much():
    gpu = SimulatedGpu((0.0, 1e9))
    results = gpu.sample(pair_of(lambda: 1000.0, lambda: 1000.0), Budget(seconds=0.1, series_left=1))
    assert results[0].status is Status.THROTTLED
    assert results[0].samples_us
    assert gpu.seconds < 0.1 + 5 * stats.INTERVAL_SAMPLES * 0.006


def test_a_series_that_something_held_up_takes_its_share_again_until_it_has_enough():
    gpu, calls = SimulatedGpu(), iter(range(10**6))
    one, other = noisy(1000, 0.05, 1), noisy(1000, 0.05, 2)

    def held_up():
        return 1e6 if next(calls) == 12 else one()

    budget = Budget(seconds=2.0, series_left=2)
    results = gpu.sample(pair_of(held_up, other), budget)
    assert {r.stopped for r in results} == {"time"}
    assert ENOUGH_ROUNDS <= len(results[0].samples_us) < 100, "enough, and not a round of the others' more"
    slow = gpu.sample(pair_of(noisy(60_000, 0.05, 1), noisy(60_000, 0.05, 2)), budget)
    assert len(slow[0].samples_us) < ENOUGH_ROUNDS, "a slow series never had time for as many"


def test_a_series_stops_when_its_time_is_spent():
    gpu, budget = SimulatedGpu(), Budget(seconds=2.0, series_left=2)
    results = gpu.sample(pair_of(noisy(1000, 0.5, 1), noisy(1000, 0.5, 2)), budget)
    assert {r.stopped for r in results} == {"time"}
    assert 0.95 < gpu.seconds < 1.01
    assert budget.shortened
    assert budget.least_rounds == len(results[0].samples_us)


@pytest.mark.parametrize("least", [MIN_ROUNDS, 6])
def test_slow_rounds_still_get_the_least(least):
    gpu = SimulatedGpu()
    budget = Budget(seconds=1.0, series_left=10, min_rounds=least)
    results = gpu.sample(pair_of(lambda: 5e5, lambda: 5e5), budget)
    assert [(len(r.samples_us), len(r.warmup_us), r.stopped) for r in results] == [(least, 1, "time")] * 2
    assert budget.seconds == 0


@pytest.mark.parametrize(("round_us", "rounds"), [(49_000, 6), (51_000, 3)])
def test_quick_rounds_are_enough_for_an_interval(round_us, rounds):
    budget = Budget(seconds=0.1, series_left=10)
    results = SimulatedGpu().sample(pair_of(lambda: round_us / 2, lambda: round_us / 2), budget)
    assert [(len(r.samples_us), r.stopped) for r in results] == [(rounds, "time")] * 2


def test_a_quick_series_that_something_holds_up_has_an_interval_all_the_same():
    gpu, calls = SimulatedGpu(), iter(range(10**6))
    held_up = pair_of(lambda: 1e6 if next(calls) == 1 else 1000.0, lambda: 1000.0)
    results = gpu.sample(held_up, Budget(seconds=0.1, series_left=10))
    assert [len(r.samples_us) for r in results] == [6, 6]


@given(st.floats(0.001, 20), st.integers(1, 12))
def test_all_series_of_a_bounded_budget_exceed_it_by_no_more_than_a_round_each(round_s, series):
    budget = Budget(seconds=10.0, series_left=series, extra_s=2.0)
    took = []
    for _ in range(series):
        share_s, elapsed, done = budget.share(), 0.0, 0
        while (rounds := budget.rounds_left(done, share_s - elapsed, round_s, round_s)) > 0:
            assert rounds <= budget.most_rounds
            elapsed, done = elapsed + round_s, done + 1
        assert done >= 1
        budget.spend(elapsed, 1, done, "time")
        took.append(elapsed)
    assert sum(took) <= 10 + 2 + series * round_s + 1e-6
    assert budget.extra_s >= 0


def test_rounds_asked_for_are_taken_whatever_precision_and_time_say():
    results = SimulatedGpu().sample(
        pair_of(lambda: 1000.0, lambda: 1000.0), Budget(seconds=0.01, series_left=1, repeats=333)
    )
    assert {(len(r.samples_us), r.stopped) for r in results} == {(333, "repeats")}


def test_the_most_rounds_are_a_limit_of_their_own():
    budget = Budget(seconds=100.0, series_left=1, most_rounds=7)
    results = SimulatedGpu().sample(pair_of(lambda: 1000.0, lambda: 1000.0), budget)
    assert {(len(r.samples_us), r.stopped) for r in results} == {(7, "rounds")}


def test_a_series_without_a_contrast_stops_when_its_arm_is_precise():
    results = SimulatedGpu().sample(series_of(noisy(1000, 0.002, 1)), Budget(seconds=10.0, series_left=1))
    assert results[0].stopped == "precision"
    assert len(results[0].samples_us) < 100


def test_warm_up_ends_when_the_figure_is_stable_and_is_kept_apart():
    calls = iter(range(1000))
    slow_at_first = [9000.0, 4000.0, 2000.0, 1500.0]

    def run():
        n = next(calls)
        return slow_at_first[n] if n < len(slow_at_first) else 1000.0

    series = series_of(run)
    results = SimulatedGpu().sample(series, Budget(seconds=10.0, series_left=1))
    assert results[0].warmup_us == [*slow_at_first, 1000.0, 1000.0, 1000.0]
    assert set(results[0].samples_us) == {1000.0}


@pytest.mark.parametrize(("given_us", "rounds"), [(1000.0, 2), (3e6, 0)])
def test_a_warm_up_that_is_there_already_is_the_first_round(given_us, rounds):
    """It counts for what is stable, and for the share of the time that warming up may take."""
    series = series_of(lambda: 1000.0)
    series.results[0].warmup_us.append(given_us)
    budget = Budget(seconds=10.0, series_left=1)
    results = SimulatedGpu().sample(series, budget)
    assert results[0].warmup_us == [given_us, *[1000.0] * rounds]
    assert len(results[0].samples_us) >= 20


def test_warm_up_that_never_settles_ends_all_the_same():
    results = SimulatedGpu().sample(series_of(noisy(1000, 0.5, 0)), Budget(seconds=10.0, series_left=1))
    assert len(results[0].warmup_us) == MAX_WARMUP_ROUNDS


def test_what_was_seen_is_in_the_results():
    """The clock and what ended the series beside each arm's samples; arms that never ran have neither."""
    series = pair_of(lambda: 1000.0, lambda: 1000.0)
    series.results.append(replace(series.results[0], status=Status.UNSUPPORTED, warmup_us=[]))
    series.steps.append(None)
    results = SimulatedGpu().sample(series, budget(100), seed=42)
    assert [(r.seed, r.stopped) for r in results] == [(42, "repeats")] * 2 + [(None, None)]
    assert [set(r.clock_mhz) for r in results] == [{1980}, {1980}, set()]
    assert 1 < len(results[0].clock_mhz) < 10


def test_an_arm_that_fails_while_it_is_timed_is_taken_out_and_the_others_go_on():
    calls = 0

    def runs_out():
        nonlocal calls
        calls += 1
        if calls > 5:
            raise MemoryError("no room")
        return 1000.0

    results = SimulatedGpu().sample(series_of(lambda: 1000.0, lambda: 1000.0, runs_out), budget(20))
    assert [r.status for r in results] == [Status.OK, Status.OK, Status.OUT_OF_MEMORY]
    assert (results[2].reason, results[0].reason) == ("MemoryError: no room", None)
    assert [len(r.samples_us) for r in results[:2]] == [20, 20]
    assert calls == 6, "it is not tried again"


def test_a_series_without_arms_costs_nothing():
    series = series_of(lambda: 1.0)
    series.failed.add(0)
    budget = Budget(seconds=10.0, series_left=2)
    assert SimulatedGpu().sample(series, budget)[0].samples_us == []
    assert (budget.share(), budget.least_rounds) == (10.0, None)


def test_limits_are_those_of_all_series_that_were_sampled(tmp_path):
    asked = {"model": "gpt2", "length": 16, "max_seconds": 10, "output_dir": tmp_path / "run", "quiet": True}
    sampling = Sampling(settings := resolve(config.load(RunConfig, asked), "cpu"), Recorder(settings, "gpt2"))
    for rounds in (33, 4):
        sampling.budget(1, 0.5).spend(6.0, 1, rounds, "time")
    sampling.note_limits(0)
    record = sampling.recorder.record
    assert record.fewest_samples == 4
    assert "fewest samples a cell has are 4, too few for a 95% interval, which needs 6" in record.notices[-1]
    assert record.notices[-1].endswith(
        "; sampling took 12 s, because every series has a minimum number of rounds"
    )


def test_a_bar_expects_the_time_of_the_rounds_that_a_series_takes_anyway() -> None:
    budget = Budget(seconds=10.0, series_left=1, min_rounds=6)
    assert budget.expected_s(10.0, done=0, elapsed_s=0.0) == 10.0
    assert budget.expected_s(10.0, done=2, elapsed_s=2.0) == 10.0
    assert budget.expected_s(10.0, done=2, elapsed_s=8.0) == 24.0
    by_rounds = Budget(seconds=10.0, series_left=1, repeats=4)
    assert by_rounds.expected_s(10.0, done=2, elapsed_s=3.0) == 6.0
