"""The study's figures: one device each, drawn from the same findings as its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from study import findings
from study.findings import Finding, Gather
from study.points import Point
from study.words import kernel

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"
STYLE: dict[Any, Any] = {"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}
DPI = 110
COMPONENTS = {"fragmentation": "fragmentation", "paging": "paging", "cache_write": "cache write"}

Errors = tuple[list[float], list[float]]


def write(points: Sequence[Point], folder: Path, device: str) -> dict[str, str]:
    """Draw a device's figures as NAME-DEVICE.png into the folder; the files' names by figure.

    A figure with nothing on it is not drawn.
    """
    drawn = {
        "spread": _spread(points),
        "paging": _paging(points),
        "account": _account(points),
        "gather": _gather(points),
    }
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for name, figure in drawn.items():
        if figure is not None:
            names[name] = f"{name}-{device}.png"
            figure.savefig(folder / names[name], dpi=DPI)
    return names


def _spread(points: Sequence[Point]) -> Figure | None:
    """Fragmentation over spread_k: a panel a shape and kernel, a line a point."""

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        lengths = sorted({p.length for p in points})
        sizes = sorted({p.block_size for p in points})
        for point in group:
            found = [Finding(point, k, point.fragmentation(k)) for k in point.spreads if k > 1]
            label = f"{point.length} tokens, block {point.block_size}"
            label += "" if point.gap == "shuffled" else f", {point.gap}"
            colour, marker = lengths.index(point.length), sizes.index(point.block_size)
            _line(axes, found, [f.spread_k for f in found], label, colour, marker)
        _powers_of_two(axes, [k for p in group for k in p.spreads if k > 1])
        axes.set_xlabel("runs")

    return _panels(
        [p for p in points if len(p.spreads) > 1],
        lambda p: (kernel(p), p.shape),
        lines,
        "The same kernel on so many runs of blocks, against one run (grey: called the same)",
    )


def _paging(points: Sequence[Point]) -> Figure | None:
    """The paging tax over the block size, a panel a shape, a line a kernel and length."""
    found = [f for f in findings.paged_kernels(points) if f.effect.pct is not None]

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        kernels = sorted({p.attention for p in points})
        lengths = sorted({p.length for p in points})
        mine = [f for f in found if f.point in group]
        for members in findings.by(mine, lambda p: (p.attention, p.length)).values():
            first = members[0].point
            ordered = sorted(members, key=lambda f: f.point.block_size)
            label = f"{kernel(first)}, {first.length} tokens"
            colour, marker = kernels.index(first.attention), lengths.index(first.length)
            _line(axes, ordered, [f.point.block_size for f in ordered], label, colour, marker)
        _powers_of_two(axes, [p.block_size for p in group])
        axes.set_xlabel("block size")

    return _panels(
        [f.point for f in found],
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
    names = [f"{p.shape} {p.length}, block {p.block_size}, {kernel(p)}" for p in whole]
    for axes, (component, title) in zip(panels, COMPONENTS.items(), strict=True):
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
    panels[0].invert_yaxis()
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
                color=COLOURS[kernels.index(attention) % len(COLOURS)],
                marker=MARKERS[sizes.index(size) % len(MARKERS)],
                label=f"{attention.removeprefix('vLLM ')}, block {size}",
            )
        _powers_of_two(axes, [p.length for p in group])
        axes.set_yscale("log")
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
) -> Figure | None:
    """A panel for each group of points, three a row, on one scale; None without any."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(max(5.5, 3.7 * columns), 0.6 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, group) in zip(panels, sorted(groups.items()), strict=False):
        if zero:
            tolerance = group[0].summary["tolerance_pct"]
            axes.axhspan(-tolerance, tolerance, color="0.93")
            axes.axhline(0, color="0.4", linewidth=0.8)
        draw(axes, group)
        axes.set_title(", ".join(name), loc="left", fontsize=9)
        axes.legend(fontsize=7, frameon=False)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=10)
    return figure


def _line(
    axes: Axes, found: Sequence[Finding], places: Sequence[int], label: str, colour: int, marker: int
) -> None:
    """Medians with their intervals; what was not measured is not on it."""
    known = [(x, f) for x, f in zip(places, found, strict=True) if f.effect.pct is not None]
    if not known:
        return
    axes.errorbar(
        [x for x, _ in known],
        [f.effect.pct or 0.0 for _, f in known],
        yerr=_errors([f for _, f in known]),
        color=COLOURS[colour % len(COLOURS)],
        marker=MARKERS[marker % len(MARKERS)],
        markersize=4,
        capsize=2.5,
        linewidth=1.2,
        label=label,
    )


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
    ticks = known[:: 1 + len(known) // 7]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.set_xlim(known[0] / 1.5, known[-1] * 1.5)


def styled() -> Any:
    """The context to draw in."""
    return matplotlib.rc_context(STYLE)
