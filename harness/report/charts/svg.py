"""Charts as inline SVG. x is in percent of the width and y in pixels, so that text keeps its size on phones
and on paper. Every mark of a measurement can be reached by pointer and keyboard and has a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from markupsafe import Markup

from harness.report.charts import spec
from harness.report.charts.scale import Scale
from harness.report.charts.spec import BAND, INK, SOFT, Bars, Key, Lines, Tip
from harness.terminal import escape

HEIGHT, TOP, BOTTOM = 240.0, 10.0, 34.0  # pixels: height of the lines' area, and the margins above and below
DODGE_PX, WIDEST_PX = 5.0, 24.0  # between the points of two lines at the same x, and of all of them
AXIS_PX = 36.0  # below bars
ROW_PX, BAR_PX = (40.0, 50.0), 18.0  # a row without a bar and with one; the bar
MOST_SAMPLES = 150  # samples shown for a mark; if there are more, every second, third, ...
DASHES = {"dashed": "6 4", "dotted": "1.5 3.5"}
PAPER_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", BAND: "var(--band)"}


def _polygon(corners: int, turn: float = 0.0, width: float = 1.0, inner: float = 1.0) -> str:
    """A regular polygon, or a star if `inner` is less than 1; `turn` in degrees from upright."""
    places = []
    for n in range(corners if inner == 1 else 2 * corners):
        angle = math.radians(turn - 90 + 360 * n / (corners if inner == 1 else 2 * corners))
        radius = 5.2 * (inner if inner < 1 and n % 2 else 1)
        places.append(f"{width * radius * math.cos(angle):.1f},{radius * math.sin(angle):.1f}")
    return f"M{'L'.join(places)}Z"


# A marker's outline around (0, 0), in pixels.
MARKERS = {
    "circle": "M-4.5,0A4.5,4.5 0 1 1 4.5,0A4.5,4.5 0 1 1 -4.5,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "triangle": _polygon(3),
    "triangle down": _polygon(3, 180),
    "triangle left": _polygon(3, -90),
    "triangle right": _polygon(3, 90),
    "diamond": _polygon(4),
    "thin diamond": _polygon(4, width=0.6),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
    "flat hexagon": _polygon(6, 30),
    "octagon": _polygon(8, 22.5),
    "star": _polygon(5, inner=0.45),
    "plus": "M-1.6,-4.8H1.6V-1.6H4.8V1.6H1.6V4.8H-1.6V1.6H-4.8V-1.6H-1.6Z",
    "x": "M-2,-4.5L0,-2L2,-4.5L4.5,-2L2,0L4.5,2L2,4.5L0,2L-2,4.5L-4.5,2L-2,0L-4.5,-2Z",
    "cross": "M-4,-4L4,4M-4,4L4,-4",
    "tick": "M0,-13V13",
    "dot": "M-2,0A2,2 0 1 1 2,0A2,2 0 1 1 -2,0Z",
    "ring": "M-9,0A9,9 0 1 1 9,0A9,9 0 1 1 -9,0Z",
}


def draw(chart: spec.Chart) -> Markup:
    """The chart as a titled figure; an empty one gives its note, or "" without one."""
    if chart.empty and not chart.note:
        return Markup("")
    parts: list[str] = []
    if not chart.empty and isinstance(chart, Lines):
        parts = [_element("p", _escape(chart.y_label), class_="unit"), _draw_lines(chart)]
    elif not chart.empty and isinstance(chart, Bars):
        parts = [_draw_bars(chart)]
    return _figure(
        chart.title, *parts, *([] if chart.empty else [_legend(chart.legend_keys())]), note=chart.note
    )


def draw_block_map(chart: spec.BlockMap) -> Markup:
    """A picture of the block table, with segments as rising lines, above its physical ids as text."""
    lowest, end = chart.ids
    blocks = sum(length for _, _, length in chart.segments)
    path = "".join(
        f"M{block},{end - first_id}l{length},{-length}" for block, first_id, length in chart.segments
    )
    frame = _element("rect", width="100%", height="100%", class_="frame")
    picture = _element(
        "svg",
        _mark(chart.tip, frame, _element("path", d=path, class_="segments")),
        viewBox=f"0 0 {blocks} {end - lowest}",
        preserveAspectRatio="none",
        class_="blocks",
        role="group",
        aria_label=chart.tip.lines[0],
    )
    count = len(chart.segments)
    summary = _element("summary", _escape(f"{count} segment{'s' * (count > 1)}"))
    listing = _element("details", summary, _element("p", _escape(chart.listing), class_="ids"))
    return _element("div", _figure(chart.title, picture), listing, class_="block-table")


def _draw_lines(chart: Lines) -> Markup:
    x, y = chart.scales()
    drawn = [band for each in chart.bands for band in _band(each, x, y)] + [_grid(chart, x, y)]
    lines, crossed = chart.drawn, 0
    apart = min(DODGE_PX, WIDEST_PX / len(lines))
    for n, line in enumerate(lines):
        shift = f"translate({apart * (n - (len(lines) - 1) / 2):.1f},0)"
        marks = [_point(line.key, chart.ring, point, x, y, crossed) for point in line.points if point.tip]
        drawn.append(_element("g", *_strokes(line, x, y), *marks, transform=shift))
        crossed += bool(line.lost)
    return _drawing(chart.title, HEIGHT, *drawn, class_="plot")


def _height(y: Scale, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - y.at(value))


def _grid(chart: Lines, x: Scale, y: Scale) -> Markup:
    """Lines and labels of both axes."""
    drawn, foot, ticks = [], HEIGHT - BOTTOM, y.ticks()
    for tick in ticks:
        height = _height(y, tick)
        drawn.append(_line(0, height, 1, height, class_="zero" if tick == chart.y.zero else "rule"))
        drawn.append(_text(y.label(tick, ticks), 0, height + 4, text_anchor="end", dx="-6"))
    places = chart.xs() if chart.x.at_points else x.ticks()
    drawn += [_line(x.at(value), foot, x.at(value), foot + 4, class_="tick") for value in places]
    for value in x.with_room(places):
        drawn.append(_text(f"{value:g}", x.at(value), foot + 17, text_anchor="middle"))
    drawn.append(_text(chart.x.label, 1, HEIGHT - 2, text_anchor="end", class_="axis"))
    return _element("g", *drawn, class_="axes", aria_hidden="true")


def _band(band: spec.Band, x: Scale, y: Scale) -> Iterator[Markup]:
    """The band as a stretched shape, because shapes cannot have corners in percent."""
    if len(band.edges) == 1:
        ((_, low, high),) = band.edges
        yield _rect(0, _height(y, high), 1, _height(y, low) - _height(y, high), class_="band")
        return
    upper = [f"{1000 * x.at(at):.1f},{_height(y, high):.1f}" for at, _, high in band.edges]
    lower = [f"{1000 * x.at(at):.1f},{_height(y, low):.1f}" for at, low, _ in reversed(band.edges)]
    shape = _element("polygon", points=" ".join([*upper, *lower]), class_="band")
    box = {"viewBox": f"0 0 1000 {HEIGHT:.0f}", "width": "100%", "height": f"{HEIGHT:.0f}"}
    yield _element("svg", shape, preserveAspectRatio="none", **box)


def _strokes(line: spec.Line, x: Scale, y: Scale) -> Iterator[Markup]:
    """The line, with gaps where nothing was measured."""
    before = None
    for point in line.points if line.key.line else ():
        here = None if point.y is None else (x.at(point.x), _height(y, point.y))
        if before and here:
            yield _line(*before, *here, **_stroke(line.key), class_="line")
        before = here


def _point(key: Key, ring: Key | None, point: spec.Point, x: Scale, y: Scale, crossed: int) -> Markup:
    """A marker with its interval, possibly ringed; or a cross at the bottom, above those of other lines."""
    assert point.tip, "a point without a tip is only part of its line"
    place = x.at(point.x)
    if point.y is None:
        height = HEIGHT - BOTTOM - 7 - 9 * crossed
        return _mark(
            point.tip, _marker(spec.NOT_MEASURED, place, height, colour=key.colour), _halo(place, height)
        )
    height, parts = _height(y, point.y), []
    if point.interval:
        low, high = (_height(y, bound) for bound in point.interval)
        parts.append(_line(place, low, place, high, stroke=_colour(key.colour), class_="whisker"))
    if ring and point.ringed:
        parts.append(_marker(ring, place, height))
    return _mark(point.tip, *parts, _marker(key, place, height), _halo(place, height))


def _draw_bars(chart: Bars) -> Markup:
    scale, with_bars = chart.scale(), any(row.parts for row in chart.rows)
    row_px = ROW_PX[with_bars]
    height = len(chart.rows) * row_px
    drawn = []
    if chart.band:
        ((_, low, high),) = chart.band.edges
        drawn.append(_rect(scale.at(low), 0, scale.at(high) - scale.at(low), height, class_="band"))
    drawn.append(_foot(chart, scale, height))
    for n, row in enumerate(chart.rows):
        drawn += _row(row, scale, n * row_px, n * row_px + (31.0 if with_bars else 27.0))
    return _drawing(chart.title, height + AXIS_PX, *drawn, class_="bars")


def _foot(chart: Bars, scale: Scale, height: float) -> Markup:
    """Ticks and a label below the rows."""
    ticks, drawn = scale.ticks(4), []
    strong = 0.0 if chart.axis.zero is None else chart.axis.zero
    for tick in ticks:
        place = scale.at(tick)
        drawn.append(_line(place, 0, place, height, class_="zero" if tick == strong else "rule"))
        anchor = "start" if place < 0.05 else "end" if place > 0.95 else "middle"
        drawn.append(_text(scale.label(tick, ticks), place, height + 15, text_anchor=anchor))
    drawn.append(_text(chart.axis.label, 1, height + AXIS_PX - 5, text_anchor="end", class_="axis"))
    return _element("g", *drawn, class_="axes", aria_hidden="true")


def _row(row: spec.Row, scale: Scale, top: float, middle: float) -> Iterator[Markup]:
    """A row's label above its bar and points."""
    if row.band:
        low, high = (scale.at(bound) for bound in row.band)
        yield _rect(low, middle - 14, high - low, 28, class_="band")
    yield _text(row.label, 0, top + 15, class_="label")
    yield _line(0, middle, 1, middle, class_="rule")
    start = row.start
    for part in row.parts:
        yield _part(part, scale, start, middle, alone=len(row.parts) == 1)
        start += part.value
    for dot in row.dots:
        height, place = middle + 10 * dot.below, scale.at(dot.value)
        whiskers = _whiskers(dot, scale, height)
        yield _mark(dot.tip, *whiskers, _marker(dot.key, place, height), _halo(place, height))


