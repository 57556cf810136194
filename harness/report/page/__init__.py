"""report.html: a run on one page that needs no network, from its document and its charts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from harness.report.charts import svg
from harness.report.charts.spec import Sheet
from harness.report.document import Document, Part
from harness.report.page import facts
from harness.report.page.rendering import render
from harness.report.rows import group_warnings


def page(document: Document, sheets: Iterable[Sheet], question: str, in_full: str | None) -> str:
    """The page's complete HTML, with styles, scripts and figures. All values are escaped.

    Args:
        question: that the run answers.
        in_full: the command that repeats the run, with every non-default option.
    """
    record = document.record
    return draw(
        document.parts,
        sheets,
        title=document.heading,
        question=question,
        answer=document.answer,
        command=document.command,
        status=record.status,
        notices=record.notices,
        warnings=group_warnings(document.warnings),
        environment=facts.environment(record),
        typed=record.command,
        in_full=in_full,
        commit=record.versions.get("commit"),
    )


def draw(
    parts: Iterable[Part],
    sheets: Iterable[Sheet],
    *,
    title: str,
    question: str,
    answer: str,
    status: str,
    notices: Sequence[str],
    environment: Sequence[facts.Facts],
    typed: Sequence[str] | None,
    command: str = "",
    warnings: Sequence[str] = (),
    in_full: str | None = None,
    commit: str | None = None,
) -> str:
    """A page with these parts and charts.

    Args:
        typed: the command that made what it shows.
        command: to copy, below the answer.
        in_full: the same with every option that is not a default.
        commit: of the harness.
    """
    return render(
        "run.html.j2",
        title=title,
        question=question,
        answer=answer,
        command=command,
        status=status,
        sections=[_section(part, list(sheets)) for part in parts],
        notices=notices,
        warnings=warnings,
        environment=environment,
        typed=typed and shlex.join(typed),
        in_full=in_full,
        commit=commit,
    )


def _section(part: Part, sheets: Sequence[Sheet]) -> dict[str, Any]:
    """A part's values for the template."""
    charts = [
        chart
        for sheet in sheets
        if part.sheets is None or sheet.name in part.sheets
        for chart in sheet.charts
    ]
    albums = [(each, [svg.draw_block_map(one) for one in each.pictures]) for each in part.albums]
    return {"part": part, "figures": Markup("").join(map(svg.draw, charts)), "albums": albums}
