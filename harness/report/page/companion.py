"""report.html of a companion experiment: question, answer, figures, tables, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol, cast

from markupsafe import Markup

from harness.experiments import EXPERIMENTS
from harness.report.document import Companion
from harness.report.page import facts
from harness.report.page.cells import Cells
from harness.report.page.rendering import render
from harness.report.rows import Row
from harness.runs.record import Result


class Drawn(Protocol):
    """A module with what only one experiment's page has."""

    def answer(self, summary: Row) -> str:
        """The sentence that the page begins with, also of a run that has measured nothing."""
        ...

    def figures(self, summary: Row, cells: Cells) -> list[Markup]:
        """Its figures from top to bottom, "" for one with nothing in it; `cells` has the samples."""
        ...


def page(document: Companion, summary: Row, results: Iterable[Result]) -> str:
    """The page's HTML, whole. Raises KeyError if this version does not know the experiment."""
    record = document.record
    experiment = EXPERIMENTS[record["experiment"]]
    drawn = cast(Drawn, import_module(experiment.page))
    return render(
        "companion.html.j2",
        title=f"{document.title}, on {record['device']['name']}",
        question=experiment.question,
        answer=drawn.answer(summary),
        status=record["status"],
        figures=[figure for figure in drawn.figures(summary, Cells.of(results)) if figure],
        tables=document.tables,
        details=document.details,
        **facts.closing(record, facts.cell_warnings(summary)),
    )
