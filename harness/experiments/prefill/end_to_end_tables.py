"""The prefill end to end: its sweep over spread_k, the other arms in the engine, and doubts about either."""

from __future__ import annotations

from harness.analysis.rows import find
from harness.report.rows import Mean, Row, change, fold, marked, named_arm, status_line, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table

ARMS = (
    "engine",
    "wrapped",
    "dense",
    "no_cache",
    "compact",
)  # spin and spin_0 are a probe, not a way to run a prefill
COLUMNS = ("", "median ms", "against", "difference", "verdict")


def sweep_section(mean: Mean, columns: int, notes: Notes) -> Section | None:
    """The prefill at each spread_k against one run, and the latter against itself, in that many columns."""
    lines = []
    for row in mean.sweep():
        k = row["spread_k"]
        paired = mean.contrast("prefill", "paged@1", "paged", k)
        if row["median_ms"] is None:
            lines.append(status_line(str(k), row, notes))
        else:
            lines.append(_sweep_line(marked(str(k), row, notes), f"{row['median_ms']:.3f}", paired, columns))
    if repeat := mean.contrast("prefill", "paged@1", "paged@1 again", 1):
        lines.append(_sweep_line("A/A", NONE, repeat, columns))
    return Section("Prefill, end to end: ms per prefill", lines) if lines else None


def _sweep_line(label: str, median: str, paired: Row | None, columns: int) -> Line:
    cells = (median, change(paired) if paired else NONE, paired["verdict"] if paired else NONE)
    return Line(label, (*cells, NONE, NONE)[: columns - 1])


def arms_table(mean: Mean) -> Table | None:
    """The prefill's other arms, each against the arm that it differs from in one thing; None without any."""
    rows = {row["arm"]: row for row in mean.summary["end_to_end"] if row["arm"] in ARMS}
    if not rows:
        return None
    one_run = find(mean.sweep(), spread_k=1)
    notes = Notes()
    lines = []
    for arm, baseline, paired in (
        ("engine", NONE, None),
        ("wrapped", "engine", mean.prefill_contrast("engine", "wrapped")),
        ("paged 1", "dense", mean.prefill_contrast("dense", "paged@1")),
        ("dense", "no cache", mean.prefill_contrast("no_cache", "dense")),
        ("no_cache", NONE, None),
        ("compact", "", mean.prefill_contrast("paged", "compact")),
    ):
        row = one_run if arm == "paged 1" else rows.get(arm)
        if row:
            lines.append(_arm_line(row, baseline or named_arm("paged", row["spread_k"]), paired, notes))
    return Table("Prefill, end to end, other arms", COLUMNS, [Section("", lines)], below=notes.lines())


def _arm_line(row: Row, against: str, paired: Row | None, notes: Notes) -> Line:
    name = named_arm(row["arm"], row["spread_k"])
    if row["median_ms"] is None:
        return status_line(name, row, notes)
    difference = (against, change(paired), paired["verdict"]) if paired else (NONE, NONE, NONE)
    return Line(marked(name, row, notes), (f"{row['median_ms']:.3f}", *difference))


def warning_lines(mean: Mean) -> list[str]:
    """One line for each kind of warning: what disturbs a round disturbs all."""
    shown = [*mean.sweep(), *(row for row in mean.summary["end_to_end"] if row["arm"] in ARMS)]
    return [f"Warning: {text}" for text in fold(warnings(shown, _where), most_named=3)]


def _where(row: Row) -> str:
    return f"prefill, {named_arm(row['arm'], row['spread_k'])}"
