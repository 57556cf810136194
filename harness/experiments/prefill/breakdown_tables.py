"""The account in tables: what the paged KV cache costs, what the replay predicts, where the time goes,
whether inputs matter, and when gathering pays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis import stats
from harness.analysis.breakdown.rows import (
    Account,
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
from harness.report.rows import named_arm, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent, signed
from harness.units import counted

COSTS = ("fragmentation", "paging", "cache_write", "total")
BESIDE = ("allocation", "hooks", "compact")
ACCOUNT = ("", "measured", "% of {whole} [95%]", "verdict", "predicted", "closure")
ACCOUNT_FULL = (
    *("", "measured ms [95%]", "% of {whole} [95%]", "verdict", "pairs"),
    *("predicted ms [95%]", "% of {whole}", "closure ms [95%]", "% of measured"),
)
SYNTHETIC = ("", "{unit}", "change [95%]", "verdict")
SYNTHETIC_FULL = ("", "{unit} [95%]", "change {unit} [95%]", "change % [95%]", "verdict", "rounds")
BREAK_EVEN = ("", "gather {unit}", "saving {unit} [95%]", "uses [95%]", "one use from")
BREAK_EVEN_FULL = ("", "paged {unit}", "contiguous {unit}", *BREAK_EVEN[1:], "pays")


def tables(summary: PrefillSummary, full: bool = False) -> list[Table]:
    """The tables of a summary's attribution; none without it.

    They fit a screen of 80 columns; `full` ones have every interval.
    """
    account = summary.attribution
    if not account:
        return []
    others = (where_table(account, full), synthetic_table(account, full), break_even_table(account, full))
    return [_account(account, full), *(table for table in others if table)]


def host_line(host: HostBound) -> str:
    """Whether the step waits for the GPU or for the host, and what that rests on."""
    facts: list[str] = [host.verdict]
    if host.gpu_busy_pct is not None:
        facts.append(f"the GPU is busy for {host.gpu_busy_pct:.0f}% of the step")
    if host.pass_through_pct is not None:
        through = percent(host.pass_through_pct, host.ci95_pct, digits=0, sign=False)
        planted = f"{host.planted_ms:.3f} ms" if host.planted_ms is not None else "the GPU time"
        facts.append(f"of {planted} planted ahead of the layers' attention {through} reached the latency")
    return "Host or GPU: " + "; ".join([*facts, *([host.reason] if host.reason else [])])


def _account(account: Account, full: bool) -> Table:
    """What was measured, what the replay predicts, and what is left between."""
    notes, whole = Notes(), "engine" if account.engine_ms is not None else "paged 1"
    if shared := _shared_remark(account):  # said once, below the table
        predicted = [_without(row, shared) for row in account.predicted]
        account = account.model_copy(update={"predicted": predicted})
    columns = tuple(column.format(whole=whole) for column in (ACCOUNT_FULL if full else ACCOUNT))
    groups = [[row for row in account.measured if row.component in part] for part in (COSTS, BESIDE)]
    lines = [[_component(account, row, full, notes) for row in group] for group in groups]
    sections = [Section("", group) for group in lines if group]
    below = [*notes.lines(), *_account_legend(account, shared), *_costly_hooks(account)]
    below.append(host_line(account.host_bound))
    title = "How much of the prefill is the paged KV cache?"
    return Table(title, columns, sections, [_engine_line(account)], below)


def _component(account: Account, row: MeasuredRow, full: bool, notes: Notes) -> Line:
    name, digits = row.component, decimals(account)
    predicted, closure = find(account.predicted, component=name), find(account.closure, component=name)
    measured = with_reason(interval_of(row.ms, row.ci95_ms if full else None, digits), row, notes)
    share = percent(row.pct, row.ci95_pct)
    forecast = rest = NONE
    if predicted:
        bounds = predicted.ci95_ms if full else None
        forecast = with_reason(interval_of(predicted.ms, bounds, digits), predicted, notes)
    if closure:
        rest = interval_of(closure.ms, closure.ci95_ms if full else None, digits)
        rest = f"* {rest}" if closure.closed is False else rest
    cells = (measured, share, row.verdict or NONE)
    if not full:
        return Line(name.replace("_", " "), (*cells, forecast, rest))
    of_measured = closure.pct_of_measured if closure else None
    more = (
        percent(predicted.pct, predicted.ci95_pct) if predicted else NONE,
        rest,
        NONE if of_measured is None else f"{signed(of_measured, 1)}%",
    )
    return Line(name.replace("_", " "), (*cells, str(row.n), forecast, *more))


def _engine_line(account: Account) -> str:
    """The whole that the shares are of, and how fine a difference could be seen."""
    digits = decimals(account)
    if account.engine_ms is None:
        whole = "engine: not measured; shares are of paged in one run"
    else:
        figure = interval_of(account.engine_ms, None, digits, sign=False, unit=" ms")
        bounds = account.engine_ci95_ms
        whole = "engine: " + figure + (f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else "")
        whole += " a prefill"
    if runs := account.engine_spread_k:
        spread = f", {runs.min:g} to {runs.max:g}" if runs.min != runs.max else ""
        whole += f"; blocks as vLLM allocated them: median {counted(runs.median, 'run')}{spread}"
    floor = account.noise_floor_pct
    if floor is None:
        most = max(row.n for row in account.measured)
        few = 0 < most < stats.INTERVAL_SAMPLES
        return f"{whole}; noise floor not known: {'too few rounds' if few else 'no A/A series'}"
    return f"{whole}; noise floor (A/A) {floor:.2f}%"


def _shared_remark(account: Account) -> str | None:
    """What is said of every figure that was predicted, e.g. that few layers were replayed."""
    remarks = {row.reason for row in account.predicted if row.ms is not None}
    return remarks.pop() if len(remarks) == 1 else None


def _without(row: PredictedRow, remark: str) -> PredictedRow:
    said = row.ms is not None and row.reason == remark
    return row.model_copy(update={"reason": None}) if said else row


def _account_legend(account: Account, shared: str | None) -> list[str]:
    """What the rows and columns are."""
    k, names = account.spread_k, {row.component for row in account.measured}
    rows = [f"fragmentation: {k if k > 1 else 'many'} runs against 1", "paging: one run against dense"]
    rows.append("cache write: dense against no write")
    if "allocation" in names:
        rows.append("allocation: vLLM's own blocks against one run")
    if "hooks" in names:
        rows.append("hooks: the harness's idle wrappers, which all but `engine` pass, against none")
    if "compact" in names:
        rows.append(f"compact: gathered first, against {counted(k, 'run')}")
    which = f" ({shared})" if shared else ""
    return [
        f"ms per prefill. {'; '.join(rows)}.",
        f"predicted: the same from replayed kernels, summed over the layers{which}; closure: measured "
        f"minus predicted, * if its interval excludes zero{_few_layers(account)}.",
    ]


def _costly_hooks(account: Account) -> list[str]:
    """That the harness itself cost more than the noise floor, if it did."""
    hooks = find(account.measured, component="hooks")
    floor = account.noise_floor_pct
    if hooks is None or hooks.ci95_pct is None or floor is None or hooks.ci95_pct[0] <= floor:
        return []
    cost = percent(hooks.pct, hooks.ci95_pct, sign=False)
    return [
        f"The harness's idle wrappers cost {cost} of the prefill here. The other rows have them on both "
        "sides; read those of a host-bound step with care."
    ]


def _few_layers(account: Account) -> str:
    """Why closures have no star where layers were left out; "" if none was."""
    replayed = {row.layers for row in account.predicted if row.layers is not None}
    if not (fewer := sorted(replayed - {account.layers})):
        return ""
    some = f"{' or '.join(map(str, fewer))} of {counted(account.layers or 0, 'layer')}"
    return f"; no * where predicted from {some}: their differences are not in its interval"


def decimals(account: Account) -> int:
    """Decimals of a time in ms: three for a step of up to 100 ms, fewer for longer ones."""
    times = [account.engine_ms, *(row.unprofiled_ms for row in account.profiled)]
    longest = max((time for time in times if time is not None), default=0)
    return next((digits for digits, limit in ((3, 1e2), (2, 1e3), (1, 1e4)) if longest < limit), 0)


def where_table(account: Account, full: bool) -> Table | None:
    """Every profiled arm's step by category, in ms."""
    profiled = account.profiled
    if not profiled:
        return None
    arms = [(row.arm, row.spread_k) for row in profiled]
    digits, notes = decimals(account), Notes()
    parts = {(c.arm, c.spread_k, c.category): c for c in account.components}
    lines = []
    for category in dict.fromkeys(category for _, _, category in parts):
        found = [parts.get((*arm, category)) for arm in arms]
        if full or any(round((part and part.ms) or 0, digits) for part in found):
            lines.append(Line(category, tuple(_part(part, digits, full) for part in found)))
    ending = [
        Line("prefill", tuple(_time(row.unprofiled_ms, digits) for row in profiled)),
        Line("the profiled one", tuple(_time(row.profiled_ms, digits) for row in profiled)),
        Line("overhead", tuple(_overhead(row, account.components, notes) for row in profiled)),
    ]
    legend = (
        "ms, of one profiled prefill an arm; prefill: the median without a profiler, as everywhere else; "
        f"{_remainder(account)}: what the categories leave of the shorter of these two."
    )
    columns = ("", *(named_arm(*arm) for arm in arms))
    sections = [Section("", lines), Section("", ending)]
    return Table("Where the time goes", columns, sections, below=[*notes.lines(), legend])


