"""Times, differences and intervals: what timings say, and how certain that is. Times in us.

The time of one arm is a median with its order-statistic (sign test) interval, that of
`scipy.stats.quantile_test` (which takes a millisecond where these take microseconds): it holds for any
distribution and covers at least 95% at every n from 6 on (97.9% at n = 10, tending to 95%).

A difference of arms is the mean of paired differences, after `pull_in` has bounded outliers, with Student's
interval: differences of one series add up, and 6 rounds are enough for a page of contrasts to be judged
together. Simulated with normal, skewed, heavy-tailed and spiked noise, 2 to 12 arms and 6 to 150 rounds, 93%
to 97% of the intervals hold the truth (tests/analysis/test_stats.py).

Below 6 samples there is no interval: None. All of it assumes independent rounds: noise of an arm's own that
lasts for several makes intervals too narrow, and an A/A contrast shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy import stats as scipy_stats

Array = npt.NDArray[np.float64]
Samples = Sequence[float] | Array
Interval = tuple[float, float]

SAME_TOLERANCE_PCT = 0.5  # half of the smallest difference between fresh processes of the same arm's median
INTERVAL_SAMPLES = 6  # the fewest with a 95% interval
OUTLIER_SD = 5.0  # robust standard deviations from the fit, from which on noise is bounded
POLISHES = 10  # of a median polish, which has converged long before
JOINT_DRAWS = 20_000  # of a maximum of Student's t; its 95th percentile then varies by 1%
RESAMPLES = 4000  # the 2.5th percentile then lies on a hundred of them
RESAMPLED_TOGETHER = 1_000_000  # samples; more would only leave the cache


@dataclass(frozen=True)
class MedianInterval:
    """The median of one list of samples, in their unit."""

    median: float
    ci95: Interval | None  # None below 6 samples
    n: int


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error, in the unit of its samples."""

    value: float
    error: float
    freedom: float  # degrees of freedom of the error
    n: int  # samples

    @property
    def ci95(self) -> Interval | None:
        """By Student's t; None below 6 samples."""
        return None if self.n < INTERVAL_SAMPLES else self.interval()

    def interval(self) -> Interval:
        """The same from two samples on, for samples that are nearly normal, such as means."""
        half = _student(self.freedom) * self.error if self.error else 0.0
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float | None:
        """Of a mean as far from 0 if it is 0; None below 6 samples."""
        return None if self.n < INTERVAL_SAMPLES else self.test()

    def test(self) -> float:
        """The same p-value of any two or more samples, as `interval`."""
        if not self.error:
            return float(not self.value)
        return float(2 * special.stdtr(self.freedom, -abs(self.value) / self.error))

    def minus(self, other: Mean) -> Mean:
        """The difference from an independent mean (Welch, 1947)."""
        return combine(self.value - other.value, [self, other])


