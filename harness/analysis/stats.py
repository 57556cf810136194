"""Medians, intervals, verdicts and warnings: what a list of timings says, and how certain that is. Times in
us.

Intervals are order-statistic (sign test) intervals of a median, those of `scipy.stats.quantile_test` (which
takes a millisecond where these take microseconds): they hold for any distribution, cover at least 95% at
every n from 6 on (97.9% at n = 10, tending to 95%), and cost one sort. Below 6 samples there is none: None.
They assume independent samples: slow drift over several rounds makes them too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from harness.runs.summary import Verdict

Samples = Sequence[float] | npt.NDArray[np.float64]
Interval = tuple[float, float]

SAME_TOLERANCE_PCT = 0.5  # half of the smallest difference between fresh processes of the same arm's median
INTERVAL_SAMPLES = 6  # the fewest with a 95% interval
FEW_SAMPLES = 10  # at this n the interval runs from the second lowest to the second highest difference
MODES_MIN_SAMPLES = 20
OUTLIER_SHARE = 0.10  # timings are skewed: a few outliers are normal
WIDE_SPREAD = 0.10
CLOCK_FALL = 0.02


@dataclass(frozen=True)
class MedianInterval:
    """The median of one list of samples, in their unit."""

    median: float
    ci95: Interval | None  # None below 6 samples
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus baseline in us, pair by pair; positive means the treatment is slower."""

    delta_us: float  # median of the paired differences
    ci95_us: Interval | None  # None below 6 pairs
    delta_pct: float  # the same, in percent of the baseline's median
    ci95_pct: Interval | None  # each end is one round's difference: below -100 if that round was disturbed
    baseline_us: float  # the baseline's median
    n: int  # pairs


def median_interval(samples: Samples) -> MedianInterval:
    """The median and its 95% interval; raises ValueError if there is no sample or one is not finite."""
    ordered = np.sort(_to_array(samples))
    n = len(ordered)
    rank = _lower_rank(n)
    interval = (float(ordered[rank - 1]), float(ordered[n - rank])) if rank else None
    return MedianInterval(float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2, interval, n)


@lru_cache(maxsize=4096)
def _lower_rank(n: int) -> int:
    """The largest r with P(fewer than r of n samples lie below the median) at most 2.5%; 0 if there is
    none.
    """
    return int(scipy_stats.binom.ppf(0.025, n, 0.5))


def paired_difference(baseline_us: Samples, treatment_us: Samples) -> PairedDifference:
    """The median of the differences taken pair by pair, and its 95% interval.

    Pairs are rounds of an interleaved series, so what disturbs a whole round cancels. Raises ValueError
    if the lists differ in length, are empty, hold a value that is not finite, or if the baseline is 0.
    """
    if len(baseline_us) != len(treatment_us):
        raise ValueError(f"{len(baseline_us)} baseline and {len(treatment_us)} treatment samples: no pairs")
    baseline = _to_array(baseline_us)
    difference = median_interval(_to_array(treatment_us) - baseline)
    level = float(np.median(baseline))
    if level <= 0:
        raise ValueError(f"a baseline of {level} us: percentages need a baseline above zero")
    interval_pct: Interval | None = None
    if difference.ci95 is not None:
        low, high = difference.ci95
        interval_pct = (low / level * 100, high / level * 100)
    return PairedDifference(
        delta_us=difference.median,
        ci95_us=difference.ci95,
        delta_pct=difference.median / level * 100,
        ci95_pct=interval_pct,
        baseline_us=level,
        n=difference.n,
    )


def map_interval(bounds: Interval | None, function: Callable[[float], float]) -> Interval | None:
    """A rising function of both bounds; None of None."""
    return bounds and (function(bounds[0]), function(bounds[1]))


def verdict(ci_pct: Interval | None, tolerance_pct: float = SAME_TOLERANCE_PCT) -> Verdict:
    """slower, faster, same or unclear, from the interval of treatment minus baseline in percent.

    same     the interval lies within +-tolerance: too small to matter, even if it is not zero
    slower   otherwise, if the interval lies above zero: there is an effect; that it matters is not ruled out
    faster   otherwise, if the interval lies below zero
    unclear  otherwise: neither zero nor an effect that matters is ruled out, or there is no interval

    The tolerance is fixed, not drawn from the data: a noisy series must end as unclear, never as same.
    """
    if ci_pct is None:
        return "unclear"
    low, high = ci_pct
    if -tolerance_pct <= low and high <= tolerance_pct:
        return "same"
    if low > 0:
        return "slower"
    return "faster" if high < 0 else "unclear"


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


