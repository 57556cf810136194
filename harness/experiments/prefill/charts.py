"""The charts of the main job."""

from __future__ import annotations

from harness.experiments.prefill import breakdown_charts, spread_charts
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.charts.spec import Sheet
from harness.report.tips import Tips
from harness.runs.schema import RunRecord


def charts(record: RunRecord, summary: PrefillSummary, tips: Tips) -> list[Sheet]:
    """Charts of where the prefill's time goes, over spread_k, and layer by layer."""
    return [*breakdown_charts.sheets(summary, tips), *spread_charts.sheets(record, summary, tips)]