def _part(part: CategoryRow | None, digits: int, full: bool) -> str:
    if part is None or part.ms is None:
        return NONE
    return f"{part.ms:.{digits}f}" + (f" ({part.pct:.1f}%)" if full and part.pct is not None else "")


def _overhead(row: ProfilingRow, parts: Sequence[CategoryRow], notes: Notes) -> str:
    """What the profiler added (from 1000% on times what, "x52"), marked where the categories take longer than
    the step did without it."""
    if row.overhead_pct is None:
        return NONE
    pct = row.overhead_pct
    shown = f"{pct:+.0f}%" if pct < 1000 else f"x{1 + pct / 100:.0f}"
    arm = row.arm, row.spread_k
    together = sum(part.ms or 0 for part in parts if (part.arm, part.spread_k) == arm)
    if together <= 1.001 * (row.unprofiled_ms or 0):
        return shown
    return f"{shown} {notes.mark('the categories add up to more than the prefill: profiling slows them')}"


def _remainder(account: Account) -> str:
    """What the step is when it is in no category."""
    names = {row.category for row in account.components}
    return "outside operators" if "outside operators" in names else "GPU idle"


@dataclass(frozen=True)
class _Unit:
    """How times of a call are written: as the longest of a table needs it."""

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
        """A time, or with a sign a difference, and its interval; "-" for None. No decimals from 1000 on."""
        if us is None:
            return NONE
        scaled = [value / self.us for value in (us, *(bounds or ()))]
        digits = self.digits if max(map(abs, scaled)) < 1000 else 0
        return interval_of(scaled[0], scaled[1:], digits, sign)

    def name_in(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column.format(unit=self.name) for column in columns)


