"""The breakdown: what the paged KV cache costs the prefill, measured, predicted and compared.

Measured: differences between arms of the running engine. Predicted: the same differences, as sums of replayed
kernel times over the layers. What is predicted but not measured is hidden behind the host; what is measured
but not predicted is unexplained. Times are ms unless a key says us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis import figures, stats
from harness.analysis.breakdown import break_even, host, inputs, profiles
from harness.analysis.breakdown.differences import (
    measured_rounds,
    measured_rows,
    predicted_rounds,
    predicted_rows,
    residual_rows,
)
from harness.analysis.breakdown.rows import Breakdown, ResidualRow
from harness.analysis.breakdown.samples import Replayed, why_not
from harness.analysis.contrasts import prefill_arms
from harness.runs.record import Result
from harness.runs.schema import RunRecord

UNDIVIDED = ("engine", "wrapped", "placebo", "paged")  # arms that do not measure a cost of the paged KV cache


def break_down(record: RunRecord, results: Sequence[Result]) -> Breakdown | None:
    """summary.json's "attribution"; None if only the arms engine and paged were tried.

    Where a row cannot be computed its figures are None and `reason` says why. Percentages are of the median
    of arm `engine`, or of paged@1 where `engine` was not measured; the sentence then says so.

    Args:
        results: all of the run's; of a cell that was measured twice, only the later.
    """
    end_to_end = [r for r in results if r.cell.stage == "end_to_end"]
    if all(r.cell.arm in UNDIVIDED for r in end_to_end):
        return None
    arms = prefill_arms(end_to_end)
    spread_k = max((r.cell.spread_k for r in end_to_end if r.cell.arm == "paged"), default=1)
    pulled_in = figures.pull_in(results)
    replayed = Replayed.of(pulled_in, spread_k)
    compared = prefill_arms(r for r in pulled_in if r.cell.stage == "end_to_end")
    num_layers = record.model.num_layers
    engine = _engine(arms)
    base_ms = engine.median if engine else _median_ms(arms.get("paged@1"))
    measured = measured_rounds(compared, spread_k)
    clock_mhz = figures.median_clock_mhz(end_to_end)
    predicted = predicted_rounds(replayed.at_clock(clock_mhz), spread_k, num_layers)
    residuals = residual_rows(measured, predicted, base_ms)
    return Breakdown(
        spread_k=spread_k,
        engine_ms=engine.median if engine else None,
        engine_ci95_ms=engine.ci95 if engine else None,
        engine_spread_k=record.engine_spread_k,
        noise_floor_pct=_noise_floor_pct(compared, base_ms),
        clock_mhz=clock_mhz,
        replay_clock_mhz=replayed.clock_mhz(),
        layers=num_layers,
        layers_replayed=len(replayed.layers),
        components=profiles.components(record, arms),
        measured=measured_rows(measured, spread_k, base_ms),
        predicted=predicted_rows(predicted, base_ms),
        residual=residuals,
        residual_pct=next(_magnitude(row) for row in residuals if row.component == "paging"),
        host_bound=host.host_bound(record, compared),
        profiled=profiles.profiling_overheads(record, arms),
        captured_vs_synthetic=inputs.compare_inputs(record, replayed),
        break_even=break_even.rows(record, replayed),
        sentence="",  # once the verdicts hold together
    )


def _engine(arms: Mapping[str, Result]) -> stats.MedianInterval | None:
    """The untouched engine's prefill, in ms."""
    engine = arms.get("engine")
    if engine is None or why_not(engine, "engine"):
        return None
    return stats.median_interval(np.asarray(engine.samples_us) / 1000)


def _median_ms(result: Result | None) -> float | None:
    return None if result is None or why_not(result, "") else float(np.median(result.samples_us)) / 1000


def _noise_floor_pct(arms: Mapping[str, Result], base_ms: float | None) -> float | None:
    """The noise floor, in percent of `base_ms`: what paged@1 differs by from itself (A/A) or from the same
    layout at another place of the pool (placebo), whichever is more.
    """
    one_segment = arms.get("paged@1")
    floors = [0.0]
    for other in (arms.get("paged@1 again"), arms.get("placebo")):
        if one_segment and other and not why_not(one_segment, "") and not why_not(other, ""):
            n = min(len(one_segment.samples_us), len(other.samples_us))
            pair = (one_segment.samples_us[:n], other.samples_us[:n])
            floors.append(stats.noise_floor_pct(stats.paired_difference(*pair).ci95_us) or 0.0)
    return max(floors) / base_ms / 10 if base_ms and max(floors) else None


def _magnitude(row: ResidualRow) -> float | None:
    return None if row.pct_of_measured is None else abs(row.pct_of_measured)
