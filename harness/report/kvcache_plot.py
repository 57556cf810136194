"""The plots of `kvcache`: latency and cache along the steps, and the modes side by side; two axes each."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from harness.report import plots as style
from harness.report.rows import Row

LATENCY, MEMORY = "#0072B2", "#D55E00"
MODES = {
    "no_cache": "transformers,\nno KV cache",
    "kv_cache": "transformers,\nKV cache",
    "paged": "vLLM,\npaged KV cache",
}
MIB = 2**20


def write(record: Row, summary: Row, folder: Path) -> None:
    """kvcache_steps and kvcache_modes, as .png and .svg."""
    with matplotlib.rc_context(style.STYLE):
        style.save(draw_steps(record, summary), folder, "kvcache_steps")
        style.save(draw_modes(record, summary), folder, "kvcache_modes")


def draw_steps(record: Row, summary: Row) -> Figure:
    """A panel a mode: time of each token on the left axis, K and V that are kept on the right."""
    figure = Figure(figsize=(12.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(MODES), sharey=True)
    right: list[Axes] = []
    for axes, mode in zip(panels, MODES, strict=True):
        twin = axes.twinx()
        if right:
            twin.sharey(right[0])
        right.append(twin)
        rows = [row for row in summary["steps"] if row["arm"] == mode and row["median_us"] is not None]
        _steps(axes, twin, rows)
        axes.set_title(MODES[mode].replace("\n", " "), fontsize=10, loc="left")
        axes.set_xlabel("generated token")
        _frame(axes, twin)
    if any(row["median_us"] for row in summary["steps"]):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(LogFormatter())
        panels[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    panels[0].set_ylabel("ms per token (median, 95% interval)", color=LATENCY)
    right[-1].set_ylabel("K and V kept, MiB", color=MEMORY)
    for twin in right[:-1]:
        twin.tick_params(labelright=False)
    right[0].set_ylim(bottom=0)
    handles = {
        label: handle
        for axes in (*panels, *right)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False
        )
    figure.suptitle(f"Latency and KV cache along a generation: {_where(record)}")
    return figure


def _steps(axes: Axes, twin: Axes, rows: list[Row]) -> None:
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["median_us"] / 1000 for row in rows], color=LATENCY, label="time of the token")
    bounds = [row["ci95_us"] or (math.nan, math.nan) for row in rows]
    low, high = ([bound[side] / 1000 for bound in bounds] for side in (0, 1))
    axes.fill_between(steps, low, high, color=LATENCY, alpha=0.2, linewidth=0)
    kept = [row.get("cache_bytes", math.nan) / MIB for row in rows]
    twin.plot(steps, kept, color=MEMORY, label="K and V kept, measured")
    if any(row.get("cache_bytes") for row in rows):
        formula = [math.nan if row["formula_bytes"] is None else row["formula_bytes"] / MIB for row in rows]
        twin.plot(steps, formula, color="0.2", linestyle=":", linewidth=1.4, label="K and V by the formula")


def draw_modes(record: Row, summary: Row) -> Figure:
    """Bars: total time on the left axis with the speed-up over no cache, peak memory on the right."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    twin = axes.twinx()
    rows = {row["arm"]: row for row in summary["modes"]}
    speed_ups = {row["contrast"]: row["speed_up"] for row in summary["speed_ups"]}
    for n, mode in enumerate(MODES):
        row = rows.get(mode)
        if row is None or row["median_us"] is None:
            status = row["status"] if row else "not measured"
            axes.annotate(status, (n, 0.02), xycoords=("data", "axes fraction"), ha="center")
            continue
        _bars(axes, twin, n, row, _speed_up(speed_ups, mode))
    axes.set_xticks(range(len(MODES)), list(MODES.values()))
    axes.set_xlim(-0.6, len(MODES) - 0.4)
    axes.set_ylabel("whole generation, ms (median, 95% interval)", color=LATENCY)
    twin.set_ylabel("peak memory of the mode's process, MiB", color=MEMORY)
    _frame(axes, twin)
    for each in (axes, twin):
        each.margins(y=0.15)
    figure.suptitle(f"Generation with and without a KV cache: {_where(record)}")
    return figure


def _speed_up(speed_ups: dict[str, float | None], mode: str) -> str:
    """What a bar is labelled with; the baseline's, and what was not compared, with nothing."""
    names = {"kv_cache": "KV cache against no cache", "paged": "paged against no cache"}
    found = speed_ups.get(names.get(mode, ""))
    return f"{found:.2f}x" if found else ""


def _bars(axes: Axes, twin: Axes, n: int, row: Row, speed_up: str) -> None:
    total = row["median_us"] / 1000
    low, high = row["ci95_us"] or (row["median_us"], row["median_us"])
    errors = [[total - low / 1000], [high / 1000 - total]]
    axes.bar(n - 0.2, total, 0.36, color=LATENCY, yerr=errors, capsize=3)
    text = "\n".join(filter(None, [f"{total:,.0f} ms", speed_up]))
    axes.annotate(text, (n - 0.2, high / 1000), xytext=(0, 3), textcoords="offset points", ha="center")
    if row["peak_bytes"] is not None:
        peak = row["peak_bytes"] / MIB
        twin.bar(n + 0.2, peak, 0.36, color=MEMORY)
        twin.annotate(
            f"{peak:,.0f} MiB", (n + 0.2, peak), xytext=(0, 3), textcoords="offset points", ha="center"
        )


def _frame(axes: Axes, twin: Axes) -> None:
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", labelcolor=LATENCY)
    twin.tick_params(axis="y", labelcolor=MEMORY)
    for each in (axes, twin):
        each.spines["top"].set_visible(False)


def _where(record: Row) -> str:
    return f"{record['model']['name']}, {record['device']['name']}"
