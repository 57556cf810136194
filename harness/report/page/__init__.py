"""report.html: the run on one page that needs no network, from run.json, summary.json and the samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from harness.experiments.prefill import block_map as blocks
from harness.experiments.prefill import breakdown_charts as account
from harness.experiments.prefill import breakdown_tables as attribution
from harness.experiments.prefill.kernel_tables import Tables
from harness.report.charts import svg
from harness.report.charts.spec import Sheet
from harness.report.page import facts
from harness.report.page.rendering import render


def page(record: dict[str, Any], summary: dict[str, Any], sheets: Iterable[Sheet]) -> str:
    """The page's HTML, whole: styles, scripts and figures are in it. Names from the record are escaped."""
    tables = Tables(record, summary)
    comparisons = [(k, table) for k in tables.spread_ks() if (table := tables.comparison(k))]
    figures = {sheet.name: Markup("").join(svg.draw(chart) for chart in sheet.charts) for sheet in sheets}
    layouts = [
        {
            "title": each.title,
            "rest": each.rest,
            "pictures": [svg.draw_block_map(one) for one in each.pictures],
        }
        for each in blocks.layouts(record)
    ]
    return render(
        "run.html.j2",
        title=tables.title(),
        status=record["status"],
        sentence=facts.sentence(summary),
        account=figures.get("attribution", ""),
        missing=[] if summary.get("attribution") else account.missing(summary),
        account_tables=attribution.tables(summary, full=True),
        over_spread_k=figures["spread_k"],
        over_layers=figures["layers"],
        layouts=layouts,
        block_size=record["config"].get("block_size"),
        overview=tables.overview(),
        comparisons=comparisons,
        further=tables.further(),
        **facts.closing(record, facts.warnings(summary)),
    )
