"""Engines that differ in one option: the same prefill in each, and what the cache costs there."""

from __future__ import annotations

from harness.analysis.other_engines import Variant
from harness.report.rows import Row, change, marked, status_line, warning_lines, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent

ENGINES = ("", "median ms", "against baseline", "verdict")
COSTS = ("", "paging tax ms [95%]", "%", "cache write ms [95%]", "%")
SHORT = {"block_size": "block size {}", "flash_attn_version": "FA{}", "attention_backend": "{}"}


def tables(summary: Row) -> list[Table]:
    """The engines against the baseline's, and each engine's own costs; none without variants."""
    rows = summary.get("variants") or []
    found = [_engines(rows), _costs(rows)] if rows else []
    return [table for table in found if table]


def label(name: str) -> str:
    """A variant's name in a table, e.g. "block size 64", "FA2"."""
    variant = Variant.named(name)
    return SHORT[variant.option].format(variant.value) if variant else name


def _engines(rows: list[Row]) -> Table:
    notes = Notes()
    lines = [_engine_line(row, notes) for row in rows]
    owns = ", ".join(dict.fromkeys(row["baseline"] for row in rows if row["baseline"]))
    floor = rows[0]["noise_floor_pct"]
    known = "not known, as there is no A/A" if floor is None else f"up to {percent(floor, None, sign=False)}"
    below = [
        *notes.lines(),
        f"baseline: the main job's configuration ({owns}) in an engine like the others. All are up at once, "
        "one prefills at a time, every round in a new random order.",
        "Differences between engines carry what two engines of one configuration differ by (A/A: baseline "
        f"again), here {known}; a verdict is that of the interval widened by as much.",
        *warning_lines(rows, lambda row: label(row["variant"])),
    ]
    return Table("Prefill, end to end, other engines", ENGINES, [Section("", lines)], below=below)


def _engine_line(row: Row, notes: Notes) -> Line:
    name = label(row["variant"])
    if row["engine_ms"] is None:
        return status_line(name, row, notes)
    against = change(row) if row["delta_pct"] is not None else NONE
    cells = (f"{row['engine_ms']:.3f}", against, row["verdict"] or NONE)
    return Line(marked(name, row, notes), cells)


def _costs(rows: list[Row]) -> Table | None:
    """What one engine's arms differ by: no other engine is in these figures."""
    timed = [row for row in rows if row["engine_ms"] is not None]
    if not timed:
        return None
    notes, digits = Notes(), 3 if max(row["engine_ms"] for row in timed) < 100 else 2
    lines = [
        Line(
            label(row["variant"]),
            (*_cost(row["paging"], digits, notes), *_cost(row["cache_write"], digits, notes)),
        )
        for row in timed
    ]
    below = [
        *notes.lines(),
        "paging: one run against dense; cache write: dense against no write; each within one engine, and in "
        "percent of its prefill.",
    ]
    return Table("What the cache costs in each engine", COSTS, [Section("", lines)], below=below)


def _cost(row: Row, digits: int, notes: Notes) -> tuple[str, str]:
    shown = with_reason(interval_of(row["ms"], row["ci95_ms"], digits), row, notes)
    return shown, NONE if row["pct"] is None else percent(row["pct"], None)