def combine(value: float, independent: Sequence[Mean]) -> Mean:
    """A value whose error has these means' independent errors in it; freedom by Welch and Satterthwaite."""
    varying = [part for part in independent if part.error]
    variance = sum(part.error**2 for part in varying)
    quartic = sum(part.error**4 / part.freedom for part in varying)
    freedom = variance**2 / quartic if quartic else float("inf")
    return Mean(value, float(np.sqrt(variance)), freedom, min(part.n for part in independent))


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus baseline in us, pair by pair; positive means the treatment is slower."""

    delta_us: float  # mean of the paired differences
    ci95_us: Interval | None  # None below 6 pairs
    delta_pct: float  # the same, in percent of the baseline's median
    ci95_pct: Interval | None
    baseline_us: float  # the baseline's median
    n: int  # pairs
    p_value: float | None  # of a difference as large if there is none; None below 6 pairs


def median_interval(samples: Samples) -> MedianInterval:
    """The median and its 95% interval; raises ValueError if there is no sample or one is not finite."""
    ordered = np.sort(to_array(samples))
    n = len(ordered)
    rank = _lower_rank(n)
    interval = (float(ordered[rank - 1]), float(ordered[n - rank])) if rank else None
    return MedianInterval(median(ordered), interval, n)


def median(ordered: Array) -> float:
    """The median of ascending values, one at least; `np.median` takes ten times as long."""
    n = len(ordered)
    return float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _medians(values: Array, axis: int) -> Array:
    """The medians along an axis, which stays, with a length of 1."""
    ordered, n = np.sort(values, axis=axis), values.shape[axis]
    medians: Array = (ordered.take([(n - 1) // 2], axis) + ordered.take([n // 2], axis)) / 2
    return medians


@lru_cache(maxsize=4096)
def _lower_rank(n: int) -> int:
    """The largest r with P(fewer than r of n samples lie below the median) at most 2.5%; 0 if there is
    none.
    """
    return int(scipy_stats.binom.ppf(0.025, n, 0.5))


def pull_in(samples: Sequence[Samples]) -> list[Array]:
    """The samples of a series, one list an arm, cut to the shortest, with outliers bounded.

    A time is taken to be its round's level plus its arm's plus noise (Tukey's median polish: Exploratory Data
    Analysis, 1977, chapter 11). Noise is bounded at 5 robust standard deviations, of all arms' noise or of
    its own arm's, whichever is larger. What disturbs a whole round is its round's level, and stays.
    """
    n = min(map(len, samples))
    times = np.stack([to_array(each[:n]) for each in samples], axis=1)
    arms = times.shape[1]
    if n < 2 or arms < 2:
        return list(times.T)
    noise = times - _medians(times, 1)
    for _ in range(POLISHES):
        of_arms = _medians(noise, 0)
        noise -= of_arms
        of_rounds = _medians(noise, 1)
        noise -= of_rounds
        if not (of_arms.any() or of_rounds.any()):
            break
    apart = np.abs(noise)
    freedom = noise.size / ((n - 1) * (arms - 1))  # what the fit has taken from the noise
    scale = 1.4826 * np.sqrt(freedom) * np.maximum(median(np.sort(apart, axis=None)), _medians(apart, 0))
    gaps = np.diff(np.sort(times, axis=0), axis=0)
    tick = gaps[gaps > 0].min(initial=np.inf)  # a coarse timer's; half of the noise may then be exactly 0
    bound = OUTLIER_SD * np.maximum(scale, tick)
    return list((times - noise + np.clip(noise, -bound, bound)).T)


def mean(samples: Samples) -> Mean:
    """The mean; raises ValueError as `median_interval`."""
    values = to_array(samples)
    n = len(values)
    error = float(np.std(values, ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    return Mean(float(np.mean(values)), float(error), n - 1, n)


@lru_cache(maxsize=4096)
def _student(freedom: float) -> float:
    """The 97.5th percentile of Student's t."""
    return float(special.stdtrit(freedom, 0.975))


def paired_difference(baseline_us: Samples, treatment_us: Samples) -> PairedDifference:
    """The mean of the differences taken pair by pair, and its 95% interval.

    Pairs are rounds of an interleaved series, so what disturbs a whole round cancels. Raises ValueError
    if the lists differ in length, are empty, hold a value that is not finite, or if the baseline is 0.

    Args:
        baseline_us, treatment_us: after `pull_in`; differences of arms that went through it
            together add up.
    """
    if len(baseline_us) != len(treatment_us):
        raise ValueError(f"{len(baseline_us)} baseline and {len(treatment_us)} treatment samples: no pairs")
    baseline = to_array(baseline_us)
    difference = mean(to_array(treatment_us) - baseline)
    level = median(np.sort(baseline))
    if level <= 0:
        raise ValueError(f"a baseline of {level} us: percentages need a baseline above zero")
    return PairedDifference(
        delta_us=difference.value,
        ci95_us=difference.ci95,
        delta_pct=difference.value / level * 100,
        ci95_pct=map_interval(difference.ci95, lambda bound: bound / level * 100),
        baseline_us=level,
        n=difference.n,
        p_value=difference.p_value,
    )


