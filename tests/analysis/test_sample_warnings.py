"""Warnings about samples against published rules and lists with known faults."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.analysis import sample_warnings


def test_outliers_worked_by_hand() -> None:
    # median 2.45, MAD 0.15: the score of 2.1 is 0.6745 * 0.35 / 0.15 = 1.6, that of 8.2 is 25.9
    values = [2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3]
    assert list(np.flatnonzero(sample_warnings.outliers(values))) == [8, 9]


def test_outliers_where_most_samples_are_equal() -> None:
    assert list(np.flatnonzero(sample_warnings.outliers([5.0] * 30 + [6.0]))) == [30]
    assert not sample_warnings.outliers([5.0] * 30).any()


def test_outliers_agree_with_scipy_s_mad() -> None:
    values = np.random.default_rng(3).standard_t(2, 200)
    z = (values - np.median(values)) / scipy_stats.median_abs_deviation(values) * 0.6745
    assert (sample_warnings.outliers(values) == (np.abs(z) > 3.5)).all()


def kinds(samples: np.ndarray) -> set[str]:
    return {warning.split(":")[0] for warning in sample_warnings.warnings(samples)}


def test_warnings_name_what_is_wrong() -> None:
    rng = np.random.default_rng(5)
    calm = 100 + 0.2 * rng.standard_normal(60)
    assert kinds(calm) == set()
    assert kinds(calm[:5]) == {"few samples"}
    assert kinds(calm + np.linspace(0, 3, 60)) == {"drift"}
    assert kinds(calm + rng.permutation([0, 4] * 30)) == {"two modes"}
    assert "wide spread" in kinds(calm + 20 * rng.standard_normal(60))
    assert "outliers" in kinds(np.where(np.arange(60) % 8 == 0, calm + 2 + rng.random(60), calm))


def test_a_drift_s_figure_is_that_of_the_outer_thirds_medians() -> None:
    samples = np.linspace(100, 300, 60)  # their medians are 132.2 and 267.8, that of all is 200
    assert "drift: +67.8% from the first third to the last" in sample_warnings.warnings(samples)


def test_two_modes_of_a_prefill_are_in_plain_figures() -> None:
    samples = np.random.default_rng(5).permutation([7_631.0] * 50 + [13_472.0] * 10)
    assert "two modes: near 7631 us (83%) and near 13472 us" in sample_warnings.warnings(samples)


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_shapes_are_not_two_modes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for shape in (rng.standard_normal(50), rng.random(50), rng.standard_t(3, 50)):
        assert "two modes" not in kinds(100 + 3 * shape)


def test_a_timer_s_ticks_are_not_two_modes() -> None:
    assert kinds(np.tile([100.0, 100.5], 30)) == set()


def test_constant_samples_have_no_warnings() -> None:
    assert sample_warnings.warnings([7.0] * 30) == []


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
    assert sample_warnings.clock_fell(clock_mhz) == said
