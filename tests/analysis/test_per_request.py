"""Single requests of a batch: their figures, their sum beside the step's, and the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.analysis.per_request import rows
from harness.runs.record import Cell, Result, Status, request_series_name, series_name
from harness.runs.resume import finished_series
from tests.made_up import prefill
from tests.made_up.builder import run_record
from tests.made_up.views import document_of, summary_of

REQUESTS = [(300, 10), (20, 1), (20, 1), (97, 4)]
RECORD = prefill.record() | {
    "config": {"batch": "1x300,2x20,1x97@2", "length": 300},
    "layers": [0],
    "requests": [
        {"length": length, "blocks": n, "segments": {"1": 1, "8": min(2 if length == 97 else 8, n)}}
        for length, n in REQUESTS
    ],
}


def series(
    level: float, spread_k: int, request: int | None = None, segments: int | None = None
) -> list[Result]:
    """Dense at 90% of the level, one segment at it, more at 101%; 8 rounds that all drift alike."""
    segments = segments or spread_k
    name = series_name(spread_k, 0) if request is None else request_series_name(spread_k, 0, request)
    cell = Cell("kernel", "some_kernel", "vLLM", "paged", segments, 32, 0, "captured", request=request)

    def result(cell: Cell, factor: float, **more) -> Result:
        samples = [level * factor * (1 + n / 1000) for n in range(8)]
        return Result(cell, name, Status.OK, None, samples, [level], series_size=4, **more)

    found = [
        result(replace(cell, arm="dense"), 0.9),
        result(replace(cell, spread_k=1), 1.0, one_segment_for=segments, control=True),
    ]
    if segments == 1:
        return [*found, result(cell, 1.0)]
    one_segment = result(replace(cell, spread_k=1), 1.0, one_segment_for=segments)
    return [*found, one_segment, result(cell, 1.01)]


def results() -> list[Result]:
    alone = series(100, 8, 1, 1) + series(400, 8, 3, 2) + series(1000, 8, 0)
    return series(1300, 1) + alone + series(1400, 8)


def request_rows(found: list[Result]) -> list[dict[str, Any]]:
    alone = [r for r in found if r.cell.request is not None]
    steps = [r for r in found if r.cell.request is None]
    return [row.to_json() for row in rows(run_record(RECORD), alone, steps)]


def test_rows_of_requests_their_sum_and_the_step():
    found = {row["request"]: row for row in request_rows(results())}
    assert list(found) == [1, 3, 0, "sum", "step"]
    assert [(found[n]["count"], found[n]["length"], found[n]["blocks"]) for n in (1, 3, 0)] == [
        (2, 20, 1), (1, 97, 4), (1, 300, 10)
    ]  # fmt: skip
    assert [found[n]["spread_k"] for n in (1, 3, 0)] == [1, 2, 8]
    drift = 1.0035
    assert found[0]["paged_us"] == pytest.approx(1010 * drift)
    assert found[0]["delta_pct"] == pytest.approx(1.0)
    assert found[0]["verdict"] == "slower"
    assert found[1]["delta_pct"] is None
    assert found["sum"]["dense_us"] == pytest.approx(0.9 * 1600 * drift)
    assert found["sum"]["paged_us"] == pytest.approx((2 * 100 + 404 + 1010) * drift)
    assert found["step"]["one_segment_us"] == pytest.approx(1400 * drift)


def test_without_one_request_there_is_no_sum():
    some = [r for r in results() if r.cell.request != 3]
    assert [row["request"] for row in request_rows(some)] == [1, 0, "step"]
    lost = [
        replace(r, status=Status.OUT_OF_MEMORY, reason="no room", samples_us=[]) if r.cell.request == 3 else r
        for r in results()
    ]
    found = {row["request"]: row for row in request_rows(lost)}
    assert (found[3]["status"], found[3]["reason"], found[3]["paged_us"]) == (
        "out_of_memory",
        "no room",
        None,
    )
    assert (found["sum"]["status"], found["sum"]["paged_us"]) == ("out_of_memory", None)
    assert "1x97 [1]" in document_of(RECORD, lost).screen_summary()


def test_the_figures_of_the_step_are_what_they_are_without_those_of_requests():
    whole = [r for r in results() if r.cell.request is None]
    with_requests, without = summary_of(RECORD, results()), summary_of(RECORD, whole)
    assert with_requests["requests"]
    for row in with_requests["contrasts"] + without["contrasts"]:
        del row["holm_level"]  # single requests are judged beside single layers
    assert with_requests | {"requests": []} == without


def test_a_series_of_a_request_is_finished_for_itself():
    cut_short = [r for r in results() if not (r.cell.request == 3 and r.cell.arm == "dense")]
    assert request_series_name(8, 0, 0) in finished_series(cut_short)
    assert request_series_name(8, 0, 3) not in finished_series(cut_short)


TABLE = """\
Per request
ms of some_kernel (vLLM), the engine's kernel, on one request of the step
    alone; NxLENGTH: N such requests.

       blocks  spread_k   dense  1 segment   split          fragmentation
-----  ------  --------  ------  ---------  ------  ---------------------
layer 0
2x20        1         1  0.0903     0.1003  0.1003                      -
1x97        4         2  0.3613     0.4014  0.4054  +1.00% [+1.00, +1.00]
1x300      10         8  0.9032     1.0035  1.0135  +1.00% [+1.00, +1.00]
sum        16         -  1.4450     1.6056  1.6196                 +0.87%
step        -         8  1.2644     1.4049  1.4189  +1.00% [+1.00, +1.00]

sum: of all requests, one after the other; step: all of them in one call, as
    the engine does."""


def test_the_tables_say_which_prompts():
    tables = document_of(RECORD, results())
    screen = tables.screen_summary()
    assert TABLE in screen
    assert "ms per attention call of 4 prompts (2x20, 1x97, 1x300), layer 0" in screen
    assert max(map(len, screen.splitlines())) <= 80
    assert tables.markdown().startswith("# gpt2, 4 prompts (2x20, 1x97, 1x300), on A CPU")
    assert "## Per request" in tables.markdown()
    assert "Per request" not in document_of(prefill.record(), []).screen_summary()
