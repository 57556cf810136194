"""What is made of a run of `backends`: crossover tables, who wins, what a dense buffer costs, and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from harness import figures, stats
from harness.record import Result, latest
from harness.report import backends_plot
from harness.report.companion import Companion
from harness.report.rows import Row, remark
from harness.report.text import NONE, Line, Notes, Section, Table, ms

# Time grows at least as the batch size to this power where the work, not what is around it, takes the time.
COMPUTE_BOUND = 0.9
ALONE = {
    "gathered": "sdpa.math",
    "per_block": "per block",
}  # arms of attention alone, as the columns name them
SHORT = {"out_of_memory": "OOM"}
AGAINST, AGAIN = "per block against gathered", "A/A"
MIB = 2**20


def summarise(record: Row, results: Sequence[Result]) -> Row:
    """summary.json's lists: a row a measured cell, and what follows from several of them.

    `cells` (with `backend`, `tokens_per_s` and its interval), `winners` (the fastest of vLLM's backends
    against the second), `compute_bound` (from which batch size on) and `contrasts` (block by block against
    the dense buffer).
    """
    kept = latest(results)
    cells = [_cell(record, result) for result in kept if not result.control]
    cells.sort(key=lambda row: (row["batch_size"], row["input_len"]))
    return {
        "schema_version": 1,
        "status": record["status"],
        "phase": phase(record),
        "cells": cells,
        "winners": [found for size in sizes(cells) if (found := _winner(cells, size))],
        "compute_bound": _compute_bound(cells),
        "contrasts": _contrasts(kept),
    }


def phase(record: Row) -> str:
    """ "prefill" or "decode"."""
    return "decode" if record["config"]["output_len"] else "prefill"


def sizes(cells: Sequence[Row]) -> list[tuple[int, int]]:
    """(batch size, input length) of all cells, ascending."""
    return sorted({(row["batch_size"], row["input_len"]) for row in cells})


def _cell(record: Row, result: Result) -> Row:
    row = figures.cell_row(result)
    alone = row["stage"] == "kernel"
    row |= {"backend": ALONE[row["arm"]] if alone else row["arm"], "attention_alone": alone}
    low, high = row["ci95_us"] or (None, None)
    tokens = _tokens(record, row)
    row["tokens_per_s"] = _rate(tokens, row["median_us"])
    row["ci95_tokens_per_s"] = [_rate(tokens, high), _rate(tokens, low)] if low else None
    return row


def _tokens(record: Row, row: Row) -> float:
    """Tokens that are through the model, or through all its attention layers, in the time of one sample."""
    config, batch = record["config"], row["batch_size"]
    if row["attention_alone"]:
        each = 1 if config["output_len"] else row["input_len"]
        return float(batch * each / record["model"]["num_layers"])
    return float(batch * (config["output_len"] - 1 if config["output_len"] else row["input_len"]))


def _rate(tokens: float, microseconds: float | None) -> float | None:
    return 1e6 * tokens / microseconds if microseconds else None


def _winner(cells: Sequence[Row], size: tuple[int, int]) -> Row | None:
    """The fastest engine of a cell and its speed-up over the second; None without two.

    Engines run one after the other, so there are no pairs: the interval holds the quotients of all figures
    within both intervals.
    """
    here = [row for row in cells if (row["batch_size"], row["input_len"]) == size]
    timed = [row for row in here if not row["attention_alone"] and row["status"] == "ok" and row["n"]]
    if len(timed) < 2:
        return None
    first, second = sorted(timed, key=lambda row: row["median_us"])[:2]
    bounds = None
    if first["ci95_us"] and second["ci95_us"]:
        bounds = [second["ci95_us"][0] / first["ci95_us"][1], second["ci95_us"][1] / first["ci95_us"][0]]
    return {
        "batch_size": size[0],
        "input_len": size[1],
        "winner": first["backend"],
        "tokens_per_s": first["tokens_per_s"],
        "second": second["backend"],
        "speed_up": second["median_us"] / first["median_us"],
        "ci95_speed_up": bounds,
        "verdict": "faster" if bounds and bounds[0] > 1 else "unclear",
    }


def _compute_bound(cells: Sequence[Row]) -> list[Row]:
    """For each backend and length, the batch size from which on time grows in proportion to it."""
    found = []
    for backend, tokens in dict.fromkeys((row["backend"], row["input_len"]) for row in cells):
        rows = [row for row in cells if (row["backend"], row["input_len"]) == (backend, tokens)]
        timed = [(row["batch_size"], row["median_us"]) for row in rows if row["status"] == "ok" and row["n"]]
        found.append({"backend": backend, "input_len": tokens, "batch_size": turning_point(timed)})
    return found


def turning_point(timed: Sequence[tuple[int, float]]) -> int | None:
    """The least batch size from which on time grows at least as its COMPUTE_BOUND-th power.

    That is from each to the next, up to the largest; None if it never does.

    Args:
        timed: batch sizes, ascending, with their times in any unit.
    """
    turns = None
    for (small, quick), (large, slow) in reversed(list(pairwise(timed))):
        if math.log(slow / quick) < COMPUTE_BOUND * math.log(large / small):
            break
        turns = small
    return turns


def _contrasts(results: Sequence[Result]) -> list[Row]:
    """Block by block against the dense buffer, pair by pair, and the dense buffer against itself (A/A)."""
    found = []
    alone = [result for result in results if result.cell.arm in ALONE]
    gathered = {r.series: r for r in alone if r.cell.arm == "gathered" and not r.control}
    for result in alone:
        baseline = gathered.get(result.series)
        if baseline and baseline is not result:
            name = AGAIN if result.control else AGAINST
            row = figures.contrast_row(name, baseline, result)
            found += [row] if row else []
    return sorted(found, key=lambda row: (row["batch_size"], row["input_len"]))


def document(record: Row, summary: Row) -> Companion:
    """The tables."""
    batches = sorted({row["batch_size"] for row in summary["cells"]})
    tables = [_crossover(record, summary, batch) for batch in batches]
    tables += [table for table in (_winners(summary), _turning_points(summary), _buffers(summary)) if table]
    return Companion(record, f"Attention backends in {inputs(record)}", tables, summary["cells"])


def inputs(record: Row) -> str:
    """What was measured, in words."""
    out = record["config"]["output_len"]
    return f"prefill, {record['model']['name']}" if not out else f"decoding, {record['model']['name']}"


def backends(cells: Sequence[Row]) -> list[str]:
    """Names of the columns: vLLM's backends as they were asked for, then attention alone."""
    ordered = sorted(cells, key=lambda row: (row["attention_alone"], row["arm"] == "per_block"))
    return list(dict.fromkeys(row["backend"] for row in ordered))