def _part(part: spec.Part, scale: Scale, start: float, middle: float, alone: bool) -> Markup:
    left, right = sorted((scale.at(start), scale.at(start + part.value)))
    fill = "none" if part.key.hollow else _fill(part.key)
    kind = "outline" if part.key.hollow else "bar" if alone else "segment"
    drawn = [_rect(left, middle - BAR_PX / 2, right - left, BAR_PX, fill=fill, class_=kind)]
    if (place := part.text_place(start, scale)) is not None:
        light = part.key.hatched or part.key.hollow
        on = (
            "on-paper"
            if light
            else "on-ink"
            if part.key.colour == INK
            else "on-dark"
            if part.key.dark
            else ""
        )
        shown = {"text_anchor": "middle", "class_": on or "on-light"}
        drawn.append(_text(part.text, scale.at(place), middle + 4, **shown))
    return _mark(part.tip, *drawn, *_whiskers(part, scale, middle))


def _whiskers(mark: spec.Part | spec.Dot, scale: Scale, height: float) -> Iterator[Markup]:
    if mark.interval:
        low, high = (scale.at(bound) for bound in mark.interval)
        yield _line(low, height, high, height, class_="interval")
        for end in (low, high):
            yield _line(end, height - 4, end, height + 4, class_="interval")


