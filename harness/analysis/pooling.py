"""Several measurements taken together: a mean over points, and the slope of measured over predicted.

A point is a `stats.Mean`, with the standard error and the degrees of freedom that it was measured with. That
its error is itself estimated, from five processes, say, is in the intervals: see `pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special

from harness.analysis import stats
from harness.analysis.stats import Array, Interval, Mean


def pool(points: Sequence[Mean]) -> Mean:
    """The mean of effects that may truly differ from point to point (random effects); of one, that one.

    The variance between points is Paule and Mandel's (J. Res. NBS 87, 1982, p. 377). The interval is
    Student's with Hartung and Knapp's error (Statistics in Medicine 20, 2001, p. 3875). By that choice of the
    variance it is the usual error, or smaller where points differ by less than their own errors say; it is
    not made smaller then, as Roever, Knapp and Friede advise (BMC Med. Res. Methodol. 15:99, 2015).

    The points' errors count as known. Of points of five processes each, 3 to 12 of them, 92% to 99% of the
    intervals hold the truth (tests/analysis/test_pooling.py).

    Raises ValueError without points, or if one has no error.
    """
    values = stats.to_array([point.value for point in points])
    variances = np.array([point.error**2 for point in points])
    if not (variances > 0).all():
        raise ValueError("a point without an error has no weight; leave it out")
    if len(points) == 1:
        return points[0]
    between = _between(values, variances)
    weights = 1 / (variances + between)
    mean = float(weights @ values / weights.sum())
    return Mean(mean, float(weights.sum() ** -0.5), len(points) - 1, sum(point.n for point in points))


def _between(values: Array, variances: Array) -> float:
    """The variance between points at which their weighted squares are as many as expected; at least 0."""

    def excess(between: float) -> float:
        weights = 1 / (variances + between)
        mean = weights @ values / weights.sum()
        return float(weights @ (values - mean) ** 2) - (len(values) - 1)

    if excess(0.0) <= 0:
        return 0.0
    most = float(np.var(values, ddof=1)) + float(variances.max())
    while excess(most) > 0:
        most *= 2
    return float(optimize.brentq(excess, 0.0, most))


def slope(measured: Sequence[Mean], predicted: Sequence[Mean]) -> tuple[float, Interval | None]:
    """Measured over predicted: the slope of a line through the origin, with errors in both, and its interval.

    The slope b makes the sum of (measured - b predicted)^2 / (error_measured^2 + b^2 error_predicted^2) least
    (York et al., American Journal of Physics 72, 2004, p. 367). The interval holds the slopes whose sum
    exceeds that by at most the 95th percentile of F(1, n - 1), times the sum over n - 1 where points scatter
    more than their errors say. None of one point, or if it would take in a vertical line.

    Raises ValueError if the lists differ in length or a pair has no error.
    """
    pairs = list(zip(measured, predicted, strict=True))
    y, x = (np.array([side[n].value for side in pairs]) for n in (0, 1))
    vy, vx = (np.array([side[n].error ** 2 for side in pairs]) for n in (0, 1))
    if not len(pairs) or not ((vy + vx) > 0).all():
        raise ValueError("a slope needs pairs with an error")

    def squares(angle: float) -> float:
        c, s = np.cos(angle), np.sin(angle)
        return float(((c * y - s * x) ** 2 / (c**2 * vy + s**2 * vx)).sum())

    angles = np.linspace(-np.pi / 2, np.pi / 2, 721)
    start = min(angles, key=squares)
    step = angles[1] - angles[0]
    near = {"bounds": (start - step, start + step), "method": "bounded", "options": {"xatol": 1e-12}}
    best = float(optimize.minimize_scalar(squares, **near).x)
    freedom = len(pairs) - 1
    if not freedom:
        return float(np.tan(best)), None
    quantile = float(special.fdtri(1, freedom, 0.95))
    limit = squares(best) + quantile * max(1.0, squares(best) / freedom)
    ends = [_crossing(squares, best, limit, direction) for direction in (-1, 1)]
    if ends[0] is None or ends[1] is None:
        return float(np.tan(best)), None
    return float(np.tan(best)), (float(np.tan(ends[0])), float(np.tan(ends[1])))


def _crossing(squares: Callable[[float], float], best: float, limit: float, direction: int) -> float | None:
    """The angle nearest to the best, in a direction, at which the sum reaches the limit; None: beyond a right
    angle.
    """
    edge = direction * np.pi / 2
    angles = np.linspace(best, edge, 2000)
    beyond = next((n for n, angle in enumerate(angles) if squares(angle) > limit), None)
    if not beyond:
        return None
    return float(optimize.brentq(lambda a: squares(a) - limit, angles[beyond - 1], angles[beyond]))
