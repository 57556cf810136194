"""What is made of a made-up run.

Tests have records and summaries as JSON objects, as files hold them; here they become what views take.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.experiments import views
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.charts.spec import Sheet
from harness.report.document import Document
from harness.runs.record import Result
from tests.made_up.builder import run_record

Row = dict[str, Any]


def view_of(record: Row) -> views.View:
    """The view of the record's experiment."""
    return views.view_of(views.experiment_of(run_record(record)))


def summary_of(record: Row, results: Sequence[Result]) -> Row:
    """What summary.json of the run holds, which passes its schema."""
    summary = views.summarise(run_record(record), results)
    return type(summary).parse(json.loads(json.dumps(summary.to_json(), allow_nan=False))).to_json()


def prefill_summary(summary: Row) -> PrefillSummary:
    """A summary of the main job."""
    return PrefillSummary.model_validate(summary)


def document_from(record: Row, summary: Row) -> Document:
    """The answer and the tables of a run with this summary."""
    view = view_of(record)
    return view.document(run_record(record), view.Summary.model_validate(summary))


def document_of(record: Row, results: Sequence[Result]) -> Document:
    """The answer and the tables of a run."""
    return document_from(record, summary_of(record, results))


def charts_of(record: Row, results: Sequence[Result], summary: Row | None = None) -> list[Sheet]:
    """Its charts."""
    made = view_of(record).Summary.model_validate(summary or summary_of(record, results))
    return views.charts(run_record(record), made, results)


def page_of(record: Row, results: Sequence[Result], summary: Row | None = None) -> str:
    """Its report.html."""
    summary = summary or summary_of(record, results)
    return views.page_of(document_from(record, summary), charts_of(record, results, summary))


def pair(bounds: list[float] | None) -> tuple[float, ...] | None:
    """An interval of a summary as charts have it."""
    return None if bounds is None else tuple(bounds)


def text_of(document: Document) -> str:
    """All of its tables as on a screen: those printed while the run goes on, then what it ends with."""
    tables = [table.screen() for part in document.parts for table in part.details]
    return "\n\n".join([*tables, document.screen_summary()]) + "\n"


def spread_table(document: Document, spread_k: int) -> str:
    """The table that is printed when a spread_k is measured; "" if there is none."""
    tables = [table for part in document.parts for table in part.details]
    titled = [table for table in tables if table.title == f"Comparison Results (spread={spread_k})"]
    return titled[0].screen() if titled else ""
