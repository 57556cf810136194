"""Drawing for the study's figures: panels on one scale, styles, lines with intervals, axes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from study.findings import Finding
from study.points import Effect, Point

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"
STYLE: dict[Any, Any] = {"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}

Errors = tuple[list[float], list[float]]


def plot_style() -> Any:
    """The style context for drawing."""
    return matplotlib.rc_context(STYLE)


def on_one_scale(figures: Sequence[Figure], across: bool) -> None:
    """The measured quantity has one scale in all panels: the x axis with `across`, else the shared y axis."""
    by_place = list(zip(*(figure.axes for figure in figures), strict=False))
    for of_all in by_place if across else by_place[:1]:
        limits = [axes.get_xlim() if across else axes.get_ylim() for axes in of_all]
        least, most = min(low for low, _ in limits), max(high for _, high in limits)
        for axes in of_all:
            axes.set_xlim(least, most) if across else axes.set_ylim(least, most)


def panels(
    points: Sequence[Point],
    key: Callable[[Point], tuple[str, ...]],
    draw: Callable[[Axes, Sequence[Point]], None],
    title: str,
    ylabel: str = "difference, %",
    zero: bool = True,
    legend: bool = True,
) -> Figure | None:
    """A panel for each group of points, three per row, on one scale; None without any."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    width = max(5.5, 3.7 * columns)
    figure = Figure(figsize=(width, 0.6 + 3.4 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, group) in zip(places, sorted(groups.items()), strict=False):
        if zero:
            tolerance = group[0].summary["tolerance_pct"]
            axes.axhspan(-tolerance, tolerance, color="0.93")
            axes.axhline(0, color="0.4", linewidth=0.8)
        draw(axes, group)
        axes.set_title(", ".join(name), loc="left", fontsize=9)
        if legend:
            axes.legend(fontsize=7, frameon=False)
    for axes in places[len(groups) :]:
        axes.set_visible(False)
    for axes in places[::columns]:
        axes.set_ylabel(ylabel)
    figure.suptitle(textwrap.fill(title, int(13 * width)), fontsize=10)
    return figure


def style_of(colour: int, marker: int) -> dict[str, Any]:
    """The style of a line with intervals, with colour and marker by number."""
    look = {"color": COLOURS[colour % len(COLOURS)], "marker": MARKERS[marker % len(MARKERS)]}
    return {**look, "markersize": 4, "capsize": 2, "linewidth": 1.0}


def legend(
    colours: Mapping[str, int], markers: Mapping[str, int], hollow: str | None, crossed: str | None
) -> list[Line2D]:
    """A legend of colours and markers, by number, and of hollow and crossed ones if there are any."""
    keys = [Line2D([], [], color=style_of(n, 0)["color"], label=text) for text, n in colours.items()]
    plain: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    keys += [
        Line2D([], [], marker=style_of(0, n)["marker"], label=text, **plain) for text, n in markers.items()
    ]
    if hollow:
        keys.append(Line2D([], [], marker="o", markerfacecolor="white", label=hollow, **plain))
    if crossed:
        keys.append(Line2D([], [], marker="x", label=crossed, **plain))
    return keys


def line(axes: Axes, found: Sequence[Finding], places: Sequence[float], style: dict[str, Any]) -> None:
    """Medians with their intervals, a cross where there is none; without points that were not measured."""
    known = [(x, f) for x, f in zip(places, found, strict=True) if f.effect.pct is not None]
    sure = [(x, f) for x, f in known if f.effect.ci95_pct is not None]
    if sure:
        medians = [f.effect.pct or 0.0 for _, f in sure]
        axes.errorbar([x for x, _ in sure], medians, yerr=errors(f for _, f in sure), **style)
    for x, f in known:
        if f.effect.ci95_pct is None:
            axes.plot([x], [f.effect.pct or 0.0], marker="x", markersize=5, color=style["color"])


def errors(found: Iterable[Finding]) -> Errors:
    """How far the intervals reach below and above the medians."""
    below, above = [], []
    for effect in (f.effect for f in found):
        pct = effect.pct or 0.0
        low, high = effect.ci95_pct or (pct, pct)
        below.append(pct - low)
        above.append(high - pct)
    return below, above


def clip(figure: Figure, effects: Sequence[Effect]) -> None:
    """Show all medians, and nine of ten intervals whole: next to the widest the rest would be a flat line."""
    medians = [abs(e.pct) for e in effects if e.pct is not None]
    reach = [max(map(abs, e.ci95_pct)) for e in effects if e.ci95_pct is not None]
    if medians and reach:
        most = 1.1 * max(*medians, float(np.quantile(reach, 0.9)))
        figure.axes[0].set_ylim(-most, most)  # which all share


def powers_of_two(axes: Axes, values: Iterable[int]) -> None:
    """A logarithmic axis with ticks at the measured values, every other one if there are many."""
    known = sorted(set(values))
    ticks = known[:: -(1 + len(known) // 7)][::-1]  # the largest is one of them
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.set_xlim(known[0] / 1.5, known[-1] * 1.5)
