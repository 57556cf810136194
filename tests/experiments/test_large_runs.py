"""A run with a million lines is reported in as many steps a line as one with a thousand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.experiments import views
from harness.runs.record import Result, series_name
from harness.runs.schema import RunRecord
from tests.made_up import RUNS
from tests.made_up.builder import run_record

Copy = Callable[[Result, int], Result]  # of a result, further along one of its axes


def more_layers(result: Result, n: int) -> Result:
    if result.cell.layer is None:
        return result
    layer = result.cell.layer + 10 * n
    series = series_name(result.one_segment_for or result.cell.spread_k, layer)
    return replace(result, cell=replace(result.cell, layer=layer), series=series)


def more_segments(result: Result, n: int) -> Result:
    def further(spread_k: int) -> int:
        return spread_k + 100 * n * (spread_k > 1)

    one_segment_for = result.one_segment_for and further(result.one_segment_for)
    cell = replace(result.cell, spread_k=further(result.cell.spread_k))
    series = result.series if cell.layer is None else f"{result.series} {n}"
    return replace(result, cell=cell, one_segment_for=one_segment_for, series=series)


def more_points(axis: str) -> Copy:
    def copy(result: Result, n: int) -> Result:
        value = result.cell.at(axis)
        if not isinstance(value, int):
            return result
        point = dict(result.cell.point) | {axis: value + 1000 * n}
        cell = replace(result.cell, point=tuple(point.items()))
        return replace(result, cell=cell, series=f"{result.series} {n}")

    return copy


def steps(record: RunRecord, results: list[Result]) -> int:
    """Calls of Python functions until a run's tables and charts are made."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        summary = views.summarise(record, results)
        document = views.view_of(views.experiment_of(record)).document(record, summary)
        document.csv(), document.markdown(), views.charts(record, summary, results)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("prefill", more_layers),
        ("prefill", more_segments),
        ("kernels", more_segments),
        ("cache", more_points("batch_size")),
        ("backends", more_points("input_len")),
        ("kvcache", more_points("step")),
    ],
)
def test_a_line_takes_as_many_steps_in_a_large_run(name: str, copy: Copy) -> None:
    made: Any = RUNS[name]
    record = run_record(made.record())
    few, many = 5, 20
    taken = [
        steps(
            record,
            list({r.key: r for n in range(times) for r in (copy(each, n) for each in results)}.values()),
        )
        for results in [made.results()]
        for times in (few, many)
    ]
    assert taken[1] < 1.3 * many / few * taken[0], "more than in proportion"
