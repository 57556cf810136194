"""The answer and the figures of `kvcache`: whole generations, then time and cache along the tokens."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from harness.experiments.kvcache.summary import AGAIN, MODES
from harness.experiments.kvcache.view import LABELS, MIB
from harness.report.page import bars
from harness.report.page.bars import Entry, Part
from harness.report.page.cells import Cells, milliseconds, spaced
from harness.report.page.lines import Line, Plot, Point
from harness.report.page.svg import Key, Tip
from harness.report.rows import Row

LOOKS = {
    mode: Key(LABELS[mode], colour, marker)
    for mode, colour, marker in zip(
        MODES, ("#CC79A7", "#0072B2", "#D55E00"), ("circle", "square", "triangle"), strict=True
    )
}
FORMULA = Key("the formula", "var(--soft)", "cross", dashed=True)
MOST_STEPS = 40  # points of a line
STEP = "generated token"


def answer(summary: Row) -> str:
    """The speed-ups."""
    told = []
    for row in summary["speed_ups"]:
        if row["contrast"] != AGAIN:
            bounds = row["ci95_speed_up"]
            interval = f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""
            told.append(f"{row['contrast']} {row['speed_up']:.2f}x{interval}, {row['verdict']}")
    return f"Speed-up of a whole generation: {'; '.join(told)}." if told else "No two modes were measured."


def figures(summary: Row, cells: Cells) -> list[Markup]:
    """Bars of whole generations; lines over the tokens."""
    title, entries = "The whole generation", [_mode(row, cells) for row in summary["modes"]]
    count = len({row["step"] for row in summary["steps"]})
    note = (
        f"{MOST_STEPS} of the {count} tokens are drawn; summary.json has all." if count > MOST_STEPS else ""
    )
    times = Plot(
        "Time of each token",
        "ms, with 95% intervals (logarithmic)",
        STEP,
        [line for mode in MODES if (line := _line(summary, mode, lambda row: _time(row, cells))).points],
        log_y=True,
        note=note,
    )
    kept = [_line(summary, mode, _kept) for mode in MODES]
    if kept[1].points:
        formula = _line(summary, MODES[1], _formula)
        kept.append(Line(FORMULA, formula.points))
    sizes = Plot("K and V that are kept", "MiB", STEP, [line for line in kept if line.points], zero=True)
    return [bars.figure(title, "ms", entries), times.html(), sizes.html()]


def _mode(row: Row, cells: Cells) -> Entry:
    name = LABELS[row["arm"]]
    if row["median_us"] is None:
        return Entry(f"{name}: {row['status']}")
    bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
    tip = cells.tip(row, f"{name}, {row['output_len']} tokens")
    label = f"{name}: {milliseconds(row)}"
    return Entry(label, [Part(row["median_us"] / 1000, LOOKS[row["arm"]], tip, bounds)])


def _line(summary: Row, mode: str, point: Callable[[Row], Point]) -> Line:
    rows = [row for row in summary["steps"] if row["arm"] == mode and row["median_us"] is not None]
    return Line(LOOKS[mode], [point(row) for row in spaced(rows, MOST_STEPS)])


def _name(row: Row) -> str:
    return f"{LABELS[row['arm']]}, token {row['step']} after {row['tokens']}"


def _time(row: Row, cells: Cells) -> Point:
    return cells.point(row["step"], row, _name(row))


def _kept(row: Row) -> Point:
    size = row["cache_bytes"] / MIB
    return Point(row["step"], size, None, Tip([_name(row), f"{size:,.3f} MiB are kept"]))


def _formula(row: Row) -> Point:
    if row["formula_bytes"] is None:
        return Point(row["step"], None, None, Tip([_name(row)]))
    size = row["formula_bytes"] / MIB
    return Point(
        row["step"], size, None, Tip([f"{row['tokens']} tokens, by the formula", f"{size:,.3f} MiB"])
    )
