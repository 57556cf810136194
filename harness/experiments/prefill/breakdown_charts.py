"""The breakdown as charts: what the paged KV cache costs, component by component, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import stats
from harness.analysis.breakdown.rows import Breakdown, MeasuredRow, PredictedRow
from harness.analysis.rows import PrefillRow, find
from harness.experiments.prefill.breakdown_tables import decimals
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.charts.spec import BAND, INK, SOFT, Axis, Bars, Dot, Key, Part, Sheet, Tip
from harness.report.charts.spec import Row as Entry
from harness.report.rows import named_arm
from harness.report.tables import interval_of, percent, with_interval
from harness.report.tips import Tips
from harness.units import pluralise

# Paul Tol's colours, lightest beside darkest, none of them a kernel's on the same page; what is in no
# category is hatched.
COLOURS = {
    "attention": "#332288",
    "cache write": "#F0E442",
    "matrix products": "#88CCEE",
    "norms, activations, rope": "#999933",
    "sampling": "#CC6677",
    "copies": "#661100",
    "other": "#555555",
}
Component = MeasuredRow | PredictedRow
ORDER = ("engine", "paged", "dense", "no_write", "compact")
# From an arm with neither cache nor block table up to the fragmented one: each starts where the last ended.
STEPS = {"cache_write": "#F0E442", "paging": "#882255", "fragmentation": "#AA4499"}
TOTAL, OTHER = "#999999", "#44AA99"  # and allocation and compact, which are not part of the total
PREDICTED = Key("predicted from replayed kernels", INK, "diamond", hollow=True)
NOT_PROFILED = Key("", SOFT, hollow=True)


def sheets(summary: PrefillSummary, tips: Tips) -> list[Sheet]:
    """What the paged KV cache adds to a prefill, and where each arm's time goes."""
    breakdown = summary.attribution
    if not breakdown:
        return []
    return [
        Sheet(
            "attribution", breakdown.sentence, [_costs(summary, breakdown), _times(summary, breakdown, tips)]
        )
    ]


def _costs(summary: PrefillSummary, breakdown: Breakdown) -> Bars:
    """A bar for each component. Those that add up to the total start where the previous one ends."""
    measured = {row.component: row for row in breakdown.measured if row.ms is not None}
    predicted = {row.component: row for row in breakdown.predicted if row.ms is not None}
    one_segment, floor = find(Mean(summary).sweep(), spread_k=1), breakdown.noise_floor_pct
    level_ms = one_segment.median_ms if one_segment else None
    floor_ms = None if level_ms is None or floor is None else level_ms * floor / 100
    rows, level = [], 0.0
    for component in (*STEPS, *(name for name in measured if name not in STEPS)):
        if component not in measured:
            continue
        row, start = measured[component], level if component in STEPS else 0.0
        band = None if floor_ms is None else (start - floor_ms, start + floor_ms)
        dots = [_predicted_dot(predicted[component], start, breakdown)] if component in predicted else []
        rows.append(Entry(_cost_label(row, breakdown), [_cost(row, start, breakdown)], dots, start, band))
        level += row.ms or 0.0 if component in STEPS else 0.0
    keys = [Key(with_interval("measured", *(row.ci95_ms for row in measured.values())), SOFT)]
    keys += [PREDICTED] if any(row.dots for row in rows) else []
    keys += [Key("noise floor, around the bar's start", BAND)] if floor_ms is not None else []
    whole = {*STEPS, "total"} <= measured.keys()
    axis = Axis("ms per prefill" if whole else "ms per prefill, for the components measured", zero=0.0)
    note = " ".join(missing(summary))
    return Bars("What the paged KV cache costs a prefill", axis, rows, legend=keys, note=note)


def _cost_label(row: MeasuredRow, breakdown: Breakdown) -> str:
    of_prefill = row.pct is not None
    cost = percent(row.pct, row.ci95_pct) if of_prefill else f"{_format_added(row, breakdown)} ms"
    return f"{_name(row)}: {cost}, {row.verdict}"


def _format_added(row: MeasuredRow, breakdown: Breakdown) -> str:
    return f"{row.ms:+.{decimals(breakdown)}f}"


