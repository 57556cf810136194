"""Charts through matplotlib, as the files of plots/. The only module that imports it."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from harness.report.charts import spec
from harness.report.charts.scale import Scale
from harness.report.charts.spec import BAND, INK, SOFT, Bars, Chart, Key, Lines
from harness.runs.store import DRAWN_BY
from harness.runs.writing import write_atomic
from harness.terminal import escape

# Text stays text in SVG and PDF, and names are not formulae; a fixed salt makes files reproducible.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "harness",
    "font.size": 9.5,
    "text.parse_math": False,
}
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "triangle down": "v",
    "triangle left": "<",
    "triangle right": ">",
    "diamond": "D",
    "thin diamond": "d",
    "pentagon": "p",
    "hexagon": "h",
    "flat hexagon": "H",
    "octagon": "8",
    "star": "*",
    "plus": "P",
    "x": "X",
    "cross": "x",
    "tick": "|",
    "dot": ".",
    "ring": "o",
}
SIZES = {"tick": 14.0, "dot": 5.0, "ring": 13.0, "cross": 7.0}  # in points; others 6
LINES = {"solid": "-", "dashed": "--", "dotted": ":", None: "none"}
PAPER_COLOURS = {INK: "black", SOFT: "0.4", BAND: "0.88"}
WIDTH, DPI = 10.5, 200  # inches; of the PNG
NOTE = 90  # characters per line below a panel that has its row to itself
DODGE_PT, WIDEST_PT = 3.0, 15.0  # between the points of two lines at the same x, and of all of them


@matplotlib.rc_context(STYLE)
def write(sheet: spec.Sheet, folder: Path) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.pdf into the folder, making it; returns their paths.

    No file if all of the sheet's charts are empty.
    """
    figure = draw(sheet)
    if figure is None:
        return []
    paths = []
    for kind, date in (("png", "Date"), ("svg", "Date"), ("pdf", "CreationDate")):
        image = BytesIO()
        figure.savefig(image, format=kind, metadata={date: None, "Creator": DRAWN_BY})
        paths.append(folder / f"{sheet.name}.{kind}")
        write_atomic(paths[-1], image.getvalue())
    return paths


@matplotlib.rc_context(STYLE)
def draw(sheet: spec.Sheet) -> Figure | None:
    """The sheet's charts as panels, below their title; None if all are empty."""
    if all(chart.empty for chart in sheet.charts):
        return None
    charts = [chart for chart in sheet.charts if not chart.empty or chart.note]
    columns = min(sheet.columns, len(charts))
    rows = [charts[n : n + columns] for n in range(0, len(charts), columns)]
    heights = [max(_inches(chart, columns) for chart in row) for row in rows]
    width = WIDTH if columns == 1 else 1.5 + 3.7 * columns
    title = _fill(sheet.title, int(11 * width))
    height = sum(heights) + 0.4 + 0.2 * title.count("\n")
    figure = Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1))
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights).flatten()
    for axes, chart in zip(panels, charts, strict=False):
        _panel(axes, chart, columns)
    for axes in panels[len(charts) :]:
        axes.set_visible(False)
    if columns > 1:
        keys = list(dict.fromkeys(key for chart in charts if not chart.empty for key in chart.legend_keys()))
        figure.legend(handles=_handles(keys), loc="outside right center", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, linespacing=1.4)
    _settle(figure)
    return figure


def _settle(figure: Figure) -> None:
    """Fix the layout, as its solver is reproducible only up to rounding."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(each), 5) for each in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _inches(chart: Chart, columns: int) -> float:
    """The height of a chart's panel."""
    note = 0.16 * len(_note(chart, columns).splitlines())
    if chart.empty:
        return 0.4 + note
    labels = [_legend_label(key) for key in chart.legend_keys()] if columns == 1 else []
    legend = 0.6 + 0.17 * sum(len(label.splitlines()) for label in labels)
    return max(3.0 if isinstance(chart, Lines) else 1.0 + 0.42 * len(chart.rows), legend) + note


