"""The breakdown in tables: what the paged KV cache costs, what the replay predicts, where the time goes,
whether inputs matter, and when gathering pays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis import stats
from harness.analysis.breakdown.rows import (
    Breakdown,
    BreakEvenRow,
    CategoryRow,
    HostBound,
    MeasuredRow,
    PredictedRow,
    ProfilingRow,
    StepRow,
)
from harness.analysis.rows import find
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.rows import named_arm, titled, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent, signed
from harness.units import pluralise

COSTS = ("fragmentation", "paging", "cache_write", "total")
BESIDE = ("placebo", "allocation", "hooks", "compact")
BREAKDOWN = ("", "measured", "% of {whole} [95%]", "verdict", "predicted", "residual")
BREAKDOWN_FULL = (
    *("", "measured ms [95%]", "% of {whole} [95%]", "verdict", "pairs"),
    *("predicted ms [95%]", "% of {whole}", "residual ms [95%]", "% of measured"),
)
SYNTHETIC = ("", "{unit}", "change [95%]", "verdict")
SYNTHETIC_FULL = ("", "{unit} [95%]", "change {unit} [95%]", "change % [95%]", "verdict", "rounds")
BREAK_EVEN = ("", "gather {unit}", "saving {unit} [95%]", "uses [95%]", "one use from")
BREAK_EVEN_FULL = ("", "paged {unit}", "contiguous {unit}", *BREAK_EVEN[1:], "pays")


def tables(summary: PrefillSummary, full: bool = False) -> list[Table]:
    """The tables of a summary's breakdown; none without one.

    They fit in 80 columns; `full` ones have every interval.
    """
    breakdown = summary.attribution
    if not breakdown:
        return []
    others = (
        where_table(breakdown, full),
        synthetic_table(breakdown, full),
        break_even_table(breakdown, full),
    )
    return [_breakdown(breakdown, full), *(table for table in others if table)]


def host_line(host: HostBound) -> str:
    """Whether the step waits for the GPU or for the host, and the evidence."""
    facts: list[str] = [host.verdict]
    if host.gpu_busy_pct is not None:
        facts.append(f"the GPU is busy {host.gpu_busy_pct:.0f}% of the step")
    if host.pass_through_pct is not None:
        through = percent(host.pass_through_pct, host.ci95_pct, digits=0, sign=False)
        injected = f"{host.injected_ms:.3f} ms" if host.injected_ms is not None else "the GPU time"
        facts.append(f"{through} of an injected {injected} reached the latency")
    return "Host or GPU: " + "; ".join([*facts, *([host.reason] if host.reason else [])])


def _breakdown(breakdown: Breakdown, full: bool) -> Table:
    """What was measured, what the replay predicts, and the residual."""
    notes, whole = Notes(), "engine" if breakdown.engine_ms is not None else "paged 1"
    if shared := _shared_remark(breakdown):  # once, below the table
        predicted = [_drop_remark(row, shared) for row in breakdown.predicted]
        breakdown = breakdown.model_copy(update={"predicted": predicted})
    columns = tuple(column.format(whole=whole) for column in (BREAKDOWN_FULL if full else BREAKDOWN))
    groups = [[row for row in breakdown.measured if row.component in part] for part in (COSTS, BESIDE)]
    lines = [[_component(breakdown, row, full, notes) for row in group] for group in groups]
    sections = [Section("", group) for group in lines if group]
    below = [*notes.lines(), *_breakdown_legend(breakdown, shared), *_clocks(breakdown)]
    below += _costly_hooks(breakdown)
    below.append(host_line(breakdown.host_bound))
    title = "How much of the prefill is due to the paged KV cache?"
    return Table(title, columns, sections, [_engine_line(breakdown)], below)


def _component(breakdown: Breakdown, row: MeasuredRow, full: bool, notes: Notes) -> Line:
    name, digits = row.component, decimals(breakdown)
    predicted, residual = find(breakdown.predicted, component=name), find(breakdown.residual, component=name)
    measured = with_reason(interval_of(row.ms, row.ci95_ms if full else None, digits), row, notes)
    share = percent(row.pct, row.ci95_pct)
    forecast = rest = NONE
    if predicted:
        bounds = predicted.ci95_ms if full else None
        forecast = with_reason(interval_of(predicted.ms, bounds, digits), predicted, notes)
    if residual:
        rest = interval_of(residual.ms, residual.ci95_ms if full else None, digits)
        rest = f"* {rest}" if residual.includes_zero is False else rest
    cells = (measured, share, row.verdict or NONE)
    if not full:
        return Line(name.replace("_", " "), (*cells, forecast, rest))
    of_measured = residual.pct_of_measured if residual else None
    more = (
        percent(predicted.pct, predicted.ci95_pct) if predicted else NONE,
        rest,
        NONE if of_measured is None else f"{signed(of_measured, 1)}%",
    )
    return Line(name.replace("_", " "), (*cells, str(row.n), forecast, *more))


def _engine_line(breakdown: Breakdown) -> str:
    """The total that shares refer to, and the noise floor."""
    digits = decimals(breakdown)
    if breakdown.engine_ms is None:
        whole = "engine: not measured; shares are of paged in one segment"
    else:
        figure = interval_of(breakdown.engine_ms, None, digits, sign=False, unit=" ms")
        bounds = breakdown.engine_ci95_ms
        whole = "engine: " + figure + (f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else "")
        whole += " a prefill"
    if allocated := breakdown.engine_spread_k:
        spread = f", {allocated.min:g} to {allocated.max:g}" if allocated.min != allocated.max else ""
        whole += f"; blocks as vLLM allocated them: median {pluralise(allocated.median, 'segment')}{spread}"
    floor = breakdown.noise_floor_pct
    if floor is None:
        most = max(row.n for row in breakdown.measured)
        few = 0 < most < stats.INTERVAL_SAMPLES
        return f"{whole}; noise floor not known: {'too few rounds' if few else 'no A/A series'}"
    nulls = "A/A, placebo" if find(breakdown.measured, component="placebo") else "A/A"
    return f"{whole}; noise floor ({nulls}) {floor:.2f}%"


def _shared_remark(breakdown: Breakdown) -> str | None:
    """The remark that all predicted figures share, e.g. that few layers were replayed."""
    remarks = {row.reason for row in breakdown.predicted if row.ms is not None}
    return remarks.pop() if len(remarks) == 1 else None


def _drop_remark(row: PredictedRow, remark: str) -> PredictedRow:
    is_shared = row.ms is not None and row.reason == remark
    return row.model_copy(update={"reason": None}) if is_shared else row


def _breakdown_legend(breakdown: Breakdown, shared: str | None) -> list[str]:
    """What the rows and columns are."""
    k, names = breakdown.spread_k, {row.component for row in breakdown.measured}
    rows = [
        f"fragmentation: {k if k > 1 else 'many'} segments against 1",
        "paging: one segment against dense",
    ]
    rows.append("cache write: dense against no write")
    if "placebo" in names:
        rows.append("placebo: one segment at another place of the pool, against one segment")
    if "allocation" in names:
        rows.append("allocation: vLLM's own blocks against one segment")
    if "hooks" in names:
        rows.append("hooks: the harness's idle wrappers, in every arm but `engine`, against none")
    if "compact" in names:
        rows.append(f"compact: gathered first, against {pluralise(k, 'segment')}")
    which = f" ({shared})" if shared else ""
    return [
        "ms per prefill, means with outliers bounded; the first three add up to the total, and the "
        f"intervals of all four hold at once. {'; '.join(rows)}.",
        f"predicted: the same from replayed kernels, summed over the layers{which}; residual: measured "
        f"minus predicted, * if its interval excludes zero{_few_layers(breakdown)}.",
    ]


def _clocks(breakdown: Breakdown) -> list[str]:
    """The clocks of prefills and replay, where known."""
    engine, replay = breakdown.clock_mhz, breakdown.replay_clock_mhz
    if engine is None or replay is None:
        return []
    return [
        f"SM clock: {engine:.0f} MHz in the prefills, {replay:.0f} MHz in the replay; attention is predicted "
        "at the prefills' clock."
    ]


def _costly_hooks(breakdown: Breakdown) -> list[str]:
    """A warning if the harness itself cost more than the noise floor."""
    hooks = find(breakdown.measured, component="hooks")
    floor = breakdown.noise_floor_pct
    if hooks is None or hooks.ci95_pct is None or floor is None or hooks.ci95_pct[0] <= floor:
        return []
    cost = percent(hooks.pct, hooks.ci95_pct, sign=False)
    return [
        f"The harness's idle wrappers cost {cost} of the prefill here. Other rows have them on both sides; "
        "read those of a host-bound step with care."
    ]


def _few_layers(breakdown: Breakdown) -> str:
    """What the intervals hold where layers were left out; "" if all were replayed."""
    replayed = {row.layers for row in breakdown.predicted if row.layers is not None}
    if not (fewer := sorted(replayed - {breakdown.layers})):
        return ""
    some = f"{' or '.join(map(str, fewer))} of {pluralise(breakdown.layers or 0, 'layer')}"
    return f"; where predicted from {some}, how these differ is in the interval"


def decimals(breakdown: Breakdown) -> int:
    """Decimals of a time in ms: three for a step of up to 100 ms, fewer for longer ones."""
    times = [breakdown.engine_ms, *(row.unprofiled_ms for row in breakdown.profiled)]
    longest = max((time for time in times if time is not None), default=0)
    return next((digits for digits, limit in ((3, 1e2), (2, 1e3), (1, 1e4)) if longest < limit), 0)


def where_table(breakdown: Breakdown, full: bool) -> Table | None:
    """Every profiled arm's step by category, in ms."""
    profiled = breakdown.profiled
    if not profiled:
        return None
    arms = [(row.arm, row.spread_k) for row in profiled]
    digits, notes = decimals(breakdown), Notes()
    parts = {(c.arm, c.spread_k, c.category): c for c in breakdown.components}
    lines = []
    for category in dict.fromkeys(category for _, _, category in parts):
        cells = [parts.get((*arm, category)) for arm in arms]
        if full or any(round((part and part.ms) or 0, digits) for part in cells):
            lines.append(Line(category, tuple(_part(part, digits, full) for part in cells)))
    ending = [
        Line("prefill", tuple(_time(row.unprofiled_ms, digits) for row in profiled)),
        Line("the profiled one", tuple(_time(row.profiled_ms, digits) for row in profiled)),
        Line("overhead", tuple(_overhead(row, breakdown.components, notes) for row in profiled)),
    ]
    legend = (
        "ms, from one profiled prefill per arm; prefill: the median without a profiler, as everywhere else; "
        f"{_remainder(breakdown)}: what the categories leave of the shorter of the two."
    )
    columns = ("", *(named_arm(*arm) for arm in arms))
    sections = [Section("", lines), Section("", ending)]
    return Table("Where the time goes", columns, sections, below=[*notes.lines(), legend])


