"""Pairs within one series are the contrasts that the summary makes of it."""

from __future__ import annotations

import numpy as np

from harness.contrasts import _pairs, _with_one_run, series_pairs
from harness.record import Result
from harness.summary import summarise
from tests import fixtures


def by_series() -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in fixtures.results():
        found.setdefault(result.series, []).append(result)
    return found


def deltas(series: list[Result]) -> set[float]:
    """Median differences of a series' pairs, in us: unlike for each pair of made-up samples."""
    pairs = [(series[one].samples_us, series[two].samples_us) for one, two in series_pairs(series)]
    return {round(float(np.median(np.subtract(two, one))), 9) for one, two in pairs if one and two}


def test_every_contrast_of_the_summary_is_a_pair_of_its_series_and_no_other_is() -> None:
    assert len(by_series()) == 9
    for name, series in by_series().items():
        rows = summarise({"status": "finished"}, series)["contrasts"]
        rows = [row for row in rows if row["layer"] not in ("mean", "sum") and row["data"] is not None]
        assert deltas(series) == {round(row["delta_us"], 9) for row in rows}, name
        assert len(set(series_pairs(series))) == len(series_pairs(series))


def test_asking_for_pairs_changes_nothing_and_names_none_twice() -> None:
    named = dict.fromkeys(("dense", "paged", "paged@1 again"), 0)
    assert _pairs(1, named) == []
    complete = _with_one_run(1, named)
    assert sorted(named) == ["dense", "paged", "paged@1 again"]
    assert _pairs(1, complete) == [("paged@1", "paged@1 again"), ("dense", "paged@1")]


def test_no_results_have_no_pairs() -> None:
    assert series_pairs([]) == []
