"""A comparison of runs: on the screen, as compare.csv and as compare.html."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness import batch
from harness.compare import charts as ratios
from harness.compare import gate
from harness.compare.gate import Limit
from harness.compare.ratios import (
    TOLERANCE_PCT,
    Comparison,
    Difference,
    Lone,
    Ratio,
    arm,
    arm_name,
    axes,
    in_pct,
    own_axes,
)
from harness.experiments import views
from harness.report import explain
from harness.report.charts import svg
from harness.report.charts.spec import Bars
from harness.report.document import to_csv
from harness.report.page import facts
from harness.report.page.rendering import render
from harness.report.tables import NONE, Line, Notes, Section, Table, wrap
from harness.runs.schema import RunRecord
from harness.runs.writing import write_atomic
from harness.units import pluralise

HOW = (
    "ms: medians; of a kernel, of means over the layers that both have. Samples of two runs are not "
    "paired: the interval is a bootstrap of the ratio of two independent medians. It does not cover "
    f"differences between processes, so slower and faster mean beyond {TOLERANCE_PCT:g}%, same within; and "
    "whole prefills can differ by more with nothing changed. Contrasts within a run are paired and more "
    "precise."
)
NOTHING = "Nothing: model, configuration, device and software are the same."


def tables(comparison: Comparison, limit: Limit | None = None, explained: bool = False) -> list[Table]:
    """Each later run's ratios, then what only one run measured; `limit` adds the cells that break it, and
    `explained` why each verdict.
    """
    all_tables = [_ratios(comparison, run.label) for run in comparison.runs[1:]]
    if explained:
        rows = {run.label: [r for r in comparison.ratios if r.other == run.label] for run in comparison.runs}
        all_tables += explain.tables(
            {f"{other} against A": list(map(_evidence, own)) for other, own in rows.items() if own}
        )
    if comparison.lone:
        all_tables.append(_lone(comparison))
    if limit:
        all_tables.append(_limit_table(comparison, limit))
    return all_tables


def screen(comparison: Comparison, limit: Limit | None = None, explained: bool = False) -> str:
    """What differs between the runs, then all tables, as plain text, 80 columns wide."""
    runs = [f"{run.label}: {run.path} ({_title(run.record)})" for run in comparison.runs]
    facts = [f"{fact.name}: {_describe(comparison, fact)}" for fact in comparison.differences] or [NOTHING]
    parts = [wrap(runs), wrap(["What differs", *facts])]
    return "\n\n".join([*parts, *(table.screen() for table in tables(comparison, limit, explained))])


def csv(comparison: Comparison) -> str:
    """A line for each cell and later run; times in ms, `ratio` is other / first."""
    paths = {run.label: run.path for run in comparison.runs}
    rows = [_csv_ratio(row, paths) for row in comparison.ratios]
    rows += [_csv_lone(row, paths) for row in comparison.lone]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["first", "other"]
    frame = pd.DataFrame(rows, columns=columns)
    whole = [name for name in ("spread_k", "layers", "n_first", "n_other") if name in columns]
    return to_csv(frame.astype(dict.fromkeys(whole, "Int64")))


def write(comparison: Comparison, folder: Path, limit: Limit | None = None) -> None:
    """Write compare.csv and compare.html into the folder, making it."""
    write_atomic(folder / "compare.csv", csv(comparison))
    write_atomic(folder / "compare.html", page(comparison, limit))


def page(comparison: Comparison, limit: Limit | None = None) -> str:
    """The comparison as one self-contained page; everything from the records is escaped."""
    labels = ", ".join(run.label for run in comparison.runs)
    return render(
        "compare.html.j2",
        title=f"Runs {labels}",
        runs=[(run.label, _title(run.record), run.path) for run in comparison.runs],
        how=HOW,
        differences=[(fact.name, [_format_value(v) for v in fact.values]) for fact in comparison.differences],
        nothing=NOTHING,
        figures=[svg.draw(_chart(comparison, run.label)) for run in comparison.runs[1:]],
        tables=tables(comparison, limit),
        records=[
            (run.label, facts.environment(run.record), run.record.notices, views.in_full(run.record))
            for run in comparison.runs
        ],
        command=_command(comparison, limit),
    )


def _command(comparison: Comparison, limit: Limit | None) -> str:
    """The command that makes the page again."""
    words = ["python", "-m", "harness", "compare", *(run.path for run in comparison.runs)]
    if limit:
        words += ["--fail-on", f"{limit.direction}:{limit.pct:g}%"]
        words += [word for part in limit.leave_out for word in ("--leave-out", part)]
    return shlex.join([*words, "--output", "DIR"])


def _chart(comparison: Comparison, other: str) -> Bars:
    rows = [row for row in comparison.ratios if row.other == other]
    named = [(f"{row.cell['kernel']}, {arm(row.cell)}", interval(row), row) for row in rows]
    return ratios.chart(f"{other} against A: ratio of medians", named)


def _title(record: RunRecord) -> str:
    prompts = record.prompts
    of_prompts = f", {batch.describe(prompts)}" if prompts else ""
    started = record.started or "not dated"
    return f"{record.model.name}{of_prompts}, on {record.device.name}, {started}"


def _describe(comparison: Comparison, fact: Difference) -> str:
    """The fact's value in every run, in one line."""
    values = zip(comparison.runs, fact.values, strict=True)
    return "; ".join(f"{run.label} {_format_value(value)}" for run, value in values)


