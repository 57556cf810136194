"""The answer and the figures of `cache`: what a warm prefix cache saves, and what a prefill takes."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from harness.report.page.cells import Cells, contrast_point, lost
from harness.report.page.lines import Band, Line, Plot, Point
from harness.report.page.svg import Key
from harness.report.rows import Row, change

COLOURS, MARKERS = ("#0072B2", "#D55E00"), ("circle", "square")  # single prompts, batches
SHARE = "share of the prompt that begins as a cached one, %"


def answer(summary: Row) -> str:
    """The difference at the largest share, for single prompts and for batches."""
    rows = [row for row in summary["contrasts"] if row["contrast"] == "warm"]
    if not rows:
        return "No contrast was measured."
    most = max(row["share_pct"] for row in rows)
    told = [
        f"a prefill of {_of(row)} changes by {change(row)}, {row['verdict']}"
        for row in rows
        if row["share_pct"] == most
    ]
    return f"With a cache that has {most}% of the prompt, {'; '.join(told)}."


def figures(summary: Row, cells: Cells) -> list[Markup]:
    """Difference and time over the share."""
    sizes = sorted({row["batch_size"] for row in summary["cells"]})
    looks = dict(zip(sizes, zip(COLOURS, MARKERS, strict=True), strict=False))
    return [plot.html() for plot in (_differences(summary, looks), _times(summary, cells, looks))]


def _of(row: Row) -> str:
    return "one prompt" if row["batch_size"] == 1 else f"{row['batch_size']} prompts"


def _differences(summary: Row, looks: dict[int, Any]) -> Plot:
    lines = []
    for size, (colour, marker) in looks.items():
        rows = [r for r in summary["contrasts"] if (r["contrast"], r["batch_size"]) == ("warm", size)]
        points = [
            contrast_point(row["share_pct"], row, f"{_of(row)}, {row['share_pct']}%: warm against reset")
            for row in rows
        ]
        if points:
            lines.append(Line(Key(_of(rows[0]), colour, marker), points))
    tolerance = summary["tolerance_pct"]
    band = Band(-tolerance, tolerance, f"too small to matter: within {tolerance:g}%")
    unit = "% of the time after a reset, with 95% intervals"
    return Plot("Warm against reset", unit, SHARE, lines, [band], zero=True)


def _times(summary: Row, cells: Cells, looks: dict[int, Any]) -> Plot:
    lines = []
    for size, (colour, marker) in looks.items():
        for arm in ("reset", "warm"):
            rows = [row for row in summary["cells"] if (row["batch_size"], row["arm"]) == (size, arm)]
            points = [_point(row, cells) for row in rows]
            if any(point.y is not None for point in points):
                warm = arm == "warm"
                lines.append(Line(Key(f"{_of(rows[0])}, {arm}", colour, marker, warm, warm), points))
    named = ((_name(row), row) for row in summary["cells"])
    return Plot(
        "Time of an engine step", "ms, all prompts of the step", SHARE, lines, zero=True, note=lost(named)
    )


def _name(row: Row) -> str:
    return f"{_of(row)}, {row['share_pct']}%, {row['arm']}"


def _point(row: Row, cells: Cells) -> Point:
    rate = row.get("hit_rate_pct")
    more = [] if rate is None else [f"hit rate {rate:.1f}%, expected {row['expected_rate_pct']:.1f}%"]
    return cells.point(row["share_pct"], row, _name(row), *more)
