"""A plot of lines with intervals: what depends on spread_k, or on the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from harness.report.page import svg
from harness.report.page.svg import Key, Scale, Tip

HEIGHT = 240.0
TOP, BOTTOM = 10.0, 34.0  # pixels above and below what is drawn
SIDE = 0.05  # of the width, left free at either end
DODGE_PX, WIDEST_PX = 5.0, 24.0  # between the points of two lines at the same x, and of all of them
LABEL_ROOM = 0.075  # of the width, that a label below the axis takes on a phone


@dataclass(frozen=True)
class Point:
    """One figure with its interval; y is None where nothing was measured."""

    x: float
    y: float | None
    interval: Sequence[float] | None
    tip: Tip
    ringed: bool = False


@dataclass(frozen=True)
class Line:
    """One line and how it looks."""

    key: Key
    points: list[Point]


@dataclass(frozen=True)
class Band:
    """A range of y within which a difference is no finding."""

    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Plot:
    """A panel: lines over a common x."""

    title: str
    unit: str  # of y
    x_label: str
    lines: list[Line]
    bands: list[Band] = field(default_factory=list)
    log: bool = False  # of x
    log_y: bool = False
    zero: bool = False  # y = 0 is in the picture, and drawn
    note: str = ""
    ring: Key | None = None  # what a ring around a point says

    def html(self) -> Markup:
        """The figure; "" if none of its points was measured."""
        xs = sorted({point.x for line in self.lines for point in line.points})
        values = [y for line in self.lines for point in line.points for y in _reach(point)]
        if not values:
            return Markup("")
        values += [bound for band in self.bands for bound in (band.low, band.high)] + [0.0] * self.zero
        x, y = Scale(xs[0], xs[-1], self.log), Scale.around(values, log=self.log_y)
        drawn = [_band(band, y) for band in self.bands] + [self._grid(xs, x, y)]
        middle, apart = (len(self.lines) - 1) / 2, min(DODGE_PX, WIDEST_PX / len(self.lines))
        for n, line in enumerate(self.lines):
            drawn.append(_line(line, x, y, apart * (n - middle), self.ring))
        keys = [line.key for line in self.lines] + [Key(band.label, "var(--band)") for band in self.bands[:1]]
        if self.ring and any(point.ringed for line in self.lines for point in line.points):
            keys.append(self.ring)
        picture = svg.drawing(self.title, HEIGHT, *drawn, class_="plot")
        axis = svg.element("p", Markup.escape(self.unit), class_="unit")
        return svg.figure(self.title, axis, picture, svg.legend(keys), note=self.note)

    def _grid(self, xs: Sequence[float], x: Scale, y: Scale) -> Markup:
        """Lines and labels of both axes."""
        drawn = []
        ticks = y.ticks()
        for tick in ticks:
            height, strong = _y(y, tick), self.zero and tick == 0
            drawn.append(svg.line(0, height, 1, height, class_="zero" if strong else "rule"))
            label = y.label(tick, ticks)
            drawn.append(svg.text(label, 0, height + 4, text_anchor="end", dx="-6"))
        free_from = -1.0
        for value in xs:
            place = _x(x, value)
            drawn.append(svg.line(place, HEIGHT - BOTTOM, place, HEIGHT - BOTTOM + 4, class_="tick"))
            if place >= free_from:
                free_from = place + LABEL_ROOM
                drawn.append(svg.text(f"{value:g}", place, HEIGHT - BOTTOM + 17, text_anchor="middle"))
        drawn.append(svg.text(self.x_label, 1, HEIGHT - 2, text_anchor="end", class_="axis"))
        return svg.element("g", *drawn, class_="axes", aria_hidden="true")


def _reach(point: Point) -> list[float]:
    return [] if point.y is None else [point.y, *(point.interval or ())]


def _x(scale: Scale, value: float) -> float:
    return SIDE + (1 - 2 * SIDE) * scale.at(value)


def _y(scale: Scale, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.at(value))


def _band(band: Band, y: Scale) -> Markup:
    top = _y(y, band.high)
    return svg.rect(0, top, 1, _y(y, band.low) - top, class_="band")


def _line(line: Line, x: Scale, y: Scale, shift_px: float, ring: Key | None) -> Markup:
    """The line, broken where nothing was measured, and its points, some in a ring."""
    drawn, before = [], None
    for point in line.points:
        here = None if point.y is None else (_x(x, point.x), _y(y, point.y))
        if before and here:
            dashes = "6 4" if line.key.dashed else None
            drawn.append(
                svg.line(*before, *here, stroke=line.key.colour, stroke_dasharray=dashes, class_="line")
            )
        before = here
    for point in line.points:
        if point.y is None:
            continue
        place, height = _x(x, point.x), _y(y, point.y)
        parts = []
        if point.interval:
            low, high = (_y(y, bound) for bound in point.interval)
            parts.append(svg.line(place, low, place, high, stroke=line.key.colour, class_="whisker"))
        if ring and point.ringed:
            parts.append(svg.marker("ring", svg.percent(place), height, **svg.look(ring)))
        shape = svg.marker(line.key.marker or "circle", svg.percent(place), height, **svg.look(line.key))
        halo = svg.element("circle", cx=svg.percent(place), cy=f"{height:.1f}", r="11", class_="halo")
        drawn.append(svg.mark(point.tip, *parts, shape, halo))
    return svg.element("g", *drawn, transform=f"translate({shift_px:.1f},0)")
