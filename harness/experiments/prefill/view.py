"""What is made of a run of the main job."""

from __future__ import annotations

from harness.experiments.prefill import breakdown_charts as account
from harness.experiments.prefill import spread_charts as sweep
from harness.experiments.prefill.kernel_tables import Tables
from harness.experiments.prefill.rows import PrefillSummary as Summary
from harness.experiments.prefill.summary import summarise
from harness.report.charts.spec import Sheet
from harness.report.rows import Row
from harness.report.tips import Tips

__all__ = ["Summary", "charts", "document", "summarise"]


def document(record: Row, summary: Row) -> Tables:
    """Its tables."""
    return Tables(record, summary)


def charts(record: Row, summary: Row, tips: Tips) -> list[Sheet]:
    """Where the prefill's time goes, what there is over spread_k, and what layer by layer."""
    return [*account.sheets(summary, tips), *sweep.sheets(record, summary, tips)]
