"""The answer and the charts of `kernels`: the effect of segments, and the time of a call."""

from __future__ import annotations

from harness.config.kernel_names import looks
from harness.experiments.kernels.rows import KernelsSummary
from harness.experiments.kernels.view import (
    ARMS,
    contrast_of,
    contrasts_of,
    inputs,
    kernels_of,
    whose,
)
from harness.report.arms import OVER_SPREAD, arm_key, arm_lines, lost_arms
from harness.report.charts.spec import Axis, Band, Line, Lines, Sheet
from harness.report.tips import Tips, contrast_point
from harness.runs.schema import RunRecord
from harness.units import pluralise


def charts(record: RunRecord, summary: KernelsSummary, tips: Tips) -> list[Sheet]:
    """Differences in percent, and times, over spread_k."""
    title = (
        f"{whose(summary)} on contiguous and fragmented K and V, {record.device.name}: "
        f"{inputs(record.config)}"
    )
    return [Sheet("kernels", title, [_differences(summary), _times(summary, tips)])]


def _differences(summary: KernelsSummary) -> Lines:
    lines = []
    look_of = looks(kernels_of(summary))
    for kernel in kernels_of(summary):
        against = "one segment" if contrast_of(kernel) == "fragmentation" else "contiguous"
        points = [
            contrast_point(k, row, f"{kernel}, {pluralise(k, 'segment')} against {against}")
            for row in contrasts_of(summary, kernel)
            for k in [row.spread_k]
        ]
        lines.append(Line(arm_key(kernel, "fragmented", look_of[kernel]), points))
    return Lines(
        "Effect of segments",
        OVER_SPREAD,
        Axis("% of the baseline, with 95% intervals", zero=0.0),
        lines,
        [Band.tolerance(summary.tolerance_pct)],
        note="Kernels without a block table are compared with contiguous K and V, not counting the gather; "
        "those with one with a single segment, because a block table selects different code.",
    )


def _times(summary: KernelsSummary, tips: Tips) -> Lines:
    look_of = looks(kernels_of(summary))
    arms = [(kernel, arm) for kernel in kernels_of(summary) for arm in ARMS]
    by_arm = [summary.index(summary.cells).select(kernel=kernel, arm=arm) for kernel, arm in arms]
    return Lines(
        "Time of a call",
        OVER_SPREAD,
        Axis("ms per call, with 95% intervals"),
        [line for rows in by_arm for line in arm_lines(rows, look_of, tips)],
        note=lost_arms([row for rows in by_arm for row in rows]),
    )
