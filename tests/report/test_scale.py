"""Places and ticks along an axis."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.charts.scale import Scale


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0.0, 10.0), [0, 2, 4, 6, 8, 10]),
        (Scale(-0.3, 0.7), [-0.2, 0.0, 0.2, 0.4, 0.6]),
        (Scale(0.0, 0.24), [0, 0.05, 0.1, 0.15, 0.2]),
        (Scale(1.0, 20.0, log=True), [1, 2, 5, 10, 20]),
        (Scale(1.0, 1000.0, log=True), [1, 10, 100, 1000]),
        (Scale(0.9, 11.0, log=True), [1, 2, 5, 10]),
        (Scale(1.0, 1e9, log=True), [1, 1e2, 1e4, 1e6, 1e8]),
    ],
)
def test_ticks_are_round_numbers(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)


ENDS = st.tuples(st.floats(1e-6, 1e9), st.floats(1.001, 1e6), st.booleans())


@given(ENDS)
def test_ticks_rise_within_the_scale_and_lie_where_their_value_is(ends: tuple[float, float, bool]) -> None:
    low, factor, log = ends
    scale = Scale(low, low * factor, log)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert log or len(ticks) <= 7
    places = [scale.at(tick) for tick in ticks]
    assert all(before < after for before, after in pairwise(places))
    assert all(0 <= place <= 1 for place in places)


def test_a_scale_around_values_has_room_on_both_sides() -> None:
    for values, ends in (([2.0, 12.0], (1.2, 12.8)), ([5.0], (4.6, 5.4)), ([0.0], (-1.0, 1.0))):
        scale = Scale.around(values)
        assert (scale.low, scale.high) == pytest.approx(ends)
    scale = Scale.around([1.0, 100.0], log=True)
    assert (scale.low, scale.high) == pytest.approx((100**-0.08, 100**1.08))
    assert (Scale(3.0, 3.0).at(3.0), Scale(1.0, 100.0, log=True).at(10.0)) == (0.5, pytest.approx(0.5))