def joint_intervals(differences: Sequence[Samples]) -> list[Interval | None]:
    """95% intervals of several means that hold all at once, from samples of the same rounds; None below 6.

    Each is wider than its own by one factor: the 95th percentile of the largest of the Student's t of
    samples as correlated as these, simulated with a fixed seed (Hothorn, Bretz and Westfall, 2008).
    """
    values = np.stack([to_array(each) for each in differences])
    n = values.shape[1]
    means, errors = values.mean(axis=1), values.std(axis=1, ddof=1 if n > 1 else 0) / np.sqrt(n)
    if n < INTERVAL_SAMPLES:
        return [None] * len(means)
    varying = errors > 0
    half = np.zeros_like(means)
    if varying.any():
        half[varying] = _largest_student(np.corrcoef(values[varying]), n) * errors[varying]
    return [(float(mean - width), float(mean + width)) for mean, width in zip(means, half, strict=True)]


def _largest_student(correlation: Any, n: int) -> float:
    """The 95th percentile of the largest |t| of variables correlated like this, for n samples."""
    rng = np.random.default_rng(0)
    matrix = np.atleast_2d(correlation)
    normal = rng.multivariate_normal(np.zeros(len(matrix)), matrix, JOINT_DRAWS, check_valid="ignore")
    spread = np.sqrt(rng.chisquare(n - 1, JOINT_DRAWS) / (n - 1))
    return max(_student(n - 1), float(np.quantile(np.abs(normal).max(axis=1) / spread, 0.95)))


def holm_level(p_values: Sequence[float | None]) -> float:
    """The level up to which true differences may be claimed: any with a p-value not above it.

    A difference that is none is then among them at most 5% of times, however the tests depend on each other:
    Holm, "A simple sequentially rejective multiple test procedure" (1979). None counts as a test that shows
    nothing.
    """
    ordered = sorted(1.0 if p_value is None else p_value for p_value in p_values)
    for claimed, p_value in enumerate(ordered):
        level = 0.05 / (len(ordered) - claimed)
        if p_value > level:
            return level
    return 0.05


def map_interval(bounds: Interval | None, function: Callable[[float], float]) -> Interval | None:
    """Both bounds under a rising function; None stays None."""
    return bounds and (function(bounds[0]), function(bounds[1]))


def detectable_pct(ci_pct: Interval | None) -> float | None:
    """The smallest effect that the series could have detected: half its interval's width, in percent."""
    return None if ci_pct is None else (ci_pct[1] - ci_pct[0]) / 2


def noise_floor_pct(ci_pct: Interval | None) -> float | None:
    """The noise floor: the largest effect, in percent, that an A/A contrast does not rule out."""
    return None if ci_pct is None else max(abs(ci_pct[0]), abs(ci_pct[1]))


def noise_factor(ci_quotient: Interval | None) -> float | None:
    """The same as a factor: the largest that the quotient of an A/A pair's times does not rule out."""
    return None if ci_quotient is None else max(ci_quotient[1], 1 / ci_quotient[0])


def quotient_interval(over: Interval | None, under: Interval | None) -> Interval | None:
    """The interval of the quotient of two medians, from both intervals; None without both or if `under`
    reaches 0.

    Of medians of 6 to 100 samples, 95% to over 99% hold the true quotient; of a bootstrap's, whose lower part
    is nearly certain, 88% to 96% do below 20 samples (simulated).
    """
    if over is None or under is None or under[0] <= 0:
        return None
    quotients = [one / two for one in over for two in under]
    return min(quotients), max(quotients)


def ratio_interval(over: Samples, under: Samples) -> Interval | None:
    """The 95% interval of the ratio of two independent medians, by bootstrap; None below 6 of either.

    94% to 97% of these hold the truth from 6 samples of either on (simulated).
    """
    samples = [to_array(each) if len(each) else np.empty(0) for each in (over, under)]
    if min(map(len, samples)) < INTERVAL_SAMPLES:
        return None
    rng = np.random.default_rng(0)  # the same samples give the same interval
    one, two = (_resampled_medians(each, rng) for each in samples)
    low, high = np.quantile(one / two, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _resampled_medians(samples: Array, rng: np.random.Generator) -> Array:
    n = len(samples)
    step = max(1, RESAMPLED_TOGETHER // n)
    sizes = (min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step))
    return np.concatenate([np.median(samples[rng.integers(0, n, (size, n))], axis=1) for size in sizes])


def to_array(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("samples must be finite")
    return values