def synthetic_table(account: Account, full: bool) -> Table | None:
    """From random inputs to the captured ones, a step at a time."""
    rows, notes = account.captured_vs_synthetic, Notes()
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


def break_even_table(account: Account, full: bool) -> Table | None:
    """When gathering the cache first is worth its cost, per kernel and page size."""
    rows, notes = account.break_even, Notes()
    if not rows:
        return None
    unit = _Unit.of(us for row in rows for us in (row.gather_us, row.paged_us))
    lines: dict[str, list[Line]] = {}
    for row in rows:
        lines.setdefault(f"{row.kernel} ({row.provider})", []).append(_uses(row, unit, full, notes))
    legend = (
        f"{unit.name} per layer. saving: paged minus contiguous; uses: attention calls on one gathered copy "
        "that pay for it; one use from: tokens from which one call does, if the gather grows with the length "
        "and the saving with its square."
    )
    columns = unit.name_in(BREAK_EVEN_FULL if full else BREAK_EVEN)
    sections = [Section(heading, found) for heading, found in lines.items()]
    return Table("Break-even of gathering", columns, sections, below=[*notes.lines(), legend])


def _uses(row: BreakEvenRow, unit: _Unit, full: bool, notes: Notes) -> Line:
    length, undecided = row.length_for_one_use, row.reuses is None
    uses = interval_of(row.reuses, row.reuses_ci95, _digits_of_uses(row.reuses), sign=False)
    times = unit.show(row.gather_us), unit.show(row.saving_us, row.saving_ci95_us, sign=True)
    tokens = NONE if length is None else str(max(length, 1))  # a gather that costs next to nothing
    label = with_reason(f"block size {row.block_size}", row, notes)
    if not full:
        return Line(label, (*times, row.pays if undecided else uses, tokens))
    kernels = unit.show(row.paged_us), unit.show(row.contiguous_us)
    return Line(label, (*kernels, *times, uses, tokens, row.pays))


def _digits_of_uses(uses: float | None) -> int:
    """One decimal, but of less than a tenth two digits that are not zero."""
    return 1 - math.floor(math.log10(uses)) if uses and uses < 0.1 else 1


def _time(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
