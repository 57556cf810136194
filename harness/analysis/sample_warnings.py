"""Warnings about samples: what makes a list of timings, in us and in the order taken, hard to trust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from harness.analysis.stats import INTERVAL_SAMPLES, SAME_TOLERANCE_PCT, Samples, median, to_array

FEW_SAMPLES = 10  # at this n the interval runs from the second lowest to the second highest difference
MODES_MIN_SAMPLES = 20
OUTLIER_SHARE = 0.10  # timings are skewed: a few outliers are normal
WIDE_SPREAD = 0.10
CLOCK_FALL = 0.02


def outliers(samples: Samples) -> npt.NDArray[np.bool_]:
    """Which samples are outliers: |modified z-score| > 3.5. They are to be flagged and kept.

    Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): z = 0.6745 (x - median) / MAD; where
    more than half of the samples are equal (MAD = 0), z = (x - median) / (1.253314 * mean deviation).
    """
    values = to_array(samples)
    deviation = values - median(np.sort(values))
    scale = median(np.sort(np.abs(deviation))) / 0.6745
    if scale == 0:
        scale = 1.253314 * float(np.mean(np.abs(deviation)))
    if scale == 0:
        return np.zeros(len(values), dtype=np.bool_)
    flags: npt.NDArray[np.bool_] = np.abs(deviation) / scale > 3.5
    return flags


def warnings(samples: Samples) -> list[str]:
    """Warnings about the samples, which are in the order in which they were taken."""
    values = to_array(samples)
    n = len(values)
    if n < FEW_SAMPLES:
        return [
            f"few samples: {n}"
            + (f"; a 95% interval needs {INTERVAL_SAMPLES}" if n < INTERVAL_SAMPLES else "")
        ]
    ordered = np.sort(values)
    level = abs(median(ordered))
    texts = [_drift(values, level), _two_modes(ordered)]
    low, high = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
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


def _quantile(ordered: npt.NDArray[np.float64], share: float) -> float:
    """A quantile of ascending values, as `np.quantile` interpolates it, in a tenth of its time."""
    place = share * (len(ordered) - 1)
    low = int(place)
    below, above = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
    rise, part = above - below, place - low
    return below + rise * part if part < 0.5 else above - rise * (1 - part)


def _drift(values: npt.NDArray[np.float64], level: float) -> str | None:
    """Samples that rise or fall with time: Spearman's rank correlation with their order, p < 0.001.

    Reported only where the medians of the first and the last third differ by more than the tolerance.
    """
    if not level:
        return None
    third = len(values) // 3
    change = (median(np.sort(values[-third:])) - median(np.sort(values[:third]))) / level * 100
    if abs(change) <= SAME_TOLERANCE_PCT:  # of most samples, and the test takes longer than all else here
        return None
    p_value: Any = scipy_stats.spearmanr(np.arange(len(values)), values).pvalue
    if p_value >= 0.001:
        return None
    return f"drift: {change:+.1f}% from the first third to the last"


def _two_modes(ordered: npt.NDArray[np.float64]) -> str | None:
    """Two modes of ascending values: the best split in two (least squares) leaves groups far apart for their
    widths.

    Far apart: Ashman's D = |m1 - m2| / sqrt((s1^2 + s2^2) / 2) above 5 (Ashman, Bird and Zepf 1994), means
    that differ by over 1% of the median (a timer's ticks are not modes), and a tenth of the samples and at
    least 4 on either side (outliers are not a mode). D is 2.7 for a normal
    distribution cut at its mean, 3.5 for a uniform one.
    """
    n, middle = len(ordered), median(ordered)
    if n < MODES_MIN_SAMPLES or not middle:
        return None
    apart_from_middle = ordered - middle
    left = np.arange(1, n)
    sums, squares = np.cumsum(apart_from_middle), np.cumsum(apart_from_middle**2)
    mean_left, mean_right = sums[:-1] / left, (sums[-1] - sums[:-1]) / (n - left)
    cut = int(np.argmax(left * (n - left) * (mean_left - mean_right) ** 2))
    count = cut + 1
    apart = mean_right[cut] - mean_left[cut]
    var_left = squares[cut] / count - mean_left[cut] ** 2
    var_right = (squares[-1] - squares[cut]) / (n - count) - mean_right[cut] ** 2
    widths = float(np.sqrt(max((var_left + var_right) / 2, 0.0)))
    if min(count, n - count) < max(4, 0.1 * n) or apart <= 0.01 * abs(middle) or apart <= 5 * widths:
        return None
    low, high = (float(mean[cut] + middle) for mean in (mean_left, mean_right))
    digits = ".0f" if high >= 1000 else ".4g"  # never 1.347e+04
    return f"two modes: near {low:{digits}} us ({count / n:.0%}) and near {high:{digits}} us"
