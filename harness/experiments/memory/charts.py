"""The answer and the charts of `memory`: every counter at every stage, and KV cache that holds no token."""

from __future__ import annotations

from harness.experiments.memory.rows import MemoryCell, MemorySummary
from harness.experiments.memory.view import COUNTERS, ENGINES, WAYS
from harness.report.charts.spec import INK, SOFT, Axis, Bars, Dot, Key, Part, Sheet, Tip
from harness.report.charts.spec import Row as Entry
from harness.report.tips import Tips
from harness.runs.schema import RunRecord
from harness.units import MIB

# Hollow where two counters have similar markers; "held" is drawn around "used".
KEYS = {
    "allocated": Key("allocated", "#0072B2", "circle"),
    "reserved": Key("reserved", "#56B4E9", "square", hollow=True),
    "NVML": Key("NVML", "#CC79A7", "triangle"),
    "RSS": Key("RSS", INK, "diamond"),
    "KV used": Key("KV used", "#D55E00", "triangle", hollow=True),
    "KV held": Key("KV held", "#E69F00", "ring"),
}
SMALLEST_MIB = 1e-3  # on a logarithmic axis; there is no zero
WITH, WITHOUT = Key("with a token", "#009E73"), Key("without", SOFT, hatched=True)


def charts(record: RunRecord, summary: MemorySummary, tips: Tips) -> list[Sheet]:
    """For each engine a row per stage with a point per counter; and a bar for each way to keep K and V."""
    title = f"Memory: {record.model.name}, {record.device.name}"
    waste = Bars("KV cache of all inputs at once", Axis("MiB"), _waste(summary))
    return [Sheet("memory", title, [*(_stages(summary, engine) for engine in ENGINES), waste])]


def _stages(summary: MemorySummary, engine: str) -> Bars:
    rows = [_stage(row) for row in summary.cells if row.arm == engine]
    note = "Zeros and missing counters have no point; they are in the table." if rows else ""
    drawn = {dot.key for row in rows for dot in row.dots}
    return Bars(
        f"Memory through the stages: {engine}",
        Axis("MiB (logarithmic)", log=True),
        rows,
        legend=[key for key in KEYS.values() if key in drawn],
        note=note,
    )


def _stage(row: MemoryCell) -> Entry:
    label = row.moment + (f", {row.tokens} tokens" if row.tokens else "")
    dots = []
    for name, key in COUNTERS.items():
        size = (getattr(row, key) or 0) / MIB
        if size >= SMALLEST_MIB:
            dots.append(
                Dot(
                    size,
                    KEYS[name],
                    Tip([f"{row.arm}, {label}: {name}", _figure_text(row, key), _processes(row)]),
                )
            )
    return Entry(label if row.status == "ok" else f"{label}: {row.status}", dots=dots)


def _figure_text(row: MemoryCell, key: str) -> str:
    bounds = getattr(row, f"ci95_{key}")
    interval = f" [{bounds[0] / MIB:,.1f}, {bounds[1] / MIB:,.1f}]" if bounds else ""
    return f"{getattr(row, key) / MIB:,.1f} MiB{interval}"


def _processes(row: MemoryCell) -> str:
    return f"n = {row.n} process{'es' * (row.n > 1)}" + (f"; {row.reason}" if row.reason else "")


def _waste(summary: MemorySummary) -> list[Entry]:
    entries = []
    for row in summary.waste:
        name = WAYS[row.way]
        if row.used_bytes is None or row.unused_bytes is None:
            entries.append(Entry(f"{name}: {row.status}"))
            continue
        unused = row.unused_bytes / MIB
        needed = row.used_bytes / MIB - unused
        parts = [Part(needed, WITH, Tip([name, f"{needed:,.1f} MiB hold a token"]))]
        if unused > 0:
            without = f"{unused:,.1f} MiB without a token, {row.unused_pct:.1f}%"
            parts.append(Part(unused, WITHOUT, Tip([name, without])))
        entries.append(Entry(f"{name}: {row.used_bytes / MIB:,.1f} MiB", parts))
    return entries
