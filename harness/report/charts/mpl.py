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
from harness.report.charts.style import SCREEN, Style
from harness.runs.store import DRAWN_BY
from harness.runs.writing import write_atomic
from harness.terminal import escape

# Text stays text in SVG and PDF, and names are not formulae; a fixed salt makes files reproducible.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "harness",
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
WIDTH = 10.5  # inches, of a panel that has its row to itself, if the style names none
BELOW: dict[str, Any] = {"labelspacing": 0.3, "borderpad": 0.2, "handlelength": 2.4}  # of a legend
DODGE_PT, WIDEST_PT = 3.0, 15.0  # between the points of two lines at the same x, and of all of them


def write(sheet: spec.Sheet, folder: Path, style: Style = SCREEN) -> list[Path]:
    """Write NAME.png and the style's other files into the folder, making it; returns their paths.

    No file if all of the sheet's charts are empty.
    """
    figure = draw(sheet, style)
    if figure is None:
        return []
    paths = []
    dates = {"png": "Date", "svg": "Date", "pdf": "CreationDate"}
    with matplotlib.rc_context(STYLE | {"font.size": style.text}):
        for kind in style.kinds:
            image = BytesIO()
            figure.savefig(image, format=kind, metadata={dates[kind]: None, "Creator": DRAWN_BY})
            paths.append(folder / f"{sheet.name}{style.suffix}.{kind}")
            write_atomic(paths[-1], image.getvalue())
    return paths


def draw(sheet: spec.Sheet, style: Style = SCREEN) -> Figure | None:
    """The sheet's charts as panels, below their title; None if all are empty."""
    if all(chart.empty for chart in sheet.charts):
        return None
    with matplotlib.rc_context(STYLE | {"font.size": style.text}):
        return _draw(sheet, style)


def _draw(sheet: spec.Sheet, style: Style) -> Figure:
    charts = [chart for chart in sheet.charts if not chart.empty or chart.note]
    columns = min(sheet.columns, len(charts)) if style.width is None else 1
    rows = [charts[n : n + columns] for n in range(0, len(charts), columns)]
    heights = [max(_inches(chart, columns, style) for chart in row) for row in rows]
    width = style.width or (WIDTH if columns == 1 else 1.5 + 3.7 * columns)
    keys = list(dict.fromkeys(key for chart in charts if not chart.empty for key in chart.legend_keys()))
    title = _fill(sheet.title, int(11 * width))
    room = 0.4 + 0.2 * title.count("\n")
    if style.title is None:
        room = sum(0.04 + 0.14 * len(_legend_label(key, style).splitlines()) for key in keys)
    layout = ConstrainedLayoutEngine(w_pad=0.1 if style.width is None else 0.02)
    figure = Figure(figsize=(width, sum(heights) + room), dpi=style.dpi, layout=layout)
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights).flatten()
    for axes, chart in zip(panels, charts, strict=False):
        _panel(axes, chart, columns, style)
    for axes in panels[len(charts) :]:
        axes.set_visible(False)
    if style.title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=style.title, linespacing=1.4)
    if style.title is None and keys:
        figure.legend(handles=_handles(keys, style), loc="outside lower left", frameon=False, **BELOW)
    elif columns > 1:
        figure.legend(handles=_handles(keys, style), loc="outside right center", frameon=False)
    _settle(figure)
    return figure


def _settle(figure: Figure) -> None:
    """Fix the layout, as its solver is reproducible only up to rounding."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(each), 5) for each in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _inches(chart: Chart, columns: int, style: Style) -> float:
    """The height of a chart's panel."""
    note = 0.16 * len(_note(chart, columns, style).splitlines())
    if chart.empty:
        return 0.4 + note
    if style.width is not None:
        return _height_at_width(chart, style) + note
    labels = [_legend_label(key, style) for key in chart.legend_keys()] if columns == 1 else []
    legend = 0.6 + 0.17 * sum(len(label.splitlines()) for label in labels)
    own = style.lines_height if isinstance(chart, Lines) else 1.0 + style.row_height * len(chart.rows)
    return max(own, legend) + note


def _height_at_width(chart: Chart, style: Style) -> float:
    """The height of a panel of given width, whose rows are as high as their labels."""
    title = 0.14 * len(_title(chart, style).splitlines())
    if isinstance(chart, Lines):
        return style.lines_height + title
    most = max(len(_fill(row.label, style.label_chars).splitlines()) for row in chart.rows)
    return 0.55 + title + (style.row_height + 0.14 * (most - 1)) * len(chart.rows)


