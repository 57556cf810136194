"""docs/study: the page, its figures, and every figure of every point as CSV."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2

from harness.analysis import stats
from harness.report.charts import mpl
from harness.report.document import csv_of
from harness.report.tables import NONE, interval_of, percent
from study import answers, charts
from study.points import DEVICE, PROCESSES, VLLM, Data, Point

COLUMNS = (
    *("kind", "model", "length", "version", "block_size", "gap", "mode", "step"),
    *("figure", "processes", "mean", "ci95_mean", "sd"),
)


def write(data: Data, target: Path) -> Path:
    """Write README.md, points.csv and figures/ from the points; returns README.md."""
    figures = target / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    sheets = charts.sheets(data.quoted)
    for sheet in sheets:
        mpl.write(sheet, figures)
    (target / "points.csv").write_text(csv_of([*_rows(data.points)], COLUMNS), encoding="utf-8")
    page = target / "README.md"
    page.write_text(render(data, [sheet.name for sheet in sheets]), encoding="utf-8")
    return page


def _rows(points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """A row a figure, also of points with too few processes; an interval from two processes on."""
    for point in points:
        names = dict.fromkeys(name for values in point.processes.values() for name in values)
        for name in names:
            mean = stats.mean(values := point.values(name))
            several = len(values) > 1
            yield {
                **vars(point.key),
                "step": point.bound if point.bounds else None,
                "figure": name,
                "processes": len(values),
                "mean": mean.value,
                "ci95_mean": mean.interval() if several else None,
                "sd": mean.error * len(values) ** 0.5 if several else None,
            }


def render(data: Data, figures: Sequence[str]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["bound"] = lambda pct: f"{max(1, math.ceil(100 * pct)) / 100:.2f}%"
    environment.filters["one_line"] = lambda text: "".join(text.splitlines())
    environment.filters["figure"] = lambda mean: percent(mean.value, mean.interval()) if mean else NONE
    environment.filters["ms"] = lambda mean: (
        interval_of(mean.value, mean.interval(), 1, sign=False) if mean else NONE
    )
    known = {"answers": answers, "device": DEVICE, "vllm": VLLM}
    known |= {"data": data, "points": data.quoted, "figures": figures, "fewest": PROCESSES}
    return re.sub(r"\n{3,}", "\n\n", environment.get_template("page.md.j2").render(known))
