"""What is made of a made-up run.

Tests have records and summaries as JSON objects; this is where views get them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.experiments import views
from harness.report.charts.spec import Sheet
from harness.report.document import Document
from harness.runs.record import Result

Row = dict[str, Any]


def summary_of(record: Row, results: Sequence[Result]) -> Row:
    """What summary.json of the run holds, which passes its schema."""
    view = views.view_of(record)
    return view.Summary.model_validate(view.summarise(record, results)).to_json()


def document_from(record: Row, summary: Row) -> Document:
    """The answer and the tables of a run with this summary."""
    return views.view_of(record).document(record, summary)


def document_of(record: Row, results: Sequence[Result]) -> Document:
    """The answer and the tables of a run."""
    return document_from(record, summary_of(record, results))


def charts_of(record: Row, results: Sequence[Result], summary: Row | None = None) -> list[Sheet]:
    """Its charts."""
    return views.charts(record, summary or summary_of(record, results), results)


def page_of(record: Row, results: Sequence[Result], summary: Row | None = None) -> str:
    """Its report.html."""
    summary = summary or summary_of(record, results)
    return views.page_of(document_from(record, summary), charts_of(record, results, summary))


def text_of(document: Document) -> str:
    """All of its tables as on a screen: those printed while the run goes on, then what it ends with."""
    tables = [table.screen() for part in document.parts for table in part.details]
    return "\n\n".join([*tables, document.screen_summary()]) + "\n"


def spread_table(document: Document, spread_k: int) -> str:
    """The table that is printed when a spread_k is measured; "" if there is none."""
    tables = [table for part in document.parts for table in part.details]
    titled = [table for table in tables if table.title == f"Comparison Results (spread={spread_k})"]
    return titled[0].screen() if titled else ""
