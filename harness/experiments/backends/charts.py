"""The answer and the figures of `backends`: throughput over the batch size, a panel a length."""

from __future__ import annotations

from harness.experiments.backends.rows import BackendCell, BackendsSummary
from harness.experiments.backends.scaling import is_split
from harness.experiments.backends.view import backends, number
from harness.report.charts.spec import INK, SOFT, Axis, Key, Line, Lines, Point, Sheet
from harness.report.tips import Tips, lost, lost_point
from harness.runs.schema import RunRecord

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKERS = ("circle", "square", "triangle", "diamond", "triangle down", "plus", "x")
RING = Key("compute-bound from here", SOFT, "ring")
PER_ROW = 3


def charts(record: RunRecord, summary: BackendsSummary, tips: Tips) -> list[Sheet]:
    """A panel for each input length."""
    looks = {name: _key(summary, name, n) for n, name in enumerate(backends(summary))}
    lengths = sorted({row.input_len for row in summary.cells})
    title = f"{_phase(summary)} throughput: {record.model.name}, {record.device.name}"
    panels = [_panel(summary, tips, looks, tokens) for tokens in lengths]
    return [Sheet("backends", title, panels, columns=PER_ROW)]


def _phase(summary: BackendsSummary) -> str:
    return "Decoding" if summary.phase == "decode" else "Prefill"


def _key(summary: BackendsSummary, name: str, n: int) -> Key:
    """A line's look: attention alone is dashed and hollow, as it is another quantity."""
    alone = (name, True) in summary.index(summary.cells).distinct("backend", "attention_alone")
    label = f"{name} (attention alone)" if alone else name
    look = COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]
    return Key(label, *look, "dashed" if alone else "solid", hollow=alone)


def _panel(summary: BackendsSummary, tips: Tips, looks: dict[str, Key], tokens: int) -> Lines:
    here = summary.index(summary.cells).select(input_len=tokens)
    return Lines(
        f"{_phase(summary)} throughput, prompts of {tokens} token{'s' * (tokens > 1)}",
        Axis("batch size (prompts at once)", log=True, at_points=True),
        Axis("tokens/s, with 95% intervals", log=True),
        [
            Line(key, [_point(summary, row, tips) for row in here if row.backend == name])
            for name, key in looks.items()
        ],
        ring=RING,
        note=lost((f"{row.backend}, batch size {row.batch_size}", row) for row in here),
    )


def _point(summary: BackendsSummary, row: BackendCell, tips: Tips) -> Point:
    name = f"{row.backend}, batch size {row.batch_size}, {row.input_len} tokens"
    if row.tokens_per_s is None:
        return lost_point(row.batch_size, row, name)
    bounds = row.ci95_tokens_per_s
    interval = f" [{number(bounds[0])}, {number(bounds[1])}]" if bounds else ""
    more = [f"{number(row.tokens_per_s)} tokens/s{interval}"]
    here: dict[str, object] = {
        "backend": row.backend,
        "input_len": row.input_len,
        "batch_size": row.batch_size,
    }
    turns = summary.index(summary.compute_bound).find(**here) is not None
    if turns:
        more.append("compute-bound from here on")
    if is_split(row):
        more.append(f"a prefill of {row.prefill_steps} steps")
    return Point(row.batch_size, row.tokens_per_s, bounds, tips.cell(row, name, *more), ringed=turns)
