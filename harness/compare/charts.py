"""A chart of one run's ratios to another: a point with its interval for each cell."""

from __future__ import annotations

from collections.abc import Sequence

from harness.compare.ratios import TOLERANCE_PCT, Ratio
from harness.report.charts.spec import BAND, INK, Axis, Band, Bars, Dot, Key, Row, Tip

LOOK = Key("ratio, 95% interval", INK, "diamond", hollow=True)


def chart(title: str, rows: Sequence[tuple[str, str, Ratio]]) -> Bars:
    """The cells, each with its name and its ratio as text."""
    label, tolerance = f"within {TOLERANCE_PCT:g}%", TOLERANCE_PCT / 100
    return Bars(
        title,
        Axis("ratio (logarithmic)", log=True, zero=1.0),
        [_row(name, shown, row) for name, shown, row in rows],
        Band.level(label, 1 - tolerance, 1 + tolerance),
        legend=[Key(label, BAND)],
    )


def _row(name: str, shown: str, row: Ratio) -> Row:
    lines = [
        f"{name} ({row.cell['provider']})",
        f"ratio {shown}, {row.verdict}",
        f"A {row.first_ms:.4f} ms, n = {row.n[0]}; {row.other} {row.other_ms:.4f} ms, n = {row.n[1]}",
    ]
    return Row(f"{name}: {row.ratio:.3f}", dots=[Dot(row.ratio, LOOK, Tip(lines), row.ci95)])
