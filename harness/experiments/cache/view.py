"""The report of a `cache` run: warm against reset, and outputs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import figures, stats
from harness.experiments.cache.rows import CacheCell, CacheContrast, CacheSummary
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import change, mark_if_remarked, noise_floor_line, verdict, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, percent
from harness.runs.record import Result, latest
from harness.runs.schema import ComparedOutput, RunRecord
from harness.runs.summary import Timed
from harness.units import pluralise

Summary = CacheSummary  # of summary.json

COLUMNS = ("shared", "hit rate", "expected", "reset ms", "warm ms", "difference [95%]", "verdict")
OUTPUT_WIDTH = 27  # characters shown of an output; run.json has all of it


def summarise(record: RunRecord, results: Sequence[Result]) -> CacheSummary:
    """`cells`, a row for each arm, share and batch size, and `contrasts` ("warm" and "A/A", against reset).

    A cell's `cached_tokens`, `hit_rate_pct` and `expected_rate_pct` are medians over its rounds, its
    `changed_first_tokens` the sum; a reset arm has time of the reset itself.
    """
    series: dict[str, list[Result]] = {}
    for result in latest(results):
        series.setdefault(result.series, []).append(result)
    resets = [us for r in latest(results) if r.cell.arm == "reset" for us in r.readings.get("reset_us", [])]
    cells: list[CacheCell] = []
    contrasts: list[CacheContrast] = []
    for members in series.values():
        arms = {(r.cell.arm, r.control): r for r in members}
        reset = arms.get(("reset", False))
        cells += [_cell(result) for result in members if not result.control]
        for name, treatment in (("warm", arms.get(("warm", False))), ("A/A", arms.get(("reset", True)))):
            if reset and treatment and (fields := figures.contrast_row(name, reset, treatment)):
                contrasts.append(CacheContrast(**fields))
    return CacheSummary(
        schema_version=2,
        status=record.status,
        cells=sorted(cells, key=_size_and_share),
        contrasts=sorted(contrasts, key=_size_and_share),
        tolerance_pct=stats.SAME_TOLERANCE_PCT,
        reset=Timed(**figures.of_samples(resets)),
    )


def _size_and_share(row: CacheCell | CacheContrast) -> tuple[int, int]:
    return row.batch_size, row.share_pct


def _cell(result: Result) -> CacheCell:
    changed = sum(result.readings.get("changed_first_tokens", []))
    return CacheCell(**figures.cell_row(result) | {"changed_first_tokens": int(changed)})


def document(record: RunRecord, summary: CacheSummary) -> Document:
    """Warm against reset; outputs side by side, for every prompt in tables.md, for the first on the
    screen.
    """
    config = record.config
    title = f"A warm prefix cache against none: {record.model.name}, {pluralise(config['length'], 'token')}"
    outputs = record.outputs or {}
    tables = [_over_shares(record, summary)] if summary.cells else []
    tables += [_side_by_side(outputs, 1)] if outputs else []
    every = [_side_by_side(outputs, config["prompts"])] if outputs and config["prompts"] > 1 else []
    cells, parts = summary.cells, figures_and_tables(tables, every)
    rows = [*csv_rows(cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(cells, lambda row: f"{row.share_pct}% x{row.batch_size} {row.arm}")
    return Document(record, title, answer(summary), parts, rows, warned)


def _over_shares(record: RunRecord, summary: CacheSummary) -> Table:
    notes, sections = Notes(), []
    for size in sizes_of(summary):
        lines = [_line(summary, size, share, notes) for share in _shares(summary, size)]
        sections.append(Section("one prompt" if size == 1 else f"{size} prompts in one step", lines))
    config, model = record.config, record.model
    above = [f"ms per engine step, {model.name}, {pluralise(config['length'], 'token')} per prompt"]
    return Table("Prefix cache: warm against reset", COLUMNS, sections, above, _below(record, summary, notes))


def _line(summary: CacheSummary, size: int, share: int, notes: Notes) -> Line:
    of_cell: dict[str, Any] = {"batch_size": size, "share_pct": share}
    reset, warm = (summary.index(summary.cells).find(**of_cell, arm=arm) for arm in ("reset", "warm"))
    paired = summary.index(summary.contrasts).find(**of_cell, contrast="warm")
    label = f"{share}%"
    for row in (reset, warm):
        label = mark_if_remarked(label, row, notes) if row else label
    if warm and warm.changed_first_tokens:
        label += f" {notes.mark(_changed_tokens_note(warm))}"
    return Line(
        label,
        (
            _rate(warm.hit_rate_pct if warm else None),
            _rate(warm.expected_rate_pct if warm else None),
            ms(reset.median_us if reset else None, 2),
            ms(warm.median_us if warm else None, 2),
            percent(paired.delta_pct, paired.ci95_pct) if paired else NONE,
            verdict(paired),
        ),
    )


def _changed_tokens_note(warm: CacheCell) -> str:
    return (
        f"{warm.changed_first_tokens} of {warm.n * warm.batch_size} first tokens differ from those "
        "after a reset; the logits' differences are given below"
    )


def _rate(rate_pct: float | None) -> str:
    return NONE if rate_pct is None else f"{rate_pct:.1f}%"


def _below(record: RunRecord, summary: CacheSummary, notes: Notes) -> list[str]:
    reset = summary.reset
    lines = notes.lines()
    if reset.median_us is not None:
        bounds = " [{:.1f}, {:.1f}]".format(*reset.ci95_us) if reset.ci95_us else ""
        pool = record.engine.num_blocks_in_pool if record.engine else None
        of_pool = f" for a pool of {pluralise(pool, 'block')}" if pool else ""
        lines.append(
            f"the reset itself: {reset.median_us:.1f} us{bounds}{of_pool} ({reset.n} resets); not included "
            "in any other figure."
        )
    return [
        *lines,
        noise_floor_line(summary.contrasts, "reset"),
        "hit rate: cached tokens as vLLM counts them; expected: the whole blocks of the shared part, "
        "without the last token's. difference: mean of paired differences, warm minus reset.",
    ]


def _side_by_side(outputs: Mapping[str, Sequence[ComparedOutput]], prompts: int) -> Table:
    """The tokens generated for the first `prompts` prompts of each share."""
    sections = []
    for share in sorted(outputs, key=int):
        lines = [
            Line(
                f"prompt {n}",
                (_excerpt(row.reset, row.reset_text), _excerpt(row.warm, row.warm_text), _verdict(row)),
            )
            for n, row in enumerate(outputs[share][:prompts], start=1)
        ]
        sections.append(Section(f"{share}% shared", lines))
    rows = [row for share in outputs for row in outputs[share]]
    same = sum(row.reset[0] == row.warm[0] for row in rows)
    worst = max(row.logits_error for row in rows)
    below = [
        f"first token the same: {same} of {pluralise(len(rows), 'prompt')}; the first logits differ by at "
        f"most {worst:.2g} of their spread (root mean square). same: tokens before the first difference.",
    ]
    whole = "all prompts" if prompts > 1 else "the first prompt"
    title = f"Outputs side by side: {whole} of each share"
    return Table(title, ("", "after a reset", "from a warm cache", "same"), sections, [], below)


def _excerpt(tokens: Sequence[int], text: str | None) -> str:
    shown = " ".join(map(str, tokens)) if text is None else repr(text)
    return shown if len(shown) <= OUTPUT_WIDTH else shown[: OUTPUT_WIDTH - 3] + "..."


def _verdict(row: ComparedOutput) -> str:
    pairs = list(zip(row.reset, row.warm, strict=True))
    if row.objection:
        return "wrong"
    return next((f"{n} of {len(pairs)}" for n, (one, two) in enumerate(pairs) if one != two), "all")


def sizes_of(summary: CacheSummary) -> list[int]:
    """All batch sizes tried, ascending."""
    return sorted(size for (size,) in summary.index(summary.cells).distinct("batch_size"))


def _shares(summary: CacheSummary, size: int) -> list[int]:
    return sorted({row.share_pct for row in summary.index(summary.cells).select(batch_size=size)})


def answer(summary: CacheSummary) -> str:
    """The difference at the largest share, for single prompts and for batches."""
    rows = [row for row in summary.contrasts if row.contrast == "warm"]
    if not rows:
        return "No contrast was measured."
    most = max(row.share_pct for row in rows)
    phrases = [
        f"a prefill of {prompts_of(row)} changes by {change(row)}, {row.verdict}"
        for row in rows
        if row.share_pct == most
    ]
    return f"With {most}% of the prompt in the cache, {'; '.join(phrases)}."


def prompts_of(row: CacheCell | CacheContrast) -> str:
    """The number of prompts in a step, as text."""
    return "one prompt" if row.batch_size == 1 else f"{row.batch_size} prompts"
