"""From raw results to summary.json: a row per cell, per contrast and per end-to-end arm, and the
breakdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from harness.analysis import figures, per_request, stats
from harness.analysis import roofline as work
from harness.analysis.breakdown import break_down
from harness.analysis.breakdown.other_engines import variant_rows
from harness.analysis.contrasts import (
    Group,
    Layer,
    arms_of,
    end_to_end_contrasts,
    kernel_contrasts,
    rounds,
    spread_of,
)
from harness.analysis.rows import ContrastRow, KernelRow, PrefillRow
from harness.config.kernel_names import gather_for
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.record import Result, Status, latest
from harness.runs.schema import RunRecord
from harness.units import in_ms, pluralise


def summarise(record: RunRecord, results: Sequence[Result]) -> PrefillSummary:
    """The content of summary.json; times in us, end to end in ms, null where nothing was measured.

    Rows with layer "mean" average the n-th samples of all layers, for as many rounds as every layer has; rows
    with layer "sum" multiply that by the number of layers, `layers`. Where a cell occurs twice (a resumed
    run) the later result counts.
    """
    final = latest(results)
    end_to_end = [r for r in final if r.cell.stage == "end_to_end"]
    pulled_in = figures.pull_in(final)
    alone = [r for r in final if r.cell.request is not None]
    replayed = [r for r in final if r.cell.layer is not None and r.cell.request is None]
    slowest = _slowest_rank(replayed)
    # A step waits for its slowest rank.
    decisive = [r for r in replayed if r.cell.rank == slowest]
    kernels: list[KernelRow] = []
    contrasts: list[ContrastRow] = []
    for in_spread in _by_rank_and_spread(replayed).values():
        arms = arms_of(r for r in in_spread if r.cell.stage == "kernel")
        gathers = arms_of(r for r in in_spread if r.cell.stage == "gather")
        writes = arms_of(r for r in in_spread if r.cell.stage == "cache_write")
        for (kernel, name, data), group in (arms | writes).items():
            if not re.search("@|placebo|again", name):  # what the arms are set against has no row
                gather = gathers.get((gather_for(kernel), name, data))
                kernels += [
                    _kernel_row(record, Group((result,)), result.cell.layer, gather)
                    for result in group.results
                ]
                mean = _kernel_row(record, group, "mean", gather)
                kernels += [mean, _sum_row(mean)]
    for stage in ("kernel", "cache_write"):
        compared = [r for r in pulled_in if r.cell.stage == stage and r.cell.request is None]
        for (_, spread_k), in_spread in _by_rank_and_spread(compared).items():
            contrasts += kernel_contrasts(spread_k, arms_of(in_spread))
    contrasts += end_to_end_contrasts([r for r in pulled_in if r.cell.stage == "end_to_end"])
    return PrefillSummary(
        schema_version=2,
        status=record.status,
        tolerance_pct=stats.SAME_TOLERANCE_PCT,
        slowest_rank=slowest,
        kernels=kernels,
        contrasts=contrasts,
        end_to_end=[_end_to_end_row(r) for r in end_to_end if not r.control],
        requests=per_request.rows(record, [r for r in alone if r.cell.rank == slowest], decisive),
        attribution=break_down(record, end_to_end + decisive),
        variants=variant_rows(record, final),
    )


def _slowest_rank(replayed: Iterable[Result]) -> int | None:
    """The rank whose paged arm is slowest, by the mean of its medians; None: only one rank."""
    medians: dict[int, list[float]] = {}
    for result in replayed:
        cell = result.cell
        paged = (cell.stage, cell.arm, cell.data) == ("kernel", "paged", "captured")
        if cell.rank is not None:
            of_rank = medians.setdefault(cell.rank, [])
            if paged and result.samples_us and not result.one_segment_for:
                of_rank.append(float(np.median(result.samples_us)))
    return max(medians, key=lambda rank: float(np.mean(medians[rank] or [0.0])), default=None)


def _by_rank_and_spread(results: Iterable[Result]) -> dict[tuple[int, int], list[Result]]:
    """Results by their rank and the spread_k of their series, ascending."""
    series: dict[str, list[Result]] = {}
    for result in results:
        series.setdefault(result.series, []).append(result)
    groups: dict[tuple[int, int], list[Result]] = {}
    for members in series.values():
        groups.setdefault((members[0].cell.rank or 0, spread_of(members)), []).extend(members)
    return dict(sorted(groups.items()))


def _kernel_row(record: RunRecord, group: Group, layer: Layer, gather: Group | None) -> KernelRow:
    """One row of `kernels`; `gather` is the arm's gather on all layers."""
    cell = group.cell
    warmups = [float(np.mean(r.warmup_us)) for r in group.measured if r.warmup_us]
    fields = figures.of_samples(rounds(group.measured))
    fields["warnings"] += _clock_warnings(group.measured)
    copying, warnings = _gather(group, gather)
    fields["warnings"] += warnings
    attended = [r.cell.layer for r in group.measured if cell.stage == "kernel"]
    clock_mhz = figures.median_clock_mhz(group.measured)
    return KernelRow(
        **figures.cell_fields(cell),
        **fields,
        **work.rates(record, attended, fields["median_us"], clock_mhz),
        layer=layer,
        layers=len(group.measured) if layer == "mean" else None,
        rank=cell.rank,
        warmup_us=float(np.mean(warmups)) if warmups else None,
        gather_us=copying["median_us"],
        gather_ci95_us=copying["ci95_us"],
        gather_gbps=work.gather_gbps(record, cell.kernel, copying["median_us"]),
        clock_mhz=clock_mhz,
        stopped=_stopped(group.results),
        status=group.status.value,
        reason=_reason(record, group) if layer == "mean" else group.reason,
    )


