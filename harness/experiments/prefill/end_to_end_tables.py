"""Whole prefills: over spread_k, the other arms in the engine, and engines that differ in one option."""

from __future__ import annotations

from harness.analysis.breakdown.rows import Share, VariantRow
from harness.analysis.other_engines import Variant
from harness.analysis.rows import ContrastRow, PrefillRow, find
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.rows import change, mark_if_remarked, named_arm, status_line, verdict, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent

ARMS = (
    "engine",
    "wrapped",
    "placebo",
    "dense",
    "no_write",
    "compact",
)  # spin and spin_0 are probes, not ways to prefill
COLUMNS = ("", "median ms", "against", "difference", "verdict")
ENGINES = ("", "median ms", "against baseline", "verdict")
COSTS = ("", "paging tax ms [95%]", "%", "cache write ms [95%]", "%")
SHORT = {
    "block_size": "block size {}",
    "flash_attn_version": "FA{}",
    "attention_backend": "{}",
    "cudagraph_mode": "graphs {}",
}


def sweep_section(mean: Mean, columns: int, notes: Notes) -> Section | None:
    """The prefill at each spread_k against one segment, and one segment against itself, padded to
    `columns`.
    """
    lines = []
    for row in mean.sweep():
        k = row.spread_k
        paired = mean.contrast("prefill", "paged@1", "paged", k)
        if row.median_ms is None:
            lines.append(status_line(str(k), row, notes))
        else:
            lines.append(
                _sweep_line(mark_if_remarked(str(k), row, notes), f"{row.median_ms:.3f}", paired, columns)
            )
    if repeat := mean.contrast("prefill", "paged@1", "paged@1 again", 1):
        lines.append(_sweep_line("A/A", NONE, repeat, columns))
    return Section("Prefill, end to end: ms per prefill", lines) if lines else None


def _sweep_line(label: str, median: str, paired: ContrastRow | None, columns: int) -> Line:
    cells = (median, change(paired), verdict(paired))
    return Line(label, (*cells, NONE, NONE)[: columns - 1])


def arms_table(mean: Mean) -> Table | None:
    """The prefill's other arms, each against the arm from which it differs in one thing; None without any."""
    rows = {row.arm: row for row in mean.summary.end_to_end if row.arm in ARMS}
    if not rows:
        return None
    one_segment = find(mean.sweep(), spread_k=1)
    notes = Notes()
    lines = []
    for arm, baseline, paired in (
        ("engine", NONE, None),
        ("wrapped", "engine", mean.prefill_contrast("engine", "wrapped")),
        ("placebo", "paged 1", mean.prefill_contrast("paged@1", "placebo")),
        ("paged 1", "dense", mean.prefill_contrast("dense", "paged@1")),
        ("dense", "no write", mean.prefill_contrast("no_write", "dense")),
        ("no_write", NONE, None),
        ("compact", "", mean.prefill_contrast("paged", "compact")),
    ):
        row = one_segment if arm == "paged 1" else rows.get(arm)
        if row:
            lines.append(_arm_line(row, baseline or named_arm("paged", row.spread_k), paired, notes))
    return Table("Prefill, end to end, other arms", COLUMNS, [Section("", lines)], below=notes.lines())


def _arm_line(row: PrefillRow, against: str, paired: ContrastRow | None, notes: Notes) -> Line:
    name = named_arm(row.arm, row.spread_k)
    if row.median_ms is None:
        return status_line(name, row, notes)
    difference = (against, change(paired), paired.verdict) if paired else (NONE, NONE, NONE)
    return Line(mark_if_remarked(name, row, notes), (f"{row.median_ms:.3f}", *difference))


def engine_tables(summary: PrefillSummary) -> list[Table]:
    """Other engines against the baseline's, and each engine's own costs; none without variants."""
    rows = summary.variants or []
    tables = [_engines(rows), _costs(rows)] if rows else []
    return [table for table in tables if table]


def label(name: str) -> str:
    """A variant's name in a table, e.g. "block size 64", "FA2"."""
    variant = Variant.from_name(name)
    return SHORT[variant.option].format(variant.value) if variant else name


def _engines(rows: list[VariantRow]) -> Table:
    notes = Notes()
    lines = [_engine_line(row, notes) for row in rows]
    owns = ", ".join(dict.fromkeys(row.baseline for row in rows if row.baseline))
    floor = rows[0].noise_floor_pct
    known = "not known, as there is no A/A" if floor is None else f"up to {percent(floor, None, sign=False)}"
    below = [
        *notes.lines(),
        f"baseline: the main job's configuration ({owns}) in a separate engine like the others. All are up "
        "at once, one prefills at a time, in a new random order every round.",
        "Differences between engines include the difference between two engines of one configuration (A/A: "
        f"baseline again), here {known}; verdicts use the interval widened by it.",
    ]
    return Table("Prefill, end to end, other engines", ENGINES, [Section("", lines)], below=below)


def _engine_line(row: VariantRow, notes: Notes) -> Line:
    name = label(row.variant)
    if row.engine_ms is None:
        return status_line(name, row, notes)
    against = change(row)
    return Line(mark_if_remarked(name, row, notes), (f"{row.engine_ms:.3f}", against, row.verdict or NONE))


def _costs(rows: list[VariantRow]) -> Table | None:
    """Differences between arms of one engine; no other engine is in these figures."""
    timed = [row for row in rows if row.engine_ms is not None]
    if not timed:
        return None
    notes, digits = Notes(), 3 if max(row.engine_ms or 0 for row in timed) < 100 else 2
    lines = [
        Line(
            label(row.variant),
            (*_cost(row.paging, digits, notes), *_cost(row.cache_write, digits, notes)),
        )
        for row in timed
    ]
    below = [
        *notes.lines(),
        "paging: one segment against dense; cache write: dense against no write; each within one engine, in "
        "percent of its prefill.",
    ]
    return Table("What the cache costs in each engine", COSTS, [Section("", lines)], below=below)


def _cost(row: Share, digits: int, notes: Notes) -> tuple[str, str]:
    shown = with_reason(interval_of(row.ms, row.ci95_ms, digits), row, notes)
    return shown, percent(row.pct, None)
