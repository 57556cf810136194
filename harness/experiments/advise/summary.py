"""summary.json of `advise`: every engine's figures, what each change gave, and what is recommended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from harness.analysis import figures
from harness.experiments.advise import deciding
from harness.experiments.advise.changes import AGAIN, STOCK
from harness.experiments.advise.deciding import AA, FOUND, WARM
from harness.experiments.advise.rows import AdviseCell, AdviseContrast, BreakEvenRow, CandidateRow, Metric
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord
from harness.runs.summary import Summary


class AdviseSummary(Summary):
    """All figures of `advise`."""

    goal: Metric = Field(description="what a change must improve")
    cells: list[AdviseCell]
    contrasts: list[AdviseContrast]
    candidates: list[CandidateRow]
    break_even: list[BreakEvenRow]
    recommended: str | None = Field(
        default=None, description="a candidate, or `stock`; null: none was measured"
    )

    def conclude(self, record: RunRecord) -> None:
        """Decide, now that verdicts hold together."""
        deciding.widen(self.contrasts)
        for row in self.candidates:
            if contrast := deciding.contrast_of(self.contrasts, row.candidate, self.goal):
                row.outcome = FOUND[contrast.verdict]
                if row.outcome == "unclear" and contrast.reason_code:
                    row.reason = contrast.reason_code.about
        self.recommended = deciding.recommend(self.contrasts, self.goal)
        self.break_even = deciding.break_even(self.cells, self.contrasts, self.recommended)


def summarise(record: RunRecord, results: Sequence[Result]) -> AdviseSummary:
    """A row for each engine and metric, each difference and each candidate; `conclude` decides."""
    final = latest(results)
    series: dict[str, list[Result]] = {}
    for result in final:
        series.setdefault(result.series, []).append(result)
    contrasts = [row for members in series.values() for row in _contrasts(members)]
    return AdviseSummary(
        schema_version=2,
        status=record.status,
        goal=record.config.get("goal", "throughput"),
        cells=[_cell(result) for result in final if not result.control],
        contrasts=contrasts,
        candidates=_candidates(record, final),
        break_even=[],
    )


def _cell(result: Result) -> AdviseCell:
    row: dict[str, Any] = figures.cell_row(result)
    samples = result.samples_us
    if samples and row["metric"] == "throughput":
        per_s = 1e6 * row["requests"]
        row["requests_per_s"] = per_s / row["median_us"]
        bounds = row["ci95_us"]
        row["ci95_requests_per_s"] = bounds and (per_s / bounds[1], per_s / bounds[0])
    elif samples:
        row["p99_us"] = float(np.quantile(samples, 0.99))
        row["warnings"] = []  # of samples of one kind; these are of requests of any length
    return AdviseCell(**row)


def _contrasts(members: Sequence[Result]) -> list[AdviseContrast]:
    """A candidate, or stock again, against stock; a filled cache against an empty one."""
    stock = next((r for r in members if r.cell.arm == STOCK and not r.control), None)
    rows = []
    for result in members:
        baseline = stock
        if result.cell.arm == WARM:
            baseline = next((r for r in members if r.cell.arm != WARM and r.readings), None)
        name = AA if result.control else result.cell.arm
        if baseline and result is not stock and baseline.samples_us and result.samples_us:
            pair = (baseline, result)
            if result.cell.at("metric") == "latency":
                pair = _request_by_request(*pair)
            if row := figures.contrast_row(name, *pair):
                rows.append(AdviseContrast(**row))
    return rows


def _request_by_request(baseline: Result, treatment: Result) -> tuple[Result, Result]:
    """The pair with each latency as a share of the same request's in the baseline, times its median.

    Requests are of any length: a mean of plain differences would be that of the longest.
    """
    pairs = [*zip(baseline.samples_us, treatment.samples_us, strict=False)]
    level = float(np.median(baseline.samples_us))
    return (
        replace(baseline, samples_us=[level] * len(pairs)),
        replace(treatment, samples_us=[level * two / one for one, two in pairs]),
    )


def _candidates(record: RunRecord, results: Sequence[Result]) -> list[CandidateRow]:
    """A row for each candidate, without those of stock itself."""
    reasons: dict[str, str] = {}
    for result in results:
        if result.reason and result.cell.arm == result.cell.at("candidate"):
            reasons.setdefault(result.cell.arm, f"{result.status.value}: {result.reason}")
    return [
        CandidateRow(
            candidate=name,
            change=about.change,
            outcome="not measured",
            reason=reasons.get(name),
            serve=about.serve,
        )
        for name, about in (record.candidates or {}).items()
        if name not in (STOCK, AGAIN)
    ]