def _cost(row: MeasuredRow, start: float, breakdown: Breakdown) -> Part:
    assert row.ms is not None
    colour = STEPS.get(row.component, TOTAL if row.component == "total" else OTHER)
    lines = [
        f"{_name(row)}: {row.treatment} minus {row.baseline}",
        f"measured {interval_of(row.ms, row.ci95_ms, decimals(breakdown), unit=' ms')}, {row.verdict}",
        *([] if row.pct is None else [f"{percent(row.pct, row.ci95_pct)} of the prefill"]),
        f"n = {pluralise(row.n, 'pair')}",
        *([row.reason] if row.reason else []),
    ]
    return Part(row.ms, Key("", colour), Tip(lines), _from(start, row), _format_added(row, breakdown))


def _predicted_dot(row: PredictedRow, start: float, breakdown: Breakdown) -> Dot:
    assert row.ms is not None
    predicted = interval_of(row.ms, row.ci95_ms, decimals(breakdown), unit=" ms")
    tip = Tip([f"{_name(row)}, predicted from replayed kernels", f"predicted {predicted}"])
    return Dot(start + row.ms, PREDICTED, tip, _from(start, row), below=True)


def _from(start: float, row: Component) -> stats.Interval | None:
    """The interval of a bar's end."""
    return stats.map_interval(row.ci95_ms, lambda bound: start + bound)


def _name(row: Component) -> str:
    return row.component.replace("_", " ")


def _times(summary: PrefillSummary, breakdown: Breakdown, tips: Tips) -> Bars:
    """A bar for each profiled arm, split into categories, with its median; and paged in one segment."""
    profiled = {(row.arm, row.spread_k) for row in breakdown.profiled}
    beside = {("paged", 1)} if profiled else set()
    arms = [
        row
        for row in summary.end_to_end
        if row.median_ms is not None and (row.arm, row.spread_k) in profiled | beside
    ]
    arms.sort(key=lambda row: (ORDER.index(row.arm) if row.arm in ORDER else len(ORDER), -row.spread_k))
    median = with_interval("the arm's median prefill without a profiler", *(row.ci95_ms for row in arms))
    rows = [_arm(row, breakdown, Key(median, INK, "tick"), tips) for row in arms]
    return Bars("Where the time goes: one profiled prefill of each arm", Axis("ms per prefill"), rows)


def _arm(row: PrefillRow, breakdown: Breakdown, median: Key, tips: Tips) -> Entry:
    """An arm's categories, stacked, and its median."""
    digits, name = decimals(breakdown), named_arm(row.arm, row.spread_k)
    whole = row.median_ms
    assert whole is not None
    shown = next((places for places, limit in ((2, 10), (1, 100)) if whole < limit), 0)
    parts = []
    for part in breakdown.components:
        if part.ms and (part.arm, part.spread_k) == (row.arm, row.spread_k):
            share = "" if part.pct is None else f", {part.pct:.1f}% of the prefill"
            tip = Tip([f"{name}: {part.category}", f"{part.ms:.{digits}f} ms{share}"])
            text = f"{part.ms:.{min(digits, shown)}f}"
            parts.append(Part(part.ms, _category(part.category), tip, text=text))
    parts = parts or [Part(whole, NOT_PROFILED, Tip([f"{name}: not profiled"]), text="not profiled")]
    dot = Dot(whole, median, tips.cell(row, f"prefill, {name}", digits=digits), row.ci95_ms)
    return Entry(f"{name}: {whole:.{digits}f} ms", parts, [dot])


def _category(name: str) -> Key:
    return Key(name, COLOURS[name]) if name in COLOURS else Key(name, SOFT, hatched=True)


def missing(summary: PrefillSummary) -> Sequence[str]:
    """Notes on components without a bar."""
    breakdown = summary.attribution
    if not breakdown:
        return [
            "The prefill was not timed with attention overridden inside the engine, so there is no breakdown."
        ]
    return [f"{_name(row)}: not measured ({row.reason})" for row in breakdown.measured if row.ms is None]
