"""summary.json of `workload`: passes of every arm, their contrasts, and stock's steps by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import mean

from harness.analysis import figures, stats
from harness.experiments.workload.rows import (
    ArmRow,
    KindRow,
    LayoutRow,
    StepRow,
    WorkContrast,
    WorkloadSummary,
)
from harness.measure.categories import ATTENTION, CACHE_WRITE, CATEGORIES
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord

STOCK, WHOLE, NO_CACHE = "stock", "whole", "no_cache"
STEPS, PROFILE = "step", "profile"  # stages
PERCENTILES = (50, 90, 99)
AGAIN = "A/A"
# Name, baseline, treatment, whether that is stock again.
PAIRS = (
    ("whole prompts", STOCK, WHOLE, False),
    ("wrappers", WHOLE, "wrapped", False),
    ("wrappers", STOCK, "wrapped", False),  # where prompts cannot be kept whole
    ("paging", "wrapped", "dense", False),
    ("cache write", "dense", NO_CACHE, False),
    ("without the cache", "wrapped", NO_CACHE, False),
    ("all of it", STOCK, NO_CACHE, False),
    (AGAIN, STOCK, STOCK, True),
)
KINDS = ("pure prefill", "chunk", "mixed", "decode")  # as engine.step_log has them
ALL = "all"
SLUGS = {name: name.partition(",")[0].replace(" ", "_") for name in CATEGORIES}
PARTS = 10  # of a pass, in the table of its layout


def summarise(record: RunRecord, results: Sequence[Result]) -> WorkloadSummary:
    """summary.json's lists: `arms`, `contrasts`, `kinds`, `layout`, `steps`."""
    final = latest(results)
    passes = [result for result in final if result.cell.stage == "end_to_end"]
    steps = [_step(result) for result in final if result.cell.stage == STEPS]
    profiled = {str(r.cell.at("kind")): r for r in final if r.cell.stage == PROFILE}
    recorded = [(arm, [*of]) for arm, of in groupby(steps, key=lambda step: step.arm)]
    # Between steps an engine mostly waits for requests that come when a trace says.
    gaps = {"gap_us": 0.0} if record.config.get("arrivals") else {}
    spent = [(arm, [step.model_copy(update=gaps) for step in of]) for arm, of in recorded]
    return WorkloadSummary(
        schema_version=2,
        status=record.status,
        arms=[_arm(record, result) for result in passes if not result.control],
        contrasts=_contrasts(passes),
        kinds=[row for arm, of in spent for row in _kinds(record, arm, of, profiled)],
        layout=[row for arm, of in recorded for row in _layout(arm, of)],
        steps=steps,
    )


def _arm(record: RunRecord, result: Result) -> ArmRow:
    fields = figures.cell_row(result)
    tokens = record.work.tokens if record.work else 0
    low, high = fields["ci95_us"] or (None, None)
    fast, slow = _rate(fields["requests"], low), _rate(fields["requests"], high)
    bounds: figures.Fields = {
        f"ci95_p{p}_us": stats.median_interval(values).ci95
        if (values := result.readings.get(f"p{p}_us"))
        else None
        for p in PERCENTILES
    }
    return ArmRow(
        **fields,
        **bounds,
        requests_per_s=_rate(fields["requests"], fields["median_us"]),
        ci95_requests_per_s=(slow, fast) if slow is not None and fast is not None else None,
        tokens_per_s=_rate(tokens, fields["median_us"]),
    )


def _rate(count: float, microseconds: float | None) -> float | None:
    return 1e6 * count / microseconds if microseconds else None


def _contrasts(passes: Sequence[Result]) -> list[WorkContrast]:
    """Every pair of arms that were both timed, by whole passes and by percentiles of requests."""
    by_arm = {(result.cell.arm, result.control): result for result in passes}
    rows: list[WorkContrast] = []
    for name, one, two, again in PAIRS:
        baseline, treatment = by_arm.get((one, False)), by_arm.get((two, again))
        if not (baseline and treatment) or name in [row.contrast for row in rows]:
            continue
        for figure in ("pass", *(f"p{p}" for p in PERCENTILES)):
            pair = _of_figure(baseline, figure), _of_figure(treatment, figure)
            if fields := figures.contrast_row(name, *pair):
                rows.append(_contrast(fields, one, two, figure))
    return rows


def _of_figure(result: Result, figure: str) -> Result:
    """The result with its passes' times, or in their place a percentile of their requests' times."""
    if figure == "pass":
        return result
    values = result.readings.get(f"{figure}_us", [])
    return Result(result.cell, result.series, result.status, samples_us=values, clock_mhz=result.clock_mhz)


def _contrast(fields: figures.Fields, one: str, two: str, figure: str) -> WorkContrast:
    rate, bounds = None, None
    if figure == "pass":
        rate = _more_per_s(fields["delta_pct"])
        low, high = fields["ci95_pct"] or (-100, 0)
        if low > -100:  # else a pass might take no time, at a rate without end
            bounds = _more_per_s(high), _more_per_s(low)
    return WorkContrast(
        **fields, treatment=two, baseline=one, figure=figure,
        requests_per_s_pct=rate, ci95_requests_per_s_pct=bounds,
    )  # fmt: skip


def _more_per_s(delta_pct: float) -> float:
    """Requests/s gained by a pass that takes so much longer, both in percent."""
    return 100 * (100 / (100 + delta_pct) - 1)