def _panel(axes: Axes, chart: Chart, columns: int) -> None:
    axes.set_title(escape(chart.title), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if chart.empty:
        axes.text(0, 1, _note(chart, columns), va="top", fontsize=8.5, transform=axes.transAxes)
        axes.set_axis_off()
        return
    if isinstance(chart, Lines):
        _draw_lines(axes, chart)
    else:
        _draw_bars(axes, chart)
    if columns == 1 and chart.legend_keys():
        axes.legend(
            handles=_handles(chart.legend_keys()),
            frameon=False,
            handlelength=3.2,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
        )
    label = chart.x.label if isinstance(chart, Lines) else chart.axis.label
    axes.set_xlabel("\n".join([escape(label), _note(chart, columns)]).rstrip())


def _note(chart: Chart, columns: int) -> str:
    return _fill(chart.note, NOTE if columns == 1 else NOTE // 2)


def _fill(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, without breaking intervals."""
    whole = re.sub(r"\[[^]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), escape(text))
    return textwrap.fill(whole, width, break_on_hyphens=False).replace("\u00a0", " ")


def _draw_lines(axes: Axes, chart: Lines) -> None:
    x, y = chart.scales()
    places = chart.xs() if chart.x.at_points else x.ticks(8)
    _axis(axes, "x", x, x.with_room(places), [f"{place:g}" for place in x.with_room(places)])
    _axis(axes, "y", y, y.ticks(), [y.label(tick, y.ticks()) for tick in y.ticks()])
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_ylabel(_fill(chart.y_label, 34))
    if chart.y.zero is not None:
        axes.axhline(chart.y.zero, color="0.4", linewidth=0.8, zorder=2)
    for band in chart.bands:
        edges = band.edges if len(band.edges) > 1 else [(end, *band.edges[0][1:]) for end in (x.low, x.high)]
        xs, lows, highs = (list(values) for values in zip(*edges, strict=True))
        axes.fill_between(xs, lows, highs, color=PAPER_COLOURS[BAND], linewidth=0, zorder=1)
    lines, crossed = chart.drawn, 0
    apart = min(DODGE_PT, WIDEST_PT / len(lines))
    for n, line in enumerate(lines):
        shift = apart * (n - (len(lines) - 1) / 2)
        _line(axes, line, chart.ring, shift, 0.03 + 0.045 * crossed)
        crossed += bool(line.lost)


def _axis(axes: Axes, name: str, scale: Scale, ticks: Sequence[float], labels: Sequence[str]) -> None:
    """Set up one axis: limits, ticks and tick labels come from the scale."""
    if scale.log:
        axes.set(**{f"{name}scale": "log"})
    axes.set(**{f"{name}lim": (scale.low, scale.high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_ticks(list(ticks), list(labels))
    axis.set_ticks([], minor=True)


def _line(axes: Axes, line: spec.Line, ring: Key | None, shift_pt: float, foot: float) -> None:
    """Draw the line with its intervals, rings and crosses, slightly offset from the others."""
    key, colour = line.key, _colour(line.key.colour)
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes are a figure's"
    shift = ScaledTranslation(shift_pt / 72, 0, figure.dpi_scale_trans)
    over = axes.transData + shift
    ys = [math.nan if point.y is None else point.y for point in line.points]
    axes.plot([point.x for point in line.points], ys, transform=over, zorder=3, **_look(key))
    for point in line.measured:
        assert point.y is not None
        if point.interval:
            axes.plot([point.x] * 2, list(point.interval), transform=over, color=colour, lw=1.4, zorder=3)
        if ring and point.ringed:
            axes.plot(point.x, point.y, transform=over, zorder=4, **_look(ring))
    lost = [point.x for point in line.lost]
    at_foot = axes.get_xaxis_transform() + shift
    look = _look(spec.NOT_MEASURED) | {"color": colour}
    axes.plot(lost, [foot] * len(lost), transform=at_foot, zorder=3, **look)


def _draw_bars(axes: Axes, chart: Bars) -> None:
    scale = chart.scale()
    _axis(axes, "x", scale, scale.ticks(), [scale.label(tick, scale.ticks()) for tick in scale.ticks()])
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_yticks(range(len(chart.rows)), [_fill(row.label, 44) for row in chart.rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    if scale.low <= (strong := chart.axis.zero or 0.0) <= scale.high:
        axes.axvline(strong, color="0.4", linewidth=0.8, zorder=2)
    if chart.band:
        _, low, high = chart.band.edges[0]
        axes.axvspan(low, high, color=PAPER_COLOURS[BAND], linewidth=0, zorder=1)
    for n, row in enumerate(chart.rows):
        _row(axes, row, n, scale)


def _row(axes: Axes, row: spec.Row, n: int, scale: Scale) -> None:
    if row.band:
        low, high = row.band
        axes.barh(n, high - low, left=low, height=0.85, color=PAPER_COLOURS[BAND], zorder=1)
    start = row.start
    for part in row.parts:
        axes.barh(n, part.value, left=start, height=0.58, linewidth=0.6, zorder=2.5, **_patch(part.key))
        if (place := part.text_place(start, scale)) is not None:
            _part_text(axes, part, place, n)
        _whiskers(axes, part, start + part.value, n)
        start += part.value
    for dot in row.dots:
        height = n + 0.3 * dot.below
        _whiskers(axes, dot, dot.value, height)
        axes.plot(dot.value, height, zorder=5, **_look(dot.key) | {"linestyle": "none"})


def _part_text(axes: Axes, part: spec.Part, x: float, y: float) -> None:
    light = part.key.hatched or part.key.hollow
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if light else None
    colour = "white" if part.key.dark or (part.key.colour == INK and not light) else "black"
    axes.text(x, y, escape(part.text), ha="center", va="center", color=colour, bbox=box, zorder=4)


def _whiskers(axes: Axes, mark: spec.Part | spec.Dot, value: float, y: float) -> None:
    if mark.interval:
        reach = [[value - mark.interval[0]], [mark.interval[1] - value]]
        axes.errorbar(value, y, xerr=reach, fmt="none", color="black", capsize=3, lw=1.2, zorder=4)


def _look(key: Key) -> dict[str, Any]:
    """A key's line and marker."""
    colour = _colour(key.colour)
    marker = key.marker or "none"
    return {
        "color": colour,
        "linestyle": LINES[key.line],
        "linewidth": 1.4,
        "marker": MARKERS.get(marker, "none"),
        "markersize": SIZES.get(marker, 6.0),
        "markerfacecolor": "none" if marker == "ring" else "white" if key.hollow else colour,
    }


def _patch(key: Key) -> dict[str, Any]:
    """A key's patch of colour."""
    if key.hatched or key.hollow:
        return {"facecolor": "white", "edgecolor": "0.6", "hatch": "////" if key.hatched else None}
    return {"facecolor": _colour(key.colour), "edgecolor": "0.35"}


def _colour(colour: str) -> str:
    return PAPER_COLOURS.get(colour, colour)


def _handles(keys: Iterable[Key]) -> list[Artist]:
    """The legend's entries."""
    return [
        Line2D([], [], label=_legend_label(key), **_look(key))
        if key.marker or key.line
        else Patch(label=_legend_label(key), linewidth=0.6, **_patch(key))
        for key in keys
    ]


def _legend_label(key: Key) -> str:
    return _fill(key.label, 42)
