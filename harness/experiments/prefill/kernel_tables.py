"""Attention calls: a table for each spread_k, one over all of them, one by rank, and one by request."""

from __future__ import annotations

from collections.abc import Sequence

from harness import batch
from harness.analysis.rows import ContrastRow, KernelRow, RequestRow, select
from harness.config.kernel_names import FUNCTIONS, WITHOUT_TABLE
from harness.experiments.prefill.end_to_end_tables import sweep_section
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.rows import (
    DIFFERENCES,
    LABELS,
    TIME_COLUMNS,
    baseline_line,
    change,
    difference_line,
    heading,
    mark_if_remarked,
    merge_lines,
    status_line,
    time_line,
    total_us,
    verdict,
    warning_lines,
)
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, signed
from harness.runs.schema import RunRecord
from harness.units import pluralise

COLUMNS = ("spread_k", "captured ms", "vs spread=1", "verdict", "synth. ms", "vs synth.")
PREFILL_COLUMNS = ("spread_k", "median ms", "vs spread=1", "verdict")  # where no kernel was measured
WRITES = {
    "paged": "Cache write",
    "unconverted": "Cache write, plain",
    "converted": "Cache write, fp8",
}
RANK_COLUMNS = ("rank", "baseline ms", "median ms", "difference", "verdict")
REQUEST_COLUMNS = ("", "blocks", "spread_k", "dense", "1 segment", "split", "fragmentation")


def comparison(record: RunRecord, summary: PrefillSummary, spread_k: int) -> Table | None:
    """`Comparison Results (spread=K)`; None without any kernel's row."""
    notes, mean = Notes(), Mean(summary)
    candidates = [_function(mean, kernel, spread_k, notes) for kernel in FUNCTIONS]
    candidates += [_engine_kernel(mean, kernel, spread_k, notes) for kernel in mean.engine_kernels()]
    sections = [section for section in candidates if section]
    if not sections:
        return None
    rows = mean.at(spread_k, data="captured")
    warnings = warning_lines(rows, lambda row: f"{row.kernel}, {LABELS.get(row.arm, row.arm)}")
    title, above = f"Comparison Results (spread={spread_k})", [f"{_unit(record, summary)}, captured data"]
    below = [*notes.lines(), DIFFERENCES, *warnings]
    return Table(title, TIME_COLUMNS, sections, above, below, text_column=3)


def overview(record: RunRecord, summary: PrefillSummary) -> Table | None:
    """The table over all spread_k, of kernels and of whole prefills; None if nothing was measured."""
    notes, mean = Notes(), Mean(summary)
    columns = COLUMNS if summary.kernels else PREFILL_COLUMNS
    arms = [(kernel, "fragmented") for kernel in FUNCTIONS]
    arms += [(kernel, "paged") for kernel in mean.engine_kernels()]
    sections = []
    for kernel, arm in arms:
        rows = [row for k in mean.spread_ks() if (row := mean.kernel(kernel, arm, k))]
        if rows:
            name = LABELS[arm].lower() + (", with gather" if kernel in WITHOUT_TABLE else "")
            title = f"{heading(kernel, rows[0], notes)}: {name}"
            sections.append(Section(title, merge_lines([_over_all(mean, row, notes) for row in rows])))
    if sweep := sweep_section(mean, len(columns), notes):
        sections.append(sweep)
    above = [_unit(record, summary)] if summary.kernels else []
    below = [*notes.lines(), *_attained(mean, arms), *_reading(summary)]
    return Table("Summary over all spread_k", columns, sections, above, below) if sections else None


def _attained(mean: Mean, arms: Sequence[tuple[str, str]]) -> list[str]:
    """How much of what the device attains the kernels reach in one segment; none where that is not known."""
    rows = [mean.kernel(kernel, arm, 1) for kernel, arm in arms]
    shares = [
        f"{row.kernel} {row.share_of_ceiling_pct:.0f}%"
        + (f" at {row.clock_mhz:.0f} MHz" if row.ceiling_scaled and row.clock_mhz else "")
        for row in rows
        if row and row.share_of_ceiling_pct is not None
    ]
    if not shares:
        return []
    unscaled = any(row.ceiling_scaled is False for row in rows if row)
    scaled = "as measured, at whatever clock" if unscaled else "scaled to the clock that each ran at"
    return [f"At spread_k = 1, of the device's measured ceiling, {scaled}: {', '.join(shares)}."]