def _crossover(record: Row, summary: Row, batch: int) -> Table:
    """tokens/s of one batch size: a line a length, a column a backend."""
    notes = Notes()
    cells = [row for row in summary["cells"] if row["batch_size"] == batch]
    names = backends(summary["cells"])
    layers = record["model"].get("num_layers")
    alone = f"PyTorch's attention alone, random Q, K and V, {layers} layers: compare with each other only"
    columns = [f"{name} {notes.mark(alone)}" if name in ALONE.values() else name for name in names]
    lines = []
    for tokens in sorted({row["input_len"] for row in cells}):
        here = {row["backend"]: row for row in cells if row["input_len"] == tokens}
        fastest = _fastest(list(here.values()))
        shown = [_shown(here.get(name), notes, fastest) for name in names]
        lines.append(Line(str(tokens), tuple(shown)))
    below = [*notes.lines(), _precision(cells)]
    if any(cell.startswith("*") for line in lines for cell in line.cells):
        below.insert(0, "*: the fastest engine")
    title = f"{'Decoding' if phase(record) == 'decode' else 'Prefill'}, batch size {batch}: tokens/s"
    return Table(title, ("tokens", *columns), [Section("", lines)], below=below)


def _fastest(rows: Sequence[Row]) -> str | None:
    """The fastest of several engines."""
    timed = [row for row in rows if not row["attention_alone"] and row["tokens_per_s"]]
    return max(timed, key=lambda row: row["tokens_per_s"])["backend"] if len(timed) > 1 else None


def _shown(row: Row | None, notes: Notes, fastest: str | None) -> str:
    if row is None:
        return NONE
    said = remark(row)
    mark = f" {notes.mark(said)}" if said else ""
    if row["tokens_per_s"] is None:
        return _status(row) + mark
    return ("* " if row["backend"] == fastest else "") + number(row["tokens_per_s"]) + mark


def _status(row: Row) -> str:
    status: str = row["status"]
    return SHORT.get(status, status)


