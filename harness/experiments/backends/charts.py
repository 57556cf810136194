"""The answer and the figures of `backends`: throughput over the batch size, a panel a length."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from harness.experiments.backends.scaling import is_split
from harness.experiments.backends.summary import AGAINST
from harness.experiments.backends.view import MIB, backends, number, times
from harness.report.backends_plot import COLOURS
from harness.report.page.cells import Cells, lost
from harness.report.page.lines import Line, Plot, Point
from harness.report.page.svg import Key, Tip
from harness.report.rows import Row

SHAPES = ("circle", "square", "triangle", "diamond", "cross")


RING = Key("compute-bound from here", "var(--soft)", "ring", hollow=True, no_line=True)


def answer(summary: Row) -> str:
    """How many cells each backend wins; without two of them, what doing without a dense buffer takes."""
    winners = summary["winners"]
    if not winners:
        no_winner = "No two of vLLM's backends were measured in one cell, so there is no winner."
        return " ".join(filter(None, [no_winner, _dense_buffer(summary)]))
    sure = sum(row["verdict"] == "faster" for row in winners)
    told = [f"{name} in {count}" for name, count in Counter(row["winner"] for row in winners).most_common()]
    return (
        f"Of vLLM's backends the fastest is {', '.join(told)} of {len(winners)} cells; in {sure} of "
        "these the verdict is faster."
    )


def _dense_buffer(summary: Row) -> str:
    """What PyTorch's attention takes block by block in the largest cell that has both; "" if none has."""
    paired = [row for row in summary["contrasts"] if row["contrast"] == AGAINST]
    if not paired:
        return ""
    row = max(paired, key=lambda row: row["batch_size"] * row["input_len"])
    batch, tokens = row["batch_size"], row["input_len"]
    (size,) = (
        cell["buffer_bytes"]
        for cell in summary["cells"]
        if (cell["arm"], cell["batch_size"], cell["input_len"]) == ("gathered", batch, tokens)
    )
    prompts = f"{batch} prompt{'s' * (batch > 1)} of {tokens} token{'s' * (tokens > 1)}"
    return (
        f"For {prompts}, PyTorch's attention of one layer needs a dense buffer of {size / MIB:,.2f} MiB; "
        f"without it, block by block, it takes {times(row)} the time."
    )


def figures(summary: Row, cells: Cells) -> list[Markup]:
    """A panel for each input length."""
    looks = {name: _key(summary, name, n) for n, name in enumerate(backends(summary["cells"]))}
    lengths = sorted({row["input_len"] for row in summary["cells"]})
    return [_panel(summary, cells, looks, tokens).html() for tokens in lengths]


def _key(summary: Row, name: str, n: int) -> Key:
    colour = COLOURS[n % len(COLOURS)]
    alone = any(row["attention_alone"] for row in summary["cells"] if row["backend"] == name)
    label = f"{name} (attention alone)" if alone else name
    colour = "var(--ink)" if colour == "#000000" else colour
    return Key(label, colour, SHAPES[n % len(SHAPES)], hollow=alone, dashed=alone)


def _panel(summary: Row, cells: Cells, looks: dict[str, Key], tokens: int) -> Plot:
    here = [row for row in summary["cells"] if row["input_len"] == tokens]
    lines = []
    for name, key in looks.items():
        points = [_point(summary, row, cells) for row in here if row["backend"] == name]
        if any(point.y is not None for point in points):
            lines.append(Line(key, points))
    phase = "Decoding" if summary["phase"] == "decode" else "Prefill"
    return Plot(
        f"{phase} throughput, prompts of {tokens} token{'s' * (tokens > 1)}",
        "tokens/s, with 95% intervals (logarithmic)",
        "batch size (prompts at once)",
        lines,
        log=True,
        log_y=True,
        note=lost((f"{row['backend']}, batch size {row['batch_size']}", row) for row in here),
        ring=RING,
    )


def _point(summary: Row, row: Row, cells: Cells) -> Point:
    name = f"{row['backend']}, batch size {row['batch_size']}, {row['input_len']} tokens"
    if row["tokens_per_s"] is None:
        return Point(row["batch_size"], None, None, Tip([name]))
    bounds = row["ci95_tokens_per_s"]
    interval = f" [{number(bounds[0])}, {number(bounds[1])}]" if bounds else ""
    more = [f"{number(row['tokens_per_s'])} tokens/s{interval}"]
    here = {"backend": row["backend"], "input_len": row["input_len"], "batch_size": row["batch_size"]}
    turns = any(here.items() <= turn.items() for turn in summary["compute_bound"])
    if turns:
        more.append("compute-bound from here on")
    if is_split(row):
        more.append(f"a prefill of {row['prefill_steps']} steps")
    return Point(row["batch_size"], row["tokens_per_s"], bounds, cells.tip(row, name, *more), ringed=turns)
