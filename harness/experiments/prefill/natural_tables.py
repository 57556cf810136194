"""What layouts that traffic made cost against one segment, in the engine's kernels and the whole prefill."""

from __future__ import annotations

from harness.experiments.prefill.mean import Mean
from harness.report.rows import change, verdict
from harness.report.tables import Line, Section, Table
from harness.runs.schema import NaturalLayout, RunRecord
from harness.units import pluralise

COLUMNS = ("", "segments", "per block", "against one segment", "verdict")


def table(record: RunRecord, mean: Mean) -> Table | None:
    """A line for each layout of --layouts; None without any."""
    if not record.natural_layouts:
        return None
    made = {int(k): each for k, each in record.natural_layouts.items()}
    sections = []
    for kernel, heading in [*((name, name) for name in mean.engine_kernels()), ("prefill", "whole prefill")]:
        lines = [_line(kernel, k, made[k], record.num_blocks or k, mean) for k in sorted(made)]
        sections.append(Section(heading, lines))
    source = next(iter(made.values())).source
    below = [
        f"p50: of the requests with at least {record.num_blocks} blocks the one whose first "
        f"{record.num_blocks} lie in the median number of segments; they are from: {source}. Kernels: means "
        "over the replayed layers.",
    ]
    return Table("Layouts that traffic made", COLUMNS, sections, [], below)


def sentence(record: RunRecord, mean: Mean) -> str | None:
    """What the median layout costs the whole prefill; None if it was not measured."""
    for k, layout in (record.natural_layouts or {}).items():
        if 50 in layout.percentiles and (row := mean.contrast("prefill", "paged@1", "paged", int(k))):
            made = f"The layout that traffic makes ({pluralise(int(k), 'segment')})"
            return f"{made} changes the prefill by {change(row)}: {row.verdict}."
    return None


def _line(kernel: str, spread_k: int, layout: NaturalLayout, num_blocks: int, mean: Mean) -> Line:
    at = ", ".join(f"p{percentile:g}" for percentile in layout.percentiles)
    paired = mean.contrast(kernel, "paged@1", "paged", spread_k)
    cells = (str(spread_k), f"{spread_k / num_blocks:.3f}", change(paired), verdict(paired))
    return Line(at, cells)
