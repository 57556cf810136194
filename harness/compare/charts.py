"""The ratios of one run to another as a figure: a point with its interval for each cell."""

from __future__ import annotations

from markupsafe import Markup

from harness.compare.ratios import TOLERANCE_PCT, Ratio
from harness.report.page import svg
from harness.report.page.svg import Key, Scale, Tip

ROW_PX = 32.0


def figure(title: str, rows: list[tuple[str, str, Ratio]]) -> Markup:
    """The cells, each with its name and its ratio as text; "" without any."""
    if not rows:
        return Markup("")
    tolerance = TOLERANCE_PCT / 100
    reach = [1 - tolerance, 1 + tolerance, *(row.ratio for _, _, row in rows)]
    reach += [bound for _, _, row in rows for bound in row.ci95 or ()]
    scale, height = Scale.around(reach, 0.04), len(rows) * ROW_PX
    left, right = scale.at(1 - tolerance), scale.at(1 + tolerance)
    drawn = [svg.rect(left, 0, right - left, height, class_="band")]
    drawn.append(svg.axis(scale, height, "ratio", strong=1))
    for n, (name, shown, row) in enumerate(rows):
        drawn += _row(name, shown, row, scale, n * ROW_PX)
    keys = [Key(f"within {TOLERANCE_PCT:g}%", "var(--band)")]
    picture = svg.drawing(title, height + svg.AXIS_PX, *drawn, class_="bars")
    return svg.figure(title, picture, svg.legend(keys))


def _row(name: str, shown: str, row: Ratio, scale: Scale, top: float) -> list[Markup]:
    tip = Tip(
        [
            f"{name} ({row.cell['provider']})",
            f"ratio {shown}, {row.verdict}",
            f"A {row.first_ms:.4f} ms, n = {row.n[0]}; {row.other} {row.other_ms:.4f} ms, n = {row.n[1]}",
        ]
    )
    parts = [svg.rect(0, top + 1, 1, ROW_PX - 2, class_="halo")]
    if row.ci95:
        low, high = (scale.at(bound) for bound in row.ci95)
        parts.append(svg.line(low, top + 23, high, top + 23, class_="interval"))
    place = svg.percent(scale.at(row.ratio))
    parts.append(svg.marker("diamond", place, top + 23, stroke="var(--ink)", fill="var(--paper)"))
    return [
        svg.text(f"{name}: {row.ratio:.3f}", 0, top + 13, class_="label"),
        svg.mark(tip, *parts),
    ]
