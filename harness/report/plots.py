"""The plot over spread_k: time per attention call above, prefill end to end below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.report.rows import FUNCTIONS, NEED_GATHER, Mean, Row

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell them apart in greyscale.
COLOURS = dict(zip(FUNCTIONS, ("#0072B2", "#D55E00", "#009E73"), strict=True))
MARKERS = dict(zip(FUNCTIONS, ("o", "s", "^"), strict=True))
ENGINE_COLOUR, ENGINE_MARKER = "#000000", "D"
DASHED_ARMS = ("fragmented", "paged")
ARM_NAMES = {"fragmented": "non-contiguous", "paged": "paged, k runs"}
# Text stays text in the SVG; a fixed salt makes the same run give the same file.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "spread_k", "font.size": 9.5}


def write_plots(record: Row, summary: Row, directory: Path) -> list[Path]:
    """Write spread_k.png (200 dpi) and spread_k.svg into the directory, which is made; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "spread_k.png", directory / "spread_k.svg"]
    with matplotlib.rc_context(STYLE):
        figure = draw(record, summary)
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def draw(record: Row, summary: Row) -> Figure:
    """The figure with both panels; what was not measured is named, not drawn."""
    figure = Figure(figsize=(10.5, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.3, 1))
    mean = Mean(summary)
    _kernels(upper, mean)
    _end_to_end(lower, mean)
    ticks = mean.spread_ks()
    for axes in (upper, lower):
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.03, y=0.12)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.2)
    lower.set_xscale("log", base=2)
    lower.xaxis.set_major_locator(FixedLocator(ticks))
    lower.xaxis.set_minor_locator(NullLocator())
    lower.set_xticks(ticks, [str(k) for k in ticks])
    lower.set_xlabel("spread_k: runs that the KV cache of the prompt is split into (1 = contiguous)")
    model, tokens = record["model"]["name"], record["config"].get("length")
    length = f", {tokens} tokens" if tokens else ""
    figure.suptitle(f"Prefill under fragmented KV layouts: {model}{length}, {record['device']['name']}")
    return figure


def _kernels(axes: Axes, mean: Mean) -> None:
    """One line per function and arm, and the engine's kernel over the grey band of its noise floor."""
    engine = mean.engine_kernels()
    for kernel in engine:
        _noise_floor(axes, mean, kernel)
    for kernel in (*FUNCTIONS, *engine):
        for arm in ("contiguous", "fragmented", "dense", "paged"):
            rows = [row for k in mean.spread_ks() if (row := mean.kernel(kernel, arm, k))]
            if rows:
                _line(axes, rows)
    axes.set_ylabel("ms per attention call\n(median; gather not included)")
    axes.set_title(
        "Attention kernels, mean over the measured layers, captured inputs", fontsize=10, loc="left"
    )


def _line(axes: Axes, rows: list[Row]) -> None:
    """One arm's medians with their 95% interval as a band; nothing measured leaves a label that says so."""
    kernel, arm = rows[0]["kernel"], rows[0]["arm"]
    measured = [row for row in rows if row["median_us"] is not None]
    dashed = arm in DASHED_ARMS
    colour = COLOURS.get(kernel, ENGINE_COLOUR)
    ks = [row["spread_k"] for row in measured]
    axes.plot(
        ks,
        [row["median_us"] / 1000 for row in measured],
        color=colour,
        linestyle="--" if dashed else "-",
        marker=MARKERS.get(kernel, ENGINE_MARKER),
        markersize=5.5,
        markerfacecolor="white" if dashed else colour,
        label=_label(rows[0], measured),
        zorder=3,
    )
    bounded = [row for row in measured if row["ci95_us"]]
    low, high = ([row["ci95_us"][side] / 1000 for row in bounded] for side in (0, 1))
    axes.fill_between([row["spread_k"] for row in bounded], low, high, color=colour, alpha=0.2, linewidth=0)


def _label(row: Row, measured: list[Row]) -> str:
    """kernel and arm, with what a reader must know: a stand-in, a gather left out, nothing measured."""
    remarks = []
    if "stand-in" in row["provider"]:
        remarks.append(row["provider"])
    if row["kernel"] in NEED_GATHER and row["arm"] == "fragmented" and measured:
        remarks.append("after a gather")
    if not measured:
        remarks.append(row["status"])
    name = f"{row['kernel']}, {ARM_NAMES.get(row['arm'], row['arm'])}"
    return name + (f"\n({'; '.join(remarks)})" if remarks else "")


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
        linewidth=0,
        label=f"{kernel}, paged, 1 run:\nA/A noise floor",
    )


def _end_to_end(axes: Axes, mean: Mean) -> None:
    """The prefill's medians with their intervals as bars, over the noise floor around spread_k = 1."""
    rows = mean.summary["end_to_end"]
    measured = [row for row in rows if row["median_ms"] is not None]
    repeat = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    if repeat and repeat["noise_floor_pct"] is not None:
        level, share = repeat["baseline_us"] / 1000, repeat["noise_floor_pct"] / 100
        axes.axhspan(level * (1 - share), level * (1 + share), color="0.85", label="A/A noise floor of k = 1")
    medians = [row["median_ms"] for row in measured]
    bounds = [row["ci95_ms"] or (row["median_ms"], row["median_ms"]) for row in measured]
    below = [median - low for median, (low, _) in zip(medians, bounds, strict=True)]
    above = [high - median for median, (_, high) in zip(medians, bounds, strict=True)]
    axes.errorbar(
        [row["spread_k"] for row in measured],
        medians,
        yerr=[below, above],
        color=ENGINE_COLOUR,
        linestyle="--",
        marker="D",
        markersize=5,
        markerfacecolor="white",
        capsize=3,
        label="prefill" if measured else "prefill (not measured)",
    )
    axes.set_ylabel("ms per prefill\n(median, 95% interval)")
    axes.set_title("Prefill, end to end", fontsize=10, loc="left")
