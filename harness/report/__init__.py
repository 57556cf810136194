"""Everything made from a run directory: summary.json, tables and plots. Never touches the GPU."""

from __future__ import annotations

from harness.report.attribution_plot import write_attribution_plot
from harness.report.plots import write_plots
from harness.report.tables import Tables
from harness.store import RunDirectory, write_atomic, write_json
from harness.summary import summarise

__all__ = ["Tables", "write"]


def write(run: RunDirectory) -> Tables:
    """Write summary.json, tables.md, tables.csv and plots/ from run.json and samples.jsonl.

    Works on a finished, a running and an interrupted run alike; returns the tables, to be printed.
    Raises FileNotFoundError without a run.json, ValueError if a line of samples.jsonl is no result.
    """
    record = run.record()
    summary = summarise(record, run.results())
    tables = Tables(record, summary)
    write_json(run.summary_path, summary)
    write_atomic(run.tables_path, tables.markdown())
    write_atomic(run.csv_path, tables.csv())
    write_plots(record, summary, run.plots_path)
    write_attribution_plot(record, summary, run.plots_path)
    return tables
