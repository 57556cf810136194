"""The report of a `transfer` run: its figures, from samples, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis import figures, stats
from harness.analysis.rows import select
from harness.experiments.transfer import break_even, tables
from harness.experiments.transfer.rows import (
    BreakEven,
    HandOver,
    TransferCell,
    TransferContrast,
    TransferSummary,
    groups_of,
)
from harness.experiments.transfer.tables import DIRECTIONS, inputs, request_bytes
from harness.experiments.transfer.ways import GATHER, PLANNED, PREFILL, WAYS, YARDSTICK
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import warnings
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord

Summary = TransferSummary  # of summary.json

HAND_OVERS = ("to_host", "to_peer")  # the directions that leave the GPU


def summarise(record: RunRecord, results: Sequence[Result]) -> TransferSummary:
    """`cells`, a row for each way and point; `contrasts`, `break_even` and `hand_over`."""
    blocks = record.num_blocks or 1
    moved = request_bytes(record)
    series: dict[str, list[Result]] = {}
    for result in latest(results):
        series.setdefault(result.series, []).append(result)
    prefills = series.pop(PREFILL, [])
    cells: list[TransferCell] = []
    contrasts: list[TransferContrast] = []
    for members in series.values():
        arms = [each for each in members if not each.control and each.cell.arm != "placebo"]
        yardstick = _median(next((arm for arm in arms if arm.cell.kernel == YARDSTICK), None))
        cells += [_cell(arm, yardstick, blocks, moved) for arm in arms]
        contrasts += _contrasts(members, arms)
    cells.sort(key=_order)
    contrasts.sort(key=lambda row: row.spread_k)
    return TransferSummary(
        schema_version=2,
        status=record.status,
        cells=cells,
        contrasts=contrasts,
        break_even=break_even.rows(cells, contrasts, blocks),
        hand_over=_hand_overs(cells, prefills),
        tolerance_pct=stats.SAME_TOLERANCE_PCT,
    )


def _order(row: TransferCell) -> tuple[Any, ...]:
    names = [way.name for way in WAYS]
    return (
        [*DIRECTIONS].index(row.direction),
        row.kv_layout,
        row.layer_tensors,
        row.spread_k,
        row.layout,
        names.index(row.kernel),
    )


def _median(result: Result | None) -> float | None:
    median_us: float | None = figures.of_samples(result.samples_us)["median_us"] if result else None
    return median_us


def _cell(result: Result, yardstick_us: float | None, blocks: int, moved: int) -> TransferCell:
    fields = figures.cell_row(result)
    median_us = fields["median_us"]
    share = 100 * yardstick_us / median_us if yardstick_us and median_us else None
    return TransferCell(
        **fields,
        segments_per_block=result.cell.spread_k / blocks,
        gbps=moved / median_us / 1e3 if median_us else None,
        share_pct=share,
    )


def _contrasts(members: Sequence[Result], arms: Sequence[Result]) -> list[TransferContrast]:
    """Every way against the yardstick, the gather against every way, itself and its placebo."""
    by_way = {arm.cell.kernel: arm for arm in arms}
    gather, yardstick = by_way.get(GATHER), by_way.get(YARDSTICK)
    pairs: list[tuple[str, Result | None, Result | None]] = []
    pairs += [("yardstick", yardstick, arm) for arm in arms if arm is not yardstick]
    pairs += [("gather", arm, gather) for arm in arms if arm not in (gather, yardstick)]
    pairs += [("A/A", gather, each) for each in members if each.control]
    pairs += [("placebo", gather, each) for each in members if each.cell.arm == "placebo"]
    return [
        TransferContrast(**fields, baseline=one.cell.kernel)
        for name, one, two in pairs
        if one and two and (fields := figures.contrast_row(name, one, two))
    ]


def _hand_overs(cells: Sequence[TransferCell], prefills: Sequence[Result]) -> list[HandOver]:
    """Every way out of the GPU, after the prefill with as many segments, or the next fewer measured."""
    medians = {result.cell.spread_k: _median(result) for result in prefills}
    found = []
    for row in select(cells, layout=PLANNED):
        measured = [k for k, median_us in medians.items() if median_us and k <= row.spread_k]
        if not measured or row.median_us is None or row.direction not in HAND_OVERS:
            continue
        prefill_us = medians[max(measured)] or 0.0
        total_us = prefill_us + row.median_us
        found.append(
            HandOver(
                direction=row.direction,
                kv_layout=row.kv_layout,
                layer_tensors=row.layer_tensors,
                kernel=row.kernel,
                spread_k=row.spread_k,
                prefill_spread_k=max(measured),
                prefill_us=prefill_us,
                transfer_us=row.median_us,
                total_us=total_us,
                transfer_pct=100 * row.median_us / total_us,
            )
        )
    return found


def document(record: RunRecord, summary: TransferSummary) -> Document:
    """A table of every point for each direction and layout, as details; shares, break-even and hand-over."""
    groups = groups_of(select(summary.cells, layout=PLANNED))
    measured = [(group, cells) for group, cells in groups if any(row.n for row in cells)]
    details = [tables.points(record, summary, group, cells) for group, cells in groups]
    shown = [tables.hand_over(group, rows) for group, rows in groups_of(summary.hand_over)]
    shown += [tables.natural(summary, group) for group, _ in measured if _has_natural(summary)]
    shown += [tables.shares(group, cells) for group, cells in measured]
    shown += [tables.when_to_gather(record, summary)] if groups else []
    rows = [*csv_rows(summary.cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(
        summary.cells, lambda row: f"{tables.where(row)}, {row.kernel}, spread_k = {row.spread_k}"
    )
    title = f"Moving a request's KV cache: {inputs(record)}"
    return Document(record, title, answer(record, summary), figures_and_tables(shown, details), rows, warned)


def _has_natural(summary: TransferSummary) -> bool:
    return any(row.layout != PLANNED for row in summary.cells)


def answer(record: RunRecord, summary: TransferSummary) -> str:
    """Where the gather wins, in every direction and layout that was measured."""
    rows = [row for row in select(summary.break_even, against=break_even.FASTEST) if row.gather != "unclear"]
    if not rows:
        return "No transfer was measured."
    of_host = " (of host copies)" if record.device.kind == "cpu" else ""
    return f"Gather first, then copy once{of_host}: {'; '.join(map(_phrase, rows))}."


def _phrase(row: BreakEven) -> str:
    if row.gather == "from" and row.segments_per_block is not None:
        when = f"{tables.wins(row)} segments on ({row.segments_per_block:.2g} a block)"
    else:
        when = row.gather
    return f"{tables.where(row)}, {when}"
