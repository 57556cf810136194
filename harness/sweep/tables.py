"""A sweep's tables: a line for each point under its model, with figures or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.analysis import stats
from harness.analysis.breakdown.rows import Breakdown, MeasuredRow
from harness.analysis.rows import ContrastRow, find
from harness.config import engine_options
from harness.report.rows import change
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, ms, percent
from harness.sweep.record import Point
from harness.sweep.summary import PointKernel, PointPrefill, PointSummary, SweepSummary
from harness.units import in_ms

# The cells of a point, None if its run lacks the figures; Notes for their marks.
Cells = Callable[[PointSummary, Notes], tuple[str, ...] | None]

COMPONENT_COLUMNS = ("fragmentation", "paging", "cache_write")
SHORT = {
    "flash_attn_version": "FA",
    "batch": "prompts",
    "block_size": "block",
    "tensor_parallel_size": "TP",
    "attention_backend": "backend",
}
NO_PREFILL = "no prefill in its summary: see its own tables"
NO_ARMS = "the prefill in one segment: no other arm ran in the engine (attribution: false)"


def tables(summary: SweepSummary, title: str, above: Sequence[str], full: bool = False) -> list[Table]:
    """All tables of a sweep's summary; `full` ones have every interval, the others fit a screen.

    Args:
        title: the first one's.
        above: prose above the first one.
    """
    all_tables = [_whole(summary, title, above, full), _parts(summary, full)]
    if any(point.kernel for point in summary.points):
        all_tables += [_paging(summary, full), _fragmentation(summary, full)]
    return [*all_tables, _between(summary)] if summary.between else all_tables


def _between(summary: SweepSummary) -> Table:
    """What processes with different seeds have in common, to be quoted."""
    varies = [name for name in summary.varies if name != "seed"]
    groups: dict[str, list[Line]] = {}
    for row in summary.between:
        point = Point(name="", options=row.options)
        heading = ", ".join(f"{_short(name)} {_format_value(point, name)}" for name in varies)
        share = percent(row.pct, row.ci95_pct, digits=2)
        spread = NONE if row.sd_pct is None else f"{row.sd_pct:.2f}"
        cells = (share, spread, str(row.processes))
        groups.setdefault(heading, []).append(Line(row.component.replace("_", " "), cells))
    below = (
        "means over processes that differ in their seed alone (other weights, other permutations of blocks); "
        "the interval holds what varies within and between processes. sd: between them. kernel: of the "
        "engine's kernel, replayed; the rest: of the engine's prefill."
    )
    columns = ("", "% [95%]", "sd", "processes")
    sections = [Section(heading, lines) for heading, lines in groups.items()]
    return Table("Between processes", columns, sections, below=[below])


def component(breakdown: Breakdown | None, name: str) -> MeasuredRow | None:
    """A component's row among a breakdown's measured ones."""
    return find(breakdown.measured, component=name) if breakdown else None


def _whole(summary: SweepSummary, title: str, above: Sequence[str], full: bool) -> Table:
    """What the paged KV cache costs at each point, with the noise floor."""
    columns = ("engine ms" + (" [95%]" if full else ""), "cost [95%]", "verdict", "noise")

    def cells(point: PointSummary, notes: Notes) -> tuple[str, ...] | None:
        breakdown, prefill = point.attribution, point.prefill
        if breakdown:
            total = component(breakdown, "total")
            verdict = (total and total.verdict) or NONE
            engine = _prefill_ms(breakdown.engine_ms, breakdown.engine_ci95_ms, full)
            return (engine, _share(total), verdict, _noise(breakdown))
        if prefill:
            median = _prefill_ms(prefill.median_ms, prefill.ci95_ms, full)
            return (f"{median} {notes.mark(NO_ARMS)}", NONE, NONE, _noise(prefill))
        return None

    below = (
        "engine: the prefill as vLLM runs it; cost: of the paged KV cache (fragmentation, paging and cache "
        "write together), in percent of engine; noise: the noise floor (A/A or placebo)."
    )
    return _table(summary, title, columns, cells, below, above, reasons=True)


def _parts(summary: SweepSummary, full: bool) -> Table:
    """The cost's components."""
    columns = tuple(part.replace("_", " ") + (" [95%]" if full else "") for part in COMPONENT_COLUMNS)

    def cells(point: PointSummary, notes: Notes) -> tuple[str, ...] | None:
        breakdown, prefill = point.attribution, point.prefill
        if breakdown:
            return tuple(_part(component(breakdown, part), full) for part in COMPONENT_COLUMNS)
        if prefill and prefill.fragmentation:
            row = prefill.fragmentation
            mark = notes.mark("of the prefill in one segment: the engine's own was not measured")
            share = percent(row.delta_pct, row.ci95_pct if full else None)
            return (f"{share} {row.verdict} {mark}", NONE, NONE)
        return None

    below = (
        "percent of the engine's prefill. fragmentation: the largest spread_k against one segment; paging: "
        "one segment against dense; cache write: dense against no write."
    )
    return _table(summary, "Components of the cost", columns, cells, below)


def _paging(summary: SweepSummary, full: bool) -> Table:
    """The cost of the block table for the engine's kernel."""

    def cells(point: PointSummary, notes: Notes) -> tuple[str, ...] | None:
        kernel = point.kernel
        return None if kernel is None else _contrast(kernel, "paging", full, notes)

    columns = ("dense ms", *_difference("paging tax", full), "verdict", "noise")
    below = (
        f"{_kernels(summary)}, replayed: ms per attention call, dense; paging tax: one segment against dense."
    )
    return _table(summary, "The engine's kernel: paging tax", columns, cells, below)


