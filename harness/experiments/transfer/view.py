"""The report of a `transfer` run: times and bandwidths, the break-even, and prefill with hand-over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import figures, stats
from harness.analysis.rows import find, select
from harness.experiments.transfer import break_even
from harness.experiments.transfer.rows import (
    BreakEven,
    HandOver,
    TransferCell,
    TransferContrast,
    TransferSummary,
    groups_of,
)
from harness.experiments.transfer.ways import GATHER, PREFILL, WAYS, YARDSTICK, regions
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import (
    difference_line,
    mark_if_remarked,
    merge_lines,
    noise_floor_line,
    status_line,
    status_text,
    warnings,
)
from harness.report.tables import NONE, Line, Notes, Section, Table, ms
from harness.report.tips import pick_evenly
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord
from harness.units import MIB, pluralise

Summary = TransferSummary  # of summary.json

COLUMNS = ("", "descriptors", "ms", "host ms", "GB/s", "of yardstick")
BREAK_EVEN_COLUMNS = ("", "KiB", "yardstick", "gather wins", "a block", "certain")
HAND_OVER_COLUMNS = ("spread_k", "prefill ms", "transfer ms", "together ms", "transfer")
MOST_COLUMNS = 6  # values of spread_k in a table that has a column for each
DIRECTIONS = {"to_host": "to the host", "to_gpu": "to the GPU", "to_peer": "to the next GPU"}
DIFFERENCES = (
    "Differences are means of paired ones; A/A: the gather again; Placebo: at another place of the pool."
)
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
        (names.index(row.kernel)),
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
    for row in cells:
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
    groups = groups_of(summary.cells)
    details = [_points(record, summary, group, cells) for group, cells in groups]
    tables = [_hand_over(group, rows) for group, rows in groups_of(summary.hand_over)]
    tables += [_shares(group, cells) for group, cells in groups if any(row.n for row in cells)]
    tables += [_break_even(record, summary)] if groups else []
    rows = [*csv_rows(summary.cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(summary.cells, lambda row: f"{_where(row)}, {row.kernel}, spread_k = {row.spread_k}")
    title = f"Moving a request's KV cache: {inputs(record)}"
    return Document(record, title, answer(record, summary), figures_and_tables(tables, details), rows, warned)


def request_bytes(record: RunRecord) -> int:
    """Bytes of all blocks of the request, the last one whole; 0 of a run that measured nothing."""
    block_size: int = record.config.get("block_size") or 0
    return (record.num_blocks or 0) * block_size * (record.kv_bytes_per_token or 0)


def inputs(record: RunRecord) -> str:
    """What is moved, as text."""
    config = record.config
    shape = f"{config['num_layers']} layers x {config['num_kv_heads']} heads x {config['head_dim']}"
    where = " (host copies)" if record.device.kind == "cpu" else ""
    size = f"{request_bytes(record) / MIB:.0f} MiB{where}"
    return f"{pluralise(config['length'], 'token')}, {shape}, {config['dtype']}, {size}"


def group_name(group: Mapping[str, str]) -> str:
    """A direction and layout, as text: "to the host, interleaved, layers apart"."""
    return f"{DIRECTIONS[group['direction']]}, {group['kv_layout']}, layers {group['layer_tensors']}"


def _where(row: TransferCell | BreakEven) -> str:
    return group_name(row.to_json())


def _points(
    record: RunRecord, summary: TransferSummary, group: Mapping[str, str], cells: Sequence[TransferCell]
) -> Table:
    notes, sections = Notes(), []
    contrasts = select(summary.contrasts, **group)
    fastest = break_even.against_fastest(cells, select(contrasts, contrast="gather"))
    for spread_k in dict.fromkeys(row.spread_k for row in cells):
        lines = merge_lines([_line(row, notes) for row in select(cells, spread_k=spread_k)])
        if row := find(fastest, spread_k=spread_k):
            mark = notes.mark(f"{GATHER} against {row.baseline}, the fastest other way there")
            lines += difference_line(f"Gather Diff {mark}", row, 3)
        for name, label in (("A/A", "A/A"), ("placebo", "Placebo")):
            lines += difference_line(label, find(contrasts, spread_k=spread_k, contrast=name), 3)
        of_blocks = f"{pluralise(spread_k, 'segment')} of {record.num_blocks} blocks"
        sections.append(Section(of_blocks, lines))
    below = [
        *notes.lines(),
        "host ms: until the call returns; ms: until the last byte has arrived.",
        DIFFERENCES,
    ]
    return Table(f"Ways: {group_name(group)}", COLUMNS, sections, [inputs(record)], below)


def _line(row: TransferCell, notes: Notes) -> Line:
    if row.median_us is None:
        return status_line(row.kernel, row, notes)
    cells = (
        f"{row.descriptors:.0f}" if row.descriptors is not None else NONE,
        ms(row.median_us),
        ms(row.host_us),
        f"{row.gbps:.2f}" if row.gbps is not None else NONE,
        f"{row.share_pct:.1f}%" if row.share_pct is not None else NONE,
    )
    return Line(mark_if_remarked(row.kernel, row, notes), cells)


def _shares(group: Mapping[str, str], cells: Sequence[TransferCell]) -> Table:
    """Shares of the yardstick's bandwidth: a line a way, a column a spread_k."""
    notes, lines = Notes(), []
    spreads = pick_evenly(list(dict.fromkeys(row.spread_k for row in cells)), MOST_COLUMNS)
    for way in dict.fromkeys(row.kernel for row in cells):
        rows = [find(cells, kernel=way, spread_k=spread_k) for spread_k in spreads]
        if way == YARDSTICK:
            shown = tuple(f"{row.gbps:.1f}" if row and row.gbps else NONE for row in rows)
            lines.append(Line("contiguous, GB/s", shown))
        elif any(row and row.n for row in rows):
            lines.append(Line(way, tuple(_share(row, notes) for row in rows)))
        elif row := next(filter(None, rows), None):
            lines.append(status_line(way, row, notes))
    columns = ("spread_k", *map(str, spreads))
    return Table(
        f"Share of one contiguous copy's bandwidth: {group_name(group)}",
        columns,
        [Section("", lines)],
        [],
        notes.lines(),
    )


