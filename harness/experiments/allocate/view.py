"""The report of an `allocate` run: segments per block of a trace's requests, by pool and over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.experiments.allocate.rows import AllocateCell, AllocateSummary, TimeRow
from harness.report.document import Document, csv_rows, figures_and_tables
from harness.report.rows import status_line
from harness.report.tables import NONE, Line, Notes, Section, Table
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord
from harness.units import pluralise

Summary = AllocateSummary  # of summary.json

ORDERS = {
    "stock": "stock",
    "sorted": "sorted by id",
    "longest": "longest stretches",
}
SPANS = 24  # parts of the requests, over time
COLUMNS = ("order", "segments/block p10", "p50", "p90", "blocks/segment", "hits", "at once")


def summarise(record: RunRecord, results: Sequence[Result]) -> AllocateSummary:
    """`cells`, a row for each pool, and `over_time`, `SPANS` rows for each."""
    found = latest(results)
    return AllocateSummary(
        schema_version=2,
        status=record.status,
        cells=[_cell(result) for result in found],
        over_time=[row for result in found for row in _over_time(result)],
    )


def _cell(result: Result) -> AllocateCell:
    cell, read = result.cell, result.readings
    blocks, segments = (np.array(read.get(name, [])) for name in ("blocks", "segments"))
    p10, p50, p90 = map(float, np.percentile(segments / blocks, (10, 50, 90))) if blocks.size else (None,) * 3
    size, count, order = cell.block_size, cell.at("num_blocks"), cell.arm
    return AllocateCell(
        stage=cell.stage, kernel=cell.kernel, provider=cell.provider, arm=order, spread_k=cell.spread_k,
        block_size=size, data=cell.data, num_blocks=int(count or 0), caching=str(cell.at("caching")),
        requests=blocks.size, left_out=int(sum(read.get("left_out", []))),
        segments_per_block=p50, p10_segments_per_block=p10, p90_segments_per_block=p90,
        blocks_per_segment=float(blocks.sum() / segments.sum()) if blocks.size else None,
        hit_pct=float(100 * sum(read["hit_blocks"]) / blocks.sum()) if blocks.size else None,
        running=float(np.median(read["running"])) if blocks.size else None,
        served_s=max(read.get("end_s", []), default=None),
        layouts=f"layouts-{order}-{size}-{count}.jsonl.gz" if blocks.size else None,
        status=result.status.value, reason=result.reason,
    )  # fmt: skip


def _over_time(result: Result) -> list[TimeRow]:
    cell, read = result.cell, result.readings
    if not read:
        return []
    per_block = np.array(read["segments"]) / np.array(read["blocks"])
    parts = np.array_split(np.arange(per_block.size), min(SPANS, per_block.size))
    return [
        TimeRow(
            num_blocks=int(cell.at("num_blocks") or 0),
            caching=str(cell.at("caching")),
            order=cell.arm,
            block_size=cell.block_size,
            end_s=read["end_s"][int(part[-1])],
            requests=part.size,
            segments_per_block=float(np.median(per_block[part])),
        )
        for part in parts
    ]


def document(record: RunRecord, summary: AllocateSummary) -> Document:
    """One table, with a section for each pool."""
    title = f"Layouts that traffic makes: {record.model.name}"
    tables = [_table(record, summary)] if summary.cells else []
    return Document(record, title, answer(summary), figures_and_tables(tables), csv_rows(summary.cells))


def _table(record: RunRecord, summary: AllocateSummary) -> Table:
    sections, notes = [], Notes()
    for pool in dict.fromkeys(map(pool_of, summary.cells)):
        lines = [_line(row, notes) for row in summary.cells if pool_of(row) == pool]
        sections.append(Section(pool, lines))
    left_out = max(row.left_out for row in summary.cells)
    below = [
        *notes.lines(),
        "segments/block: of a request's block table at the end of its prefill; 1: no two neighbours are "
        "joined. blocks/segment: of all requests together. hits: blocks found in the prefix cache. at once: "
        "requests that hold blocks, median.",
        "The blocks are those that vLLM's own KV cache manager hands out. Which requests share a step is "
        f"modelled: {record.config['max_num_batched_tokens']} tokens a step, at "
        f"{record.config['tokens_per_s']:g} tokens/s.",
    ]
    if left_out:
        below.append(f"Up to {pluralise(left_out, 'request')} larger than a pool left out.")
    return Table(f"Segments per block: {record.prompt or record.model.name}", COLUMNS, sections, [], below)


def _line(row: AllocateCell, notes: Notes) -> Line:
    if row.segments_per_block is None:
        return status_line(ORDERS[row.arm], row, notes)
    spreads = (row.p10_segments_per_block, row.segments_per_block, row.p90_segments_per_block)
    hits = NONE if row.caching == "off" else f"{row.hit_pct:.1f}%"
    cells = (*(f"{value:.3f}" for value in spreads), f"{row.blocks_per_segment:.1f}", hits)
    return Line(ORDERS[row.arm], (*cells, f"{row.running:g}"))


def pool_of(row: AllocateCell | TimeRow) -> str:
    """A pool in words."""
    return f"{row.num_blocks} blocks of {row.block_size} tokens, prefix caching {row.caching}"


def answer(summary: AllocateSummary) -> str:
    """The median of vLLM's own order, and of the others beside it, in the first pool that has figures."""
    rows = [row for row in summary.cells if row.segments_per_block is not None]
    if not rows:
        return "No request was served."
    first = [row for row in rows if pool_of(row) == pool_of(rows[0])]
    figures = [f"{row.segments_per_block:.3f} ({ORDERS[row.arm]})" for row in first]
    return (
        f"In a pool of {pool_of(rows[0])}, a request's segments per block are {', '.join(figures)}; medians."
    )