def _reading(summary: PrefillSummary) -> list[str]:
    """Notes on how to read the columns."""
    paired = (
        "Differences are means of paired differences, outliers bounded, with a 95% interval; same: the "
        f"interval lies within +-{summary.tolerance_pct:g}%. A/A is the paged one-segment arm against "
        "itself, the placebo against the same at another place: the larger is the noise floor."
    )
    if not summary.kernels:
        return [paired]
    return [
        paired,
        "with gather: the kernel's median plus its gather's; the sum has no pairs with spread=1.",
        "vs synth.: captured minus synthetic inputs, the kernel alone, on the layers measured with both.",
    ]


def _unit(record: RunRecord, summary: PrefillSummary) -> str:
    """What the times refer to."""
    layers, prompts, rank = record.layers, record.prompts, summary.slowest_rank
    unit = "ms per attention call" + (f" of {batch.describe(prompts)}" if len(prompts) > 1 else "")
    if layers and len(layers) == 1:
        unit += f", layer {layers[0]}"
    elif layers:
        shown = ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]} to {layers[-1]}"
        unit += f", mean over {len(layers)} layers ({shown})"
    return unit + ("" if rank is None else f", the slowest rank: {rank}")


def _function(mean: Mean, kernel: str, spread_k: int, notes: Notes) -> Section | None:
    """Contiguous, Non-contiguous and Core Diff of one of the three functions."""
    rows = [mean.kernel(kernel, arm, spread_k) for arm in ("contiguous", "fragmented")]
    present = [row for row in rows if row]
    if not present:
        return None
    digits = _digits(mean, spread_k)
    lines = [time_line(LABELS[row.arm], row, notes, digits) for row in present]
    title = heading(kernel, present[0], notes)
    core = mean.contrast(kernel, "contiguous", "fragmented", spread_k)
    split = mean.contrast(kernel, "fragmented@1", "fragmented", spread_k)
    label = "Core Diff"
    if core and kernel not in WITHOUT_TABLE:
        instead = "; Fragmentation is" if split else ""
        label += f" {notes.mark(f'a block table selects different code: this is not the layout{instead}')}"
    lines += difference_line(label, core, digits) + difference_line("Fragmentation", split, digits)
    return Section(title, lines)


def _engine_kernel(mean: Mean, kernel: str, spread_k: int, notes: Notes) -> Section | None:
    """The engine's kernel: dense, paged in one segment and in spread_k segments, and its contrasts."""
    digits = _digits(mean, spread_k)
    dense, paged = (mean.kernel(kernel, arm, spread_k) for arm in ("dense", "paged"))
    lines = [time_line("Dense", dense, notes, digits)] if dense else []
    one_segment_us = mean.baseline_us(kernel, "paged@1", spread_k)
    if spread_k > 1 and one_segment_us is not None:
        lines.append(baseline_line("Paged, 1 segment", one_segment_us, digits))
    if paged:
        lines.append(time_line(f"Paged, {pluralise(spread_k, 'segment')}", paged, notes, digits))
    if compact := mean.kernel(kernel, "compact", spread_k):
        lines.append(time_line("Compact", compact, notes, digits))
    for arm, label in WRITES.items():
        if write := mean.cache_write(spread_k, arm):
            lines.append(time_line(label, write, notes, digits))
    if spread_k == 1:
        lines += difference_line("Paging tax", mean.contrast(kernel, "dense", "paged@1", 1), digits)
    else:
        split = mean.contrast(kernel, "paged@1", "paged", spread_k)
        lines += difference_line("Fragmentation", split, digits)
    if write := mean.cache_write(spread_k, "converted"):
        conversion = mean.contrast(write.kernel, "unconverted", "converted", spread_k)
        lines += difference_line("fp8 conversion", conversion, digits)
        again = mean.contrast(write.kernel, "unconverted", "unconverted again", spread_k)
        lines += difference_line("Cache write A/A", again, digits)
    lines += difference_line("A/A", mean.contrast(kernel, "paged@1", "paged@1 again", spread_k), digits)
    lines += difference_line("Placebo", mean.contrast(kernel, "paged@1", "placebo", spread_k), digits)
    first = dense or paged
    return Section(heading(kernel, first, notes) + ": the engine's kernel", lines) if first else None


