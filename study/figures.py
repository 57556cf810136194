"""The study's figures: one device each, drawn from the same findings as its tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator

from study import findings
from study.findings import Finding, Gather
from study.points import Point
from study.words import kernel

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"
STYLE: dict[Any, Any] = {"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}
DPI = 110
CURVE = 4  # values of spread_k from which on they are joined by a line
COMPONENTS = {"fragmentation": "fragmentation", "paging": "paging", "cache_write": "cache write"}

Errors = tuple[list[float], list[float]]


def write(devices: Mapping[str, Sequence[Point]], folder: Path) -> dict[str, dict[str, str]]:
    """Draw each device's figures as NAME-DEVICE.png into the folder; the files' names by device and figure.

    Devices have one scale. A figure with nothing on it is not drawn.
    """
    drawn = {device: _draw(points) for device, points in devices.items()}
    for name in {name for figures in drawn.values() for name in figures}:
        _on_one_scale([figures[name] for figures in drawn.values() if name in figures], name == "account")
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, dict[str, str]] = {device: {} for device in devices}
    for device, figures in drawn.items():
        for name, figure in figures.items():
            slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
            names[device][name] = f"{name}-{slug}.png"
            figure.savefig(folder / names[device][name], dpi=DPI)
    return names


def _draw(points: Sequence[Point]) -> dict[str, Figure]:
    drawn = {
        "spread": _spread(points),
        "paging": _paging(points),
        "lengths": _lengths(points),
        "account": _account(points),
        "gather": _gather(points),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _on_one_scale(figures: Sequence[Figure], across: bool) -> None:
    """What is measured has one axis in all: `across` panel by panel, else upwards, which panels share."""
    panels = list(zip(*(figure.axes for figure in figures), strict=False))
    for of_all in panels if across else panels[:1]:
        limits = [axes.get_xlim() if across else axes.get_ylim() for axes in of_all]
        least, most = min(low for low, _ in limits), max(high for _, high in limits)
        for axes in of_all:
            axes.set_xlim(least, most) if across else axes.set_ylim(least, most)


def _spread(points: Sequence[Point]) -> Figure | None:
    """Fragmentation over spread_k, a panel a kernel and shape: colours are lengths, markers block sizes."""
    shown = findings.curves(points)
    lengths = sorted({p.length for p in shown})
    sizes = sorted({p.block_size for p in shown})

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        for n, point in enumerate(group):
            found = [Finding(point, k, point.fragmentation(k)) for k in point.spreads if k > 1]
            # So that intervals are seen beside each other, none of them nearer to the next power of two.
            aside = 2 ** (0.4 * (n - (len(group) - 1) / 2) / max(len(group), 6))
            style = _styled(lengths.index(point.length), sizes.index(point.block_size))
            if point.gap != "shuffled":
                style["markerfacecolor"] = "white"
            if len(found) < CURVE:
                style["linestyle"] = ""
            _line(axes, found, [aside * f.spread_k for f in found], style)
        _powers_of_two(axes, [k for p in group for k in p.spreads if k > 1])
        axes.set_xlabel("runs")

    figure = _panels(
        shown,
        lambda p: (kernel(p), p.shape),
        lines,
        "The same kernel on so many runs of blocks, against one run (grey: called the same)",
        legend=False,
    )
    if figure:
        hollow = any(p.gap != "shuffled" for p in shown)
        keys = _legend([f"{x} tokens" for x in lengths], [f"block {x}" for x in sizes], hollow)
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 5), frameon=False)
    return figure


def _paging(points: Sequence[Point]) -> Figure | None:
    """The paging tax over the block size."""
    return _tax(points, lambda p: p.block_size, lambda p: (p.attention, p.length), "block size", "{} tokens")


def _lengths(points: Sequence[Point]) -> Figure | None:
    """The paging tax over the length."""
    return _tax(points, lambda p: p.length, lambda p: (p.attention, p.block_size), "tokens", "block {}")


def _tax(
    points: Sequence[Point],
    place: Callable[[Point], int],
    line: Callable[[Point], tuple[str, int]],
    xlabel: str,
    label: str,
) -> Figure | None:
    """The paging tax, a panel a shape, colours for kernels; only lines of two places or more."""
    known = [f for f in findings.paged_kernels(points) if f.effect.pct is not None]
    groups = findings.by(known, lambda p: (p.shape, *line(p)))
    shown = [f for group in groups.values() if len(group) > 1 for f in group]
    kernels = sorted({f.point.attention for f in shown})
    others = sorted({line(f.point)[1] for f in shown})

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        mine = [f for f in shown if f.point in group]
        for (attention, other), members in findings.by(mine, line).items():
            ordered = sorted(members, key=lambda f: place(f.point))
            style = _styled(kernels.index(attention), others.index(other))
            style["label"] = f"{kernel(ordered[0].point)}, {label.format(other)}"
            _line(axes, ordered, [place(f.point) for f in ordered], style)
        _powers_of_two(axes, [place(p) for p in group])
        axes.set_xlabel(xlabel)

    return _panels(
        [f.point for f in shown],
        lambda p: (p.shape,),
        lines,
        "The kernel through a block table, its blocks in one run, against none (grey: called the same)",
    )


def _account(points: Sequence[Point]) -> Figure | None:
    """The components of every whole prefill, with intervals; the noise floor is a grey band behind them."""
    whole = [p for p in points if p.account]
    if not whole:
        return None
    height = 1.4 + 0.32 * len(whole)
    figure = Figure(figsize=(9.5, height), layout="constrained")
    panels = figure.subplots(1, len(COMPONENTS), sharey=True, squeeze=False)[0]
    gaps = ["" if p.gap == "shuffled" else f", {p.gap}" for p in whole]
    names = [
        f"{p.shape} {p.length}, block {p.block_size}, {kernel(p)}{gap}"
        for p, gap in zip(whole, gaps, strict=True)
    ]
    for axes, (component, title) in zip(panels, COMPONENTS.items(), strict=True):
        axes.use_sticky_edges = False  # bars leave room at the sides too
        for n, point in enumerate(whole):
            effect = point.in_engine(component)
            if effect.floor_pct is not None:
                axes.barh(n, 2 * effect.floor_pct, left=-effect.floor_pct, height=0.7, color="0.88")
            if effect.pct is not None:
                found = [Finding(point, 1, effect)]
                axes.errorbar([effect.pct], [n], xerr=_errors(found), fmt="o", color=COLOURS[0], capsize=3)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("% of the engine's prefill")
    panels[0].set_yticks(range(len(whole)), names)
    panels[0].set_ylim(len(whole) - 0.4, -0.6)
    figure.suptitle("What layout costs a whole prefill (95% intervals; grey: noise floor)", fontsize=10)
    return figure


def _gather(points: Sequence[Point]) -> Figure | None:
    """The uses of one copy from which a gather pays, over the length; on the first use below the line."""
    found = [g for g in findings.gathers(points) if g.uses is not None]

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        kernels = sorted({p.attention for p in points})
        sizes = sorted({p.block_size for p in points})
        series: dict[tuple[str, int], list[Gather]] = {}
        for g in found:
            if g.point in group:
                series.setdefault((g.point.attention, g.point.block_size), []).append(g)
        for (attention, size), members in series.items():
            ordered = sorted(members, key=lambda g: g.point.length)
            axes.plot(
                [g.point.length for g in ordered],
                [g.uses or 0.0 for g in ordered],
                **_styled(kernels.index(attention), sizes.index(size)),
                label=f"{kernel(ordered[0].point)}, block {size}",
            )
        _powers_of_two(axes, [p.length for p in group])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhline(1, color="0.4", linewidth=0.8)
        axes.set_xlabel("tokens")

    return _panels(
        [g.point for g in found],
        lambda p: (p.shape,),
        lines,
        "Attention calls on one gathered copy from which gathering pays (below the line: the first)",
        ylabel="uses",
        zero=False,
    )


def _panels(
    points: Sequence[Point],
    key: Callable[[Point], tuple[str, ...]],
    draw: Callable[[Axes, Sequence[Point]], None],
    title: str,
    ylabel: str = "difference, %",
    zero: bool = True,
    legend: bool = True,
) -> Figure | None:
    """A panel for each group of points, three a row, on one scale; None without any."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    width = max(5.5, 3.7 * columns)
    figure = Figure(figsize=(width, 0.6 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, group) in zip(panels, sorted(groups.items()), strict=False):
        if zero:
            tolerance = group[0].summary["tolerance_pct"]
            axes.axhspan(-tolerance, tolerance, color="0.93")
            axes.axhline(0, color="0.4", linewidth=0.8)
        draw(axes, group)
        axes.set_title(", ".join(name), loc="left", fontsize=9)
        if legend:
            axes.legend(fontsize=7, frameon=False)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(ylabel)
    figure.suptitle(textwrap.fill(title, int(13 * width)), fontsize=10)
    return figure


def _styled(colour: int, marker: int) -> dict[str, Any]:
    """A colour and a marker by their numbers."""
    return {"color": COLOURS[colour % len(COLOURS)], "marker": MARKERS[marker % len(MARKERS)]}


def _legend(colours: Sequence[str], markers: Sequence[str], hollow: bool) -> list[Line2D]:
    """What colours, markers and, if there are any, hollow markers stand for."""
    keys = [Line2D([], [], color=_styled(n, 0)["color"], label=text) for n, text in enumerate(colours)]
    for n, text in enumerate(markers):
        keys.append(Line2D([], [], color="0.3", linestyle="", marker=MARKERS[n % len(MARKERS)], label=text))
    if hollow:
        label = "scattered over the pool"
        keys.append(
            Line2D([], [], color="0.3", linestyle="", marker="o", markerfacecolor="white", label=label)
        )
    return keys


def _line(axes: Axes, found: Sequence[Finding], places: Sequence[float], style: dict[str, Any]) -> None:
    """Medians with their intervals; what was not measured is not on it."""
    known = [(x, f) for x, f in zip(places, found, strict=True) if f.effect.pct is not None]
    if known:
        middles = [f.effect.pct or 0.0 for _, f in known]
        errors = _errors([f for _, f in known])
        how = {"markersize": 4, "capsize": 2, "linewidth": 1.0} | style
        axes.errorbar([x for x, _ in known], middles, yerr=errors, **how)


def _errors(found: Iterable[Finding]) -> Errors:
    """How far the intervals reach below and above the medians."""
    below, above = [], []
    for effect in (f.effect for f in found):
        pct = effect.pct or 0.0
        low, high = effect.ci95_pct or (pct, pct)
        below.append(pct - low)
        above.append(high - pct)
    return below, above


def _powers_of_two(axes: Axes, values: Iterable[int]) -> None:
    """A logarithmic axis with the values measured on it, every other one where they are many."""
    known = sorted(set(values))
    ticks = known[:: -(1 + len(known) // 7)][::-1]  # the largest is one of them
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.set_xlim(known[0] / 1.5, known[-1] * 1.5)


def styled() -> Any:
    """The context to draw in."""
    return matplotlib.rc_context(STYLE)
