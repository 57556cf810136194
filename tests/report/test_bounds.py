"""What charts of a large run leave out, and that they say so."""

from __future__ import annotations

from harness.report.charts import bounds
from harness.report.charts.bounds import bound
from harness.report.charts.spec import Axis, Bars, Chart, Key, Line, Lines, Point, Row, Sheet


def lines_of(count: int, points: int = 2, note: str = "") -> Lines:
    lines = [Line(Key(f"line {n}"), [Point(x, 1.0) for x in range(points)]) for n in range(count)]
    return Lines("title", Axis("x"), Axis("y"), lines, note=note)


def test_a_sheet_of_a_usual_run_stays_as_it_is() -> None:
    sheet = Sheet("name", "title", [lines_of(3), Bars("bars", Axis("ms"), [Row("a row")])])
    assert bound(sheet) == sheet


def test_a_large_one_keeps_both_ends_and_says_what_it_leaves_out() -> None:
    rows = [Row(str(n)) for n in range(500)]
    charts: list[Chart] = [
        lines_of(100, points=1000, note="A note."),
        Bars("bars", Axis("ms"), rows),
        *[lines_of(1)] * 40,
    ]
    lines, *_ = (sheet := bound(Sheet("name", "title", charts))).charts
    assert (len(sheet.charts), sheet.title) == (bounds.MOST_CHARTS, "title (24 of 42 charts)")
    assert isinstance(lines, Lines)
    assert [line.key.label for line in lines.lines][:: bounds.MOST_LINES - 1] == ["line 0", "line 99"]
    assert [point.x for point in lines.lines[0].points][:: bounds.MOST_MARKS - 1] == [0, 999]
    assert lines.note == "A note. 12000 of 100000 points are drawn; the tables have all."
    bars = bound(Sheet("name", "title", charts[1:2])).charts[0]
    assert isinstance(bars, Bars)
    assert [row.label for row in bars.rows][:: bounds.MOST_MARKS - 1] == ["0", "499"]
    assert bars.note == "200 of 500 rows are drawn; the tables have all."


def test_a_note_that_lists_every_cell_of_a_large_run_is_cut() -> None:
    chart = bound(Sheet("name", "title", [lines_of(1, note="word " * 5000)])).charts[0]
    assert len(chart.note) < 2100
    assert chart.note.endswith("...; the tables have all.")
