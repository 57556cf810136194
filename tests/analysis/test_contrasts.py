"""Pairs within one series are the contrasts that the summary makes of it."""

from __future__ import annotations

import numpy as np

from harness.analysis import figures
from harness.analysis.contrasts import (
    _pairs,
    _with_one_segment,
    arms_of,
    end_to_end_contrasts,
    kernel_contrasts,
    series_pairs,
)
from harness.runs.record import Result
from tests.made_up.builder import record, result
from tests.made_up.prefill import results
from tests.made_up.views import summary_of


def by_series() -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for each in results():
        found.setdefault(each.series, []).append(each)
    return found


def deltas(series: list[Result]) -> set[float]:
    """Differences of a series' pairs, in us: unlike for each pair of made-up samples."""
    series = figures.pull_in(series)
    pairs = [(series[one].samples_us, series[two].samples_us) for one, two in series_pairs(series)]
    return {round(float(np.mean(np.subtract(two, one))), 9) for one, two in pairs if one and two}


def test_every_contrast_of_the_summary_is_a_pair_of_its_series_and_no_other_is() -> None:
    assert len(by_series()) == 9
    for name, series in by_series().items():
        rows = summary_of(record(), series)["contrasts"]
        rows = [row for row in rows if row["layer"] not in ("mean", "sum") and row["data"] is not None]
        assert deltas(series) == {round(row["delta_us"], 9) for row in rows}, name
        assert len(set(series_pairs(series))) == len(series_pairs(series))


def test_asking_for_pairs_changes_nothing_and_names_none_twice() -> None:
    named = dict.fromkeys(("dense", "paged", "paged@1 again"), 0)
    assert _pairs(1, named) == []
    complete = _with_one_segment(1, named)
    assert sorted(named) == ["dense", "paged", "paged@1 again"]
    assert _pairs(1, complete) == [("paged@1", "paged@1 again"), ("dense", "paged@1")]


def prefill(arm: str, k: int, us: float, control: bool = False) -> Result:
    samples = [us + n for n in range(10)]
    return result("end_to_end", "prefill", "vLLM", arm, spread_k=k, samples_us=samples, control=control)


PREFILLS = [
    prefill("engine", 6, 1003),
    prefill("wrapped", 6, 1005),
    prefill("paged", 1, 1000),
    prefill("paged", 4, 1010),
    prefill("paged", 8, 1020),
    prefill("paged", 1, 1001, control=True),
    prefill("dense", 1, 980),
    prefill("no_write", 1, 977),
    prefill("compact", 8, 1005),
    prefill("spin_0", 1, 1002),
    prefill("spin", 1, 1102),
]


def test_in_engine_arms_are_set_against_what_they_differ_from_in_one_thing() -> None:
    rows = end_to_end_contrasts(PREFILLS)
    found = {(r.baseline, r.treatment, r.spread_k): round(r.delta_us, 6) for r in rows}
    assert found == {
        ("paged@1", "paged", 4): 10,
        ("paged@1", "paged", 8): 20,
        ("paged@1", "paged@1 again", 1): 1,
        ("dense", "paged@1", 1): 20,
        ("no_write", "dense", 1): 3,
        ("engine", "wrapped", 6): 2,
        ("paged@1", "wrapped", 6): 5,
        ("paged", "compact", 8): -15,
        ("spin_0", "spin", 1): 100,
    }
    assert len({r.noise_floor_pct for r in rows}) == 1
    pairs = series_pairs(PREFILLS)
    arms = {(PREFILLS[one].cell.arm, PREFILLS[two].cell.arm) for one, two in pairs}
    assert len(pairs) == len(set(pairs)) == len(found)
    assert ("paged", "dense") not in arms


def test_an_arm_s_contrasts_are_missing_with_it() -> None:
    arms = [r for r in PREFILLS if r.cell.arm not in ("dense", "spin_0") and r.cell.spread_k != 8]
    found = {(r.baseline, r.treatment) for r in end_to_end_contrasts(arms)}
    pairs = {
        ("paged@1", "paged"),
        ("paged@1", "paged@1 again"),
        ("paged@1", "wrapped"),
        ("engine", "wrapped"),
    }
    assert found == pairs
    without_one_segment = [r for r in PREFILLS if r.cell.arm in ("dense", "no_write")]
    (row,) = end_to_end_contrasts(without_one_segment)
    assert (row.baseline, row.treatment, row.noise_floor_pct) == ("no_write", "dense", None)


def test_compacting_one_segment_is_set_against_it() -> None:
    found = end_to_end_contrasts([prefill("paged", 1, 1000), prefill("compact", 1, 990)])
    assert [(row.baseline, row.treatment) for row in found] == [("paged@1", "compact")]


def test_strides_are_a_contrast_and_a_cache_write_is_in_none() -> None:
    def kernel(arm: str, us: float, stage: str = "kernel", data: str = "captured") -> Result:
        name, samples = "a kernel" if stage == "kernel" else "a write", [us + n for n in range(10)]
        return result(stage, name, "vLLM", arm, spread_k=4, layer=0, data=data, samples_us=samples)

    series = [kernel("dense", 100), kernel("compact", 103), kernel("paged", 7, stage="cache_write")]
    series += [kernel(arm, 90, data="synthetic") for arm in ("dense", "random", "random_unscheduled")]
    assert series_pairs(series) == [(0, 1)]
    rows = kernel_contrasts(4, arms_of(r for r in series if r.cell.stage == "kernel"))
    found = {(r.baseline, r.treatment): r.delta_us for r in rows if r.layer == 0}
    assert found == {("dense", "compact"): 3, ("synthetic dense", "captured dense"): 10}


def test_no_results_have_no_pairs() -> None:
    assert series_pairs([]) == []


def test_what_converting_costs_a_cache_write_is_a_contrast_with_a_noise_floor_of_its_own() -> None:
    def write(arm: str, us: float, control: bool = False) -> Result:
        samples = [us + n for n in range(10)]
        return result("cache_write", "a write", "vLLM", arm, spread_k=4, layer=0, samples_us=samples,
                      control=control)  # fmt: skip

    series = [write("unconverted", 7), write("converted", 9), write("unconverted", 7.5, control=True)]
    attention = [result("kernel", "a kernel", "vLLM", arm, spread_k=4, layer=0, samples_us=[9.0] * 10)
                 for arm in ("dense", "compact")]  # fmt: skip
    assert sorted(series_pairs(attention + series)) == [(0, 1), (2, 3), (2, 4)]
    rows = {row.treatment: row for row in kernel_contrasts(4, arms_of(series)) if row.layer == 0}
    assert {name: row.delta_us for name, row in rows.items()} == {"converted": 2, "unconverted again": 0.5}
    assert rows["converted"].noise_floor_pct == rows["unconverted again"].noise_floor_pct is not None
    summary = summary_of(record(), attention + series)
    of_layer = [row["arm"] for row in summary["kernels"] if row["layer"] == 0]
    assert of_layer == ["dense", "compact", "unconverted", "converted"]
    assert {row["treatment"] for row in summary["contrasts"]} == {"compact", *rows}