def number(value: float) -> str:
    """A rate: whole, with commas; one decimal where it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _precision(cells: Sequence[Row]) -> str:
    counts = [row["n"] for row in cells if row["n"]]
    widths = [
        50 * (row["ci95_us"][1] - row["ci95_us"][0]) / row["median_us"] for row in cells if row["ci95_us"]
    ]
    if not counts:
        return "nothing of this batch size could be measured"
    samples = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    widest = f"; the widest 95% interval is +-{max(widths):.1f}%" if widths else "; no interval: it takes 6"
    return f"medians of {samples} samples{widest}"


def _winners(summary: Row) -> Table | None:
    """The fastest of vLLM's backends in every cell."""
    sections: dict[int, list[Line]] = {}
    for row in summary["winners"]:
        speed_up = f"{row['speed_up']:.2f}x"
        if row["ci95_speed_up"]:
            low, high = row["ci95_speed_up"]
            speed_up += f" [{low:.2f}, {high:.2f}]"
        cells = row["winner"], number(row["tokens_per_s"]), row["second"], speed_up, row["verdict"]
        sections.setdefault(row["batch_size"], []).append(Line(str(row["input_len"]), cells))
    if not sections:
        return None
    columns = ("tokens", "winner", "tokens/s", "second", "speed-up [95%]", "verdict")
    listed = [Section(f"Batch size {batch}", lines) for batch, lines in sections.items()]
    below = [
        "speed-up: of the winner over the second, with all quotients of their 95% intervals; faster: that is "
        "all above 1. Engines run one after the other, so what drifts from one to the next is in it."
    ]
    return Table("The fastest of vLLM's backends", columns, listed, below=below)


def _turning_points(summary: Row) -> Table | None:
    """Where time begins to grow in proportion to the batch size."""
    names, rows = backends(summary["cells"]), summary["compute_bound"]
    if len({row["batch_size"] for row in summary["cells"]}) < 2:
        return None
    lines = []
    for tokens in sorted({row["input_len"] for row in rows}):
        found = {row["backend"]: row["batch_size"] for row in rows if row["input_len"] == tokens}
        lines.append(Line(str(tokens), tuple(str(found.get(name) or NONE) for name in names)))
    grows = f"time grows at least as the batch size to the power of {COMPUTE_BOUND}, from each to the next"
    limited = "" if summary["phase"] == "prefill" else ", or as bound by reading every prompt's K and V"
    below = [f"from this batch size on {grows}: as bound by computing{limited}; -: not within these sizes"]
    return Table("Compute-bound from batch size", ("tokens", *names), [Section("", lines)], below=below)


def _buffers(summary: Row) -> Table | None:
    """The dense buffer that PyTorch's attention needs, and what doing without it takes."""
    rows = [row for row in summary["cells"] if row["attention_alone"]]
    if not rows:
        return None
    notes, sections = Notes(), dict[int, list[Line]]()
    for batch, tokens in sizes(rows):
        here = {r["arm"]: r for r in rows if (r["batch_size"], r["input_len"]) == (batch, tokens)}
        texts = [text for arm in ALONE for text in _buffer_cells(here.get(arm), notes)]
        point = {"contrast": AGAINST, "batch_size": batch, "input_len": tokens}
        paired = [row for row in summary["contrasts"] if point.items() <= row.items()]
        texts.append(_times(paired[0]) if paired else NONE)
        sections.setdefault(batch, []).append(Line(str(tokens), tuple(texts)))
    columns = ("tokens", "buffer MiB", "gathered ms", "block MiB", "per block ms", "takes [95%]")
    below = [
        *notes.lines(),
        "PyTorch's attention (math) of one layer. buffer: K and V of the batch, gathered from their blocks, "
        "which is timed with it; block: one block of every prompt at a time, all that is copied without it. "
        "takes: per block, in times of gathered; from the median of paired differences and its 95% interval.",
        *_floor(summary),
    ]
    listed = [Section(f"Batch size {batch}", lines) for batch, lines in sections.items()]
    return Table("What a dense buffer costs", columns, listed, below=below)


def _floor(summary: Row) -> list[str]:
    """The noise floor in words; nothing where it is not known."""
    again = [row["ci95_pct"] for row in summary["contrasts"] if row["contrast"] == AGAIN]
    floors = [floor for bounds in again if (floor := stats.noise_floor_pct(bounds)) is not None]
    if not floors:
        return []
    return [f"A/A (gathered against itself), noise floor: {min(floors):.2f}% to {max(floors):.2f}%."]


def _times(row: Row) -> str:
    """A contrast in times of its baseline, with its interval."""
    ratio, *bounds = (1 + pct / 100 for pct in (row["delta_pct"], *(row["ci95_pct"] or ())))
    return f"{ratio:.2f}x" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def _buffer_cells(row: Row | None, notes: Notes) -> tuple[str, str]:
    if row is None:
        return NONE, NONE
    size = f"{row['buffer_bytes'] / MIB:,.2f}" if "buffer_bytes" in row else NONE
    if row["median_us"] is None:
        said = remark(row)
        return size, _status(row) + (f" {notes.mark(said)}" if said else "")
    return size, ms(row["median_us"])


def plots(record: Row, summary: Row, folder: Path) -> None:
    """Throughput over the batch size."""
    backends_plot.write(record, summary, backends(summary["cells"]), folder)
