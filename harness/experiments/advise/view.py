"""The report of an `advise` run: the command to use, what each change gave, and what did not help."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.rows import find, select
from harness.experiments.advise.changes import STOCK
from harness.experiments.advise.deciding import AA, WARM, contrast_of
from harness.experiments.advise.rows import AdviseCell, AdviseContrast, BreakEvenRow, Metric
from harness.experiments.advise.summary import AdviseSummary, summarise
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import change, status_text, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, percent
from harness.runs.schema import RunRecord

__all__ = ["document", "summarise"]
Summary = AdviseSummary  # of summary.json

FEWEST_FOR_P99 = 100  # requests; the percentile of fewer is just the longest
WORDS = {"helps": "helps", "hurts": "hurts", "same": "no difference", "unclear": "unclear"}
UNITS: dict[Metric, str] = {"throughput": "time of the whole file", "latency": "latency of a request"}


def document(record: RunRecord, summary: AdviseSummary) -> Document:
    """The command as the last line; a table for throughput and one for latency."""
    tables = [_latency(summary), _throughput(summary)] if summary.contrasts else []
    if summary.break_even:
        tables.insert(0, _break_even(summary))
    title = f"What to start vLLM with: {record.model.name}, {record.prompt or 'no prompts'}"
    rows = [*csv_rows(summary.cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(summary.cells, lambda row: f"{row.arm} beside {row.candidate}, {row.metric}")
    return Document(
        record,
        title,
        answer(summary),
        figures_and_tables(tables, [_changes(summary)] if summary.candidates else []),
        rows,
        warned,
        advice=advice(summary),
        command=_command(record, summary),
    )


def answer(summary: AdviseSummary) -> str:
    """What is recommended, and what it gave."""
    if summary.recommended is None and summary.contrasts:
        return "Not decided: other processes kept the host busy; repeat it on an idle one."
    if summary.recommended is None:
        return "Nothing was set against stock vLLM."
    if summary.recommended == STOCK:
        return f"Start vLLM as it is: nothing tried improves the {summary.goal} beyond the noise (A/A)."
    best = contrast_of(summary.contrasts, summary.recommended, summary.goal)
    parts = [f"Start vLLM with {summary.recommended}: {UNITS[summary.goal]} {change(best)} against stock"]
    if gain := _requests_per_s(summary, summary.recommended):
        parts.append(gain)
    return ", ".join(parts) + "."


def _requests_per_s(summary: AdviseSummary, candidate: str) -> str | None:
    """The throughput of stock and of a candidate beside it, as text."""
    cells = [_cell(summary, candidate, "throughput", arm) for arm in (STOCK, candidate)]
    rates = [f"{cell.requests_per_s:,.1f}" for cell in cells if cell and cell.requests_per_s]
    return f"{rates[0]} to {rates[1]} requests/s" if len(rates) == 2 else None


def advice(summary: AdviseSummary) -> list[str]:
    """What helped, what did not, and what prefix caching would take."""
    lines = []
    for outcome, text in WORDS.items():
        found = [
            f"{row.candidate} ({change(contrast_of(summary.contrasts, row.candidate, summary.goal))})"
            for row in summary.candidates
            if row.outcome == outcome
        ]
        if found:
            lines.append(f"{text}: {', '.join(found)}")
    lost = [row.candidate for row in summary.candidates if row.outcome == "not measured"]
    if lost:
        lines.append(f"not measured, for the reasons above: {', '.join(lost)}")
    return lines + [_break_even_text(row) for row in summary.break_even]


def _break_even_text(row: BreakEvenRow) -> str:
    if row.hit_rate_pct > 100:
        when = "never pays"
    elif row.hit_rate_pct <= 0:
        when = "pays at any hit rate"
    else:
        bounds = f" [{row.ci95_pct[0]:.0f}, {row.ci95_pct[1]:.0f}]" if row.ci95_pct else ""
        when = f"pays from a hit rate of {row.hit_rate_pct:.0f}%{bounds} on"
    return f"prefix caching {when}, against {row.against}; these prompts have {row.here_pct:.1f}%"


def _command(record: RunRecord, summary: AdviseSummary) -> str:
    known = (record.candidates or {}).get(summary.recommended or "")
    return known.serve if known else ""


def _cell(summary: AdviseSummary, candidate: str, metric: Metric, arm: str) -> AdviseCell | None:
    return find(summary.cells, candidate=candidate, metric=metric, arm=arm)


def _throughput(summary: AdviseSummary) -> Table:
    notes, lines = Notes(), []
    for name, row in _lines(summary, "throughput"):
        if isinstance(row, AdviseCell):
            lines.append(Line(name, text=status_text(row, notes)))
            continue
        rates = [
            f"{cell.requests_per_s:,.1f}" if cell and cell.requests_per_s else NONE
            for cell in _beside(summary, row)
        ]
        lines.append(Line(name, (*rates, percent(row.delta_pct, row.ci95_pct), row.verdict)))
    requests = next(row.requests for row in summary.cells if row.metric == "throughput")
    below = [
        *notes.lines(),
        "Each engine answered the whole file in turns with stock's; time: the mean of paired differences. "
        f"{_floor(summary, 'throughput')}",
        *(["filled prefix cache: by the same file, against an empty one."] if summary.break_even else []),
    ]
    columns = ("", "stock", "changed", "time [95%]", "verdict")
    title = f"Throughput, requests/s: all {requests} at once"
    return Table(title, columns, [Section("", lines)], below=below)


def _latency(summary: AdviseSummary) -> Table:
    notes, lines = Notes(), []
    for name, row in _lines(summary, "latency"):
        if isinstance(row, AdviseCell):
            lines.append(Line(name, text=status_text(row, notes)))
            continue
        cells = _beside(summary, row)
        p50 = [ms(cell.median_us, 2) if cell else NONE for cell in cells]
        p99 = [ms(cell.p99_us, 2) if cell and cell.n >= FEWEST_FOR_P99 else NONE for cell in cells]
        times = [NONE if pair == [NONE, NONE] else " > ".join(pair) for pair in (p50, p99)]
        lines.append(Line(name, (*times, percent(row.delta_pct, row.ci95_pct), row.verdict)))
    below = [
        *notes.lines(),
        "stock > changed; one request at a time, the same one in both engines; mean: of each request's own "
        "difference, in percent of its latency. No p99 of fewer than "
        f"{FEWEST_FOR_P99} requests. {_floor(summary, 'latency')}",
    ]
    columns = ("", "p50 ms", "p99 ms", "mean [95%]", "verdict")
    return Table("Latency of one request alone", columns, [Section("", lines)], below=below)


def _lines(summary: AdviseSummary, metric: Metric) -> list[tuple[str, AdviseContrast | AdviseCell]]:
    """A contrast for every candidate that has one, else its cell, which says why not; A/A and warm last."""
    found: list[tuple[str, AdviseContrast | AdviseCell]] = []
    for row in summary.candidates:
        contrast = contrast_of(summary.contrasts, row.candidate, metric)
        if each := contrast or _cell(summary, row.candidate, metric, row.candidate):
            found.append((row.candidate, each))
    names = {WARM: "filled prefix cache", AA: "stock again (A/A)"}
    for name, text in names.items():
        found += [(text, row) for row in select(summary.contrasts, contrast=name, metric=metric)]
    return found


def _beside(summary: AdviseSummary, row: AdviseContrast) -> Sequence[AdviseCell | None]:
    """The cells of a contrast's two arms; of A/A the second has none."""
    arms = (STOCK, row.contrast)
    return [_cell(summary, row.candidate, row.metric, arm) for arm in arms]


def _floor(summary: AdviseSummary, metric: Metric) -> str:
    row = find(summary.contrasts, contrast=AA, metric=metric)
    return f"Two engines of stock differ by {change(row)} (A/A): a smaller gain is none."


def _changes(summary: AdviseSummary) -> Table:
    lines = [Line(row.candidate, (row.change,)) for row in summary.candidates]
    return Table("What each change is", ("", "beside stock"), [Section("", lines)])


def _break_even(summary: AdviseSummary) -> Table:
    lines = []
    for row in summary.break_even:
        bounds = row.ci95_pct
        at = f"{row.hit_rate_pct:.0f}%" + (f" [{bounds[0]:.0f}, {bounds[1]:.0f}]" if bounds else "")
        lines.append(Line(row.against, (at, f"{row.here_pct:.1f}%", f"{row.filled_pct:.1f}%")))
    below = [
        "The hit rate from which on stock with a prefix cache is faster. Time is taken to fall evenly with "
        "it, from an empty cache to one that these prompts have filled.",
    ]
    columns = ("prefix caching against", "break-even", "these prompts", "filled")
    return Table("Break-even hit rate of prefix caching", columns, [Section("", lines)], below=below)
