"""Inline SVG that needs no drawing library: x is in percent of the width and y in pixels, so text keeps its
size on a phone and on paper.

Every mark that stands for a measurement can be reached by pointer and keyboard and says what it is: `mark`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

AXIS_PX = 36.0  # what `axis` takes
MOST_SAMPLES = 150  # shown of one mark; of more, every second, third, ... is
# A marker's outline around (0, 0), in pixels.
MARKERS = {
    "circle": "M-4.5,0A4.5,4.5 0 1 1 4.5,0A4.5,4.5 0 1 1 -4.5,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "triangle": "M0,-5L5,4H-5Z",
    "diamond": "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
    "cross": "M-4,-4L4,4M-4,4L4,-4",
    "ring": "M-9,0A9,9 0 1 1 9,0A9,9 0 1 1 -9,0Z",
}


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element, all text and attributes in it escaped; None leaves an attribute out, class_ is class."""
    shown = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), value)
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), shown, Markup("").join(children))


def percent(share: float) -> str:
    """A share of the width, as an attribute."""
    return f"{100 * share:.3f}%"


@dataclass(frozen=True)
class Scale:
    """Where a value lies between `low` and `high`, as a share; base-2 logarithms if `log`."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], margin: float = 0.08, log: bool = False) -> Scale:
        """A scale that holds the values, with some room on either side; with `log` they must be positive."""
        found = list(values)
        low, high = min(found), max(found)
        if log:
            factor = max((high / low) ** margin, 1.1)
            return cls(low / factor, high * factor, log)
        room = margin * (high - low) or margin * abs(high) or 1.0
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        """The value's place, 0 at `low` and 1 at `high`."""
        if self.high == self.low:
            return 0.5
        low, high, value = (math.log2(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the scale."""
        if self.log and len(tens := self._steps(1, 2, 5)) > 1:
            return next((found for found in (tens, self._steps(1, 3)) if len(found) <= most), self._steps(1))
        found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(tick) for tick in found if self.low <= tick <= self.high]

    def _steps(self, *multiples: int) -> list[float]:
        """These multiples of the powers of ten within the scale."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [float(f"{each}e{power}") for power in powers for each in multiples]
        return [tick for tick in found if self.low <= tick <= self.high]

    def label(self, tick: float, ticks: Sequence[float]) -> str:
        """How one of its ticks is written."""
        return f"{tick:,.10g}" if self.log else tick_label(tick, ticks)


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many decimals as tell it from its neighbours."""
    step = min((b - a for a, b in pairwise(ticks)), default=abs(value) or 1.0)
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if round(step, digits) != round(step, digits + 2):
        digits += 1
    return f"{value:.{digits}f}" if round(value, digits) else "0"


@dataclass(frozen=True)
class Tip:
    """What is shown of a mark: lines of text, and its samples in the order in which they were taken."""

    lines: list[str]
    samples: list[float] = field(default_factory=list)
    unit: str = "ms"


def mark(tip: Tip, *children: str, **attributes: object) -> Markup:
    """A group that shows its tip when the pointer or the keyboard is on it."""
    step = -(-len(tip.samples) // MOST_SAMPLES) or 1
    samples = " ".join(f"{sample:.5g}" for sample in tip.samples[::step]) or None
    return element(
        "g",
        *children,
        class_="mark",
        tabindex="-1",
        role="img",
        aria_label="; ".join(tip.lines),
        data_tip="\n".join(tip.lines),
        data_samples=samples,
        data_unit=tip.unit if samples else None,
        **attributes,
    )


def marker(shape: str, x: str, y: float, **attributes: object) -> Markup:
    """A marker at x (an attribute) and y (pixels)."""
    path = element("path", d=MARKERS[shape], **attributes)
    return element("svg", path, x=x, y=f"{y:.1f}", overflow="visible", class_="marker")


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A line; x in shares of the width, y in pixels."""
    ends = {"x1": percent(x1), "y1": f"{y1:.1f}", "x2": percent(x2), "y2": f"{y2:.1f}"}
    return element("line", **ends, **attributes)


def rect(x: float, y: float, width: float, height: float, **attributes: object) -> Markup:
    """A rectangle; x and width in shares of the width, y and height in pixels."""
    box = {"x": percent(x), "y": f"{y:.1f}", "width": percent(width), "height": f"{height:.1f}"}
    return element("rect", **box, **attributes)


def text(label: str, x: float, y: float, **attributes: object) -> Markup:
    """A text at x (a share of the width) and y (pixels, its baseline)."""
    return element("text", Markup.escape(label), x=percent(x), y=f"{y:.1f}", **attributes)


def axis(scale: Scale, height: float, label: str, strong: float = 0.0) -> Markup:
    """Ticks and a label below bars `height` pixels high, with a stronger line at the value `strong`."""
    ticks, drawn = scale.ticks(4), []
    for tick in ticks:
        place = scale.at(tick)
        drawn.append(line(place, 0, place, height, class_="zero" if tick == strong else "rule"))
        anchor = "start" if place < 0.05 else "end" if place > 0.95 else "middle"
        drawn.append(text(scale.label(tick, ticks), place, height + 15, text_anchor=anchor))
    drawn.append(text(label, 1, height + AXIS_PX - 5, text_anchor="end", class_="axis"))
    return element("g", *drawn, class_="axes", aria_hidden="true")


def drawing(label: str, height: float, *children: str, class_: str = "") -> Markup:
    """The SVG of one figure. Its marks are one stop of the Tab key; arrows go from mark to mark."""
    return element(
        "svg",
        *children,
        class_=f"drawing {class_}".strip(),
        width="100%",
        height=f"{height:.0f}",
        role="group",
        aria_label=label,
    )


def figure(title: str, *children: str, note: str = "") -> Markup:
    """A titled figure with what is to be known of it below."""
    caption = element("figcaption", Markup.escape(title))
    below = [element("p", Markup.escape(note), class_="note")] if note else []
    return element("figure", caption, *children, *below)


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a marker, or a patch of colour."""

    label: str
    colour: str
    marker: str | None = None
    hollow: bool = False
    dashed: bool = False
    hatched: bool = False
    no_line: bool = False  # a marker alone


def legend(keys: Iterable[Key]) -> Markup:
    """The legend as a list beside its figure."""
    items = [element("li", _swatch(key), Markup.escape(key.label)) for key in keys]
    return element("ul", *items, class_="legend") if items else Markup("")


def _swatch(key: Key) -> Markup:
    if key.marker is None:
        fill = "url(#hatch)" if key.hatched else key.colour
        inner = element("rect", x="5", y="1", width="14", height="12", fill=fill, class_="patch")
    else:
        dashes = "4 3" if key.dashed else None
        stroke = element("line", x1="0", x2="24", y1="7", y2="7", stroke=key.colour, stroke_dasharray=dashes)
        shape = marker(key.marker, "12", 7, **look(key))
        inner = shape if key.no_line else element("g", stroke, shape)
    return element("svg", inner, width="24", height="14", aria_hidden="true")


def look(key: Key) -> dict[str, str]:
    """Stroke and fill of a key's markers."""
    return {"stroke": key.colour, "fill": "var(--paper)" if key.hollow else key.colour}
