"""The requests of a batch, each alone, beside their sum and the step that has them all."""

from __future__ import annotations

from harness.report.rows import Row, change
from harness.report.tables import NONE, Line, Notes, Section, Table, ms

COLUMNS = ("", "blocks", "spread_k", "dense", "1 run", "split", "fragmentation")
FIGURES = ("dense_us", "one_run_us", "paged_us")


def tables(summary: Row) -> list[Table]:
    """One table with a section for each layer; none for a run of one prompt."""
    rows = summary.get("requests") or []
    if not rows:
        return []
    notes = Notes()
    figures = [row[name] for row in rows for name in FIGURES if row[name]]
    digits = 4 if all(us < 10_000 for us in figures) else 3
    layers = dict.fromkeys(row["layer"] for row in rows)
    sections = [
        Section(f"layer {layer}", [_line(row, notes, digits) for row in rows if row["layer"] == layer])
        for layer in layers
    ]
    above = [
        f"ms of {rows[0]['kernel']} ({rows[0]['provider']}), the engine's kernel, on one request of the step "
        "alone; NxLENGTH: there are N of these."
    ]
    below = ["sum: of all requests, one after the other; step: all of them in one call, as the engine does."]
    return [Table("Per request", COLUMNS, sections, above, [*notes.lines(), *below])]


def _line(row: Row, notes: Notes, digits: int) -> Line:
    label = f"{row['count']}x{row['length']}" if row["length"] else row["request"]
    if row["reason"]:
        said = f"{row['status']}: {row['reason']}"
        label += f" {notes.mark(said)}"
    cells = [NONE if row[name] is None else str(row[name]) for name in ("blocks", "spread_k")]
    cells += [ms(row[name], digits) for name in FIGURES]
    return Line(label, (*cells, NONE if row["delta_pct"] is None else change(row)))
