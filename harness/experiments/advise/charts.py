"""The charts of `advise`: what each change gave, throughput and latency."""

from __future__ import annotations

from harness.analysis.rows import find
from harness.analysis.stats import noise_floor_pct
from harness.experiments.advise.deciding import AA, contrast_of
from harness.experiments.advise.rows import Metric
from harness.experiments.advise.summary import AdviseSummary
from harness.experiments.advise.view import UNITS
from harness.report.charts.spec import SOFT, Axis, Band, Bars, Dot, Key, Row, Sheet, Tip
from harness.report.rows import change
from harness.report.tips import Tips
from harness.runs.schema import RunRecord
from harness.units import pluralise

LOOKS = {
    "helps": Key("helps", "#009E73", "circle"),
    "hurts": Key("hurts", "#D55E00", "square"),
    "same": Key("no difference", SOFT, "diamond"),
    "unclear": Key("unclear", SOFT, "triangle", hollow=True),
}
METRICS: tuple[Metric, ...] = ("throughput", "latency")
FOUND = {"faster": "helps", "slower": "hurts", "same": "same", "unclear": "unclear"}


def charts(record: RunRecord, summary: AdviseSummary, tips: Tips) -> list[Sheet]:
    """A row for each candidate, with the difference from stock and its interval."""
    title = f"What each change gives: {record.model.name}, {record.device.name}"
    return [Sheet("advise", title, [_metric(summary, metric) for metric in METRICS])]


def _metric(summary: AdviseSummary, metric: Metric) -> Bars:
    rows = []
    for candidate in summary.candidates:
        contrast = contrast_of(summary.contrasts, candidate.candidate, metric)
        name = candidate.candidate
        if contrast is None:
            rows.append(Row(f"{name}: {candidate.outcome if metric == summary.goal else 'not measured'}"))
            continue
        tip = Tip([name, f"{change(contrast)}, {contrast.verdict}", f"n = {pluralise(contrast.n, 'pair')}"])
        dot = Dot(contrast.delta_pct, LOOKS[FOUND[contrast.verdict]], tip, contrast.ci95_pct)
        rows.append(Row(f"{name}: {change(contrast)}", dots=[dot]))
    again = find(summary.contrasts, contrast=AA, metric=metric)
    floor = noise_floor_pct(again.ci95_pct) if again else None
    band = None if floor is None else Band.level("two engines of stock (A/A)", -floor, floor)
    axis = Axis(f"{UNITS[metric]}, % of stock's, with 95% intervals", zero=0.0)
    return Bars(f"Against stock: {metric}", axis, rows, band)
