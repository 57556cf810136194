"""The report of a `backends` run: crossover tables, the winners, and what a dense buffer costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.rows import find
from harness.experiments.backends.rows import (
    AgainRow,
    BackendCell,
    BackendContrast,
    BackendsSummary,
    ComputeBoundRow,
)
from harness.experiments.backends.scaling import COMPUTE_BOUND, is_split
from harness.experiments.backends.summary import AGAINST, ALONE, phase, sizes, summarise
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import mark_if_remarked, noise_floor_line, remark, status_text, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, percent
from harness.runs.schema import RunRecord
from harness.runs.summary import Index
from harness.units import MIB, pluralise

__all__ = ["document", "summarise"]
Summary = BackendsSummary  # of summary.json

# The origin of Q, K and V, by record.Cell.data.
DATA = {"captured": "captured", "synthetic": "random"}


def document(record: RunRecord, summary: BackendsSummary) -> Document:
    """The tables."""
    batches = sorted({row.batch_size for row in summary.cells})
    tables = [_crossover(record, summary, batch) for batch in batches]
    tables += [
        table for table in (_winners(summary), _turning_points(record, summary), _buffers(summary)) if table
    ]
    title, cells = f"Attention backends in {inputs(record)}", summary.cells
    rows = [*csv_rows(cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(cells, lambda row: f"{row.backend}, {row.batch_size} x {row.input_len} tokens")
    return Document(record, title, answer(summary), figures_and_tables(tables), rows, warned)


def inputs(record: RunRecord) -> str:
    """What was measured, as text."""
    out = record.config["output_len"]
    return f"prefill, {record.model.name}" if not out else f"decoding, {record.model.name}"


def backends(summary: BackendsSummary) -> list[str]:
    """Column names: vLLM's backends in the order requested, then attention alone."""
    cells = summary.index(summary.cells).distinct("attention_alone", "arm", "backend")
    ordered = sorted(cells, key=lambda cell: (cell[0], cell[1] == "per_block"))
    return list(dict.fromkeys(backend for _, _, backend in ordered))


def _crossover(record: RunRecord, summary: BackendsSummary, batch: int) -> Table:
    """tokens/s of one batch size: a line for each length, a column for each backend."""
    notes = Notes()
    cells, names = summary.index(summary.cells).select(batch_size=batch), backends(summary)
    layers = record.model.num_layers
    of_layers = f", {pluralise(layers, 'layer')}" if layers else ""
    data = " or ".join(
        DATA[name] for name in dict.fromkeys(row.data for row in cells if row.attention_alone and row.data)
    )
    alone = f"PyTorch's attention alone, {data} Q, K and V{of_layers}: compare with each other only"
    columns = [f"{name} {notes.mark(alone)}" if name in ALONE.values() else name for name in names]
    lines, index = [], Index(cells)
    for tokens in sorted({row.input_len for row in cells}):
        here = {row.backend: row for row in index.select(input_len=tokens)}
        fastest = _fastest(list(here.values()))
        steps = max((row.prefill_steps or 1 for row in here.values() if is_split(row) and row.n), default=1)
        label = str(tokens)
        if steps > 1:
            label += " " + notes.mark(f"an engine prefills these prompts in {steps} steps")
        lines.append(Line(label, tuple(_format_rate(here.get(name), notes, fastest) for name in names)))
    below = [*notes.lines(), _precision(cells)]
    if any(cell.startswith("*") for line in lines for cell in line.cells):
        below.insert(0, "*: the fastest engine")
    title = f"{'Decoding' if phase(record) == 'decode' else 'Prefill'}, batch size {batch}: tokens/s"
    return Table(title, ("tokens", *columns), [Section("", lines)], below=below)


def _fastest(rows: Sequence[BackendCell]) -> str | None:
    """The fastest of several engines."""
    timed = {row.backend: row.tokens_per_s for row in rows if not row.attention_alone and row.tokens_per_s}
    return max(timed, key=lambda backend: timed[backend]) if len(timed) > 1 else None