def _panel(axes: Axes, chart: Chart, columns: int, style: Style) -> None:
    title = _title(chart, style)
    axes.set_title(title, fontsize=style.panel_title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if chart.empty:
        note, size = _note(chart, columns, style), min(8.5, style.text)
        axes.text(0, 1, note, va="top", fontsize=size, transform=axes.transAxes)
        axes.set_axis_off()
        return
    if isinstance(chart, Lines):
        _draw_lines(axes, chart, style)
    else:
        _draw_bars(axes, chart, style)
    if columns == 1 and style.title is not None and chart.legend_keys():
        axes.legend(
            handles=_handles(chart.legend_keys(), style),
            frameon=False,
            handlelength=3.2,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
        )
    label = chart.x.label if isinstance(chart, Lines) else chart.axis.label
    label = escape(label) if style.width is None else _fill(label, _below(chart, style))
    axes.set_xlabel("\n".join([label, _note(chart, columns, style)]).rstrip())


def _title(chart: Chart, style: Style) -> str:
    chars = style.panel_title_chars
    return _fill(chart.title, chars if isinstance(chart, Lines) else style.beside_labels(chars))


def _note(chart: Chart, columns: int, style: Style) -> str:
    chars = _below(chart, style)
    return _fill(chart.note, chars if columns == 1 else chars // 2)


def _below(chart: Chart, style: Style) -> int:
    """Characters to a line below a panel."""
    return style.note_chars if isinstance(chart, Lines) else style.beside_labels(style.note_chars)


def _fill(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, without breaking intervals."""
    whole = re.sub(r"\[[^]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), escape(text))
    return textwrap.fill(whole, width, break_on_hyphens=False).replace("\u00a0", " ")


def _draw_lines(axes: Axes, chart: Lines, style: Style) -> None:
    x, y = chart.scales()
    places = chart.xs() if chart.x.at_points else x.ticks(8)
    _axis(axes, "x", x, x.with_room(places), [f"{place:g}" for place in x.with_room(places)])
    _axis(axes, "y", y, y.ticks(), [y.label(tick, y.ticks()) for tick in y.ticks()])
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_ylabel(_fill(chart.y_label, style.y_chars))
    if chart.y.zero is not None:
        axes.axhline(chart.y.zero, color="0.4", linewidth=0.8, zorder=2)
    for band in chart.bands:
        edges = band.edges if len(band.edges) > 1 else [(end, *band.edges[0][1:]) for end in (x.low, x.high)]
        xs, lows, highs = (list(values) for values in zip(*edges, strict=True))
        axes.fill_between(xs, lows, highs, color=PAPER_COLOURS[BAND], linewidth=0, zorder=1)
    lines, crossed = chart.drawn, 0
    apart = style.marks * min(DODGE_PT, WIDEST_PT / len(lines))
    for n, line in enumerate(lines):
        shift = apart * (n - (len(lines) - 1) / 2)
        _line(axes, line, chart.ring, shift, 0.03 + 0.045 * crossed, style)
        crossed += bool(line.lost)


def _axis(axes: Axes, name: str, scale: Scale, ticks: Sequence[float], labels: Sequence[str]) -> None:
    """Set up one axis: limits, ticks and tick labels come from the scale."""
    if scale.log:
        axes.set(**{f"{name}scale": "log"})
    axes.set(**{f"{name}lim": (scale.low, scale.high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_ticks(list(ticks), list(labels))
    axis.set_ticks([], minor=True)


def _line(axes: Axes, line: spec.Line, ring: Key | None, shift_pt: float, foot: float, style: Style) -> None:
    """Draw the line with its intervals, rings and crosses, slightly offset from the others."""
    key, colour = line.key, _colour(line.key.colour)
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes are a figure's"
    shift = ScaledTranslation(shift_pt / 72, 0, figure.dpi_scale_trans)
    over = axes.transData + shift
    ys = [math.nan if point.y is None else point.y for point in line.points]
    axes.plot([point.x for point in line.points], ys, transform=over, zorder=3, **_look(key, style))
    for point in line.measured:
        assert point.y is not None
        if point.interval:
            axes.plot(
                [point.x] * 2,
                list(point.interval),
                transform=over,
                color=colour,
                lw=1.4 * style.marks,
                zorder=3,
            )
        if ring and point.ringed:
            axes.plot(point.x, point.y, transform=over, zorder=4, **_look(ring, style))
    lost = [point.x for point in line.lost]
    at_foot = axes.get_xaxis_transform() + shift
    look = _look(spec.NOT_MEASURED, style) | {"color": colour}
    axes.plot(lost, [foot] * len(lost), transform=at_foot, zorder=3, **look)


def _draw_bars(axes: Axes, chart: Bars, style: Style) -> None:
    scale = chart.scale()
    _axis(axes, "x", scale, scale.ticks(), [scale.label(tick, scale.ticks()) for tick in scale.ticks()])
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_yticks(range(len(chart.rows)), [_fill(row.label, style.label_chars) for row in chart.rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    if scale.low <= (strong := chart.axis.zero or 0.0) <= scale.high:
        axes.axvline(strong, color="0.4", linewidth=0.8, zorder=2)
    if chart.band:
        _, low, high = chart.band.edges[0]
        axes.axvspan(low, high, color=PAPER_COLOURS[BAND], linewidth=0, zorder=1)
    for n, row in enumerate(chart.rows):
        _row(axes, row, n, scale, style)


def _row(axes: Axes, row: spec.Row, n: int, scale: Scale, style: Style) -> None:
    if row.band:
        low, high = row.band
        axes.barh(n, high - low, left=low, height=0.85, color=PAPER_COLOURS[BAND], zorder=1)
    start = row.start
    for part in row.parts:
        axes.barh(n, part.value, left=start, height=0.58, linewidth=0.6, zorder=2.5, **_patch(part.key))
        if style.width is None and (place := part.text_place(start, scale)) is not None:
            _part_text(axes, part, place, n)
        _whiskers(axes, part, start + part.value, n, style)
        start += part.value
    for dot in row.dots:
        height = n + 0.3 * dot.below
        _whiskers(axes, dot, dot.value, height, style)
        axes.plot(dot.value, height, zorder=5, **_look(dot.key, style) | {"linestyle": "none"})


def _part_text(axes: Axes, part: spec.Part, x: float, y: float) -> None:
    light = part.key.hatched or part.key.hollow
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if light else None
    colour = "white" if part.key.dark or (part.key.colour == INK and not light) else "black"
    axes.text(x, y, escape(part.text), ha="center", va="center", color=colour, bbox=box, zorder=4)


def _whiskers(axes: Axes, mark: spec.Part | spec.Dot, value: float, y: float, style: Style) -> None:
    if mark.interval:
        reach = [[value - mark.interval[0]], [mark.interval[1] - value]]
        look: dict[str, Any] = {"capsize": 3 * style.marks, "lw": 1.2 * style.marks}
        axes.errorbar(value, y, xerr=reach, fmt="none", color="black", zorder=4, **look)


def _look(key: Key, style: Style) -> dict[str, Any]:
    """A key's line and marker."""
    colour = _colour(key.colour)
    marker = key.marker or "none"
    return {
        "color": colour,
        "linestyle": LINES[key.line],
        "linewidth": 1.4 * style.marks,
        "marker": MARKERS.get(marker, "none"),
        "markersize": SIZES.get(marker, 6.0) * style.marks,
        "markerfacecolor": "none" if marker == "ring" else "white" if key.hollow else colour,
    }


def _patch(key: Key) -> dict[str, Any]:
    """A key's patch of colour."""
    if key.hatched or key.hollow:
        return {"facecolor": "white", "edgecolor": "0.6", "hatch": "////" if key.hatched else None}
    return {"facecolor": _colour(key.colour), "edgecolor": "0.35"}


def _colour(colour: str) -> str:
    return PAPER_COLOURS.get(colour, colour)


def _handles(keys: Iterable[Key], style: Style) -> list[Artist]:
    """The legend's entries."""
    return [
        Line2D([], [], label=_legend_label(key, style), **_look(key, style))
        if key.marker or key.line
        else Patch(label=_legend_label(key, style), linewidth=0.6, **_patch(key))
        for key in keys
    ]


def _legend_label(key: Key, style: Style) -> str:
    return _fill(key.label, style.legend_chars)
