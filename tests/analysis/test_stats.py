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
    assert stats.verdict(found.ci95_pct) == "unclear"


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


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.6, 0.9), "slower"),
        ((0.1, 0.9), "slower"),
        ((0.1, 0.4), "same"),
        ((-0.5, 0.5), "same"),
        ((-0.4, 0.6), "unclear"),
        ((-3.0, 3.0), "unclear"),
        ((0.0, 0.6), "unclear"),
        ((-0.9, -0.1), "faster"),
        (None, "unclear"),
    ],
)
def test_verdicts(interval: tuple[float, float] | None, expected: str) -> None:
    assert stats.verdict(interval, 0.5) == expected


@pytest.mark.parametrize(
    ("quotient", "noise", "expected"),
    [
        ((0.2, 0.63), (0.81, 3.1), "unclear"),  # faster, but by less than what equals may differ by
        ((0.04, 0.06), (0.5, 2.0), "faster"),  # twentyfold: no factor of 2 explains it
        ((16.0, 25.0), (0.5, 2.0), "slower"),
        ((1.001, 1.002), (1.0, 1.0), "same"),
        ((1.001, 1.002), (0.98, 1.0), "unclear"),
        (None, (0.98, 1.0), "unclear"),
        ((16.0, 25.0), None, "unclear"),
    ],
)
def test_a_quotient_s_verdict_takes_in_the_noise(
    quotient: tuple[float, float] | None, noise: tuple[float, float] | None, expected: str
) -> None:
    assert stats.quotient_verdict(quotient, stats.noise_factor(noise)) == expected


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


@given(st.floats(-5, 5), st.floats(0, 5))
def test_verdicts_mirror(low: float, width: float) -> None:
    opposite = {"slower": "faster", "faster": "slower"}
    found = stats.verdict((low, low + width))
    assert stats.verdict((-(low + width), -low)) == opposite.get(found, found)


def test_detectable_and_noise_floor() -> None:
    assert stats.detectable_pct((-0.2, 0.6)) == pytest.approx(0.4)
    assert stats.noise_floor_pct((-0.2, 0.6)) == pytest.approx(0.6)
    assert stats.detectable_pct(None) is None


def test_outliers_worked_by_hand() -> None:
    # median 2.45, MAD 0.15: the score of 2.1 is 0.6745 * 0.35 / 0.15 = 1.6, that of 8.2 is 25.9
    values = [2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3]
    assert list(np.flatnonzero(stats.outliers(values))) == [8, 9]


def test_outliers_where_most_samples_are_equal() -> None:
    assert list(np.flatnonzero(stats.outliers([5.0] * 30 + [6.0]))) == [30]
    assert not stats.outliers([5.0] * 30).any()


def test_outliers_agree_with_scipy_s_mad() -> None:
    values = np.random.default_rng(3).standard_t(2, 200)
    z = (values - np.median(values)) / scipy_stats.median_abs_deviation(values) * 0.6745
    assert (stats.outliers(values) == (np.abs(z) > 3.5)).all()


def kinds(samples: np.ndarray) -> set[str]:
    return {warning.split(":")[0] for warning in stats.warnings(samples)}


def test_warnings_name_what_is_wrong() -> None:
    rng = np.random.default_rng(5)
    calm = 100 + 0.2 * rng.standard_normal(60)
    assert kinds(calm) == set()
    assert kinds(calm[:5]) == {"few samples"}
    assert kinds(calm + np.linspace(0, 3, 60)) == {"drift"}
    assert kinds(calm + rng.permutation([0, 4] * 30)) == {"two modes"}
    assert "wide spread" in kinds(calm + 20 * rng.standard_normal(60))
    assert "outliers" in kinds(np.where(np.arange(60) % 8 == 0, calm + 2 + rng.random(60), calm))


def test_two_modes_of_a_prefill_are_in_plain_figures() -> None:
    samples = np.random.default_rng(5).permutation([7_631.0] * 50 + [13_472.0] * 10)
    assert "two modes: near 7631 us (83%) and near 13472 us" in stats.warnings(samples)


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_shapes_are_not_two_modes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for shape in (rng.standard_normal(50), rng.random(50), rng.standard_t(3, 50)):
        assert "two modes" not in kinds(100 + 3 * shape)


def test_a_timer_s_ticks_are_not_two_modes() -> None:
    assert kinds(np.tile([100.0, 100.5], 30)) == set()


def test_constant_samples_have_no_warnings() -> None:
    assert stats.warnings([7.0] * 30) == []


@pytest.mark.parametrize(
    ("clock_mhz", "said"),
    [
        ([], None),
        ([1980], None),
        ([1980, 1950, 1945], None),
        ([1980, 1980, 1000, 1980], None),  # one block's dip moves no median
        ([1700, 1980, 1980], None),
        ([1980, 1900, 1755, 1755], "clock fell: from 1980 to 1755 MHz (-11.4%)"),
    ],
)
def test_a_clock_that_fell_is_said(clock_mhz: list[int], said: str | None) -> None:
    assert stats.clock_fell(clock_mhz) == said