def _format_rate(row: BackendCell | None, notes: Notes, fastest: str | None) -> str:
    if row is None:
        return NONE
    if row.tokens_per_s is None:
        return status_text(row, notes, short=True)
    return mark_if_remarked(("* " if row.backend == fastest else "") + number(row.tokens_per_s), row, notes)


def number(value: float) -> str:
    """A rate: whole, with commas; one decimal where it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _precision(cells: Sequence[BackendCell]) -> str:
    counts = [row.n for row in cells if row.n]
    widths = [
        50 * (row.ci95_us[1] - row.ci95_us[0]) / row.median_us
        for row in cells
        if row.ci95_us and row.median_us
    ]
    if not counts:
        return "nothing could be measured at this batch size"
    samples = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    widest = f"; the widest 95% interval is +-{max(widths):.1f}%" if widths else "; no interval: that needs 6"
    return f"medians of {samples} samples{widest}"


def _winners(summary: BackendsSummary) -> Table | None:
    """The fastest of vLLM's backends in every cell."""
    again = {(row.batch_size, row.input_len): row for row in summary.engines_again}
    notes, sections = Notes(), dict[int, list[Line]]()
    for row in summary.winners:
        speed_up = f"{row.speed_up:.2f}x"
        if row.ci95_speed_up:
            low, high = row.ci95_speed_up
            speed_up += f" [{low:.2f}, {high:.2f}]"
        floor = _engines_floor(again.get((row.batch_size, row.input_len)), notes)
        cells = row.winner, row.second, speed_up, floor, row.verdict
        sections.setdefault(row.batch_size, []).append(Line(str(row.input_len), cells))
    if not sections:
        return None
    columns = ("tokens", "winner", "second", "speed-up [95%]", "A/A", "verdict")
    listed = [Section(f"Batch size {batch}", lines) for batch, lines in sections.items()]
    twice = " and ".join(dict.fromkeys(row.backend for row in summary.engines_again)) or "the first backend"
    below = [
        *notes.lines(),
        "speed-up: of the winner over the runner-up, with all quotients of their 95% intervals. Engines "
        "run one after the other, so it includes the difference between two engines of one configuration. "
        f"A/A: the most that this can be, by the intervals of {twice} in two engines, the first and the "
        "last of all; verdicts use the interval widened by it.",
    ]
    return Table("The fastest of vLLM's backends", columns, listed, below=below)


def _engines_floor(again: AgainRow | None, notes: Notes) -> str:
    """The most that two engines of one backend differ by, or why that is not known."""
    if again is None:
        return f"{NONE} {notes.mark('A/A was not measured')}"
    if again.noise_floor_pct is None:
        return f"{NONE} {notes.mark('A/A: ' + (remark(again) or 'it takes 6 samples for an interval'))}"
    return percent(again.noise_floor_pct, None, sign=False)


def _turning_points(record: RunRecord, summary: BackendsSummary) -> Table | None:
    """The batch sizes from which on time grows in proportion."""
    names, rows = backends(summary), summary.compute_bound
    cells, index = summary.index(summary.cells), summary.index(rows)
    if len(cells.distinct("batch_size")) < 2:
        return None
    notes, lines = Notes(), []
    for tokens in sorted({row.input_len for row in rows}):
        split = [row for row in cells.select(input_len=tokens) if is_split(row) and row.n]
        label = f"{tokens} {notes.mark(_left_out(record, split))}" if split else str(tokens)
        here = {row.backend: row for row in index.select(input_len=tokens)}
        lines.append(Line(label, tuple(_turn(here.get(name), notes) for name in names)))
    limited = "" if summary.phase == "prefill" else ", or by reading every prompt's K and V"
    below = [
        *notes.lines(),
        f"from this batch size on, time grows at least as the batch size to the power of {COMPUTE_BOUND}, "
        f"from each size to the next and by the exponent's whole 95% interval: limited by computing{limited}",
    ]
    return Table("Compute-bound from batch size", ("tokens", *names), [Section("", lines)], below=below)


def _turn(row: ComputeBoundRow | None, notes: Notes) -> str:
    if row is None:
        return NONE
    return str(row.batch_size or f"{NONE} {notes.mark(row.reason or '')}")


