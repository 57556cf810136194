"""The answer and the figures of `kernels`: what being in runs changes, and what a call takes."""

from __future__ import annotations

import math

from markupsafe import Markup

from harness.config.kernel_names import WITHOUT_TABLE
from harness.experiments.kernels.view import ARMS, kernels_of
from harness.experiments.prefill.spread_charts import OVER_SPREAD, arm_key
from harness.report.page.cells import Cells, contrast_point, lost
from harness.report.page.lines import Band, Line, Plot, Point
from harness.report.rows import Row, change, most_runs
from harness.report.tables import ms
from harness.units import counted


def answer(summary: Row) -> str:
    """What the most runs change for each kernel."""
    most = max((row["spread_k"] for row in summary["contrasts"]), default=0)
    rows = [
        row
        for kernel in kernels_of(summary)
        for row in _contrasts(summary, kernel)
        if row["spread_k"] == most
    ]
    if not rows:
        return "No contrast was measured."
    told = [f"{row['kernel']} by {change(row)}, {row['verdict']}" for row in rows]
    return f"K and V in {counted(most, 'run')} change {'; '.join(told)}."


def figures(summary: Row, cells: Cells) -> list[Markup]:
    """Differences in percent, and times, over spread_k."""
    return [plot.html() for plot in (_differences(summary), _times(summary, cells))]


def _contrasts(summary: Row, kernel: str) -> list[Row]:
    wanted = {"kernel": kernel, "contrast": _compared(kernel)}
    return [row for row in summary["contrasts"] if wanted.items() <= row.items()]


def _compared(kernel: str) -> str:
    """A kernel that gathers first is set against contiguous K and V; one with a block table against one run,
    as a block table selects other code."""
    return "core" if kernel in WITHOUT_TABLE else "fragmentation"


def _differences(summary: Row) -> Plot:
    lines = []
    for kernel in kernels_of(summary):
        against = "one run" if _compared(kernel) == "fragmentation" else "contiguous"
        points = [
            contrast_point(k, row, f"{kernel}, {counted(k, 'run')} against {against}")
            for row in _contrasts(summary, kernel)
            for k in [row["spread_k"]]
        ]
        if points:
            lines.append(Line(arm_key(kernel, "fragmented"), points))
    tolerance = summary["tolerance_pct"]
    return Plot(
        "What being in runs changes",
        "% of the baseline, with 95% intervals",
        OVER_SPREAD,
        lines,
        [Band(-tolerance, tolerance, f"too small to matter: within {tolerance:g}%")],
        log=True,
        zero=True,
        note="Of kernels without a block table against contiguous K and V, the gather not counted; of those "
        "with one against one run, as a block table selects other code.",
    )


def _times(summary: Row, cells: Cells) -> Plot:
    lines, named = [], []
    for kernel in kernels_of(summary):
        for arm in ARMS:
            rows = [row for row in summary["cells"] if (row["kernel"], row["arm"]) == (kernel, arm)]
            rows = [row for row in rows if row["spread_k"] <= (most_runs(row) or math.inf)] or rows[:1]
            if rows and not any(row["n"] for row in rows) and len({row["status"] for row in rows}) == 1:
                named.append((f"{kernel}, {arm}", rows[0]))  # once, as it is the same everywhere
            else:
                named += [(_name(row), row) for row in rows]
            points = [_point(row, cells) for row in rows]
            if any(point.y is not None for point in points):
                lines.append(Line(arm_key(kernel, arm), points))
    return Plot(
        "Time of a call",
        "ms; the axis does not start at zero",
        OVER_SPREAD,
        lines,
        log=True,
        note=lost(named),
    )


def _name(row: Row) -> str:
    return f"{row['kernel']}, {row['arm']}, spread_k = {row['spread_k']}"


def _point(row: Row, cells: Cells) -> Point:
    more = [f"{row['tflops']:.3g} TFLOP/s, {row['gbps']:.3g} GB/s"] if row["tflops"] else []
    if row["gather_us"] is not None:
        more.append(f"gather {ms(row['gather_us'], 4)} ms, not counted here")
    return cells.point(row["spread_k"], row, f"{_name(row)} ({row['provider']})", *more)
