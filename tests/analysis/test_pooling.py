"""Pooled means against published values, slopes against ordinary least squares, both by simulation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from harness.analysis import pooling, stats
from harness.analysis.stats import Mean

# Thirteen trials of a vaccine: log risk ratios and their variances (Colditz et al., JAMA 271, 1994, p. 698),
# as metafor's documentation prints them.
VACCINE = [
    (-0.8893, 0.3256), (-1.5854, 0.1946), (-1.3481, 0.4154), (-1.4416, 0.0200), (-0.2175, 0.0512),
    (-0.7861, 0.0069), (-1.6209, 0.2230), (0.0120, 0.0040), (-0.4694, 0.0564), (-1.3713, 0.0730),
    (-0.3394, 0.0124), (0.4459, 0.5325), (-0.0173, 0.0714),
]  # fmt: skip


def points(values: Iterable[float], errors: Iterable[float]) -> list[Mean]:
    return [Mean(float(value), float(error), 4, 5) for value, error in zip(values, errors, strict=True)]


def test_the_published_example() -> None:
    """As statsmodels 0.14's combine_effects has it, by Paule and Mandel, Hartung and Knapp."""
    values, variances = np.array(VACCINE).T
    found = pooling.pool(points(values, np.sqrt(variances)))
    assert (found.value, found.error) == pytest.approx((-0.714970, 0.180895), abs=2e-6)
    assert found.interval() == pytest.approx((-1.109106, -0.320835), abs=2e-6)


def test_points_that_agree_are_weighted_by_their_errors() -> None:
    found = pooling.pool(points([1.0, 1.1, 0.9], [0.5, 1.0, 2.0]))
    weights = np.array([4.0, 1.0, 0.25])
    assert found.value == pytest.approx(weights @ [1.0, 1.1, 0.9] / 5.25)
    assert found.error == pytest.approx(5.25**-0.5)  # and no smaller, though the points lie closer
    assert found.freedom == 2


def test_a_point_alone_is_its_own_mean_and_one_without_an_error_is_refused() -> None:
    (alone,) = points([2.0], [0.1])
    assert pooling.pool([alone]) == alone
    with pytest.raises(ValueError, match="without an error"):
        pooling.pool(points([1.0, 2.0], [0.1, 0.0]))
    with pytest.raises(ValueError, match="no samples"):
        pooling.pool([])


@pytest.mark.parametrize("count", [3, 6, 12])
@pytest.mark.parametrize("between", [0.0, 1.0])
@pytest.mark.parametrize("widest", [1.0, 10.0])
def test_pooled_intervals_of_points_of_five_processes_hold_the_truth(
    count: int, between: float, widest: float
) -> None:
    rng = np.random.default_rng(count)
    held, runs = 0, 400
    for _ in range(runs):
        spreads = np.geomspace(1, widest, count)
        drawn = rng.normal(rng.normal(3, between, count), spreads, (5, count)).T
        low, high = pooling.pool([stats.mean(values) for values in drawn]).interval()
        held += low <= 3 <= high
    assert held / runs > 0.89  # 0.92 in the worst case, by 1200 runs


def test_a_slope_with_exact_predictions_is_the_weighted_regression_s() -> None:
    x, y, error = np.array([1.0, 2.0, 4.0]), np.array([1.2, 1.9, 4.1]), np.array([0.1, 0.2, 0.1])
    slope, interval = pooling.slope(points(y, error), points(x, [0.0] * 3))
    weights = error**-2.0
    best = weights @ (x * y) / (weights @ x**2)
    squares = weights @ (y - best * x) ** 2
    half = 4.302653 * (max(1.0, squares / 2) / (weights @ x**2)) ** 0.5  # t with two degrees of freedom
    assert slope == pytest.approx(best, rel=1e-6)
    assert interval == pytest.approx((best - half, best + half), rel=1e-5)


def test_exchanging_both_sides_inverts_the_slope() -> None:
    y, x = points([2.1, 3.9, 8.2], [0.2, 0.3, 0.4]), points([1.0, 2.1, 3.9], [0.1, 0.1, 0.2])
    slope, interval = pooling.slope(y, x)
    inverse, ends = pooling.slope(x, y)
    assert inverse == pytest.approx(1 / slope, rel=1e-5)
    assert ends == pytest.approx((1 / interval[1], 1 / interval[0]), rel=1e-4)


def test_a_slope_that_could_be_anything_has_no_interval() -> None:
    assert pooling.slope(points([1.0], [0.1]), points([1.0], [0.1]))[1] is None
    assert pooling.slope(points([0.1, -0.1], [1.0, 1.0]), points([0.1, 0.0], [1.0, 1.0]))[1] is None
    with pytest.raises(ValueError, match="pairs with an error"):
        pooling.slope(points([1.0], [0.0]), points([1.0], [0.0]))


@pytest.mark.parametrize("errors", [(0.5, 0.05), (0.3, 0.6)])
def test_slopes_hold_the_truth(errors: tuple[float, float]) -> None:
    """Ten processes, errors estimated from five: predictions that are exact nearly, and that are not."""
    rng = np.random.default_rng(4)
    held, runs, truth = 0, 150, np.linspace(5, 15, 10)
    for _ in range(runs):
        sides = [truth * slope + rng.normal(0, sd, 10) for slope, sd in zip((1.3, 1.0), errors, strict=True)]
        known = [sd * (rng.chisquare(4) / 4) ** 0.5 for sd in errors]
        measured, predicted = (points(side, [sd] * 10) for side, sd in zip(sides, known, strict=True))
        low, high = pooling.slope(measured, predicted)[1]
        held += low <= 1.3 <= high
    assert held / runs > 0.92
