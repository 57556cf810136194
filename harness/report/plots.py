"""The plot over spread_k: time per attention call above, prefill end to end below."""

from __future__ import annotations

import math
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from harness import batch
from harness.config.kernel_names import FUNCTIONS, KNOWN
from harness.report.rows import Mean, Row, most_runs, needs_gather, total_us
from harness.runs.store import write_atomic

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell them apart in greyscale.
# Behind them Paul Tol's, for the other kernels of the experiment `kernels`.
_HUES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#332288",
    "#AA4499", "#44AA99", "#661100", "#888888", "#DDCC77", "#117733",
)  # fmt: skip
COLOURS = dict(zip(KNOWN, _HUES, strict=True))
MARKERS = dict(zip(KNOWN, "os^v<>PX*phd8HD", strict=True))
ENGINE_COLOUR, ENGINE_MARKER = "#000000", "D"
DASHED_ARMS = ("fragmented", "paged")
ARM_NAMES = {"fragmented": "non-contiguous", "paged": "paged, k runs"}
# Text stays text in the SVG; a fixed salt makes the same run give the same file.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "spread_k", "font.size": 9.5}


def write_plots(record: Row, summary: Row, directory: Path) -> list[Path]:
    """Write spread_k.png (200 dpi) and spread_k.svg into the directory, making it; returns their paths."""
    with matplotlib.rc_context(STYLE):
        return save(draw(record, summary), directory, "spread_k")


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write a figure as NAME.png and NAME.svg into the directory, making it; returns their paths."""
    paths = [directory / f"{name}.png", directory / f"{name}.svg"]
    png, svg = BytesIO(), BytesIO()
    figure.savefig(png, format="png", dpi=200)
    figure.savefig(svg, format="svg", metadata={"Date": None})
    write_atomic(paths[0], png.getvalue())
    write_atomic(paths[1], svg.getvalue())
    return paths


def draw(record: Row, summary: Row) -> Figure:
    """The figure with both panels; what was not measured is named, not drawn."""
    figure = Figure(figsize=(10.5, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.3, 1))
    mean = Mean(summary)
    _kernels(upper, mean)
    _end_to_end(lower, mean)
    for axes in (upper, lower):
        over_spread_k(axes, mean.spread_ks())
    upper.set_xlabel("")
    requests = batch.of_record(record)
    if len(requests) > 1:
        lower.set_xlabel(lower.get_xlabel().replace("the prompt", "each prompt"))
    model, length = record["model"]["name"], f", {batch.described(requests)}" if requests else ""
    figure.align_ylabels([upper, lower])
    figure.suptitle(f"Prefill under fragmented KV layouts: {model}{length}, {record['device']['name']}")
    return figure


def over_spread_k(axes: Axes, ticks: list[int]) -> None:
    """Style, legend and horizontal axis of a panel over spread_k."""
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.03, y=0.12)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.2)
    steps = {after - before for before, after in pairwise(ticks)}
    if len(ticks) > 2 and len(steps) == 1:  # a regular sweep
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16, min_n_ticks=1))
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_xlabel("spread_k: runs that the KV cache of the prompt is split into (1 = contiguous)")


def _kernels(axes: Axes, mean: Mean) -> None:
    """One line per function and arm, and the engine's kernel over the grey band of its noise floor."""
    engine = mean.engine_kernels()
    for kernel in (*FUNCTIONS, *engine):
        for arm in ("contiguous", "fragmented", "dense", "paged"):
            rows = [row for k in mean.spread_ks() if (row := mean.kernel(kernel, arm, k))]
            if rows:
                arm_line(axes, rows)
                gather_line(axes, rows)
    for kernel in engine:
        _noise_floor(axes, mean, kernel)
    axes.set_ylabel("ms per attention call\n(median, 95% interval)")
    axes.set_title(
        "Attention kernels, mean over the measured layers, captured inputs", fontsize=10, loc="left"
    )


def arm_line(axes: Axes, rows: list[Row]) -> None:
    """One arm's medians with their 95% interval as a band; a gap where nothing was measured.

    It ends where a larger spread_k gives the arm no more runs; the legend says so.
    """
    label = _label(rows)
    rows = [row for row in rows if row["spread_k"] <= (most_runs(row) or math.inf)] or rows[:1]
    kernel, arm = rows[0]["kernel"], rows[0]["arm"]
    dashed = arm in DASHED_ARMS
    colour = COLOURS.get(kernel, ENGINE_COLOUR)
    axes.plot(
        [row["spread_k"] for row in rows],
        [_or_gap(row["median_us"]) / 1000 for row in rows],
        color=colour,
        linestyle="--" if dashed else "-",
        marker=MARKERS.get(kernel, ENGINE_MARKER),
        markersize=5 if dashed else 7,  # where both arms coincide, both are seen
        markerfacecolor="white" if dashed else colour,
        label=label,
        zorder=3,
    )
    bounds = [row["ci95_us"] or (math.nan, math.nan) for row in rows]
    low, high = ([bound[side] / 1000 for bound in bounds] for side in (0, 1))
    axes.fill_between([row["spread_k"] for row in rows], low, high, color=colour, alpha=0.2, linewidth=0)


