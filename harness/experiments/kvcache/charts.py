"""The answer and the charts of `kvcache`: whole generations, then time and cache size token by token."""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis import stats
from harness.experiments.kvcache.rows import KVCacheSummary, ModeRow, StepRow
from harness.experiments.kvcache.summary import MODES
from harness.experiments.kvcache.view import LABELS, mib
from harness.report.charts.spec import (
    SOFT,
    Axis,
    Bars,
    Key,
    Line,
    Lines,
    Part,
    Point,
    Sheet,
    Tip,
)
from harness.report.charts.spec import (
    Row as Entry,
)
from harness.report.tips import Tips, median_ms, pick_evenly
from harness.runs.schema import RunRecord
from harness.units import MIB, in_ms

LOOKS = {
    mode: Key(LABELS[mode], colour, marker, "solid")
    for mode, colour, marker in zip(
        MODES, ("#CC79A7", "#0072B2", "#D55E00"), ("circle", "square", "triangle"), strict=True
    )
}
FORMULA = Key("K and V by the formula", SOFT, "dot", "dotted")
MOST_STEPS = 40  # points of a line
STEP = Axis("generated token")
SPEED_UPS = {"kv_cache": "KV cache against no cache", "paged": "paged against no cache"}


def charts(record: RunRecord, summary: KVCacheSummary, tips: Tips) -> list[Sheet]:
    """Bars of whole generations; lines over the tokens."""
    where = f"{record.model.name}, {record.device.name}"
    modes = summary.modes
    whole = [
        Bars("The whole generation", Axis("ms"), [_mode(row, summary, tips) for row in modes]),
        Bars("Peak memory of the mode's process", Axis("MiB"), [_peak(row) for row in modes]),
    ]
    return [
        Sheet("kvcache_modes", f"Generation with and without a KV cache: {where}", whole),
        Sheet("kvcache_steps", f"Latency and KV cache along a generation: {where}", _steps(summary, tips)),
    ]


def _steps(summary: KVCacheSummary, tips: Tips) -> list[Lines]:
    count = len({row.step for row in summary.steps})
    note = f"{MOST_STEPS} of the {count} tokens are drawn; summary.json has all." * (count > MOST_STEPS)
    times = [_line(summary, mode, lambda row: tips.point(row.step, row, _name(row))) for mode in MODES]
    caches = [_line(summary, mode, _plot_cache) for mode in MODES]
    if caches[1].points:
        caches.append(Line(FORMULA, _line(summary, MODES[1], _plot_formula).points))
    return [
        Lines(
            "Time of each token",
            STEP,
            Axis("ms per token, with 95% intervals", log=True),
            times,
            note=note,
        ),
        Lines("K and V that are kept", STEP, Axis("MiB", zero=0.0), caches),
    ]


def _mode(row: ModeRow, summary: KVCacheSummary, tips: Tips) -> Entry:
    name = LABELS[row.arm]
    if row.median_us is None:
        return Entry(f"{name}: {row.status}")
    speed_up = next(
        (f"{each.speed_up:.2f}x" for each in summary.speed_ups if each.contrast == SPEED_UPS.get(row.arm)),
        "",
    )
    bounds = stats.map_interval(row.ci95_us, in_ms)
    tip = tips.cell(row, f"{name}, {row.output_len} tokens")
    bar = Part(row.median_us / 1000, LOOKS[row.arm], tip, bounds, speed_up)
    return Entry(f"{name}: {median_ms(row)}" + (f", {speed_up}" if speed_up else ""), [bar])


def _peak(row: ModeRow) -> Entry:
    name, peak = LABELS[row.arm], row.peak_bytes
    if peak is None:
        return Entry(f"{name}: {row.status if row.status != 'ok' else 'not counted here'}")
    label = f"{name}: {mib(peak)} MiB"
    return Entry(label, [Part(peak / MIB, LOOKS[row.arm], Tip([f"{name}, peak memory", f"{mib(peak)} MiB"]))])


def _line(summary: KVCacheSummary, mode: str, point: Callable[[StepRow], Point]) -> Line:
    rows = [row for row in summary.steps if row.arm == mode and row.median_us is not None]
    return Line(LOOKS[mode], [point(row) for row in pick_evenly(rows, MOST_STEPS)])


def _name(row: StepRow) -> str:
    return f"{LABELS[row.arm]}, token {row.step} after {row.tokens}"


def _plot_cache(row: StepRow) -> Point:
    if (size := row.cache_bytes) is None:
        return Point(row.step, None)
    return Point(row.step, size / MIB, None, Tip([_name(row), f"{size / MIB:,.3f} MiB are kept"]))


def _plot_formula(row: StepRow) -> Point:
    if (size := row.formula_bytes) is None:
        return Point(row.step, None)
    lines = [f"{row.tokens} tokens, by the formula", f"{size / MIB:,.3f} MiB"]
    return Point(row.step, size / MIB, None, Tip(lines))