def _format_value(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, list):
        return ", ".join(map(_format_value, value)) or NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ratios(comparison: Comparison, other: str) -> Table:
    rows = [row for row in comparison.ratios if row.other == other]
    by_kernel: dict[str, list[Line]] = {}
    for row in rows:
        by_kernel.setdefault(heading(row.cell, f" ({row.cell['provider']})"), []).append(_line(row))
    below = [HOW] if rows else [f"No cell was measured in both A and {other}."]
    columns = ("", "A ms", f"{other} ms", f"{other} / A [95%]", "verdict", "samples")
    sections = [Section(name, lines) for name, lines in by_kernel.items()]
    return Table(f"{other} against A", columns, sections, below=below)


def _evidence(row: Ratio) -> explain.Evidence:
    return explain.Evidence(
        name=gate.name(row.cell),
        verdict=row.verdict,
        code=row.reason_code,
        ci95_pct=in_pct(row.ci95),
        tolerance_pct=TOLERANCE_PCT,
        n=min(row.n),
        zero_decides=False,
    )


def heading(cell: Mapping[str, Any], whose: str = "") -> str:
    """The kernel and its provider; with the arm and the axes of text, where an arm's cells have their own
    axes.
    """
    whole = cell["stage"] == "end_to_end"
    name = f"{cell['kernel'].capitalize()}, end to end" if whole else f"{cell['kernel']}{whose}"
    texts = [value for value in own_axes(cell).values() if isinstance(value, str)]
    return f"{name}: {', '.join([arm_name(cell), *texts])}" if own_axes(cell) else name


def label(cell: Mapping[str, Any]) -> str:
    """The cell's name under its heading."""
    numbers = {name: value for name, value in own_axes(cell).items() if not isinstance(value, str)}
    if own_axes(cell) and not numbers:
        return f"spread_k {cell['spread_k']}"
    return ", ".join(axes(numbers)) or arm(cell)


def interval(row: Ratio) -> str:
    """The ratio with its interval."""
    bounds = f" [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]" if row.ci95 else ""
    return f"{row.ratio:.3f}{bounds}"


def _line(row: Ratio) -> Line:
    digits = 4 if max(row.first_ms, row.other_ms) < 10 else 2
    times = f"{row.first_ms:.{digits}f}", f"{row.other_ms:.{digits}f}"
    return Line(label(row.cell), (*times, interval(row), row.verdict, f"{row.n[0]}, {row.n[1]}"))


def _lone(comparison: Comparison) -> Table:
    """The cells that only one run has; those that differ only in spread_k share a line."""
    notes = Notes()
    together: dict[tuple[str, str, str, str], list[str]] = {}
    for row in comparison.lone:
        name = label({**row.cell, "spread_k": None})
        key = heading(row.cell), name, row.run, notes.mark(f"{row.other}: {row.reason}")
        together.setdefault(key, []).append(_spread_k(row.cell["spread_k"]))
    sections: dict[str, list[Line]] = {}
    for (title, name, run, why), spreads in together.items():
        sections.setdefault(title, []).append(Line(name, (run, ", ".join(spreads), why)))
    listed = [Section(title, lines) for title, lines in sections.items()]
    columns = ("", "only in", "spread_k", "why not in the other")
    return Table("Measured in one only", columns, listed, below=notes.lines())


def _spread_k(k: int | None) -> str:
    """0 means that vLLM chose the blocks."""
    if k is None:
        return "vLLM's own"
    return str(k) if k else NONE


def _limit_table(comparison: Comparison, limit: Limit) -> Table:
    """The cells that break the limit, or that none does; and what was not judged, which fails as well."""
    rows = limit.violations(comparison)
    title = f"Certainly {limit.direction} by more than {limit.pct:g}%"
    judged = [row for row in comparison.ratios if row.ci95 and not limit.leaves_out(row.cell)]
    below = [] if rows else [f"none of {pluralise(len(judged), 'cell')}"]
    for reason, names in limit.not_judged(comparison).items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        below.append(f"not judged, which fails as well: {names[0]}{others}: {reason}")
    cells = [*(row.cell for row in comparison.ratios), *(row.cell for row in comparison.lone)]
    left_out = list(filter(limit.leaves_out, cells))
    if left_out:
        below.append(f"left out as asked: {', '.join(dict.fromkeys(map(gate.name, left_out)))}")
    lines = [Line(f"{row.other}: {gate.name(row.cell)}", (interval(row),)) for row in rows]
    return Table(title, ("", "ratio to A [95%]"), [Section("", lines)] if rows else [], below=below)


def _csv_ratio(row: Ratio, paths: dict[str, str]) -> dict[str, Any]:
    low, high = row.ci95 or (None, None)
    return {
        "first": paths["A"],
        "other": paths[row.other],
        **row.cell,
        "first_ms": round(row.first_ms, 7),
        "other_ms": round(row.other_ms, 7),
        "ratio": round(row.ratio, 6),
        "ci95_low": low and round(low, 6),
        "ci95_high": high and round(high, 6),
        "verdict": row.verdict,
        "reason_code": row.reason_code.value,
        "n_first": row.n[0],
        "n_other": row.n[1],
        "layers": row.layers,
        "measured_in": "both",
        "reason": None,
    }


def _csv_lone(row: Lone, paths: dict[str, str]) -> dict[str, Any]:
    other = row.other if row.run == "A" else row.run
    return {
        "first": paths["A"],
        "other": paths[other],
        **row.cell,
        "measured_in": paths[row.run],
        "reason": row.reason,
    }
