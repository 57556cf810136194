"""report.html: a run on one page that needs no network, from its document and its charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from harness.report.charts import svg
from harness.report.charts.spec import Sheet
from harness.report.document import Document, Part
from harness.report.page import facts
from harness.report.page.rendering import render
from harness.report.rows import Row, fold


def page(document: Document, sheets: Iterable[Sheet], question: str, in_full: str | None) -> str:
    """The page's HTML, whole: styles, scripts and figures are in it. All values are escaped.

    Args:
        question: that the run answers.
        in_full: the command that makes the run again, with every option that is not a default.
    """
    record = document.record
    return render(
        "run.html.j2",
        title=document.heading,
        question=question,
        answer=document.answer,
        status=record["status"],
        sections=[_section(part, list(sheets)) for part in document.parts],
        **facts.closing(record, fold(document.warnings), in_full),
    )


def _section(part: Part, sheets: Sequence[Sheet]) -> Row:
    """A part as the template takes it."""
    charts = [
        chart
        for sheet in sheets
        if part.sheets is None or sheet.name in part.sheets
        for chart in sheet.charts
    ]
    albums = [(each, [svg.draw_block_map(one) for one in each.pictures]) for each in part.albums]
    return {"part": part, "figures": Markup("").join(map(svg.draw, charts)), "albums": albums}
