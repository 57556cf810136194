"""The figure of a sweep: what the layout costs the prefill of each point, and what that is made of."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.counting import counted
from harness.report.page import bars
from harness.report.page.bars import Dot, Entry
from harness.report.page.svg import Key, Tip
from harness.report.rows import Row
from harness.report.text import percent

TOTAL = Key("all three together, 95% interval", "var(--ink)", "diamond", hollow=True)
PARTS = {
    "fragmentation": Key("fragmentation", "#CC79A7", "circle"),
    "paging": Key("paging", "#D55E00", "square"),
    "cache_write": Key("cache write", "#0072B2", "triangle"),  # the bars' yellow is too faint for a point
}


def figure(points: Sequence[Row]) -> Markup:
    """A line a point, in percent of its own engine's prefill; "" if none has an account.

    Args:
        points: of a sweep's summary: name, options, status, and attribution or None.
    """
    title = "What the layout costs a prefill"
    return bars.figure(title, "% of the prefill", [_entry(point) for point in points])


def _entry(point: Row) -> Entry:
    if not point["attribution"]:
        status = "no account" if point["status"] == "finished" else point["status"]
        return Entry(f"{point['name']}: {status}")
    rows = {row["component"]: row for row in point["attribution"]["measured"] if row["pct"] is not None}
    looks = {name: look for name, look in {**PARTS, "total": TOTAL}.items() if name in rows}
    dots = [_dot(point["name"], rows[name], look) for name, look in looks.items()]
    return Entry(point["name"], dots=dots)


def _dot(name: str, row: Row, look: Key) -> Dot:
    shown = percent(row["pct"], row["ci95_pct"])
    component = row["component"].replace("_", " ")
    tip = Tip(
        [
            f"{name}: {component}",
            f"{shown} of the prefill, {row['verdict']}",
            f"n = {counted(row['n'], 'pair')}",
        ]
    )
    return Dot(row["pct"], look, tip, row["ci95_pct"] if look is TOTAL else None)
