"""The charts of a sweep: what the paged KV cache costs each point's prefill, by component, and its kernel."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.breakdown.rows import MeasuredRow
from harness.report.charts.spec import INK, Axis, Bars, Dot, Key, Tip
from harness.report.charts.spec import Row as Entry
from harness.report.rows import change
from harness.report.tables import percent
from harness.sweep.summary import PointSummary
from harness.units import pluralise

TOTAL = Key("all three together, 95% interval", INK, "diamond", hollow=True)
COMPONENT_LOOKS = {
    "fragmentation": Key("fragmentation", "#CC79A7", "circle"),
    "paging": Key("paging", "#D55E00", "square"),
    "cache_write": Key("cache write", "#0072B2", "triangle"),  # the bars' yellow is too faint for points
}
KERNEL = {
    "paging": Key("paging tax: one segment against dense, 95% interval", "#D55E00", "square"),
    "fragmentation": Key("fragmentation: most segments against one, 95% interval", "#CC79A7", "circle"),
}
NO_BREAKDOWN = "no breakdown"


def charts(points: Sequence[PointSummary]) -> list[Bars]:
    """A row for each point, in percent of its engine's prefill, and one in percent of its kernel's call.

    Args:
        points: of a sweep's summary: name, options, status, and attribution and kernel or None.
    """
    prefills = [_prefill(point) for point in points]
    calls = [_kernel(point) for point in points]
    lacking = any(entry.label.endswith(NO_BREAKDOWN) for entry in prefills)
    note = f"{NO_BREAKDOWN}: the engine ran no other arm; see the kernel, if replayed." if lacking else ""
    share, of_call = Axis("% of the prefill", zero=0.0), Axis("% of an attention call", zero=0.0)
    return [
        Bars("What the paged KV cache costs a prefill", share, prefills, note=note),
        Bars("What the paged KV cache costs the engine's kernel", of_call, calls),
    ]


def _prefill(point: PointSummary) -> Entry:
    if not point.attribution:
        return _missing_entry(point, NO_BREAKDOWN)
    rows = {row.component: row for row in point.attribution.measured if row.pct is not None}
    looks = {name: look for name, look in {**COMPONENT_LOOKS, "total": TOTAL}.items() if name in rows}
    dots = [_dot(point.name, rows[name], look) for name, look in looks.items()]
    return Entry(point.name, dots=dots)


def _kernel(point: PointSummary) -> Entry:
    rows = point.kernel.contrasts if point.kernel else {}
    if not rows:
        return _missing_entry(point, "not replayed")
    dots = []
    for name, row in rows.items():
        split = f", spread_k = {row.spread_k}" if name == "fragmentation" else ""
        tip = Tip(
            [
                f"{point.name}: {KERNEL[name].label.partition(':')[0]}{split}",
                f"{row.kernel}: {change(row)}, {row.verdict}",
                f"n = {pluralise(row.n, 'pair')}",
            ]
        )
        dots.append(Dot(row.delta_pct, KERNEL[name], tip, row.ci95_pct))
    return Entry(point.name, dots=dots)


def _missing_entry(point: PointSummary, missing: str) -> Entry:
    """A point without figures, with its status, or what a finished one lacks."""
    return Entry(f"{point.name}: {missing if point.status == 'finished' else point.status}")


def _dot(name: str, row: MeasuredRow, look: Key) -> Dot:
    assert row.pct is not None
    shown = percent(row.pct, row.ci95_pct)
    component = row.component.replace("_", " ")
    tip = Tip(
        [
            f"{name}: {component}",
            f"{shown} of the prefill, {row.verdict}",
            f"n = {pluralise(row.n, 'pair')}",
        ]
    )
    return Dot(row.pct, look, tip, row.ci95_pct if look is TOTAL else None)
