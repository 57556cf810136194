"""What can be told of a figure without looking at it."""

from __future__ import annotations

import itertools

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from harness.report.charts import mpl
from harness.report.charts.spec import Sheet
from harness.report.charts.style import SCREEN, Style


def assert_no_text_is_hidden(sheet: Sheet, style: Style = SCREEN) -> None:
    """No text of its figure lies on another or outside."""
    figure = mpl.draw(sheet, style)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    width, height = canvas.get_width_height()
    for name, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= width, name
        assert 0 <= box.y0 <= box.y1 <= height, name
    for (name, box), (other, its_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(its_box), (name, other)
