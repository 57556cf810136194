"""report.html: the run on one page that needs no network, from run.json, summary.json and the samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.experiments.prefill import block_map as blocks
from harness.experiments.prefill import breakdown_charts as account
from harness.experiments.prefill import breakdown_tables as attribution
from harness.experiments.prefill import spread_charts as sweep
from harness.experiments.prefill.kernel_tables import Tables
from harness.report.page import facts
from harness.report.page.rendering import render
from harness.report.page.samples import Samples
from harness.runs.record import Result


def page(record: dict[str, Any], summary: dict[str, Any], results: Iterable[Result]) -> str:
    """The page's HTML, whole: styles, scripts and figures are in it. Names from the record are escaped."""
    tables, samples = Tables(record, summary), Samples.of(results, summary["slowest_rank"])
    comparisons = [(k, table) for k in tables.spread_ks() if (table := tables.comparison(k))]
    return render(
        "run.html.j2",
        title=tables.title(),
        status=record["status"],
        sentence=facts.sentence(summary),
        components=account.components(summary),
        missing=account.missing(summary),
        where=account.where_the_time_goes(summary, samples),
        account_tables=attribution.tables(summary, full=True),
        over_spread_k=sweep.over_spread_k(summary, samples),
        over_layers=sweep.over_layers(summary, samples),
        layouts=blocks.layouts(record),
        block_size=record["config"].get("block_size"),
        overview=tables.overview(),
        comparisons=comparisons,
        further=tables.further(),
        **facts.closing(record, facts.warnings(summary)),
    )
