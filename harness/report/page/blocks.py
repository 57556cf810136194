"""The block tables as pictures: which physical block holds which part of the prompt."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from harness import layout
from harness.layout import Run
from harness.report.page import svg

SIZE = 100.0  # units of a picture's side; it is stretched to the room there is
MOST_LISTED = 64  # runs spelled out below a picture


def pictures(record: dict[str, Any]) -> list[Markup]:
    """A picture for every layout and request; none if the run did not choose blocks."""
    tables = [
        (name, number, layout.runs(layout.from_ranges(text)))
        for name, requests in record.get("block_ids", {}).items()
        for number, text in enumerate(requests)
    ]
    if not tables:
        return []
    ends = [run.first_id + run.length for _, _, runs in tables for run in runs]
    lowest = min(run.first_id for _, _, runs in tables for run in runs)
    return [
        _picture(_title(name, number, len(record["block_ids"][name])), runs, lowest, max(ends))
        for name, number, runs in tables
    ]


def _title(name: str, number: int, requests: int) -> str:
    title = "vLLM's own blocks" if name == "engine" else f"spread_k = {name}"
    return title + (f", request {number}" if requests > 1 else "")


def _picture(title: str, runs: list[Run], lowest: int, end: int) -> Markup:
    """Physical ids upwards over logical blocks to the right: a run is a rising line."""
    blocks = sum(run.length for run in runs)
    across, up = SIZE / blocks, SIZE / (end - lowest)
    path = ""
    for run in runs:
        left, bottom = run.first_block * across, SIZE - (run.first_id - lowest) * up
        path += f"M{left:.2f},{bottom:.2f}l{run.length * across:.2f},{-run.length * up:.2f}"
    lengths = [run.length for run in runs]
    size = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    ids = f"{min(run.first_id for run in runs)} to {max(run.first_id + run.length for run in runs) - 1}"
    tip = svg.Tip(
        [
            title,
            f"{blocks} blocks in {len(runs)} run{'s' * (len(runs) > 1)} of {size}",
            f"physical ids {ids}",
        ]
    )
    drawn = svg.element("path", d=path, class_="runs")
    frame = svg.element("rect", width="100", height="100", class_="frame")
    picture = svg.element(
        "svg",
        svg.mark(tip, frame, drawn),
        viewBox=f"0 0 {SIZE:g} {SIZE:g}",
        preserveAspectRatio="none",
        class_="blocks",
        role="group",
        aria_label=title,
    )
    return svg.element("div", svg.figure(title, picture), _listing(runs), class_="block-table")


def _listing(runs: list[Run]) -> Markup:
    """The runs in logical order, as text."""
    ids = [block for run in runs[:MOST_LISTED] for block in range(run.first_id, run.first_id + run.length)]
    listed = layout.to_ranges(ids).replace(",", ", ")
    rest = f" and {len(runs) - MOST_LISTED} more runs, in run.json" if len(runs) > MOST_LISTED else ""
    summary = svg.element("summary", Markup.escape(f"{len(runs)} run{'s' * (len(runs) > 1)}"))
    return svg.element("details", summary, svg.element("p", Markup.escape(listed + rest), class_="ids"))
