"""The report of a run of the main job: its answer, tables and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import batch
from harness.analysis import stats
from harness.analysis.breakdown.rows import MeasuredRow
from harness.analysis.rows import select
from harness.experiments.prefill import (
    block_map,
    breakdown_tables,
    end_to_end_tables,
    kernel_tables,
    natural_tables,
)
from harness.experiments.prefill.advice import advise
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.experiments.prefill.summary import summarise
from harness.report.document import Document, Part, csv_contrasts, csv_rows
from harness.report.rows import Warned, change, named_arm, warnings
from harness.report.tables import Table
from harness.runs.schema import RunRecord

__all__ = ["document", "summarise"]
Summary = PrefillSummary  # of summary.json

CONTRAST_COLUMNS = (
    *("baseline", "baseline_us", "delta_us", "ci95_delta_us", "delta_pct", "ci95_delta_pct", "verdict"),
    *("p_value", "noise_floor_pct"),
)
CSV_COLUMNS = (
    *("stage", "kernel", "provider", "arm", "spread_k", "block_size", "layer", "layers", "data", "rank"),
    *("median_us", "ci95_us", "mean_us", "warmup_us", "gather_us", "gather_gbps"),
    *("tflops", "gbps", "share_of_ceiling_pct", "ceiling_scaled", "clock_mhz"),
    *("n", "stopped", "status", "reason", "warnings"),
    *CONTRAST_COLUMNS,
)
NO_BREAKDOWN = (
    "The prefill was not timed with attention overridden inside the engine, so there is no breakdown."
)


def document(record: RunRecord, summary: PrefillSummary) -> Document:
    """The run as a document."""
    prompts = record.prompts
    title = record.model.name + (f", {batch.describe(prompts)}" if prompts else "")
    parts, rows = _parts(record, summary), list(_csv_rows(summary))
    advice = [*filter(None, [natural_tables.sentence(record, Mean(summary))])]
    advice += advise(record, summary.attribution) if summary.attribution else []
    return Document(record, title, answer(summary), parts, rows, _warnings(summary), CSV_COLUMNS, advice)


def answer(summary: PrefillSummary) -> str:
    """The breakdown in a sentence, or the prefill's fragmentation without one."""
    if summary.attribution:
        return summary.attribution.sentence
    mean = Mean(summary)
    for k in reversed(mean.spread_ks()):
        if k > 1 and (row := mean.contrast("prefill", "paged@1", "paged", k)):
            return f"{k} segments instead of one change the prefill by {change(row)}: {row.verdict}."
    if not summary.kernels:
        return "No prefill was measured over spread_k."
    return "Only attention kernels were measured in this run, no whole prefills."


def _parts(record: RunRecord, summary: PrefillSummary) -> list[Part]:
    mean, breakdown = Mean(summary), breakdown_tables.tables(summary)
    comparisons = [kernel_tables.comparison(record, summary, k) for k in mean.spread_ks()]
    overview = [natural_tables.table(record, mean), kernel_tables.overview(record, summary)]
    overview += [end_to_end_tables.arms_table(mean)]
    overview += [kernel_tables.ranks(summary), kernel_tables.requests(summary)]
    engines = end_to_end_tables.engine_tables(summary)
    size = record.config.get("block_size")
    of_tokens = f" of {size} tokens" if size else ""
    return [
        Part(
            "breakdown",
            "How much of the prefill is due to the paged KV cache?",
            details=breakdown_tables.tables(summary, full=True),
            ending=breakdown[::-1],  # the breakdown comes last
            sheets=("attribution",),
            nothing="" if breakdown else NO_BREAKDOWN,
        ),
        Part(
            "spread",
            "What does fragmentation cost?",
            sheets=("spread_k",),
            nothing="Nothing was measured over spread_k.",
        ),
        Part(
            "layers",
            "Layer by layer",
            sheets=("layers",),
            nothing="No kernel of the engine was replayed layer by layer.",
        ),
        Part(
            "blocks",
            "Block tables",
            albums=block_map.albums(record),
            note=f"Vertical: physical block ids; horizontal: the prompt's blocks{of_tokens}; all on one "
            "scale. A segment is a rising line.",
            nothing="This run's record holds no block tables.",
        ),
        Part(
            "kernels",
            "Kernels, whole prefills and their verdicts",
            _present(*overview, *engines),
            _present(*comparisons),
        ),
    ]


def _present(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table]


def _warnings(summary: PrefillSummary) -> list[Warned]:
    """Warnings about kernels, whole prefills and other engines; not about probes, which are not ways to
    prefill.
    """
    kernels = select(Mean(summary).kernels, data="captured")
    shown = ("paged", *end_to_end_tables.ARMS)
    prefills = [row for row in summary.end_to_end if row.arm in shown]
    return [
        *warnings(kernels, lambda row: f"{row.kernel}, {row.arm}, spread_k = {row.spread_k}"),
        *warnings(prefills, lambda row: f"prefill, {named_arm(row.arm, row.spread_k)}"),
        *warnings(summary.variants, lambda row: end_to_end_tables.label(row.variant)),
    ]


def _csv_rows(summary: PrefillSummary) -> Iterator[dict[str, Any]]:
    """All rows of `kernels`, including "mean" and "sum", of `end_to_end` and `contrasts`, and the breakdown's
    components, in us. A difference's arm is the treatment.
    """
    for kernel in csv_rows(summary.kernels):
        yield {name: kernel.get(name) for name in CSV_COLUMNS}
    for row in summary.end_to_end:
        in_us: dict[str, Any] = {"median_us": row.median_ms and row.median_ms * 1000}
        in_us |= {"ci95_us": stats.map_interval(row.ci95_ms, lambda ms: ms * 1000)}
        of_row = {"stage": "end_to_end", "kernel": "prefill", "data": "captured"} | row.to_json() | in_us
        yield {name: of_row.get(name) for name in CSV_COLUMNS}
    for contrast in csv_contrasts(summary.contrasts):
        of_row = {**contrast, "arm": contrast["treatment"]}
        yield {name: of_row.get(name) for name in CSV_COLUMNS}
    for part in summary.attribution.measured if summary.attribution else ():
        yield {name: _component(part).get(name) for name in CSV_COLUMNS}


def _component(row: MeasuredRow) -> dict[str, Any]:
    """A component of the breakdown as a row of tables.csv; its percentages are of the engine's prefill."""
    of_row: dict[str, Any] = {
        "stage": "breakdown",
        "kernel": row.component,
        "arm": row.treatment,
        "delta_us": row.ms and row.ms * 1000,
        "ci95_delta_us": stats.map_interval(row.ci95_ms, lambda ms: ms * 1000),
        "delta_pct": row.pct,
        "ci95_delta_pct": row.ci95_pct,
    }
    return row.to_json() | of_row