def _mark(tip: Tip, *children: str) -> Markup:
    """A group that shows its tip on hover or focus."""
    step = -(-len(tip.samples) // MOST_SAMPLES) or 1
    samples = " ".join(f"{sample:.5g}" for sample in tip.samples[::step]) or None
    return _element(
        "g",
        *children,
        class_="mark",
        tabindex="-1",
        role="img",
        aria_label="; ".join(tip.lines),
        data_tip="\n".join(tip.lines),
        data_samples=samples,
        data_unit=tip.unit if samples else None,
    )


def _marker(key: Key, x: float, y: float, colour: str | None = None) -> Markup:
    """A key's marker at x (a share of the width) and y (pixels)."""
    stroke = _colour(colour or key.colour)
    fill = (
        "var(--paper)" if key.hollow and key.marker != "ring" else "none" if key.marker == "ring" else stroke
    )
    path = _element("path", d=MARKERS[key.marker or "circle"], stroke=stroke, fill=fill)
    return _element("svg", path, x=_percent(x), y=f"{y:.1f}", overflow="visible", class_="marker")


def _halo(x: float, y: float) -> Markup:
    """The area that reacts to the pointer, which also shows keyboard focus."""
    return _element("circle", cx=_percent(x), cy=f"{y:.1f}", r="11", class_="halo")


def _colour(colour: str) -> str:
    return PAPER_COLOURS.get(colour, colour)


def _fill(key: Key) -> str:
    return "url(#hatch)" if key.hatched else _colour(key.colour)


def _stroke(key: Key) -> dict[str, Any]:
    return {"stroke": _colour(key.colour), "stroke_dasharray": DASHES.get(key.line or "")}


def _legend(keys: Iterable[Key]) -> Markup:
    """The legend as a list next to its figure."""
    items = [_element("li", _swatch(key), _escape(key.label)) for key in keys]
    return _element("ul", *items, class_="legend") if items else Markup("")


def _swatch(key: Key) -> Markup:
    inner = []
    if not key.marker and not key.line:
        inner = [_element("rect", x="5", y="1", width="14", height="12", fill=_fill(key), class_="patch")]
    if key.line:
        inner.append(_element("line", x1="0", x2="24", y1="7", y2="7", **_stroke(key)))
    if key.marker:
        inner.append(_marker(key, 0.5, 7))
    return _element("svg", *inner, width="24", height="14", aria_hidden="true")


def _figure(title: str, *children: str, note: str = "") -> Markup:
    """A titled figure with a note below."""
    caption = _element("figcaption", _escape(title))
    below = [_element("p", _escape(note), class_="note")] if note else []
    return _element("figure", caption, *children, *below)


def _drawing(label: str, height: float, *children: str, class_: str) -> Markup:
    """The SVG of one figure. Its marks are one tab stop; arrow keys move between marks."""
    size = {"width": "100%", "height": f"{height:.0f}"}
    return _element("svg", *children, class_=f"drawing {class_}", **size, role="group", aria_label=label)


def _element(name: str, *children: str, **attributes: object) -> Markup:
    """An element with escaped text and attributes; None omits an attribute, class_ means class."""
    shown = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), escape(str(value)))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, Markup("").join(children))


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def _escape(text: str) -> Markup:
    return Markup.escape(escape(text))


def _line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A line; x as shares of the width, y in pixels."""
    ends = {"x1": _percent(x1), "y1": f"{y1:.1f}", "x2": _percent(x2), "y2": f"{y2:.1f}"}
    return _element("line", **ends, **attributes)


def _rect(x: float, y: float, width: float, height: float, **attributes: object) -> Markup:
    """A rectangle; x and width as shares of the width, y and height in pixels."""
    box = {"x": _percent(x), "y": f"{y:.1f}", "width": _percent(width), "height": f"{height:.1f}"}
    return _element("rect", **box, **attributes)


def _text(label: str, x: float, y: float, **attributes: object) -> Markup:
    """A text at x (a share of the width) and y (pixels, its baseline)."""
    return _element("text", _escape(label), x=_percent(x), y=f"{y:.1f}", **attributes)