def _sum_row(mean: KernelRow) -> KernelRow:
    """The sum over the mean's layers: its times multiplied by their number; rates are the mean's."""
    layers = mean.layers or 0
    times = {
        name: value and layers * value
        for name in ("median_us", "mean_us", "warmup_us", "gather_us")
        for value in [getattr(mean, name)]
    }
    intervals = {
        name: stats.map_interval(getattr(mean, name), lambda bound: layers * bound)
        for name in ("ci95_us", "gather_ci95_us")
    }
    return mean.model_copy(update={"layer": "sum", **times, **intervals})


def _reason(record: RunRecord, group: Group) -> str | None:
    """The group's reason, and how many of the run's layers it lacks; synthetic inputs cover few layers
    anyway.
    """
    layers = record.layers or []
    lacking = len(set(layers) - {r.cell.layer for r in group.results})
    if not lacking or group.cell.data != "captured":
        return group.reason
    return "; ".join(
        filter(None, [f"{lacking} of {pluralise(len(layers), 'layer')} not measured", group.reason])
    )


def _stopped(results: Iterable[Result]) -> str | None:
    """What ended the results' series, each once, e.g. "precision, time"."""
    return ", ".join(sorted({r.stopped for r in results if r.stopped})) or None


def _clock_warnings(results: Iterable[Result]) -> list[str]:
    """A warning about the clocks during the results, from the first series whose clock fell."""
    return [text for r in results for text in figures.clock_warnings(r)][:1]


def _gather(group: Group, gather: Group | None) -> tuple[figures.Fields, list[str]]:
    """The figures of the arm's gather on the arm's layers, and warnings if they are missing."""
    on_same = gather.on_layers(r.cell.layer for r in group.measured or group.results) if gather else None
    if on_same is None:
        return figures.of_samples([]), []
    warnings = []
    if group.measured and on_same.status is not Status.OK:
        warnings.append(f"gather: {on_same.status.value}: {on_same.reason}")
    return figures.of_samples(rounds(on_same.measured)), warnings


def _end_to_end_row(result: Result) -> PrefillRow:
    """One row of `end_to_end`, in ms."""
    fields = figures.of_samples(result.samples_us)
    return PrefillRow(
        arm=result.cell.arm,
        spread_k=result.cell.spread_k,
        median_ms=None if fields["median_us"] is None else fields["median_us"] / 1000,
        ci95_ms=stats.map_interval(fields["ci95_us"], in_ms),
        n=fields["n"],
        stopped=result.stopped,
        status=result.status.value,
        reason=result.reason,
        warnings=fields["warnings"] + figures.clock_warnings(result),
    )