def _part(part: CategoryRow | None, digits: int, full: bool) -> str:
    if part is None or part.ms is None:
        return NONE
    return f"{part.ms:.{digits}f}" + (f" ({part.pct:.1f}%)" if full and part.pct is not None else "")


def _overhead(row: ProfilingRow, parts: Sequence[CategoryRow], notes: Notes) -> str:
    """The profiler's overhead (as a factor from 1000% on, "x52"), marked where the categories take longer
    than the step without it.
    """
    if row.overhead_pct is None:
        return NONE
    pct = row.overhead_pct
    shown = f"{pct:+.0f}%" if pct < 1000 else f"x{1 + pct / 100:.0f}"
    arm = row.arm, row.spread_k
    together = sum(part.ms or 0 for part in parts if (part.arm, part.spread_k) == arm)
    if together <= 1.001 * (row.unprofiled_ms or 0):
        return shown
    return f"{shown} {notes.mark('the categories add up to more than the prefill: profiling slows them')}"


def _remainder(breakdown: Breakdown) -> str:
    """The name of the time outside all categories."""
    names = {row.category for row in breakdown.components}
    return "outside operators" if "outside operators" in names else "GPU idle"


@dataclass(frozen=True)
class _Unit:
    """The unit and precision for times of a call, chosen for a table's longest."""

    name: str
    us: float
    digits: int

    @classmethod
    def of(cls, times_us: Iterable[float | None]) -> _Unit:
        longest = max((time for time in times_us if time is not None), default=0)
        if longest < 10_000:
            return cls("us", 1, 1 if longest < 1000 else 0)
        return cls("ms", 1000, 1 if longest < 1_000_000 else 0)

    def show(self, us: float | None, bounds: Sequence[float] | None = None, sign: bool = False) -> str:
        """A time, or a signed difference, with its interval; "-" for None. No decimals from 1000 on."""
        if us is None:
            return NONE
        scaled = [value / self.us for value in (us, *(bounds or ()))]
        digits = self.digits if max(map(abs, scaled)) < 1000 else 0
        return interval_of(scaled[0], scaled[1:], digits, sign)

    def name_in(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column.format(unit=self.name) for column in columns)


