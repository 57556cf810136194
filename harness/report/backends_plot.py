"""The plot of `backends`: throughput over the batch size, with the point where it turns compute-bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.report import plots as style
from harness.report.rows import Row

# Okabe and Ito's, as in harness.report.plots.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PER_ROW = 3


def write(record: Row, summary: Row, names: Sequence[str], folder: Path) -> None:
    """backends.png and backends.svg.

    Args:
        names: of the backends, in their order.
    """
    with matplotlib.rc_context(style.STYLE):
        style.save(draw(record, summary, names), folder, "backends")


def draw(record: Row, summary: Row, names: Sequence[str]) -> Figure:
    """A panel a length, a line a backend; a ring where it turns compute-bound, a cross where nothing is."""
    lengths = sorted({row["input_len"] for row in summary["cells"]})
    columns = min(PER_ROW, max(len(lengths), 1))
    rows = math.ceil(max(len(lengths), 1) / columns)
    figure = Figure(figsize=(3.0 + 3.6 * columns, 0.9 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, tokens in zip(panels, lengths, strict=False):
        _panel(axes, summary, names, tokens)
    for axes in panels[len(lengths) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("tokens/s (median, 95% interval)")
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    what = "Decoding" if summary["phase"] == "decode" else "Prefill"
    figure.suptitle(f"{what} throughput: {record['model']['name']}, {record['device']['name']}")
    return figure


def _panel(axes: Axes, summary: Row, names: Sequence[str], tokens: int) -> None:
    cells = [row for row in summary["cells"] if row["input_len"] == tokens]
    for n, name in enumerate(names):
        rows = [row for row in cells if row["backend"] == name]
        if rows:
            _line(axes, rows, COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)])
            _lost(axes, rows, COLOURS[n % len(COLOURS)], 0.03 + 0.035 * n)
    turns = [row for row in summary["compute_bound"] if row["input_len"] == tokens and row["batch_size"]]
    for turn in turns:
        point = {key: turn[key] for key in ("backend", "batch_size")}
        for row in cells:
            if point.items() <= row.items():
                axes.plot(row["batch_size"], row["tokens_per_s"], **_RING)
    ticks = sorted({row["batch_size"] for row in summary["cells"]})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    if any(row["tokens_per_s"] for row in cells):
        axes.set_yscale("log")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.12)
    axes.set_xlabel("batch size (prompts at once)")
    axes.set_title(f"prompts of {tokens} token" + "s" * (tokens > 1), fontsize=10, loc="left")


_RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgecolor": "0.25",
    "markeredgewidth": 1.2,
    "label": "compute-bound from here",
    "zorder": 4,
}


def _line(axes: Axes, rows: list[Row], colour: str, marker: str) -> None:
    """One backend; attention alone is dashed and hollow, as it is another quantity."""
    alone = rows[0]["attention_alone"]
    batches = [row["batch_size"] for row in rows]
    rates = [row["tokens_per_s"] or math.nan for row in rows]
    label = f"{rows[0]['backend']}\n(attention alone)" if alone else rows[0]["backend"]
    axes.plot(
        batches,
        rates,
        color=colour,
        marker=marker,
        markersize=5,
        linestyle="--" if alone else "-",
        markerfacecolor="white" if alone else colour,
        label=label,
        zorder=3,
    )
    bounds = [row["ci95_tokens_per_s"] or (math.nan, math.nan) for row in rows]
    low, high = ([bound[side] for bound in bounds] for side in (0, 1))
    axes.fill_between(batches, low, high, color=colour, alpha=0.2, linewidth=0)


def _lost(axes: Axes, rows: list[Row], colour: str, height: float) -> None:
    """Crosses at a height of the panel, 0 at its lower edge, where a cell was not measured."""
    lost = [row["batch_size"] for row in rows if row["tokens_per_s"] is None]
    if lost:
        axes.plot(
            lost,
            [height] * len(lost),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=7,
            color=colour,
        )
        axes.plot([], [], linestyle="none", marker="x", markersize=7, color="0.25", label="not measured")
