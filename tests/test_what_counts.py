"""Only cells that ended well count: a throttled one keeps its figures, and no conclusion rests on them.

One case for each place that selects by status. Each is asked with a cell that is ok and with the same cell,
and the same samples, under every other status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.analysis import figures, per_request
from harness.analysis.breakdown import other_engines as variants
from harness.analysis.breakdown.samples import why_not
from harness.analysis.contrasts import Group, arms_of, end_to_end_contrasts, kernel_contrasts, rounds
from harness.compare import ratios as compare
from harness.runs import resume
from harness.runs.record import Result, Status
from tests.made_up import backends, builder, kvcache, memory
from tests.made_up.views import summary_of

REASON = "a reason"


def timed(status: Status, arm: str, us: float, layer: int | None = 0, **more: Any) -> Result:
    """A kernel's cell of one series, with ten samples."""
    stage = "kernel" if layer is not None else "end_to_end"
    of: dict[str, Any] = {"status": status, "layer": layer, "series": "spread=1 layer=0", "series_size": 2}
    of |= {
        "samples_us": [us + 0.01 * n for n in range(10)],
        "reason": None if status is Status.OK else REASON,
    }
    return builder.result(stage, "a kernel", "a provider", arm, **of, **more)


def two_layers(status: Status) -> list[Result]:
    """One arm on a layer of 100 us that is ok, and on one of 300 us."""
    return [timed(Status.OK, "paged", 100, 0), timed(status, "paged", 300, 1)]


def mean_over_layers(status: Status) -> bool:
    group = Group(tuple(reversed(two_layers(status))))
    assert group.status is Status.OK
    assert (group.reason is None) is (status is Status.OK)
    mean_us = float(rounds(group.measured)[0])
    assert mean_us in (pytest.approx(100), pytest.approx(200))
    return mean_us == pytest.approx(200)


def contrast_of_means(status: Status) -> bool:
    dense = [timed(Status.OK, "dense", 100, layer) for layer in (0, 1)]
    rows = kernel_contrasts(1, arms_of([*dense, *two_layers(status)]))
    (mean,) = (row for row in rows if (row.layer, row.treatment) == ("mean", "paged@1"))
    (alone,) = (row for row in rows if (row.layer, row.treatment) == (1, "paged@1"))
    assert alone.delta_us == pytest.approx(200)
    assert (alone.verdict == "slower") is (mean.layers == 2)
    assert mean.delta_us == pytest.approx(100 if mean.layers == 2 else 0, abs=1e-6)
    return mean.delta_us == pytest.approx(100)


def verdict_end_to_end(status: Status) -> bool:
    arms = [timed(Status.OK, "dense", 100, None), timed(status, "paged", 110, None)]
    (row,) = end_to_end_contrasts(arms)
    return row.verdict == "slower"


def verdict_of_an_experiment(status: Status) -> bool:
    fields = figures.contrast_row("a contrast", timed(Status.OK, "dense", 100), timed(status, "paged", 110))
    assert fields is not None
    return fields["verdict"] == "slower"


def verdict_of_a_request(status: Status) -> bool:
    one = timed(Status.OK, "paged", 100, one_segment_for=4)
    split = timed(status, "paged", 110)
    results = [
        replace(r, cell=replace(r.cell, request=0), series="spread=4 layer=0 request=0") for r in (one, split)
    ]
    record = builder.run_record(requests=[{"length": 64, "blocks": 4, "segments": {"4": 4}}])
    single, total = per_request.rows(record, results, [])
    assert single.delta_us == pytest.approx(10)
    assert single.status == total.status == status.value
    return single.verdict == "slower"


def ratio_of_two_runs(status: Status) -> bool:
    record = builder.run_record()
    runs = [
        compare.Run.of(label, label, record, [timed(each, "paged", 100)])
        for label, each in (("A", Status.OK), ("B", status))
    ]
    there = compare.compare(runs)
    back = compare.compare(runs[::-1])
    assert len(there.ratios) == len(back.ratios) == 1 - len(there.lone)
    assert all(lone.reason == f"{status.value}: {REASON}" for lone in there.lone)
    return bool(there.ratios)


