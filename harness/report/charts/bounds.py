"""Charts of large runs are thinned out: what nobody could tell apart takes minutes to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from harness.report.charts.spec import Bars, Chart, Line, Sheet
from harness.units import pick_evenly, pluralise

T = TypeVar("T")
MOST_CHARTS = 24  # of a sheet
MOST_LINES = 60  # of a chart; each has an entry in the legend
MOST_MARKS = 200  # points of a line, edges of a band, rows of bars
MOST_NOTE = 2000  # characters
TABLES_HAVE_ALL = "the tables have all."


def bound(sheet: Sheet) -> Sheet:
    """As many of a sheet's charts and marks as can be told apart; title and notes say what is left out."""
    charts = [_bound(chart) for chart in _thin(sheet.charts, MOST_CHARTS)]
    left_out = len(charts) < len(sheet.charts)
    more = f" ({len(charts)} of {pluralise(len(sheet.charts), 'chart')})" if left_out else ""
    return replace(sheet, title=sheet.title + more, charts=charts)


def _bound(chart: Chart) -> Chart:
    if isinstance(chart, Bars):
        rows = _thin(chart.rows, MOST_MARKS)
        return replace(chart, rows=rows, note=_note(chart.note, "row", len(rows), len(chart.rows)))
    lines = [_bound_line(line) for line in _thin(chart.lines, MOST_LINES)]
    bands = tuple(replace(band, edges=_thin(band.edges, MOST_MARKS)) for band in chart.bands)
    drawn, all_points = (sum(len(line.points) for line in each) for each in (lines, chart.lines))
    return replace(chart, lines=lines, bands=bands, note=_note(chart.note, "point", drawn, all_points))


def _bound_line(line: Line) -> Line:
    return replace(line, points=_thin(line.points, MOST_MARKS))


def _thin(marks: Sequence[T], most: int) -> Sequence[T]:
    return [marks[n] for n in pick_evenly(len(marks), most)] if len(marks) > most else marks


def _note(note: str, mark: str, drawn: int, count: int) -> str:
    if len(note) > MOST_NOTE:
        note = f"{note[:MOST_NOTE]}...; {TABLES_HAVE_ALL}"
    left_out = f"{drawn} of {pluralise(count, mark)} are drawn; {TABLES_HAVE_ALL}"
    return f"{note} {left_out}".strip() if drawn < count else note