def _over_all(mean: Mean, row: KernelRow, notes: Notes) -> Line:
    """The median on captured data, its difference to spread_k = 1, synthetic, and captured against
    synthetic.
    """
    kernel, arm, k = row.kernel, row.arm, row.spread_k
    if row.median_us is None:
        return status_line(str(k), row, notes)
    label = mark_if_remarked(str(k), row, notes)
    synthetic = mean.kernel(kernel, arm, k, "synthetic")
    paired = mean.contrast(kernel, f"{arm}@1", arm, k)
    against = mean.contrast(kernel, f"synthetic {arm}", f"captured {arm}", k, None)
    digits = _digits(mean, k)
    cells = (
        ms(total_us(row), digits),
        change(paired),
        verdict(paired),
        ms(total_us(synthetic), digits) if synthetic else NONE,
        f"{signed(against.delta_pct)}%" if against else NONE,
    )
    return Line(label, cells)


def _digits(mean: Mean, spread_k: int) -> int:
    """Decimals of a time in ms: tenths of a microsecond where kernels are short."""
    rows = mean.at(spread_k)
    return 4 if all((row.median_us or 0) < 10_000 for row in rows) else 3


def ranks(summary: PrefillSummary) -> Table | None:
    """The engine's kernel in every rank, each replaying its own heads; None with one rank."""
    numbers = sorted({row.rank for row in summary.kernels if row.rank is not None})
    if not numbers:
        return None
    means = [Mean(summary, rank) for rank in numbers]
    most = max(means[0].spread_ks())
    compared = {
        "paged in one segment against dense": ("dense", "paged@1", 1),
        f"paged, {pluralise(most, 'segment')} against one": ("paged@1", "paged", most),
    }
    sections = [
        Section(f"{kernel}: {title}", lines)
        for kernel in means[0].engine_kernels()
        for title, pair in compared.items()
        if (lines := [_rank(mean, row) for mean in means if (row := mean.contrast(kernel, *pair))])
    ]
    below = (
        "ms per attention call of the engine's kernel, mean over the layers. The tables above show the "
        "slowest rank, for which the others wait in every layer."
    )
    return Table("Ranks", RANK_COLUMNS, sections, below=[below])


def _rank(mean: Mean, row: ContrastRow) -> Line:
    """The medians of baseline and treatment, and the difference."""
    slowest = mean.rank == mean.summary.slowest_rank
    treatment = mean.kernel(row.kernel, "paged", row.spread_k)
    medians = ms(row.baseline_us, 4), ms(treatment.median_us, 4) if treatment else NONE
    label = f"{mean.rank}, slowest" if slowest else str(mean.rank)
    return Line(label, (*medians, change(row), row.verdict))


def requests(summary: PrefillSummary) -> Table | None:
    """The requests of a batch, each alone, their sum, and the step with all of them.

    A section for each layer; None for a run of one prompt.
    """
    rows = summary.requests or []
    if not rows:
        return None
    notes = Notes()
    figures = [us for row in rows for us in _times(row) if us]
    digits = 4 if all(us < 10_000 for us in figures) else 3
    sections = [
        Section(f"layer {layer}", [_request(row, notes, digits) for row in select(rows, layer=layer)])
        for layer in dict.fromkeys(row.layer for row in rows)
    ]
    above = [
        f"ms of {rows[0].kernel} ({rows[0].provider}), the engine's kernel, on one request of the step "
        "alone; NxLENGTH: N such requests."
    ]
    below = ["sum: of all requests, one after the other; step: all of them in one call, as the engine does."]
    return Table("Per request", REQUEST_COLUMNS, sections, above, [*notes.lines(), *below])


def _request(row: RequestRow, notes: Notes, digits: int) -> Line:
    label = f"{row.count}x{row.length}" if row.length else str(row.request)
    if row.reason:
        reason = f"{row.status}: {row.reason}"
        label += f" {notes.mark(reason)}"
    cells = [NONE if count is None else str(count) for count in (row.blocks, row.spread_k)]
    cells += [ms(us, digits) for us in _times(row)]
    return Line(label, (*cells, change(row)))


def _times(row: RequestRow) -> tuple[float | None, ...]:
    return row.dense_us, row.one_segment_us, row.paged_us