def _left_out(record: RunRecord, split: Sequence[BackendCell]) -> str:
    """A note on the batch sizes left out of the compute-bound verdict."""
    steps = dict.fromkeys(f"{row.batch_size} ({row.prefill_steps} steps)" for row in split)
    most = record.config["max_num_batched_tokens"]
    return f"engines: without batch size {', '.join(steps)}, as a step has at most {most} tokens"


def _buffers(summary: BackendsSummary) -> Table | None:
    """The dense buffer that PyTorch's attention needs, and the cost of doing without it."""
    rows = [row for row in summary.cells if row.attention_alone]
    if not rows:
        return None
    notes, sections, index = Notes(), dict[int, list[Line]](), Index(rows)
    for batch, tokens in sizes(rows):
        here = {r.arm: r for r in index.select(batch_size=batch, input_len=tokens)}
        texts = [text for arm in ALONE for text in _buffer_cells(here.get(arm), notes)]
        contrasts = summary.index(summary.contrasts)
        paired = contrasts.find(contrast=AGAINST, batch_size=batch, input_len=tokens)
        texts.append(times(paired) if paired else NONE)
        sections.setdefault(batch, []).append(Line(str(tokens), tuple(texts)))
    columns = ("tokens", "buffer MiB", "gathered ms", "block MiB", "per block ms", "takes [95%]")
    below = [
        *notes.lines(),
        "PyTorch's attention (math) of one layer. buffer: K and V of the batch, gathered from their blocks "
        "(timed too); block: one block of every prompt, which is all that is copied at a time without it. "
        "takes: per block, as a multiple of gathered; from the mean of paired differences and its 95% "
        "interval.",
        noise_floor_line(summary.contrasts, "gathered"),
    ]
    listed = [Section(f"Batch size {batch}", lines) for batch, lines in sections.items()]
    return Table("What a dense buffer costs", columns, listed, below=below)


def times(row: BackendContrast) -> str:
    """A contrast as a multiple of its baseline, with its interval; paired differences can exceed the
    baseline.
    """
    ratio, *bounds = (max(1 + pct / 100, 0.0) for pct in (row.delta_pct, *(row.ci95_pct or ())))
    return f"{ratio:.2f}x" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def _buffer_cells(row: BackendCell | None, notes: Notes) -> tuple[str, str]:
    if row is None:
        return NONE, NONE
    size = f"{row.buffer_bytes / MIB:,.2f}" if row.buffer_bytes is not None else NONE
    if row.median_us is None:
        return size, status_text(row, notes, short=True)
    return size, mark_if_remarked(ms(row.median_us), row, notes)


def answer(summary: BackendsSummary) -> str:
    """How many cells each backend wins; with fewer than two backends, the cost of doing without a dense
    buffer.
    """
    winners = summary.winners
    if not winners:
        no_winner = "No cell was measured with two of vLLM's backends, so there is no winner."
        return " ".join(filter(None, [no_winner, _dense_buffer(summary)]))
    sure = sum(row.verdict == "faster" for row in winners)
    wins = [f"{name} in {count}" for name, count in Counter(row.winner for row in winners).most_common()]
    return (
        f"The fastest of vLLM's backends is {', '.join(wins)} of {len(winners)} cells; the verdict is "
        f"faster in {sure} of these."
    )


def _dense_buffer(summary: BackendsSummary) -> str:
    """The cost of PyTorch's attention block by block in the largest cell that has both; "" if none has."""
    paired = [row for row in summary.contrasts if row.contrast == AGAINST]
    if not paired:
        return ""
    row = max(paired, key=lambda row: row.batch_size * row.input_len)
    batch, tokens = row.batch_size, row.input_len
    dense = find(summary.cells, arm="gathered", batch_size=batch, input_len=tokens)
    assert dense is not None
    size = dense.buffer_bytes or 0
    prompts = f"{batch} prompt{'s' * (batch > 1)} of {tokens} token{'s' * (tokens > 1)}"
    return (
        f"For {prompts}, PyTorch's attention needs a dense buffer per layer of {size / MIB:,.2f} MiB; "
        f"without it, block by block, it takes {times(row)} the time."
    )
