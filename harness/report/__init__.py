"""Everything made from a run directory: summary.json, tables, plots and the page. Never touches the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from harness.experiments import EXPERIMENTS
from harness.report.charts import mpl
from harness.report.charts.spec import Sheet
from harness.report.document import Companion
from harness.report.tips import Tips
from harness.runs.record import Result
from harness.runs.store import RunDirectory, write_atomic, write_json
from harness.runs.summary import Summary

__all__ = ["Document", "View", "charts", "view_of", "write"]

Row = dict[str, Any]


class Document(Protocol):
    """What people read of a run: `Tables` of the main job, `companion.Companion` of another."""

    def screen_summary(self) -> str:
        """The end of a run on the screen, 80 columns wide."""
        ...

    def markdown(self) -> str:
        """The whole of tables.md."""
        ...

    def csv(self) -> str:
        """The whole of tables.csv."""
        ...


class View(Protocol):
    """A module with what is made of one experiment's runs; it imports neither torch nor vLLM."""

    Summary: type[Summary]  # the schema of its summary.json

    def summarise(self, record: Row, results: Sequence[Result]) -> Row:
        """The content of summary.json, of a run that is finished, under way or interrupted."""
        ...

    def document(self, record: Row, summary: Row) -> Document:
        """Its tables."""
        ...


def view_of(record: Row) -> View:
    """The view of the experiment that a record is of; raises ValueError if this version has none."""
    name = record["experiment"]
    if name == "prefill":
        return cast(View, import_module("harness.experiments.prefill.view"))
    if name not in EXPERIMENTS:
        raise ValueError(f"a run of {name}: this version knows {', '.join(['prefill', *EXPERIMENTS])}")
    return cast(View, import_module(EXPERIMENTS[name].view))


def write(run: RunDirectory) -> Document:
    """Write summary.json, tables.md, tables.csv, plots/ and report.html.

    Works on a finished, a running and an interrupted run alike; returns the tables, to be printed.
    Raises FileNotFoundError without a run.json, ValueError if a line of samples.jsonl is no result or the
    run is of an experiment that is not known.
    """
    from harness.report.page import companion, page  # which import views, which import this package

    record = run.record().to_json()
    view = view_of(record)
    results = run.results()
    summary = view.Summary.model_validate(view.summarise(record, results)).to_json()
    document = view.document(record, summary)
    write_json(run.summary_path, summary)
    write_atomic(run.tables_path, document.markdown())
    write_atomic(run.csv_path, document.csv())
    sheets = charts(record, summary, results)
    for sheet in sheets:
        mpl.write(sheet, run.plots_path)
    if isinstance(document, Companion):
        html = companion.page(document, summary, sheets)
    else:
        html = page(record, summary, sheets)
    write_atomic(run.page_path, html)
    return document


def charts(record: Row, summary: Row, results: Iterable[Result]) -> list[Sheet]:
    """The charts of a run, which its page and its plots both show.

    Args:
        results: the samples behind them, for those who point at a mark.
    """
    from harness.report.page import companion

    tips = Tips.of(results, summary.get("slowest_rank"))
    main_job = record["experiment"] == "prefill"
    drawn = cast(companion.Drawn, view_of(record)) if main_job else companion.drawn_of(record)
    return drawn.charts(record, summary, tips)
