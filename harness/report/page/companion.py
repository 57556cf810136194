"""report.html of a companion experiment: question, answer, figures, tables, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol, cast

from harness.experiments import EXPERIMENTS
from harness.report.charts import svg
from harness.report.charts.spec import Sheet
from harness.report.document import Companion
from harness.report.page import facts
from harness.report.page.rendering import render
from harness.report.rows import Row
from harness.report.tips import Tips


class Drawn(Protocol):
    """A module with what only one experiment's page has."""

    def answer(self, summary: Row) -> str:
        """The sentence that the page begins with, also of a run that has measured nothing."""
        ...

    def charts(self, record: Row, summary: Row, tips: Tips) -> list[Sheet]:
        """Its charts from top to bottom; a sheet is also a file in plots/, by its name."""
        ...


def drawn_of(record: Row) -> Drawn:
    """The module of the record's experiment; raises KeyError if this version does not know it."""
    return cast(Drawn, import_module(EXPERIMENTS[record["experiment"]].page))


def page(document: Companion, summary: Row, sheets: Iterable[Sheet]) -> str:
    """The page's HTML, whole. Raises KeyError if this version does not know the experiment."""
    record = document.record
    return render(
        "companion.html.j2",
        title=f"{document.title}, on {record['device']['name']}",
        question=EXPERIMENTS[record["experiment"]].question,
        answer=drawn_of(record).answer(summary),
        status=record["status"],
        figures=[figure for sheet in sheets for chart in sheet.charts if (figure := svg.draw(chart))],
        tables=document.tables,
        details=document.details,
        **facts.closing(record, facts.cell_warnings(summary)),
    )