def _fragmentation(summary: SweepSummary, full: bool) -> Table:
    """The cost of many segments for the engine's kernel."""

    def cells(point: PointSummary, notes: Notes) -> tuple[str, ...] | None:
        kernel = point.kernel
        if not kernel:
            return None
        row = kernel.fragmentation
        return (str(row.spread_k) if row else NONE, *_contrast(kernel, "fragmentation", full, notes))

    columns = ("spread_k", "1 segment ms", *_difference("fragmentation", full), "verdict", "noise")
    below = (
        f"{_kernels(summary)}, replayed: ms per attention call in one segment; fragmentation: the largest "
        "spread_k against one segment."
    )
    return _table(summary, "The engine's kernel: fragmentation", columns, cells, below)


def _difference(name: str, full: bool) -> tuple[str, ...]:
    return (f"{name} ms [95%]", f"{name} % [95%]") if full else (f"{name} [95%]",)


def _contrast(kernel: PointKernel, name: str, full: bool, notes: Notes) -> tuple[str, ...]:
    """The baseline's time, the difference, its verdict and the noise floor; or why there is none."""
    row = kernel.contrasts.get(name)
    if row is None:
        return (f"{NONE} {notes.mark(kernel.reasons[name] or NONE)}", *[NONE] * (4 if full else 3))
    digits = 4 if row.baseline_us < 10_000 else 3
    bounds = stats.map_interval(row.ci95_us, in_ms)
    of_time = (interval_of(row.delta_us / 1000, bounds, digits),) if full else ()
    return (ms(row.baseline_us, digits), *of_time, change(row), row.verdict, _noise(row))


def _kernels(summary: SweepSummary) -> str:
    """The kernels of the points' engines."""
    return ", ".join(dict.fromkeys(point.kernel.kernel for point in summary.points if point.kernel))


def _table(
    summary: SweepSummary,
    title: str,
    columns: Sequence[str],
    cells: Cells,
    below: str,
    above: Sequence[str] = (),
    reasons: bool = False,
) -> Table:
    """A line for each point: the values of the varying options other than the model, then its cells.

    With `reasons`, notes below say why points have no figures.
    """
    notes = Notes()
    groups, shared, names = _group(summary)
    sections = []
    for group in groups:
        lines = [_line(point, names, len(columns), cells, notes, reasons) for point in group]
        sections.append(Section(_heading(group[0], shared), lines))
    heads = [_short(name) for name in names]
    return Table(title, (*heads, *columns), sections, list(above), [*notes.lines(), below])


def _line(
    point: PointSummary, names: Sequence[str], width: int, cells: Cells, notes: Notes, reasons: bool
) -> Line:
    first, *others = (_format_value(point, name) for name in names)
    if figures := cells(point, notes):
        return Line(first, (*others, *figures))
    finished = point.status == "finished"
    reason = NO_PREFILL if finished else point.reason
    mark = notes.mark(reason) if reasons and reason else ""
    status = " ".join(filter(None, ["" if finished else point.status, mark])) or NONE
    return Line(first, (*others, status, *[NONE] * (width - 1)))


def _group(summary: SweepSummary) -> tuple[list[list[PointSummary]], list[str], list[str]]:
    """The points by model, the varying options that are constant within every group, and the others.

    There is only one group if nothing varies within several. Every point has either a length or a batch: both
    vary as "batch".
    """
    points, varies = summary.points, summary.varies
    if "batch" in varies:
        varies = list(dict.fromkeys("batch" if name == "length" else name for name in varies))
    groups = [list(group) for _, group in groupby(points, key=lambda point: point.options.get("model"))]
    inside = [
        name
        for name in varies
        if any(len({repr(_value(point, name)) for point in group}) > 1 for group in groups)
    ]
    if not inside:
        return [points] if points else [], [], varies or ["model"]
    return groups, [name for name in varies if name not in inside], inside


def _heading(point: PointSummary, shared: Sequence[str]) -> str:
    """A group's constant options, e.g. "gpt2, max seconds 30"."""
    values = [(name, _format_value(point, name)) for name in shared]
    return ", ".join(value if name == "model" else f"{_short(name)} {value}" for name, value in values)


def _short(name: str) -> str:
    return SHORT.get(name, name.replace("_", " "))


def _format_value(point: Point, name: str) -> str:
    """A point's value of an option; for a directory its name."""
    value = _value(point, name)
    if value is None:
        return "default"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return engine_options.format_options(value) or "default"
    return Path(value).name if isinstance(value, str) else str(value)


def _value(point: Point, name: str) -> Any:
    options = point.options
    return options.get("batch") or options.get("length") if name == "batch" else options.get(name)


def _prefill_ms(value: float | None, bounds: Sequence[float] | None, full: bool) -> str:
    if value is None:
        return NONE
    return interval_of(value, bounds if full else None, 3 if value < 100 else 2, sign=False)


def _noise(row: Breakdown | PointPrefill | ContrastRow) -> str:
    floor = row.noise_floor_pct
    return NONE if floor is None else f"{floor:.2f}%"


def _share(row: MeasuredRow | None) -> str:
    return NONE if row is None else percent(row.pct, row.ci95_pct)


def _part(row: MeasuredRow | None, full: bool) -> str:
    if row is None or row.pct is None:
        return NONE
    share = percent(row.pct, row.ci95_pct if full else None)
    return f"{share} {row.verdict}" if row.verdict else share
