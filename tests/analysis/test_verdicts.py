"""A verdict, its reason, and what would decide it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from harness.analysis import stats, verdicts
from harness.runs.summary import Reason

Bounds = tuple[float, float] | None


@pytest.mark.parametrize(
    ("interval", "expected", "reason"),
    [
        ((0.6, 0.9), "slower", Reason.BEYOND_TOLERANCE),
        ((0.1, 0.9), "slower", Reason.EXCLUDES_ZERO),
        ((0.1, 0.4), "same", Reason.WITHIN_TOLERANCE),
        ((-0.5, 0.5), "same", Reason.WITHIN_TOLERANCE),
        ((-0.4, 0.6), "unclear", Reason.INTERVAL_TOO_WIDE),
        ((-3.0, 3.0), "unclear", Reason.INTERVAL_TOO_WIDE),
        ((0.0, 0.6), "unclear", Reason.INTERVAL_TOO_WIDE),
        ((-0.9, -0.1), "faster", Reason.EXCLUDES_ZERO),
        ((-0.9, -0.6), "faster", Reason.BEYOND_TOLERANCE),
        (None, "unclear", Reason.NO_INTERVAL),
    ],
)
def test_verdicts(interval: Bounds, expected: str, reason: Reason) -> None:
    assert verdicts.judge(interval, 0.5) == (expected, reason)


def test_a_throttled_arm_leaves_any_interval_unclear() -> None:
    assert verdicts.judge((3.0, 4.0), sound=False) == ("unclear", Reason.ARM_NOT_OK)
    assert verdicts.judge_quotient((3.0, 4.0), 1.1, sound=False) == ("unclear", Reason.ARM_NOT_OK)


@pytest.mark.parametrize(
    ("quotient", "noise", "expected", "reason"),
    [
        # faster, but by less than what equals may differ by
        ((0.2, 0.63), (0.81, 3.1), "unclear", Reason.WITHIN_NOISE),
        # twentyfold: no factor of 2 explains it
        ((0.04, 0.06), (0.5, 2.0), "faster", Reason.BEYOND_TOLERANCE),
        ((16.0, 25.0), (0.5, 2.0), "slower", Reason.BEYOND_TOLERANCE),
        ((1.001, 1.002), (1.0, 1.0), "same", Reason.WITHIN_TOLERANCE),
        ((1.001, 1.002), (0.98, 1.0), "unclear", Reason.WITHIN_NOISE),
        ((0.9, 1.2), (0.98, 1.0), "unclear", Reason.INTERVAL_TOO_WIDE),  # with or without the noise
        (None, (0.98, 1.0), "unclear", Reason.NO_INTERVAL),
        ((16.0, 25.0), None, "unclear", Reason.NO_NOISE_FLOOR),
    ],
)
def test_a_quotient_s_verdict_takes_in_the_noise(
    quotient: Bounds, noise: Bounds, expected: str, reason: Reason
) -> None:
    assert verdicts.judge_quotient(quotient, stats.noise_factor(noise)) == (expected, reason)


@given(st.floats(-5, 5), st.floats(0, 5))
def test_verdicts_mirror(low: float, width: float) -> None:
    opposite = {"slower": "faster", "faster": "slower"}
    found, reason = verdicts.judge((low, low + width))
    assert verdicts.judge((-(low + width), -low)) == (opposite.get(found, found), reason)


@given(st.floats(-3, 3), st.floats(0.01, 5))
def test_an_interval_narrowed_by_as_many_rounds_as_it_takes_decides(middle: float, half: float) -> None:
    ci_pct = (middle - half, middle + half)
    if verdicts.judge(ci_pct, 0.5).reason is Reason.INTERVAL_TOO_WIDE:
        factor = verdicts.times_the_rounds(ci_pct, 0.5)
        assert factor >= 1
        enough, too_few = (half / (factor * part) ** 0.5 for part in (1.01, 0.99))
        assert verdicts.judge((middle - enough, middle + enough), 0.5).verdict != "unclear"
        assert verdicts.judge((middle - too_few, middle + too_few), 0.5).verdict == "unclear"


def test_rounds_that_bring_a_p_value_to_its_level() -> None:
    """Of a difference 2.5 standard errors from zero: 4 times the rounds make it 5."""
    p_value, level = (2 * special.ndtr(-z) for z in (2.5, 5.0))
    assert verdicts.times_the_rounds_to_claim(p_value, level) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("ci_pct", [(0.8, 2.0), (-2.0, -0.8), (-0.1, 0.2), (0.3, 0.4), (0.1, 0.15)])
def test_a_noise_floor_just_below_the_one_needed_decides(ci_pct: tuple[float, float]) -> None:
    needed = verdicts.noise_floor_needed_pct(ci_pct, 0.5)
    for floor, decides in ((0.99 * needed, True), (1.01 * needed, False)):
        widened = ci_pct[0] - floor, ci_pct[1] + floor
        assert (verdicts.judge_beyond_noise(ci_pct, widened).verdict != "unclear") == decides
