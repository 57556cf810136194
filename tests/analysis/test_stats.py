"""Statistics against scipy, published values and simulations with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.analysis import stats

TIMES = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("n", "rank"),
    [(6, 1), (10, 2), (20, 6), (25, 8), (50, 18), (100, 40)],  # tables of the sign test, alpha = 0.05
)
def test_the_interval_runs_between_the_published_ranks(n: int, rank: int) -> None:
    found = stats.median_interval([float(each) for each in range(1, n + 1)])
    assert found.ci95 == (rank, n + 1 - rank)


@pytest.mark.parametrize("n", [*range(6, 40), 99, 100, 500, 1001])
def test_the_interval_is_scipy_s(n: int) -> None:
    values = np.random.default_rng(n).gamma(2, size=n)
    expected = scipy_stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    found = stats.median_interval(values)
    assert found.ci95 == (expected.low, expected.high)
    assert found.median == np.median(values)


@pytest.mark.parametrize("n", [1, 5])
def test_below_six_samples_there_is_no_interval(n: int) -> None:
    found = stats.paired_difference([10.0] * n, [11.0] * n)
    assert (found.delta_us, found.ci95_us, found.ci95_pct) == (1.0, None, None)


@pytest.mark.parametrize("n", [10, 100, 500])
@pytest.mark.parametrize("noise", ["normal", "skewed", "quantised"])
def test_the_interval_covers_the_true_difference_in_95_percent(n: int, noise: str) -> None:
    rng = np.random.default_rng(20)
    runs, covered = 2000, 0
    for _ in range(runs):
        shared = rng.normal(0, 5, n)  # disturbs a round as a whole
        own = {
            "normal": lambda: rng.normal(0, 1, n),
            "skewed": lambda: rng.exponential(1, n),
            "quantised": lambda: np.round(rng.normal(0, 1, n)),
        }[noise]
        low, high = stats.paired_difference(100 + shared + own(), 103 + shared + own()).ci95_us or (9, 9)
        covered += bool(low <= 3 + 1e-9 and high >= 3 - 1e-9)
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


NOISE = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "skewed": lambda rng, shape: rng.lognormal(0, 0.8, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "spikes": lambda rng, shape: rng.normal(0, 1, shape) + (rng.random(shape) < 0.05) * 20,
}


@pytest.mark.parametrize("n", [6, 12, 40])
@pytest.mark.parametrize("noise", NOISE)
def test_intervals_of_a_series_cover_the_truth_and_its_claims_hold_together(n: int, noise: str) -> None:
    """Ten arms 2 us apart, rounds that differ by more: an interval, all parts at once, a page of nulls."""
    rng = np.random.default_rng(21)
    runs, covered, parts, wrong_pages = 600, 0, 0, 0
    for run in range(runs):
        times = 100 + 2.0 * np.arange(10) + rng.normal(0, 5, (n, 1)) + NOISE[noise](rng, (n, 10))
        arms = stats.pull_in(list(times.T))
        found = stats.paired_difference(arms[0], arms[1])
        assert found.ci95_us is not None
        covered += found.ci95_us[0] <= 2 <= found.ci95_us[1]
        nulls = [stats.mean(arms[k] - arms[0] - 2.0 * k).p_value for k in range(1, 10)]
        level = stats.holm_level(nulls)
        wrong_pages += any(p_value is not None and p_value <= level for p_value in nulls)
        if run < 150:
            joint = stats.joint_intervals([arms[k] - arms[k - 1] for k in (1, 2, 3)] + [arms[3] - arms[0]])
            truth = (2, 2, 2, 6)
            parts += all(low <= true <= high for (low, high), true in zip(joint, truth, strict=True))
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert parts / 150 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 150)
    assert wrong_pages / runs < 0.05 + 3 * np.sqrt(0.95 * 0.05 / runs)


def test_differences_of_one_series_add_up_though_outliers_are_bounded() -> None:
    times = np.random.default_rng(3).normal(100, 1, (4, 12))
    times[1, 5], times[2, 7] = 400, 250
    a, b, c, d = stats.pull_in(list(times))
    steps = [stats.paired_difference(*pair).delta_us for pair in ((a, b), (b, c), (c, d))]
    assert stats.paired_difference(a, d).delta_us == pytest.approx(sum(steps), abs=1e-9)
    assert b[5] < 110
    untouched = np.abs(np.stack([a, b, c, d]) - times) < 1e-9
    assert (~untouched).sum() <= 4


def test_a_coarse_timer_s_ticks_are_no_outliers() -> None:
    ticks = [10.0] * 7 + [10.5] * 3
    assert stats.pull_in([ticks, [10.0] * 10, [10.0] * 10])[0] == pytest.approx(ticks)
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(300):
        times = np.round((8 + np.array([0, 0.2, 0, 0]) + rng.normal(0, 0.3, (40, 4))) / 0.5) * 0.5
        one, two, *_others = stats.pull_in(list(times.T))
        low, high = stats.paired_difference(one, two).ci95_us or (9, 9)
        missed += not low <= 0.2 <= high
    assert missed < 0.1 * 300


def test_a_round_that_is_slow_as_a_whole_stays() -> None:
    times = np.random.default_rng(4).normal(100, 1, (4, 12))
    times[:, 3] += 300
    assert np.stack(stats.pull_in(list(times))) == pytest.approx(times)


def test_a_mean_is_scipy_s() -> None:
    values = np.random.default_rng(5).normal(1, 2, 20)
    expected = scipy_stats.ttest_1samp(values, 0)
    found = stats.mean(values)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_difference_of_independent_means_is_welch_s() -> None:
    rng = np.random.default_rng(6)
    one, two = rng.normal(1, 2, 20), rng.normal(0, 0.5, 9)
    expected = scipy_stats.ttest_ind(one, two, equal_var=False)
    found = stats.mean(one).minus(stats.mean(two))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize(
    ("p_values", "level", "claimed"),
    [
        ([0.01, 0.04, 0.03], 0.05 / 2, [0.01]),  # Holm's limits are 0.0167, 0.025 and 0.05
        ([0.01, 0.02, 0.03], 0.05, [0.01, 0.02, 0.03]),
        ([0.02, 0.001], 0.05, [0.02, 0.001]),
        ([0.02, None, 0.02], 0.05 / 3, []),
        ([0.2], 0.05, []),
        ([0.05], 0.05, [0.05]),
        ([], 0.05, []),
    ],
)
def test_what_may_be_claimed_together(
    p_values: list[float | None], level: float, claimed: list[float]
) -> None:
    assert stats.holm_level(p_values) == pytest.approx(level)
    assert [p for p in p_values if p is not None and p <= stats.holm_level(p_values)] == claimed


def test_pairing_removes_what_the_rounds_share() -> None:
    rng = np.random.default_rng(1)
    drift = np.linspace(0, 50, 40)
    found = stats.paired_difference(100 + drift, 101 + drift + rng.normal(0, 0.01, 40))
    assert found.delta_us == pytest.approx(1, abs=0.02)
    assert found.ci95_us is not None
    assert found.ci95_us[1] - found.ci95_us[0] < 0.02


@given(TIMES)
def test_a_list_against_itself_differs_by_nothing(times: list[float]) -> None:
    found = stats.paired_difference(times, times)
    assert (found.delta_us, found.delta_pct, found.n) == (0, 0, len(times))
    assert found.ci95_us in (None, (0, 0))


@given(TIMES, st.floats(0.5, 2.0))
def test_swapping_the_arms_turns_the_sign(times: list[float], factor: float) -> None:
    other = [time * factor for time in times]
    one, two = stats.paired_difference(times, other), stats.paired_difference(other, times)
    assert one.delta_us == pytest.approx(-two.delta_us)
    if one.ci95_us and two.ci95_us:
        assert one.ci95_us == pytest.approx((-two.ci95_us[1], -two.ci95_us[0]))


@pytest.mark.parametrize(
    ("baseline", "treatment", "message"),
    [
        ([1.0], [1.0, 2.0], "pairs"),
        ([], [], "no samples"),
        ([1.0], [np.nan], "finite"),
        ([0.0], [1.0], "zero"),
    ],
)
def test_what_is_no_pair_of_timings_is_refused(
    baseline: list[float], treatment: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stats.paired_difference(baseline, treatment)


@pytest.mark.parametrize("n", [6, 7, 10, 100])
@pytest.mark.parametrize("spreads", [(0.01, 0.1), (0.1, 0.01), (0.05, 0.05)])
def test_a_quotient_s_interval_covers_the_true_one(n: int, spreads: tuple[float, float]) -> None:
    rng = np.random.default_rng(21)
    runs, covered = 1000, 0
    for _ in range(runs):
        medians = [
            stats.median_interval(level * (1 + spread * rng.standard_normal(n)))
            for level, spread in zip((20, 10), spreads, strict=True)
        ]
        low, high = stats.quotient_interval(medians[0].ci95, medians[1].ci95) or (9, 9)
        covered += bool(low <= 2 <= high)
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize(
    ("over", "under", "expected"),
    [
        ((20.0, 30.0), (5.0, 10.0), (2.0, 6.0)),
        ((-20.0, 30.0), (5.0, 10.0), (-4.0, 6.0)),  # not [-2, 6]
        ((-30.0, -20.0), (5.0, 10.0), (-6.0, -2.0)),
        ((20.0, 30.0), (0.0, 10.0), None),  # any figure, however large
        ((20.0, 30.0), (-5.0, 10.0), None),
        (None, (5.0, 10.0), None),
        ((20.0, 30.0), None, None),
    ],
)
def test_the_quotient_of_two_intervals(
    over: tuple[float, float] | None, under: tuple[float, float] | None, expected: tuple[float, float] | None
) -> None:
    assert stats.quotient_interval(over, under) == expected


def test_detectable_and_noise_floor() -> None:
    assert stats.detectable_pct((-0.2, 0.6)) == pytest.approx(0.4)
    assert stats.noise_floor_pct((-0.2, 0.6)) == pytest.approx(0.6)
    assert stats.detectable_pct(None) is None
