"""Verdicts and the reason of each, from intervals in percent; and what would decide one that is unclear."""

from __future__ import annotations

from typing import NamedTuple

from scipy import special

from harness.analysis.stats import SAME_TOLERANCE_PCT, Interval
from harness.runs.summary import Reason, Verdict


class Judgement(NamedTuple):
    """A verdict and its reason."""

    verdict: Verdict
    reason: Reason


def judge(
    ci_pct: Interval | None, tolerance_pct: float = SAME_TOLERANCE_PCT, *, sound: bool = True
) -> Judgement:
    """slower, faster, same or unclear, from the interval of treatment minus baseline in percent.

    same     the interval lies within +-tolerance: too small to matter, even if it is not zero
    slower   otherwise, if the interval lies above zero: there is an effect; that it matters is not ruled out
    faster   otherwise, if the interval lies below zero
    unclear  otherwise: neither zero nor an effect that matters is ruled out, or there is no interval

    The tolerance is fixed, not drawn from the data: a noisy series must end as unclear, never as same.

    Args:
        sound: whether all samples come from ok cells; if not, the verdict is "unclear".
    """
    if not sound:
        return Judgement("unclear", Reason.ARM_NOT_OK)
    if ci_pct is None:
        return Judgement("unclear", Reason.NO_INTERVAL)
    low, high = ci_pct
    if -tolerance_pct <= low and high <= tolerance_pct:
        return Judgement("same", Reason.WITHIN_TOLERANCE)
    if low <= 0 <= high:
        return Judgement("unclear", Reason.INTERVAL_TOO_WIDE)
    beyond = low > tolerance_pct or high < -tolerance_pct
    reason = Reason.BEYOND_TOLERANCE if beyond else Reason.EXCLUDES_ZERO
    return Judgement("slower" if low > 0 else "faster", reason)


def judge_beyond_noise(
    ci_pct: Interval | None, widened_pct: Interval | None, *, sound: bool = True
) -> Judgement:
    """The same by the interval widened by a noise floor.

    Args:
        widened_pct: None: the noise floor is not known, and the verdict is "unclear".
    """
    own = judge(ci_pct, sound=sound)
    if ci_pct is None or not sound:
        return own
    if widened_pct is None:
        return Judgement("unclear", Reason.NO_NOISE_FLOOR)
    judgement = judge(widened_pct)
    if judgement.verdict == "unclear" and own.verdict != "unclear":
        return Judgement("unclear", Reason.WITHIN_NOISE)
    return judgement


def judge_quotient(ci_quotient: Interval | None, factor: float | None, *, sound: bool = True) -> Judgement:
    """The verdict of the quotient of treatment over baseline, its interval widened by the noise's factor.

    A factor, not a difference in percent: of times that differ severalfold the shorter one cannot lie 100%
    below. "unclear" without the interval or the factor.
    """
    if ci_quotient is None:
        return judge(None, sound=sound)
    low, high = ci_quotient
    widened = None if factor is None else _in_pct((low / factor, high * factor))
    return judge_beyond_noise(_in_pct(ci_quotient), widened, sound=sound)


def _in_pct(quotient: Interval) -> Interval:
    return 100 * (quotient[0] - 1), 100 * (quotient[1] - 1)


def times_the_rounds(
    ci_pct: Interval, tolerance_pct: float, to_claim: float = 1.0, *, zero_decides: bool = True
) -> float:
    """The factor by which rounds must grow for an interval that is too wide to decide, its middle unchanged.

    An interval narrows with the square root of the rounds. It decides once it lies within the tolerance, or
    no longer reaches zero and its effect can be claimed.

    Args:
        to_claim: the factor for that; see `times_the_rounds_to_claim`.
        zero_decides: if not, an effect must be beyond the tolerance.
    """
    half, middle = (ci_pct[1] - ci_pct[0]) / 2, abs(ci_pct[0] + ci_pct[1]) / 2
    within = _times(half, tolerance_pct - middle)
    return min(within, max(to_claim, _times(half, middle - (0.0 if zero_decides else tolerance_pct))))


def _times(half: float, narrow: float) -> float:
    return (half / narrow) ** 2 if narrow > 0 else float("inf")


def times_the_rounds_to_claim(p_value: float, level: float) -> float:
    """The factor by which rounds must grow for a p-value to fall to a level, the difference unchanged."""
    distance = special.ndtri(p_value / 2)
    return float((special.ndtri(level / 2) / distance) ** 2) if distance else float("inf")


def noise_floor_needed_pct(ci_pct: Interval, tolerance_pct: float) -> float:
    """The noise floor below which an interval widened by it on both sides decides."""
    low, high = ci_pct
    return max(low, -high, tolerance_pct - max(-low, high))


def noise_factor_needed_pct(ci_pct: Interval, tolerance_pct: float) -> float:
    """The same of a quotient's interval, which a factor widens; both as differences from 1."""
    low, high, tolerance = 1 + ci_pct[0] / 100, 1 + ci_pct[1] / 100, tolerance_pct / 100
    return 100 * (max(low, 1 / high, min(low / (1 - tolerance), (1 + tolerance) / high)) - 1)
