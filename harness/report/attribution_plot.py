"""The plot of the account: where each arm's time goes, and what the paged KV cache adds, step by step."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.experiments.prefill.breakdown import decimals
from harness.report.plots import STYLE, save
from harness.report.rows import Mean, Row, named_arm
from harness.report.tables import interval_of, percent, with_interval

# Okabe and Ito's colours, lightest beside darkest; what is in no category is hatched.
COLOURS = {
    "attention": "#D55E00",
    "cache write": "#F0E442",
    "matrix products": "#0072B2",
    "norms, activations, rope": "#56B4E9",
    "sampling": "#CC79A7",
    "copies": "#009E73",
    "other": "#000000",
}
DARK = ("matrix products", "other", "copies", "attention")  # whose figures are written in white
ORDER = ("engine", "paged", "dense", "no_cache", "compact")
# From an arm with neither cache nor block table up to the fragmented one: each begins where the last ended.
STEPS = {
    "cache_write": "cache write\ndense - no cache",
    "paging": "paging\npaged 1 - dense",
    "fragmentation": "fragmentation\npaged {k} - paged 1",
    "total": "total\npaged {k} - no cache",
}
STEP_COLOURS = {"cache_write": "#F0E442", "paging": "#D55E00", "fragmentation": "#CC79A7", "total": "#999999"}
GREY = "0.87"
WIDEST_SENTENCE = 118  # characters a line
THINNEST = 4  # a bar is at most as thick as one of this many


def write_attribution_plot(record: Row, summary: Row, directory: Path) -> list[Path]:
    """Write attribution.png (200 dpi) and .svg into the directory; no file if there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = draw(record, summary)
        return save(figure, directory, "attribution") if figure else []