def _share(row: TransferCell | None, notes: Notes) -> str:
    if row is None:
        return NONE
    return status_text(row, notes, short=True) if row.share_pct is None else f"{row.share_pct:.1f}%"


def _break_even(record: RunRecord, summary: TransferSummary) -> Table:
    config, lines = record.config, []
    for row in select(summary.break_even, against=break_even.FASTEST):
        pieces = regions(config["num_layers"], row.kv_layout, row.layer_tensors)
        size = config["block_size"] * (record.kv_bytes_per_token or 0) / pieces / 1024
        same = {"direction": row.direction, "kv_layout": row.kv_layout, "layer_tensors": row.layer_tensors}
        timed = [each.gbps for each in select(summary.cells, kernel=YARDSTICK, **same) if each.gbps]
        yardstick = f"{stats.median_interval(timed).median:.1f}" if timed else NONE
        per_block = NONE if row.segments_per_block is None else f"{row.segments_per_block:.3g}"
        cells = (f"{size:g}", yardstick, wins(row), per_block, "yes" if row.certain else "no")
        lines.append(Line(" ".join(same.values()), cells))
    below = [
        "KiB: contiguous bytes of a block; yardstick: one contiguous copy, GB/s. gather wins: from how many "
        "segments (and segments a block) on a gather and one copy takes less than the fastest other way, "
        "interpolated; certain: the 95% intervals on either side exclude no difference.",
        noise_floor_line(summary.contrasts, "gather"),
    ]
    return Table("When to gather first", BREAK_EVEN_COLUMNS, [Section("", lines)], [inputs(record)], below)


def wins(row: BreakEven) -> str:
    """When the gather wins, as text."""
    if row.gather == "from" and row.spread_k is not None:
        return f"from {row.spread_k:.3g}"
    return "not measured" if row.gather == "unclear" else row.gather


def _hand_over(group: Mapping[str, str], rows: Sequence[HandOver]) -> Table:
    sections = []
    for way in dict.fromkeys(row.kernel for row in rows):
        lines = [
            Line(
                str(row.spread_k),
                (
                    f"{ms(row.prefill_us, 2)} (k = {row.prefill_spread_k})",
                    ms(row.transfer_us, 2),
                    ms(row.total_us, 2),
                    f"{row.transfer_pct:.1f}%",
                ),
            )
            for row in select(rows, kernel=way)
        ]
        sections.append(Section(way, lines))
    below = [
        "prefill: a stored run's median at the spread_k in brackets; together: the sum, as if the transfer "
        "began when the prefill has ended."
    ]
    return Table(f"Prefill and hand-over: {group_name(group)}", HAND_OVER_COLUMNS, sections, [], below)


def answer(record: RunRecord, summary: TransferSummary) -> str:
    """Where the gather wins, in every direction and layout that was measured."""
    rows = [row for row in select(summary.break_even, against=break_even.FASTEST) if row.gather != "unclear"]
    if not rows:
        return "No transfer was measured."
    of_host = "Of host copies, a" if record.device.kind == "cpu" else "A"
    return f"{of_host} gather and one copy is the fastest way {'; '.join(map(_phrase, rows))}."


def _phrase(row: BreakEven) -> str:
    when = {"always": "at every spread_k", "never": "at no spread_k"}.get(row.gather)
    return f"{_where(row)}, {when or f'{wins(row)} segments on ({row.segments_per_block:.2g} a block)'}"
