"""Charts as data. `svg` draws them on the page, `mpl` into plots/; neither knows an experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.report.charts.scale import Scale

Interval = Sequence[float]  # low, high
INK, SOFT, BAND = "ink", "soft", "band"  # colours that follow the page's theme; all others are "#rrggbb"
DARK = 0.27  # luminance below which white text is most legible


@dataclass(frozen=True)
class Tip:
    """A mark's tooltip: lines of text, and its samples in the order taken."""

    lines: Sequence[str]
    samples: Sequence[float] = ()
    unit: str = "ms"  # of the samples


@dataclass(frozen=True)
class Key:
    """A series' look and legend entry: line, marker or both; otherwise a patch of colour."""

    label: str
    colour: str = INK
    marker: str | None = None  # a name in svg.MARKERS and mpl.MARKERS
    line: Literal["solid", "dashed", "dotted"] | None = None
    hollow: bool = False
    hatched: bool = False

    @property
    def dark(self) -> bool:
        """Whether text on the colour should be white; hatched or hollow areas count as light."""
        if not self.colour.startswith("#") or self.hatched or self.hollow:
            return False
        parts = (int(self.colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
        linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) < DARK


NOT_MEASURED = Key("not measured", SOFT, "cross")


@dataclass(frozen=True)
class Axis:
    """An axis: what it counts, and how."""

    label: str  # quantity and unit
    log: bool = False
    zero: float | None = None  # a value that is always visible, with a bolder line
    at_points: bool = False  # ticks at the points, not at round numbers


@dataclass(frozen=True)
class Point:
    """A figure with its interval; y is None where nothing was measured, drawn as a cross."""

    x: float
    y: float | None
    interval: Interval | None = None
    tip: Tip | None = None  # None: only part of its line, without a mark
    ringed: bool = False


@dataclass(frozen=True)
class Line:
    """Points of one series from left to right."""

    key: Key
    points: Sequence[Point]

    @property
    def measured(self) -> list[Point]:
        """The points that have a figure."""
        return [point for point in self.points if point.y is not None]

    @property
    def lost(self) -> list[Point]:
        """The points without a figure, whose tips say why."""
        return [point for point in self.points if point.y is None and point.tip]


@dataclass(frozen=True)
class Band:
    """A range of y within which differences are noise."""

    label: str
    edges: Sequence[tuple[float, float, float]]  # x, low, high; with a single one x does not matter

    @classmethod
    def level(cls, label: str, low: float, high: float) -> Band:
        """The same range across the chart."""
        return cls(label, [(0.0, low, high)])

    @classmethod
    def tolerance(cls, pct: float) -> Band:
        """The band of differences in percent that are too small to matter."""
        return cls.level(f"too small to matter: within {pct:g}%", -pct, pct)


@dataclass(frozen=True)
class Lines:
    """Lines over a common x."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    ring: Key | None = None  # the meaning of a ring around a point
    note: str = ""

    @property
    def drawn(self) -> list[Line]:
        """The lines with any measurement; the note names the others."""
        return [line for line in self.lines if line.measured]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.drawn

    def xs(self) -> list[float]:
        """The x values of points, ascending."""
        return sorted({point.x for line in self.drawn for point in line.points})

    def scales(self) -> tuple[Scale, Scale]:
        """The scales of x and y."""
        values = [bound for band in self.bands for _, *bounds in band.edges for bound in bounds]
        values += [] if self.y.zero is None else [self.y.zero]
        for point in (point for line in self.drawn for point in line.measured):
            values += [value for value in (point.y, *(point.interval or ())) if value is not None]
        return Scale.around(self.xs(), 0.055, self.x.log), Scale.around(values, log=self.y.log)

    @property
    def y_label(self) -> str:
        """The label of y, which says where the axis is not what one expects."""
        if self.y.log:
            return f"{self.y.label} (logarithmic)"
        low = self.scales()[1].low
        return f"{self.y.label}; the axis does not start at zero" if low > 0 else self.y.label

    def legend_keys(self) -> list[Key]:
        """The legend."""
        points = [point for line in self.drawn for point in line.points]
        keys = [line.key for line in self.drawn] + [Key(band.label, BAND) for band in self.bands]
        keys += [self.ring] if self.ring and any(point.ringed for point in points) else []
        keys += [NOT_MEASURED] if any(line.lost for line in self.drawn) else []
        return list(dict.fromkeys(keys))


@dataclass(frozen=True)
class Part:
    """A part of a bar, as long as its value, starting where the previous part ends."""

    value: float
    key: Key
    tip: Tip
    interval: Interval | None = None  # interval of the part's end
    text: str = ""  # shown inside the part if it is wide enough

    def text_place(self, start: float, scale: Scale) -> float | None:
        """Where its text is centred, beside the interval; None if it does not fit there.

        Args:
            start: where the part starts.
        """
        end = start + self.value
        if self.interval:
            low, high = self.interval
            end = max(start, min(end, low)) if self.value >= 0 else min(start, max(end, high))
        room = abs(scale.at(end) - scale.at(start))
        return (start + end) / 2 if self.text and room > 0.01 + 0.02 * len(self.text) else None


@dataclass(frozen=True)
class Dot:
    """A point on a row."""

    value: float
    key: Key
    tip: Tip
    interval: Interval | None = None
    below: bool = False  # at the bar's lower edge, so as not to hide the bar's marks


@dataclass(frozen=True)
class Row:
    """A named row; its label gives the figures as text, or the reason why there are none."""

    label: str
    parts: Sequence[Part] = ()
    dots: Sequence[Dot] = ()
    start: float = 0.0  # where its bar starts
    band: Interval | None = None  # within which the bar's end is noise


@dataclass(frozen=True)
class Bars:
    """Named rows from top to bottom, each with a bar in parts, points with intervals, or both."""

    title: str
    axis: Axis
    rows: Sequence[Row]
    band: Band | None = None  # over all rows
    legend: Sequence[Key] | None = None  # None: collected from the rows
    note: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(row.parts or row.dots for row in self.rows)

    def scale(self) -> Scale:
        """The scale of all values, including zero if there are bars."""
        values = [value for row in self.rows for value in _reach(row)]
        values += [] if self.band is None else self.band.edges[0][1:]
        zero = 0.0 if any(row.parts for row in self.rows) else self.axis.zero
        values += [] if zero is None else [zero]
        if self.axis.log or min(values) < 0 or min(values) == max(values) or zero != 0:
            return Scale.around(values, 0.04, self.axis.log)
        return Scale(0.0, 1.02 * max(values))

    def legend_keys(self) -> list[Key]:
        """The legend; none if no row has more than one mark, as labels then suffice."""
        if self.legend is not None:
            return list(self.legend)
        if all(len([*row.parts, *row.dots]) < 2 for row in self.rows):
            return []
        keys = [part.key for row in self.rows for part in row.parts]
        keys += [dot.key for row in self.rows for dot in row.dots]
        return list(dict.fromkeys(key for key in keys if key.label))


def _reach(row: Row) -> Iterator[float]:
    yield from row.band or ()
    for dot in row.dots:
        yield from (dot.value, *(dot.interval or ()))
    end = row.start
    for part in row.parts:
        end += part.value
        yield from (row.start, end, *(part.interval or ()))


@dataclass(frozen=True)
class BlockMap:
    """A block table: physical ids upwards over logical blocks, one unit per block. Only on the page."""

    title: str
    segments: Sequence[tuple[int, int, int]]  # first logical block, first physical id, blocks
    ids: tuple[int, int]  # lowest id and highest id + 1 in the picture
    tip: Tip
    listing: str  # the physical ids in logical order


Chart = Lines | Bars


@dataclass(frozen=True)
class Sheet:
    """Charts that belong together: one file in plots/, consecutive on the page."""

    name: str  # the file's
    title: str
    charts: Sequence[Chart]
    columns: int = 1  # of the file; several charts share the legend
