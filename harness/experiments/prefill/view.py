"""What is made of a run of the main job."""

from __future__ import annotations

from pathlib import Path

from harness.experiments.prefill.kernel_tables import Tables
from harness.experiments.prefill.summary import summarise
from harness.report.attribution_plot import write_attribution_plot
from harness.report.plots import write_plots
from harness.report.rows import Row

__all__ = ["document", "plots", "summarise"]


def document(record: Row, summary: Row) -> Tables:
    """Its tables."""
    return Tables(record, summary)


def plots(record: Row, summary: Row, folder: Path) -> None:
    """Time over spread_k, and where the prefill's time goes."""
    write_plots(record, summary, folder)
    write_attribution_plot(record, summary, folder)
