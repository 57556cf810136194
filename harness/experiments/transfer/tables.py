"""The tables of a `transfer` run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis import stats
from harness.analysis.rows import find, select
from harness.experiments.transfer import break_even
from harness.experiments.transfer.rows import (
    BreakEven,
    HandOver,
    TransferCell,
    TransferSummary,
)
from harness.experiments.transfer.ways import GATHER, PLANNED, YARDSTICK, regions
from harness.report.rows import (
    difference_line,
    mark_if_remarked,
    merge_lines,
    noise_floor_line,
    status_line,
    status_text,
)
from harness.report.tables import NONE, Line, Notes, Section, Table, ms
from harness.report.tips import pick_evenly
from harness.runs.schema import RunRecord
from harness.units import MIB, pluralise

COLUMNS = ("", "descriptors", "ms", "host ms", "GB/s", "of yardstick")
BREAK_EVEN_COLUMNS = ("", "KiB", "yardstick", "gather wins", "a block", "certain")
NATURAL_COLUMNS = ("", "segments", "a block", "fastest way", "ms", "gather ms")
HAND_OVER_COLUMNS = ("spread_k", "prefill ms", "transfer ms", "together ms", "transfer")
MOST_COLUMNS = 6  # values of spread_k in a table that has a column for each
DIRECTIONS = {"to_host": "to the host", "to_gpu": "to the GPU", "to_peer": "to the next GPU"}
DIFFERENCES = (
    "Differences are means of paired ones; A/A: the gather again; Placebo: at another place of the pool."
)


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


def where(row: TransferCell | BreakEven) -> str:
    """A row's direction and layout, as text."""
    return group_name(row.to_json())


def points(
    record: RunRecord, summary: TransferSummary, group: Mapping[str, str], cells: Sequence[TransferCell]
) -> Table:
    """Every way at every spread_k, and what the gather gains or loses there."""
    notes, sections = Notes(), []
    contrasts = select(summary.contrasts, layout=PLANNED, **group)
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


def shares(group: Mapping[str, str], cells: Sequence[TransferCell]) -> Table:
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


def when_to_gather(record: RunRecord, summary: TransferSummary) -> Table:
    """The break-even against the fastest other way, a line for each direction and layout."""
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


def natural(summary: TransferSummary, group: Mapping[str, str]) -> Table:
    """Layouts that traffic left: the fastest way without a gather, and the gather."""
    cells, lines = select(summary.cells, **group), []
    for name in dict.fromkeys(row.layout for row in cells if row.layout != PLANNED):
        here = select(cells, layout=name)
        timed = [row for row in here if row.median_us is not None and row.kernel not in (GATHER, YARDSTICK)]
        fastest = min(timed, key=lambda row: row.median_us or 0.0, default=None)
        gather = find(here, kernel=GATHER)
        shown = (
            str(here[0].spread_k),
            f"{here[0].segments_per_block:.2f}",
            fastest.kernel if fastest else NONE,
            ms(fastest.median_us if fastest else None, 2),
            ms(gather.median_us if gather else None, 2),
        )
        lines.append(Line(name, shown))
    title = f"Layouts that traffic left: {group_name(group)}"
    below = [
        "p10, p50, p90: percentiles of segments a block over the file's requests. ms: of the fastest way but "
        "for the gather, which is beside it.",
    ]
    return Table(title, NATURAL_COLUMNS, [Section("", lines)], [], below)


def hand_over(group: Mapping[str, str], rows: Sequence[HandOver]) -> Table:
    """The prefill and the transfer after it, for every way."""
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