def quotient_verdict(ci_quotient: Interval | None, factor: float | None) -> Verdict:
    """The verdict of the quotient of treatment over baseline, its interval widened by the noise's factor.

    A factor, not a difference in percent: of times that differ severalfold the shorter one cannot lie 100%
    below. "unclear" without the interval or the factor.
    """
    if ci_quotient is None or factor is None:
        return "unclear"
    low, high = ci_quotient[0] / factor, ci_quotient[1] * factor
    return verdict((100 * (low - 1), 100 * (high - 1)))


def outliers(samples: Samples) -> npt.NDArray[np.bool_]:
    """Which samples are outliers: |modified z-score| > 3.5. They are to be flagged and kept.

    Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): z = 0.6745 (x - median) / MAD; where
    more than half of the samples are equal (MAD = 0), z = (x - median) / (1.253314 * mean deviation).
    """
    values = _to_array(samples)
    deviation = values - np.median(values)
    scale = float(scipy_stats.median_abs_deviation(values)) / 0.6745
    if scale == 0:
        scale = 1.253314 * float(np.mean(np.abs(deviation)))
    if scale == 0:
        return np.zeros(len(values), dtype=np.bool_)
    flags: npt.NDArray[np.bool_] = np.abs(deviation) / scale > 3.5
    return flags


def warnings(samples: Samples) -> list[str]:
    """Warnings about the samples, which are in the order in which they were taken."""
    values = _to_array(samples)
    n = len(values)
    if n < FEW_SAMPLES:
        return [f"few samples: {n}" + ("; a 95% interval needs 6" if n < 6 else "")]
    level = abs(float(np.median(values)))
    texts = [_drift(values, level), _two_modes(values, level)]
    low, high = np.percentile(values, [25, 75])
    if level and (high - low) / level > WIDE_SPREAD:
        texts.append(f"wide spread: the middle half covers {(high - low) / level:.0%} of the median")
    flagged = int(outliers(values).sum())
    if flagged > OUTLIER_SHARE * n:
        texts.append(f"outliers: {flagged} of {n}, kept")
    return [text for text in texts if text]


def clock_fell(clock_mhz: Sequence[int]) -> str | None:
    """A warning if the median clock, in MHz, of the later batches of rounds is over 2% below the first one's.

    Paired differences are robust to that; the figures themselves depend on when they were taken.
    """
    if len(clock_mhz) < 2:
        return None
    first, later = clock_mhz[0], float(np.median(clock_mhz[1:]))
    if later >= (1 - CLOCK_FALL) * first:
        return None
    return f"clock fell: from {first} to {later:.0f} MHz ({later / first - 1:+.1%})"


def _drift(values: npt.NDArray[np.float64], level: float) -> str | None:
    """Samples that rise or fall with time: Spearman's rank correlation with their order, p < 0.001.

    Reported only where the medians of the first and the last third differ by more than the tolerance.
    """
    if not level or values.min() == values.max():
        return None
    p_value: Any = scipy_stats.spearmanr(np.arange(len(values)), values).pvalue
    third = len(values) // 3
    change = float(np.median(values[-third:]) - np.median(values[:third])) / level * 100
    if p_value >= 0.001 or abs(change) <= SAME_TOLERANCE_PCT:
        return None
    return f"drift: {change:+.1f}% from the first third to the last"


def _two_modes(values: npt.NDArray[np.float64], level: float) -> str | None:
    """Two modes: the best split in two (least squares) leaves groups far apart for their widths.

    Far apart: Ashman's D = |m1 - m2| / sqrt((s1^2 + s2^2) / 2) above 5 (Ashman, Bird and Zepf 1994), means
    that differ by over 1% of the median (a timer's ticks are not modes), and a tenth of the samples and at
    least 4 on either side (outliers are not a mode). D is 2.7 for a normal
    distribution cut at its mean, 3.5 for a uniform one.
    """
    n = len(values)
    if n < MODES_MIN_SAMPLES or not level:
        return None
    ordered = np.sort(values) - np.median(values)
    left = np.arange(1, n)
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    mean_left, mean_right = sums[:-1] / left, (sums[-1] - sums[:-1]) / (n - left)
    cut = int(np.argmax(left * (n - left) * (mean_left - mean_right) ** 2))
    count = cut + 1
    apart = mean_right[cut] - mean_left[cut]
    var_left = squares[cut] / count - mean_left[cut] ** 2
    var_right = (squares[-1] - squares[cut]) / (n - count) - mean_right[cut] ** 2
    widths = float(np.sqrt(max((var_left + var_right) / 2, 0.0)))
    if min(count, n - count) < max(4, 0.1 * n) or apart <= 0.01 * level or apart <= 5 * widths:
        return None
    low, high = (float(mean[cut] + np.median(values)) for mean in (mean_left, mean_right))
    digits = ".0f" if high >= 1000 else ".4g"  # never 1.347e+04
    return f"two modes: near {low:{digits}} us ({count / n:.0%}) and near {high:{digits}} us"


def _to_array(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("samples must be finite")
    return values
