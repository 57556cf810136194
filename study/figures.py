"""The study's figures: one device each, drawn from the same findings as its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from study import drawing, findings
from study.findings import Finding, Gather
from study.points import Point
from study.words import kernel

DPI = 110
CURVE = 4  # number of values of spread_k from which on a line joins them
COMPONENTS = {
    "fragmentation": "fragmentation",
    "paging": "paging",
    "cache_write": "cache write",
    "total": "all three",
}


def write(devices: Mapping[str, Sequence[Point]], folder: Path) -> dict[str, dict[str, str]]:
    """Draw each device's figures as NAME-DEVICE.png into the folder; the files' names by device and figure.

    Scales, colours and markers are the same for all devices. Empty figures are not drawn.
    """
    everywhere = [point for points in devices.values() for point in points]
    drawn = {device: _draw(points, everywhere) for device, points in devices.items()}
    for name in {name for figures in drawn.values() for name in figures}:
        alike = [figures[name] for figures in drawn.values() if name in figures]
        drawing.on_one_scale(alike, across=name == "breakdown")
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, dict[str, str]] = {device: {} for device in devices}
    for device, figures in drawn.items():
        for name, figure in figures.items():
            slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
            names[device][name] = f"{name}-{slug}.png"
            figure.savefig(folder / names[device][name], dpi=DPI)
    return names


def _draw(points: Sequence[Point], everywhere: Sequence[Point]) -> dict[str, Figure]:
    drawn = {
        "spread": _spread(points, everywhere),
        "paging": _paging(points, everywhere),
        "lengths": _lengths(points, everywhere),
        "breakdown": _breakdown(points),
        "gather": _gather(points, everywhere),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _spread(points: Sequence[Point], everywhere: Sequence[Point]) -> Figure | None:
    """Fragmentation over spread_k, a panel a kernel and shape: colours are lengths, markers block sizes."""
    shown = findings.curves(points)
    lengths = sorted({p.length for p in everywhere})
    sizes = sorted({p.block_size for p in everywhere})

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        for n, point in enumerate(group):
            found = [Finding(point, k, point.fragmentation(k)) for k in point.spreads if k > 1]
            # Offsets keep intervals apart, none of them nearer to the next power of two.
            aside = 2 ** (0.4 * (n - (len(group) - 1) / 2) / max(len(group), 6))
            style = drawing.style_of(lengths.index(point.length), sizes.index(point.block_size))
            if point.gap != "shuffled":
                style["markerfacecolor"] = "white"
            if len(found) < CURVE:
                style["linestyle"] = ""
            drawing.line(axes, found, [aside * f.spread_k for f in found], style)
        drawing.powers_of_two(axes, [k for p in group for k in p.spreads if k > 1])
        axes.set_xlabel("segments")

    figure = drawing.panels(
        shown,
        lambda p: (kernel(p), p.shape),
        lines,
        "The kernel with blocks in this many segments, against one segment (95%, some cut off; grey: called "
        "the same)",
        legend=False,
    )
    if figure:
        effects = [p.fragmentation(k) for p in shown for k in p.spreads if k > 1]
        drawing.clip(figure, effects)
        keys = drawing.legend(
            {f"{x} tokens": n for n, x in enumerate(lengths) if any(p.length == x for p in shown)},
            {f"block {x}": n for n, x in enumerate(sizes) if any(p.block_size == x for p in shown)},
            "scattered over the pool" if any(p.gap != "shuffled" for p in shown) else None,
            "too few rounds for an interval"
            if any(e.pct is not None and not e.ci95_pct for e in effects)
            else None,
        )
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 5), frameon=False)
    return figure


def _paging(points: Sequence[Point], everywhere: Sequence[Point]) -> Figure | None:
    """The paging tax over the block size."""
    return _tax(
        points,
        everywhere,
        lambda p: p.block_size,
        lambda p: (p.attention, p.length),
        "block size",
        "{} tokens",
    )


def _lengths(points: Sequence[Point], everywhere: Sequence[Point]) -> Figure | None:
    """The paging tax over the length."""
    return _tax(
        points, everywhere, lambda p: p.length, lambda p: (p.attention, p.block_size), "tokens", "block {}"
    )


def _tax(
    points: Sequence[Point],
    everywhere: Sequence[Point],
    place: Callable[[Point], int],
    line: Callable[[Point], tuple[str, int]],
    xlabel: str,
    label: str,
) -> Figure | None:
    """The paging tax, a panel a shape, colours for kernels; only lines with at least two points."""
    known = [f for f in findings.paged_kernels(points) if f.effect.pct is not None]
    groups = findings.by(known, lambda p: (p.shape, *line(p)))
    shown = [f for group in groups.values() if len(group) > 1 for f in group]
    kernels = sorted({p.attention for p in everywhere})
    others = sorted({line(p)[1] for p in everywhere})

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        mine = [f for f in shown if f.point in group]
        for (attention, other), members in findings.by(mine, line).items():
            ordered = sorted(members, key=lambda f: place(f.point))
            style = drawing.style_of(kernels.index(attention), others.index(other))
            style["label"] = f"{kernel(ordered[0].point)}, {label.format(other)}"
            drawing.line(axes, ordered, [place(f.point) for f in ordered], style)
        drawing.powers_of_two(axes, [place(p) for p in group])
        axes.set_xlabel(xlabel)

    return drawing.panels(
        [f.point for f in shown],
        lambda p: (p.shape,),
        lines,
        "The kernel through a block table, its blocks in one segment, against none (95%; grey: called the "
        "same)",
    )


def _breakdown(points: Sequence[Point]) -> Figure | None:
    """The components of every whole prefill, with intervals; the noise floor is a grey band behind them."""
    whole = [p for p in points if p.breakdown]
    if not whole:
        return None
    height = 1.4 + 0.32 * len(whole)
    figure = Figure(figsize=(11, height), layout="constrained")
    panels = figure.subplots(1, len(COMPONENTS), sharex=True, sharey=True, squeeze=False)[0]
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
                axes.errorbar(
                    [effect.pct],
                    [n],
                    xerr=drawing.errors(found),
                    fmt="o",
                    color=drawing.COLOURS[0],
                    capsize=3,
                )
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("% of the engine's prefill")
    panels[0].set_yticks(range(len(whole)), names)
    panels[0].set_ylim(len(whole) - 0.4, -0.6)
    title = "What the paged KV cache costs a whole prefill (95% intervals; grey: noise floor)"
    figure.suptitle(title, fontsize=10)
    return figure


def _gather(points: Sequence[Point], everywhere: Sequence[Point]) -> Figure | None:
    """The number of uses of one copy after which a gather pays, over the length; below the line: on the first
    use.
    """
    found = [g for g in findings.gathers(points) if g.uses_ci95 is not None]
    kernels = sorted({p.attention for p in everywhere})
    sizes = sorted({p.block_size for p in everywhere})

    def lines(axes: Axes, group: Sequence[Point]) -> None:
        series: dict[tuple[str, int], list[Gather]] = {}
        for g in found:
            if g.point in group:
                series.setdefault((g.point.attention, g.point.block_size), []).append(g)
        for n, ((attention, size), members) in enumerate(sorted(series.items())):
            ordered = sorted(members, key=lambda g: g.point.length)
            aside = 2 ** (0.05 * (n - (len(series) - 1) / 2))  # points at one length are offset
            uses = [g.uses or 0.0 for g in ordered]
            bounds = [g.uses_ci95 or (0.0, 0.0) for g in ordered]
            axes.errorbar(
                [aside * g.point.length for g in ordered],
                uses,
                yerr=(
                    [use - low for use, (low, _) in zip(uses, bounds, strict=True)],
                    [high - use for use, (_, high) in zip(uses, bounds, strict=True)],
                ),
                **drawing.style_of(kernels.index(attention), sizes.index(size)),
                label=f"{kernel(ordered[0].point)}, block {size}",
            )
        drawing.powers_of_two(axes, [p.length for p in group])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhline(1, color="0.4", linewidth=0.8)
        axes.set_xlabel("tokens")

    return drawing.panels(
        [g.point for g in found],
        lambda p: (p.shape,),
        lines,
        "Attention calls on one gathered copy from which gathering pays (95%; below the line: the first)",
        ylabel="uses",
        zero=False,
    )