def _step(result: Result) -> StepRow:
    point = dict(result.cell.point)
    names = ("step", "kind", "tokens", "step_requests", "cached_tokens", "graph", "blocks", "segments")
    readings: figures.Fields = {name: result.readings[name][0] for name in ("start_us", "gap_us")}
    fields: figures.Fields = {name: point[name] for name in names}
    return StepRow(arm=result.cell.arm, us=result.samples_us[0], **fields, **readings)


def _kinds(
    record: RunRecord, arm: str, steps: Sequence[StepRow], profiled: dict[str, Result]
) -> list[KindRow]:
    """A row for each kind of step that there was, and one for all of them."""
    total_us = sum(step.us + step.gap_us for step in steps)
    found = [(kind, [step for step in steps if step.kind == kind]) for kind in KINDS]
    rows = [_kind(record, arm, kind, of, total_us, profiled.get(kind)) for kind, of in found if of]
    return rows if len(rows) < 2 else [*rows, _all(arm, rows, steps, total_us)]


def _kind(
    record: RunRecord, arm: str, kind: str, steps: Sequence[StepRow], total_us: float, profile: Result | None
) -> KindRow:
    mean_us, gap_us = mean(step.us for step in steps), mean(step.gap_us for step in steps)
    tokens = sum(step.tokens for step in steps)
    parts: figures.Fields = dict.fromkeys(("attention", "cache_write", "other", "waiting"))
    if profile:
        parts |= _parts(record, profile, tokens / len(steps), mean_us, mean_us + gap_us)
    return KindRow(
        **_common(arm, kind, steps, total_us),
        profiled=len(profile.readings["tokens"]) if profile else 0,
        **{f"{name}_pct": pct for name, pct in parts.items()},
        between_pct=100 * gap_us / max(mean_us + gap_us, 1e-9),
        without_cache=kind == "pure prefill",
    )


def _common(arm: str, kind: str, steps: Sequence[StepRow], total_us: float) -> figures.Fields:
    blocks, wall_us = sum(step.blocks for step in steps), sum(step.us + step.gap_us for step in steps)
    graphs = Counter(step.graph for step in steps)
    return {
        "arm": arm,
        "kind": kind,
        "steps": len(steps),
        "tokens": sum(step.tokens for step in steps),
        "step_requests": mean(step.step_requests for step in steps),
        "mean_us": mean(step.us for step in steps),
        "wall_us": wall_us,
        "wall_pct": 100 * wall_us / max(total_us, 1e-9),
        "graphs": ", ".join(f"{name} {count}" for name, count in graphs.most_common()),
        "segments_per_block": sum(step.segments for step in steps) / blocks if blocks else None,
        "cached_tokens": sum(step.cached_tokens for step in steps),
    }


def _parts(
    record: RunRecord, profile: Result, tokens: float, mean_us: float, wall_us: float
) -> figures.Fields:
    """Shares of a kind's time, in percent.

    On a GPU kernels take under the profiler what they take without it, so what is left of an ordinary step is
    idle. On a CPU the profiler slows the operators themselves, so shares are of the profiled steps.

    Args:
        tokens: of an ordinary step, by which those of profiled ones are scaled.
        mean_us: of an ordinary step.
        wall_us: the same, until the next one.
    """
    each = {slug: mean(profile.readings[f"{slug}_us"]) for slug in SLUGS.values()}
    scale = tokens / max(mean(profile.readings["tokens"]), 1.0)
    if record.device.kind == "cpu":
        scale = mean_us / max(mean(profile.readings["profiled_us"]), 1e-9)
    scale = min(scale, mean_us / max(sum(each.values()), 1e-9))
    pct = {slug: 100 * us * scale / max(wall_us, 1e-9) for slug, us in each.items()}
    attention, write = pct.pop(SLUGS[ATTENTION]), pct.pop(SLUGS[CACHE_WRITE])
    other = sum(pct.values())
    left = 100 * mean_us / max(wall_us, 1e-9) - attention - write - other
    return {"attention": attention, "cache_write": write, "other": other, "waiting": max(left, 0.0)}


def _all(arm: str, rows: Sequence[KindRow], steps: Sequence[StepRow], total_us: float) -> KindRow:
    """All steps; shares are the kinds', weighted by their time, where each kind has them."""

    def share(name: str) -> float | None:
        values = [(getattr(row, name), row.wall_us) for row in rows]
        if any(value is None for value, _ in values):
            return None
        return float(sum(value * us for value, us in values) / max(total_us, 1e-9))

    names = ("attention_pct", "cache_write_pct", "other_pct", "waiting_pct", "between_pct")
    shares: figures.Fields = {name: share(name) for name in names}
    return KindRow(
        **_common(arm, ALL, steps, total_us),
        profiled=sum(row.profiled for row in rows),
        **shares,
        without_cache=all(row.without_cache for row in rows),
    )


def _layout(arm: str, steps: Sequence[StepRow]) -> list[LayoutRow]:
    """How the block tables lay, in tenths of the pass."""
    rows = []
    for part in range(min(PARTS, len(steps))):
        count = min(PARTS, len(steps))
        here = steps[part * len(steps) // count : (part + 1) * len(steps) // count]
        blocks, segments = sum(s.blocks for s in here), sum(s.segments for s in here)
        if blocks:
            rows.append(
                LayoutRow(
                    arm=arm, part=part + 1, start_us=here[0].start_us, blocks=blocks, segments=segments,
                    segments_per_block=segments / blocks,
                )
            )  # fmt: skip
    return rows
