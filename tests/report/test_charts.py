"""Both renderers of charts, on one made-up chart of each kind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from harness.__main__ import main
from harness.config.kernel_names import KERNELS
from harness.report.charts import mpl, svg
from harness.report.charts.scale import Scale
from harness.report.charts.spec import (
    BAND,
    INK,
    Axis,
    Band,
    Bars,
    Dot,
    Key,
    Line,
    Lines,
    Part,
    Point,
    Row,
    Sheet,
    Tip,
)
from tests.made_up import kernels
from tests.made_up.builder import write_run

HOSTILE = r"a $\frac{b}{$ <c> & \alpha_1^2"  # neither a formula nor markup

LINES = Lines(
    HOSTILE,
    Axis("k", log=True, at_points=True),
    Axis("ms", zero=0.0),
    [
        Line(
            Key("first", "#0072B2", "circle", "solid"),
            [
                Point(1, 10.0, (8.0, 12.0), Tip(["first at 1"], [9.0, 10.0, 11.0])),
                Point(2, None, None, Tip(["first at 2: out_of_memory"])),
                Point(4, 12.0, None, Tip(["first at 4"]), ringed=True),
            ],
        ),
        Line(Key(HOSTILE, "#D55E00", "square", "dashed", hollow=True), [Point(4, 5.0, None, Tip(["other"]))]),
        Line(Key("ideal", INK, None, "dotted"), [Point(1, 1.0), Point(4, 4.0)]),
        Line(Key("nowhere", INK, "cross", "solid"), [Point(1, None, None, Tip(["nowhere: unsupported"]))]),
    ],
    [Band.level("level", 9.0, 11.0), Band("wedge", [(1, 3.0, 5.0), (4, 2.0, 6.0)])],
    ring=Key("turn", INK, "ring"),
    note="Not measured: nowhere.",
)
BARS = Bars(
    "bars",
    Axis("ms"),
    [
        Row("whole", [Part(60, Key("a", "#0072B2"), Tip(["a"]), text="60"), Part(30, Key("b"), Tip(["b"]))]),
        Row(
            "step",
            [Part(20, Key("c", "#F0E442"), Tip(["c"]), (70, 90))],
            [Dot(75, Key("guess", INK, "diamond", hollow=True), Tip(["guess"]), (74, 76), below=True)],
            start=60,
            band=(55, 65),
        ),
        Row("lost: out_of_memory"),
    ],
    Band.level("limit", 80, 100),
)
LOST = Line(Key("none"), [Point(1, None, None, Tip(["none: error"]))])
EMPTY = Lines("empty", Axis("x"), Axis("y"), [LOST])


def drawn(*charts: Lines | Bars) -> Figure:
    figure = mpl.draw(Sheet("name", HOSTILE, charts))
    assert figure is not None
    return figure


def test_a_kernel_that_no_list_names_goes_all_the_way(tmp_path: Path, capsys: Any) -> None:
    """As in a run that another version has stored."""
    name = r"my-$\frac{"
    for folder in "ab":
        named = [r for r in kernels.results() if r.cell.kernel == "flash_attn_func"]
        results = [replace(r, cell=replace(r.cell, kernel=name)) for r in named]
        run = write_run(tmp_path / folder, kernels.record(), results)
        assert main(["report", str(run.path)]) == 0
        assert f"{name}, non-contiguous" in run.page_path.read_text(encoding="utf-8")
        assert f"{name}, non-contiguous" in (run.plots_path / "kernels.svg").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert name in capsys.readouterr().out


def test_matplotlib_puts_text_on_a_hatched_part_into_a_box() -> None:
    keys = {"plain": Key("plain", "#0072B2"), "hatched": Key("hatched", "#0072B2", hatched=True)}
    parts = [Part(10, key, Tip([name]), text=name) for name, key in keys.items()]
    axes: Any = drawn(Bars("bars", Axis("ms"), [Row("row", parts)])).axes[0]
    boxed = {text.get_text(): text.get_bbox_patch() is not None for text in axes.texts}
    assert boxed == {"plain": False, "hatched": True}


def test_matplotlib_draws_points_intervals_crosses_rings_and_bands() -> None:
    axes: Any = drawn(LINES).axes[0]
    data = [str([[float(v) for v in values] for values in line.get_data()]) for line in axes.get_lines()]
    assert "[[1.0, 2.0, 4.0], [10.0, nan, 12.0]]" in data
    assert "[[1.0, 1.0], [8.0, 12.0]]" in data  # the interval
    assert "[[1.0, 4.0], [1.0, 4.0]]" in data
    (cross,) = (x for x in axes.get_lines() if x.get_marker() == "x" and len(x.get_xdata()))
    assert (list(cross.get_xdata()), cross.get_color()) == ([2], "#0072B2")
    (ring,) = (x for x in axes.get_lines() if x.get_markersize() == mpl.SIZES["ring"])
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([4], [12.0])
    grey = to_rgba(mpl.PAPER_COLOURS[BAND])
    bands = [area for area in axes.collections if tuple(area.get_facecolor()[0]) == grey]
    heights = [area.get_paths()[0].get_extents().intervaly.tolist() for area in bands]
    assert heights == [[9.0, 11.0], [2.0, 6.0]]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert "Not measured: nowhere." in axes.get_xlabel()
    legend = axes.get_legend()
    assert legend is not None
    labels = ["first", HOSTILE, "ideal", "level", "wedge", "turn", "not measured"]
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_matplotlib_draws_bars_where_they_begin_with_intervals_and_marks() -> None:
    axes: Any = drawn(BARS).axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert {(0, 60), (60, 30), (60, 20), (55, 10), (80, 20)} <= {*bars}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["whole", "step", "lost: out_of_memory"]
    assert "60" in [text.get_text() for text in axes.texts]
    whiskers = [each.get_segments()[0][:, 0].tolist() for each in axes.collections]
    assert whiskers == [[70, 90], [74, 76]]
    (guess,) = (line for line in axes.get_lines() if line.get_marker() == "D")
    assert list(guess.get_xdata()) == [75]


def test_names_are_no_formulae(tmp_path: Path) -> None:
    _, image, _ = mpl.write(Sheet("hostile", HOSTILE, [LINES, BARS]), tmp_path)
    shown = image.read_text(encoding="utf-8")
    assert shown.count(r"a $\frac{b}{$ &lt;c&gt; &amp; \alpha_1^2") == 3  # title, panel, legend
    shown = svg.draw(LINES)
    assert r"<figcaption>a $\frac{b}{$ &lt;c&gt; &amp; \alpha_1^2</figcaption>" in shown
    assert "<c>" not in shown


def test_the_page_draws_marks_intervals_crosses_rings_and_bands() -> None:
    shown = svg.draw(LINES)
    tips = re.findall(r'data-tip="([^"]*)"', shown)
    assert tips == ["first at 1", "first at 2: out_of_memory", "first at 4", "other"]
    assert 'data-samples="9 10 11" data-unit="ms"' in shown
    assert shown.count('class="whisker"') == 1
    assert shown.count(svg.MARKERS["ring"]) == shown.count(svg.MARKERS["cross"]) == 2  # one in the legend
    assert shown.count('class="band"') == 2
    assert shown.count("<li>") == 7
    assert "Not measured: nowhere." in shown
    bars = svg.draw(BARS)
    assert re.findall(r'data-tip="([^"]*)"', bars) == ["a", "b", "c", "guess"]
    assert bars.count('class="band"') == 2
    assert bars.count('class="interval"') == 6  # two, with their ends
    assert ">60</text>" in bars
    assert ">lost: out_of_memory</text>" in bars


def test_a_chart_with_nothing_measured_is_its_note_or_nothing(tmp_path: Path) -> None:
    told = Lines(**{**vars(EMPTY), "note": "Not measured: none: error."})
    assert svg.draw(EMPTY) == ""
    assert "Not measured: none: error." in svg.draw(told)
    assert "<svg" not in svg.draw(told)
    assert mpl.write(Sheet("empty", "", [EMPTY, told]), tmp_path) == []
    _, below = drawn(BARS, told).axes
    assert [text.get_text() for text in below.texts] == ["Not measured: none: error."]


def test_both_renderers_know_every_marker() -> None:
    assert svg.MARKERS.keys() == mpl.MARKERS.keys()
    looks = [kernel.look for kernel in KERNELS if kernel.look]
    assert {marker for _, marker in looks} <= svg.MARKERS.keys()
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(looks)


def test_a_part_shows_its_text_where_it_is_wide_enough() -> None:
    part = Part(1.0, Key("part"), Tip([]), text="1.234")
    assert part.text_place(2.0, Scale(0.0, 10.0)) is None
    assert part.text_place(2.0, Scale(0.0, 8.0)) == 2.5
    assert replace(part, text="").text_place(2.0, Scale(0.0, 8.0)) is None


@pytest.mark.parametrize(
    ("value", "interval", "place"),
    [(4.0, (3.0, 5.0), 2.5), (-4.0, (-3.0, -1.5), -0.25), (4.0, (1.0, 7.0), None), (4.0, (2.2, 9.0), None)],
)
def test_no_interval_goes_through_a_part_s_text(value, interval, place) -> None:
    part = Part(value, Key("part"), Tip([]), interval, text="1.2")
    start = 2.0 if value > 0 else 1.0
    assert part.text_place(start, Scale(-5.0, 5.0)) == place


def test_an_axis_says_that_it_does_not_start_at_zero_where_it_does_not() -> None:
    def label(*values: float, log: bool = False, zero: float | None = None) -> str:
        points = [Point(float(n), value) for n, value in enumerate(values, start=1)]
        return Lines("", Axis("x"), Axis("ms", log=log, zero=zero), [Line(Key(""), points)]).y_label

    assert label(9.0, 10.0) == "ms; the axis does not start at zero"
    assert label(0.1, 10.0) == "ms"
    assert label(9.0, 10.0, zero=0.0) == "ms"
    assert label(9.0, 10.0, log=True) == "ms (logarithmic)"
