"""report.html: the run on one page that needs no network, from run.json, summary.json and the samples."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.record import Result
from harness.report import attribution
from harness.report.page import account, blocks, facts, sweep
from harness.report.page.samples import Samples
from harness.report.tables import Tables
from harness.store import write_atomic

VERDICTS = {"slower": "▲", "faster": "▼", "same": "=", "unclear": "?"}


def write_page(
    record: dict[str, Any], summary: dict[str, Any], results: Iterable[Result], path: Path
) -> None:
    """Write the page."""
    write_atomic(path, page(record, summary, results))


def page(record: dict[str, Any], summary: dict[str, Any], results: Iterable[Result]) -> str:
    """The page's HTML, whole: styles, scripts and figures are in it. Names from the record are escaped."""
    samples, tables = Samples.of(results), Tables(record, summary)
    comparisons = [(k, table) for k in tables.spread_ks() if (table := tables.comparison(k))]
    return render(
        "run.html.j2",
        title=tables.title(),
        status=record["status"],
        sentence=facts.sentence(summary),
        notices=record["notices"],
        warnings=facts.warnings(summary),
        components=account.components(summary),
        missing=account.missing(summary),
        where=account.where_the_time_goes(summary, samples),
        account_tables=attribution.tables(summary, full=True),
        over_spread_k=sweep.over_spread_k(summary, samples),
        over_layers=sweep.over_layers(summary, samples),
        blocks=blocks.pictures(record),
        block_size=record["config"].get("block_size"),
        overview=tables.overview(),
        comparisons=comparisons,
        environment=facts.environment(record),
        typed=facts.typed(record),
        in_full=facts.in_full(record) if "model" in record["config"] else None,
        commit=record["versions"].get("commit"),
    )


def render(template: str, **values: Any) -> str:
    """A template of this package with the page's styles and script in it; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    own = resources.files("harness.report.page")
    inlined = {
        name: Markup(own.joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    return environment.get_template(template).render(**inlined, verdicts=VERDICTS, **values)
