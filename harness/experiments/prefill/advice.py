"""What to do about a run's breakdown: what to change, where the time goes instead, what to measure next."""

from __future__ import annotations

from harness.analysis.breakdown.rows import Breakdown, MeasuredRow
from harness.analysis.busy_host import why_busy
from harness.analysis.rows import find, select
from harness.runs.schema import RunRecord

REMEDIES = {
    "fragmentation": "Fragmentation costs most: larger blocks make fewer segments; --block-sizes 64,128 "
    "times them side by side.",
    "paging": "Paging costs most: larger blocks or another backend may cost less; --block-sizes and "
    "--attention-backends time them side by side.",
    "cache_write": "The cache write costs most, and no layout removes it: python -m harness verify tries a "
    "plugin that leaves it out (the arm `no write`) on your model.",
}
IDLE = ("GPU idle", "outside operators")
TOO_WIDE_PCT = 20.0  # an interval of the total that no time that one would wait for narrows


def advise(record: RunRecord, breakdown: Breakdown) -> list[str]:
    """At most three lines; none if the total has no interval."""
    total = find(breakdown.measured, component="total")
    if total is None or total.ci95_pct is None:
        return []
    lines = [_change(breakdown, total), _elsewhere(breakdown), _next(record, total)]
    return [line for line in lines if line]


def _change(breakdown: Breakdown, total: MeasuredRow) -> str | None:
    """The remedy for the dearest part, or none needed."""
    parts = [row for row in breakdown.measured if row.component in REMEDIES and row.verdict == "slower"]
    if parts and total.verdict == "slower":
        return REMEDIES[max(parts, key=lambda row: row.pct or 0).component]
    if total.verdict == "same" and total.ci95_pct:
        return f"Leave the layout as it is: it costs less than {max(total.ci95_pct[1], 0.01):.2f}% here."
    return None


def _elsewhere(breakdown: Breakdown) -> str | None:
    """What the step spends most of its time on."""
    waits = breakdown.host_bound.verdict
    if waits in ("host-bound", "partly host-bound"):
        return (
            f"The step is {waits}: more tokens in a step (--batch, --length) or a faster host help before "
            "any kernel does."
        )
    rows = [row for row in select(breakdown.components, arm="engine") if row.category not in IDLE]
    rows = [row for row in rows if row.pct and row.pct <= 100]  # more: the profiler slowed it down
    if not rows:
        return None
    most = max(rows, key=lambda row: row.pct or 0)
    return f"Look first at {most.category}: {most.pct:.0f}% of the prefill."


def _next(record: RunRecord, total: MeasuredRow) -> str | None:
    """How to settle an unclear total; a clear one needs other processes."""
    seconds, bounds = record.config.get("max_seconds"), total.ci95_pct
    if total.verdict == "unclear" and why_busy(record.host_load):
        return "The host was busy with other work: repeat it on an idle one."
    if total.verdict == "unclear" and bounds and bounds[1] - bounds[0] > TOO_WIDE_PCT:
        return (
            "The total is unclear because prefills took very different times: repeat it on an idle machine."
        )
    if total.verdict == "unclear" and seconds and bounds and not record.config.get("repeats"):
        return (
            f"The total is unclear, its interval {bounds[1] - bounds[0]:.1f} points wide: four times the "
            f"time (--max-seconds {4 * seconds:g}) halves that."
        )
    if total.verdict == "unclear":
        return None
    return "Before quoting this, repeat it: --processes 5 adds what differs from one process to the next."