def gather_line(axes: Axes, rows: list[Row]) -> None:
    """What an arm that needs a gather takes with it: a thin dotted line in the kernel's colour."""
    totals = [_or_gap(total_us(row)) / 1000 for row in rows]
    if needs_gather(rows[0]) and not all(map(math.isnan, totals)):
        kernel = rows[0]["kernel"]
        axes.plot(
            [row["spread_k"] for row in rows],
            totals,
            color=COLOURS[kernel],
            linestyle=":",
            linewidth=1.2,
            marker=MARKERS[kernel],
            markersize=2.5,
            label=f"{kernel}, gather + kernel",
        )


def _label(rows: list[Row]) -> str:
    """kernel and arm, with what a reader must know: a stand-in, a gather left out, what was not measured."""
    row = rows[0]
    remarks = []
    if "stand-in" in row["provider"]:
        remarks.append(row["provider"])
    if needs_gather(row) and any(r["median_us"] for r in rows):
        remarks.append("after a gather, not counted")
    limits = {limit for r in rows if (limit := most_runs(r)) and limit < r["spread_k"]}
    remarks += [f"{row['block_size']}-token blocks: at most {limit} runs" for limit in limits]
    remarks += _missing(rows)
    name = f"{row['kernel']}, {ARM_NAMES.get(row['arm'], row['arm'])}"
    return name + (f"\n({'; '.join(remarks)})" if remarks else "")


def _or_gap(value: float | None) -> float:
    """NaN breaks a line where nothing was measured."""
    return math.nan if value is None else value


def _missing(rows: list[Row]) -> list[str]:
    """Where nothing was measured and why, e.g. "out_of_memory at k = 8"; without k if it is everywhere."""
    if not rows:
        return ["not measured"]
    lost = [row for row in rows if not row["n"]]
    statuses = dict.fromkeys(row["status"] for row in lost)
    if len(lost) == len(rows):
        return list(statuses)
    by_status = {s: ", ".join(str(row["spread_k"]) for row in lost if row["status"] == s) for s in statuses}
    return [f"{status} at k = {ks}" for status, ks in by_status.items()]


def _noise_floor(axes: Axes, mean: Mean, kernel: str) -> None:
    """A/A: within this band around paged in one run a difference is no finding."""
    rows = [row for k in mean.spread_ks() if (row := mean.contrast(kernel, "paged@1", "paged@1 again", k))]
    rows = [row for row in rows if row["noise_floor_pct"] is not None]
    if not rows:
        return
    levels = [(row["baseline_us"] / 1000, row["noise_floor_pct"] / 100) for row in rows]
    axes.fill_between(
        [row["spread_k"] for row in rows],
        [level * (1 - share) for level, share in levels],
        [level * (1 + share) for level, share in levels],
        color="0.75",
        linewidth=0.8,
        zorder=1,
        label=f"{kernel}, paged, 1 run:\nA/A noise floor",
    )


def _end_to_end(axes: Axes, mean: Mean) -> None:
    """The prefill's medians with their intervals as bars, over the noise floor around spread_k = 1."""
    rows = mean.sweep()
    repeat = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    if repeat and repeat["noise_floor_pct"] is not None:
        level, share = repeat["baseline_us"] / 1000, repeat["noise_floor_pct"] / 100
        axes.axhspan(level * (1 - share), level * (1 + share), color="0.85", label="A/A noise floor of k = 1")
    medians = [_or_gap(row["median_ms"]) for row in rows]
    bounds = [row["ci95_ms"] or (median, median) for row, median in zip(rows, medians, strict=True)]
    below = [median - low for median, (low, _) in zip(medians, bounds, strict=True)]
    above = [high - median for median, (_, high) in zip(medians, bounds, strict=True)]
    axes.errorbar(
        [row["spread_k"] for row in rows],
        medians,
        yerr=[below, above],
        color=ENGINE_COLOUR,
        linestyle="--",
        marker="D",
        markersize=5,
        markerfacecolor="white",
        capsize=3,
        label="\n".join(["prefill", *_missing(rows)]),
    )
    axes.set_ylabel("ms per prefill\n(median, 95% interval)")
    axes.set_title("Prefill, end to end (neither axis starts at zero)", fontsize=10, loc="left")
