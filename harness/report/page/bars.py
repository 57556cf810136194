"""A figure of named lines: on each a bar in parts, points with intervals, or both, over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.report.page import svg
from harness.report.page.svg import Key, Scale, Tip

ROW_PX = 50.0


@dataclass(frozen=True)
class Part:
    """A stretch of a bar, as long as its value, from where the part before it ends."""

    value: float
    key: Key
    tip: Tip
    interval: Sequence[float] | None = None  # of the bar's end


@dataclass(frozen=True)
class Dot:
    """A point."""

    value: float
    key: Key
    tip: Tip
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Entry:
    """A line of the figure; its label says the figures in words."""

    label: str
    parts: Sequence[Part] = ()
    dots: Sequence[Dot] = ()


def figure(title: str, unit: str, entries: Sequence[Entry], log: bool = False, note: str = "") -> Markup:
    """The entries from top to bottom; "" if nothing is drawn on any. Bars need an axis that is not `log`."""
    values = [value for entry in entries for value in _reach(entry)]
    if not values:
        return Markup("")
    if log or min(values) < 0:
        scale = Scale.around(values if log else [0.0, *values], 0.03, log)
    else:
        scale = Scale(0.0, 1.02 * max(values))
    height = len(entries) * ROW_PX
    drawn = [svg.axis(scale, height, unit)]
    for n, entry in enumerate(entries):
        drawn += _entry(entry, scale, n * ROW_PX)
    found = [each.key for entry in entries for each in entry.parts]
    found += [each.key for entry in entries for each in entry.dots]
    keys = dict.fromkeys(found)
    picture = svg.drawing(title, height + svg.AXIS_PX, *drawn, class_="bars")
    told_apart = any(len([*entry.parts, *entry.dots]) > 1 for entry in entries)
    return svg.figure(title, picture, svg.legend(keys if told_apart else ()), note=note)


def _reach(entry: Entry) -> Iterator[float]:
    yield from (value for dot in entry.dots for value in (dot.value, *(dot.interval or ())))
    if entry.parts:
        yield sum(part.value for part in entry.parts)
        yield from (bound for part in entry.parts for bound in part.interval or ())


def _entry(entry: Entry, scale: Scale, top: float) -> Iterator[Markup]:
    yield svg.text(entry.label, 0, top + 15, class_="label")
    yield svg.line(0, top + 31, 1, top + 31, class_="rule")
    start = 0.0
    for part in entry.parts:
        left, end = scale.at(start), scale.at(start + part.value)
        fill = "url(#hatch)" if part.key.hatched else part.key.colour
        drawn = [svg.rect(left, top + 22, end - left, 18, fill=fill, class_="segment")]
        if part.interval:
            low, high = (scale.at(bound) for bound in part.interval)
            drawn.append(svg.line(low, top + 31, high, top + 31, class_="interval"))
        yield svg.mark(part.tip, *drawn)
        start += part.value
    for dot in entry.dots:
        place = svg.percent(scale.at(dot.value))
        drawn = []
        if dot.interval:
            low, high = (scale.at(bound) for bound in dot.interval)
            drawn.append(svg.line(low, top + 31, high, top + 31, class_="interval"))
        shape = svg.marker(dot.key.marker or "circle", place, top + 31, **svg.look(dot.key))
        halo = svg.element("circle", cx=place, cy=f"{top + 31:.1f}", r="11", class_="halo")
        yield svg.mark(dot.tip, *drawn, shape, halo)
