"""Figures of single requests of a batch: the engine's kernel on each request alone, their sum, and the whole
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.analysis import stats, verdicts
from harness.analysis.contrasts import name_in_series, spread_of
from harness.analysis.rows import RequestRow
from harness.runs.record import Result, Status, series_name
from harness.runs.schema import RequestRecord, RunRecord

FIGURES = {"dense_us": "dense", "one_segment_us": "paged@1", "paged_us": "paged"}


def rows(record: RunRecord, alone: Iterable[Result], steps: Sequence[Result]) -> list[RequestRow]:
    """For every layer that has them, one row for each request, one for their "sum" and one for the "step";
    times in us.

    Requests of equal length and spread_k share a row, `count` of them; `request` is the first one's index.
    The sum is over all requests of the step and is left out if one has no figure.

    Args:
        record: the run's; uses "requests".
        alone: results of single requests, of one rank; of a cell that was measured twice only the later.
        steps: the rank's results of whole steps; of a cell that was measured twice, only the later.
    """
    by_step: dict[tuple[int, int], dict[int, list[Result]]] = {}
    for result in alone:
        k, cell = int(result.series.partition(" ")[0].removeprefix("spread=")), result.cell
        assert cell.layer is not None
        assert cell.request is not None
        by_step.setdefault((k, cell.layer), {}).setdefault(cell.request, []).append(result)
    all_rows = []
    for (k, layer), of_requests in sorted(by_step.items()):
        own = [_request_row(record, k, index, members) for index, members in of_requests.items()]
        all_rows += own + _sum(record, own) + _step(steps, own, k, layer)
    return all_rows


def _request_row(record: RunRecord, k: int, index: int, results: Sequence[Result]) -> RequestRow:
    requests = record.requests or []
    about = _about(requests[index], k)
    count = sum(_about(request, k) == about for request in requests)
    return _row(results, request=index, count=count, layer=results[0].cell.layer, **about)


def _about(request: RequestRecord, k: int) -> dict[str, Any]:
    return {"length": request.length, "blocks": request.blocks, "spread_k": request.segments[str(k)]}


def _step(steps: Iterable[Result], own: Sequence[RequestRow], k: int, layer: int) -> list[RequestRow]:
    """The whole step's row, from the layer's own series at this spread_k."""
    kernel = own[0].kernel
    of_step = [
        r
        for r in steps
        if r.series == series_name(k, layer, r.cell.rank)
        and (r.cell.stage, r.cell.kernel, r.cell.data) == ("kernel", kernel, "captured")
    ]
    if not of_step:
        return []
    about = {"length": None, "blocks": None, "spread_k": k, "count": None, "layer": layer}
    return [_row(of_step, request="step", **about)]


def _sum(record: RunRecord, own: Sequence[RequestRow]) -> list[RequestRow]:
    """The sum of the requests' times, as if they ran one after the other."""
    requests = record.requests or []
    if sum(row.count or 0 for row in own) != len(requests):
        return []
    times = {name: _total(own, name) for name in FIGURES}
    delta_us = delta_pct = None
    if times["paged_us"] and times["one_segment_us"]:
        delta_us = times["paged_us"] - times["one_segment_us"]
        delta_pct = 100 * delta_us / times["one_segment_us"]
    about = {"request": "sum", "count": len(requests), "reason": None, **times}
    about |= {"status": next((row.status for row in own if row.status != "ok"), "ok")}
    about |= {"blocks": _total(own, "blocks"), "delta_us": delta_us, "delta_pct": delta_pct}
    about |= dict.fromkeys(("length", "spread_k", "ci95_pct", "p_value", "verdict", "reason_code", "n"))
    return [own[0].model_copy(update=about)]


def _total(rows: Sequence[RequestRow], figure: str) -> Any:
    """The sum over the requests, each as often as it is there; None if one has no figure."""
    values = [getattr(row, figure) for row in rows]
    return sum(row.count * value for row, value in zip(rows, values, strict=True)) if all(values) else None


def _row(results: Sequence[Result], **about: Any) -> RequestRow:
    """One row out of one series: medians, and the paired difference of k segments and one."""
    named = {name_in_series(result): result for result in results}
    if spread_of(results) == 1:
        named["paged@1"] = named["paged"]
    medians: dict[str, Any] = {}
    for figure, name in FIGURES.items():
        samples = named[name].samples_us if name in named else []
        medians[figure] = float(np.median(samples)) if samples else None
    wrong = next((r for r in named.values() if r.status is not Status.OK), None)
    paired: dict[str, Any] = dict.fromkeys(("delta_us", "delta_pct", "ci95_pct", "verdict"))
    one, split = named.get("paged@1"), named.get("paged")
    if one and split and one is not split and one.samples_us and split.samples_us:
        difference = stats.paired_difference(*stats.pull_in([one.samples_us, split.samples_us]))
        judgement = verdicts.judge(difference.ci95_pct, sound=not wrong)
        paired = {
            "delta_us": difference.delta_us,
            "delta_pct": difference.delta_pct,
            "ci95_pct": difference.ci95_pct,
            "p_value": difference.p_value,
            "verdict": judgement.verdict,
            "reason_code": judgement.reason,
        }
    return RequestRow(
        kernel=results[0].cell.kernel,
        provider=results[0].cell.provider,
        n=min(len(r.samples_us) for r in named.values()),
        status=wrong.status.value if wrong else "ok",
        reason=wrong.reason if wrong else None,
        **about,
        **medians,
        **paired,
    )
