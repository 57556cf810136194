"""The views of any experiment's run: summary.json, tables, plots and the page. Needs no GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, cast

from harness.analysis.busy_host import withhold
from harness.analysis.families import judge_together
from harness.config import ConfigError
from harness.experiments import EXPERIMENTS, Experiment
from harness.files import shorten
from harness.report import explain, parquet
from harness.report.charts import mpl
from harness.report.charts.bounds import bound
from harness.report.charts.spec import Sheet
from harness.report.charts.style import PAPER
from harness.report.document import Document
from harness.report.page import page
from harness.report.tips import Tips
from harness.runs import summary as summaries
from harness.runs.command import format_command
from harness.runs.record import Result
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged, write_atomic
from harness.units import type_and_line


class View(Protocol):
    """A module that reports one experiment's runs; it imports neither torch nor vLLM."""

    Summary: type[summaries.Summary]  # the schema of its summary.json

    def summarise(self, record: RunRecord, results: Sequence[Result]) -> summaries.Summary:
        """The rows of a finished, running or interrupted run, each judged by itself."""
        ...

    def document(self, record: RunRecord, summary: Any) -> Document:
        """Its answer and its tables."""
        ...


class Charts(Protocol):
    """A module that charts one experiment's runs."""

    def charts(self, record: RunRecord, summary: Any, tips: Tips) -> list[Sheet]:
        """Its charts from top to bottom; a sheet is also a file of its name in plots/."""
        ...


def experiment_of(record: RunRecord) -> Experiment:
    """A record's experiment; raises ValueError if this version does not know it."""
    if record.experiment not in EXPERIMENTS:
        raise ValueError(f"a run of {record.experiment}: this version knows {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[record.experiment]


@contextmanager
def fitting(where: object) -> Iterator[None]:
    """Around views of a run that may come from anyone: its record and its samples may each be valid and still
    contradict each other, in more ways than can be listed.

    Raises Damaged, in one line that begins with `where`, whatever a view fails with inside.
    """
    try:
        yield
    except (OSError, Damaged, ConfigError):
        raise
    except Exception as error:
        why = shorten(type_and_line(error))
        raise Damaged(
            f"{where}: record and samples contradict each other ({why}); restore them or measure again"
        ) from error


def view_of(experiment: Experiment) -> View:
    """What is read of an experiment's runs."""
    return cast(View, import_module(experiment.view))


def summarise(record: RunRecord, results: Sequence[Result]) -> Any:
    """The content of summary.json, of the view's own `Summary`, with verdicts that hold together."""
    summary = view_of(experiment_of(record)).summarise(record, results)
    judge_together(summary)
    withhold(summary, record)
    summary.conclude(record)
    return summary


def charts(record: RunRecord, summary: Any, results: Iterable[Result]) -> list[Sheet]:
    """The charts of a run, which its page and its plots both show.

    Args:
        results: the samples behind them, shown in tooltips.
    """
    module = cast(Charts, import_module(experiment_of(record).charts))
    tips = Tips.of(results, getattr(summary, "slowest_rank", None))
    return [bound(sheet) for sheet in module.charts(record, summary, tips)]


def in_full(record: RunRecord) -> str | None:
    """The command of a run with every non-default option; None: it has no options."""
    if not record.config:
        return None
    words = ["python", "-m", "harness", record.experiment]
    return format_command(words, record.config, experiment_of(record).config)


def page_of(document: Document, sheets: Sequence[Sheet]) -> str:
    """The whole of report.html."""
    question = experiment_of(document.record).question
    return page(document, sheets, question, in_full(document.record))


def write(run: RunDirectory, paper: bool = False) -> Document:
    """Write summary.json, tables.md, tables.csv, with pyarrow tables.parquet, plots/ and report.html.

    Works on a finished, a running and an interrupted run alike; returns the document for printing. Raises
    FileNotFoundError without a run.json, ValueError if a line of samples.jsonl is not a result or the
    experiment is not known.

    Args:
        paper: also draw the plots at a paper's column width.
    """
    record, results = run.record(), run.results()
    summary = summarise(record, results)
    document = view_of(experiment_of(record)).document(record, summary)
    sheets = charts(record, summary, results)
    write_atomic(run.tables_path, document.markdown())
    write_atomic(run.csv_path, document.csv())
    parquet.write(document.frame(), run.parquet_path)
    for sheet in sheets:
        mpl.write(sheet, run.plots_path)
        if paper:
            mpl.write(sheet, run.plots_path, PAPER)
    write_atomic(run.page_path, page_of(document, sheets))
    write_atomic(run.summary_path, summary.to_text())  # last: with it the report is whole
    return document


def explain_verdicts(run: RunDirectory) -> str:
    """Why each verdict of a run whose summary.json is written, for a screen."""
    return explain.screen(explain.lists(run.summary(view_of(experiment_of(run.record())).Summary)))