def layer_of_two_runs(status: Status) -> bool:
    record = builder.run_record()
    runs = [
        compare.Run.of("A", "A", record, two_layers(Status.OK)),
        compare.Run.of("B", "B", record, two_layers(status)),
    ]
    (ratio,) = compare.compare(runs).ratios
    return ratio.layers == 2


def breakdown_of_a_prefill(status: Status) -> bool:
    return why_not(timed(status, "paged", 100), "paged") is None


def verdict_of_another_engine(status: Status) -> bool:
    engines = [
        timed(Status.OK, "engine", 100, None, variant="baseline"),
        timed(Status.OK, "engine", 100, None, variant="baseline", control=True),
        timed(status, "engine", 110, None, variant="block_size=64"),
    ]
    row = variants.variant_rows(builder.run_record(), engines)[-1]
    assert row.status == status.value
    return row.verdict == "slower"


def speed_up_of_generations(status: Status) -> bool:
    def paged(result: Result) -> bool:
        return result.cell.arm == "paged" and result.cell.stage == "end_to_end"

    rows = summary_of(kvcache.record(), changed(kvcache.results(), paged, status))
    row = next(row for row in rows["speed_ups"] if row["contrast"] == "paged against KV cache")
    return row["verdict"] != "unclear"


def noise_floor_of_generations(status: Status) -> bool:
    results = changed(kvcache.results(), lambda result: result.control, status)
    return summary_of(kvcache.record(), results)["speed_ups"][0]["noise_floor_pct"] is not None


def backends_cell(result: Result) -> bool:
    size = (("batch_size", 4), ("input_len", 512))
    return (result.cell.arm, result.cell.point, result.control) == ("FLASH_ATTN", size, False)


def winning_backend(status: Status) -> bool:
    rows = summary_of(backends.record(), changed(backends.results(), backends_cell, status))
    (winner,) = (row for row in rows["winners"] if (row["batch_size"], row["input_len"]) == (4, 512))
    (again,) = (row for row in rows["engines_again"] if (row["batch_size"], row["input_len"]) == (4, 512))
    powers = [
        (row["batch_size"], row["next_batch_size"])
        for row in rows["exponents"]
        if (row["backend"], row["input_len"]) == ("FLASH_ATTN", 512)
    ]
    won = winner["winner"] == "FLASH_ATTN"
    assert (again["ratio"] is not None) is won
    assert ((1, 4) in powers) is won
    return won


def stage_of_all_processes(status: Status) -> bool:
    first = memory.results()[0]
    rows = summary_of(memory.record(), [first, replace(first, series="again", status=status, reason=REASON)])
    return rows["cells"][0]["status"] == "ok"


def changed(results: list[Result], chosen: Callable[[Result], bool], status: Status) -> list[Result]:
    """The results, those chosen with another status and their samples."""
    assert any(map(chosen, results))
    return [replace(r, status=status) if chosen(r) else r for r in results]


PLACES = [
    mean_over_layers,
    contrast_of_means,
    verdict_end_to_end,
    verdict_of_an_experiment,
    verdict_of_a_request,
    ratio_of_two_runs,
    layer_of_two_runs,
    breakdown_of_a_prefill,
    verdict_of_another_engine,
    speed_up_of_generations,
    noise_floor_of_generations,
    winning_backend,
    stage_of_all_processes,
]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("counts", PLACES, ids=lambda place: place.__name__)
def test_a_cell_counts_if_it_is_ok_and_not_otherwise(
    counts: Callable[[Status], bool], status: Status
) -> None:
    assert counts(status) is (status is Status.OK)


def test_a_mean_of_no_ok_layer_keeps_the_figures_and_says_so() -> None:
    group = Group(tuple(timed(Status.THROTTLED, "paged", us, n) for n, us in enumerate((100, 300))))
    assert rounds(group.measured)[0] == pytest.approx(200)
    assert group.status is Status.THROTTLED


@pytest.mark.parametrize("status", Status)
def test_an_interrupted_series_is_measured_again_and_no_other(status: Status) -> None:
    series = [timed(Status.OK, "dense", 100), timed(status, "paged", 100)]
    assert resume.finished_series(series) == (
        {"spread=1 layer=0"} if status is not Status.INTERRUPTED else set()
    )