def synthetic_table(breakdown: Breakdown, full: bool) -> Table | None:
    """From random inputs to the captured ones, a step at a time."""
    rows, notes = breakdown.captured_vs_synthetic, Notes()
    if not rows:
        return None
    unit = _Unit.of(row.us for row in rows)
    lines = [_step(row, unit, full, notes) for row in rows]
    below = [f"{unit.name} per attention call of the engine's kernel, dense; change: from the line above."]
    columns = unit.name_in(SYNTHETIC_FULL if full else SYNTHETIC)
    return Table("Captured against synthetic", columns, [Section("", lines)], below=[*notes.lines(), *below])


def _step(row: StepRow, unit: _Unit, full: bool, notes: Notes) -> Line:
    share = percent(row.delta_pct, row.delta_ci95_pct)
    verdict, name = row.verdict or NONE, with_reason(row.step, row, notes)
    if not full:
        return Line(name, (unit.show(row.us), share, verdict))
    change = unit.show(row.delta_us, row.delta_ci95_us, sign=True)
    return Line(name, (unit.show(row.us, row.ci95_us), change, share, verdict, str(row.n)))


def break_even_table(breakdown: Breakdown, full: bool) -> Table | None:
    """When gathering the cache first pays off, per kernel and block size."""
    rows, notes = breakdown.break_even, Notes()
    if not rows:
        return None
    unit = _Unit.of(us for row in rows for us in (row.gather_us, row.paged_us))
    lines: dict[str, list[Line]] = {}
    for row in rows:
        lines.setdefault(titled(row.kernel, row.provider), []).append(_uses(row, unit, full, notes))
    legend = (
        f"{unit.name} per layer. saving: paged minus contiguous; uses: attention calls on one gathered copy "
        "that pay for it; one use from: length in tokens from which one call pays, if the gather grows with "
        "the length and the saving with its square."
    )
    columns = unit.name_in(BREAK_EVEN_FULL if full else BREAK_EVEN)
    sections = [Section(heading, of_section) for heading, of_section in lines.items()]
    return Table("Break-even of gathering", columns, sections, below=[*notes.lines(), legend])


def _uses(row: BreakEvenRow, unit: _Unit, full: bool, notes: Notes) -> Line:
    length, undecided = row.length_for_one_use, row.reuses is None
    uses = interval_of(row.reuses, row.reuses_ci95, _digits_of_uses(row.reuses), sign=False)
    times = unit.show(row.gather_us), unit.show(row.saving_us, row.saving_ci95_us, sign=True)
    tokens = NONE if length is None else str(max(length, 1))  # an almost free gather
    label = with_reason(f"block size {row.block_size}", row, notes)
    if not full:
        return Line(label, (*times, row.pays if undecided else uses, tokens))
    kernels = unit.show(row.paged_us), unit.show(row.contiguous_us)
    return Line(label, (*kernels, *times, uses, tokens, row.pays))


def _digits_of_uses(uses: float | None) -> int:
    """One decimal; below a tenth, two significant digits."""
    return 1 - math.floor(math.log10(uses)) if uses and uses < 0.1 else 1


def _time(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