def draw(record: Row, summary: Row) -> Figure | None:
    """A stacked bar for each arm, if any was profiled, over the paged cache's steps, if any was measured.

    None if there is neither.
    """
    account = summary.get("attribution") or {"profiled": [], "measured": []}
    arms = _arms(account, summary)
    measured = any(row["ms"] is not None and row["component"] in STEPS for row in account["measured"])
    if not arms and not measured:
        return None
    heights = [max(3.0, 0.9 + 0.42 * len(arms))] * bool(arms) + [3.3] * measured
    figure = Figure(figsize=(10.5, 1.2 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if arms:
        _stacked(panels[0], account, arms)
    if measured:
        levels = {row["spread_k"]: row["median_ms"] for row in Mean(summary).sweep()}
        _waterfall(panels[-1], account, levels.get(1))
    for axes in panels:
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    sentence = textwrap.fill(account["sentence"], WIDEST_SENTENCE)
    figure.suptitle(sentence, x=0.01, ha="left", fontsize=11, linespacing=1.4)
    return figure


def _arms(account: Row, summary: Row) -> list[Row]:
    """The prefill's rows to draw: those profiled, and paged in one run beside them if any was."""
    profiled = {(row["arm"], row["spread_k"]) for row in account["profiled"]}
    rows = [row for row in summary["end_to_end"] if row["median_ms"] is not None and row["arm"] in ORDER]
    beside = {("paged", 1)} if profiled else set()
    wanted = [row for row in rows if (row["arm"], row["spread_k"]) in profiled | beside]
    return sorted(wanted, key=lambda row: (ORDER.index(row["arm"]), -row["spread_k"]))


def _stacked(axes: Axes, account: Row, arms: list[Row]) -> None:
    """A bar for each arm in its categories, and its median with its interval.

    The bar ends there, or before it where the profiled prefill was the faster.
    """
    categories = dict.fromkeys(part["category"] for part in account["components"])
    parts = {(p["arm"], p["spread_k"], p["category"]): p["ms"] or 0.0 for p in account["components"]}
    profiled = {(row["arm"], row["spread_k"]) for row in account["profiled"]}
    whole = max(row["median_ms"] for row in arms)
    starts = [0.0] * len(arms)
    for category in categories:
        widths = [parts.get((row["arm"], row["spread_k"], category), 0.0) for row in arms]
        if round(max(widths, default=0), 6):
            _segments(axes, category, starts, widths, whole)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for y, row in enumerate(arms):
        if (row["arm"], row["spread_k"]) not in profiled:
            axes.barh(y, row["median_ms"], color="white", edgecolor="0.5", height=0.7)
            axes.text(row["median_ms"] / 2, y, "not profiled", ha="center", va="center", color="0.3")
        low, high = row["ci95_ms"] or (row["median_ms"], row["median_ms"])
        error = [[row["median_ms"] - low], [high - row["median_ms"]]]
        shown = with_interval("prefill without profiler:\nmedian", *(arm["ci95_ms"] for arm in arms))
        label = shown if y == 0 else None
        axes.errorbar(
            row["median_ms"], y, xerr=error, fmt="|", color="black", capsize=4, markersize=16, label=label
        )
    digits = decimals(account)
    names = [f"{named_arm(row['arm'], row['spread_k'])}  {row['median_ms']:.{digits}f} ms" for row in arms]
    axes.set_yticks(range(len(arms)), names)
    middle, half = (len(arms) - 1) / 2, max(len(arms), THINNEST) / 2
    axes.set_ylim(middle + half, middle - half)
    axes.set_xlabel("ms per prefill")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title("Where the time goes: one profiled prefill of each arm", fontsize=10, loc="left")


def _segments(axes: Axes, category: str, starts: list[float], widths: list[float], whole: float) -> None:
    """One category of all bars; wide segments have their figure in them."""
    idle = category not in COLOURS
    axes.barh(
        range(len(widths)),
        widths,
        left=starts,
        height=0.7,
        color="white" if idle else COLOURS[category],
        edgecolor="0.6" if idle else "white",
        hatch="////" if idle else None,
        linewidth=0.6,
        label=category,
    )
    digits = next((digits for digits, limit in ((2, 10), (1, 100)) if whole < limit), 0)
    for y, (start, width) in enumerate(zip(starts, widths, strict=True)):
        if width > 0.06 * whole:
            colour = "white" if category in DARK else "black"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if idle else None
            middle = start + width / 2
            axes.text(middle, y, f"{width:.{digits}f}", ha="center", va="center", color=colour, bbox=box)


def _waterfall(axes: Axes, account: Row, one_run_ms: float | None) -> None:
    """The paged cache's steps, each from where the one before ends; the total from zero.

    The noise floor is in percent of the prefill on one run.
    """
    measured = {row["component"]: row for row in account["measured"]}
    predicted = {row["component"]: row for row in account["predicted"]}
    floor = account["noise_floor_pct"]
    floor_ms = one_run_ms * floor / 100 if one_run_ms is not None and floor is not None else None
    level = 0.0
    for y, component in enumerate(STEPS):
        row, forecast = measured[component], predicted.get(component)
        start = 0.0 if component == "total" else level
        axes.text(1.01, y, _said(row, account), transform=axes.get_yaxis_transform(), va="center")
        if row["ms"] is not None:
            if floor_ms is not None:
                _noise_floor(axes, y, start, floor_ms)
            _step(axes, y, start, row, STEP_COLOURS[component])
            level = start + row["ms"]
        if forecast and forecast["ms"] is not None:
            _predicted(axes, y, start, forecast)
    axes.axvline(0, color="0.3", linewidth=0.8, zorder=2)
    axes.set_yticks(range(len(STEPS)), [name.format(k=account["spread_k"]) for name in STEPS.values()])
    axes.set_ylim(len(STEPS) - 0.4, -0.6)
    complete = all(measured[component]["ms"] is not None for component in STEPS)
    axes.set_xlabel("ms per prefill above no cache" if complete else "ms per prefill, of the steps measured")
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    axes.legend(once.values(), once, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3, frameon=False)
    axes.set_title("What the paged KV cache adds", fontsize=10, loc="left")


def _noise_floor(axes: Axes, y: int, start: float, floor_ms: float) -> None:
    """Where the step's end is no finding."""
    corner = start - floor_ms, y - 0.44
    band = Rectangle(corner, 2 * floor_ms, 0.88, color=GREY, linewidth=0, zorder=1)
    band.set_label("A/A noise floor, around the step's start")
    axes.add_patch(band)


def _predicted(axes: Axes, y: int, start: float, row: Row) -> None:
    _mark(axes, y + 0.22, start, row, fmt="D", mfc="white", ms=6, zorder=5, label="predicted from the replay")


def _step(axes: Axes, y: int, start: float, row: Row, colour: str) -> None:
    height = y - 0.08
    axes.barh(
        height, row["ms"], left=start, height=0.42, color=colour, edgecolor="black", linewidth=0.6, zorder=3
    )
    _mark(axes, height, start, row, fmt="|", ms=12, zorder=4, label=with_interval("measured", row["ci95_ms"]))


def _mark(axes: Axes, y: float, start: float, row: Row, **look: Any) -> None:
    """A figure of `measured` or `predicted` with its interval, counted from where its step starts."""
    low, high = row["ci95_ms"] or (row["ms"], row["ms"])
    error = [[row["ms"] - low], [high - row["ms"]]]
    axes.errorbar(start + row["ms"], y, xerr=error, color="black", capsize=4, **look)


def _said(row: Row, account: Row) -> str:
    """A step's figures, for the margin beside it."""
    if row["ms"] is None:
        return "not measured"
    share = "" if row["pct"] is None else f"\n{percent(row['pct'], row['ci95_pct'])}"
    return f"{interval_of(row['ms'], None, decimals(account), unit=' ms')}, {row['verdict']}{share}"
