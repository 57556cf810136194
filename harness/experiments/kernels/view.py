"""The report of a `kernels` run: a table for each spread_k, and one over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import figures, stats
from harness.analysis import roofline as work
from harness.analysis.contrasts import name_in_series, series_pairs
from harness.config.kernel_names import FUNCTIONS, WITHOUT_TABLE, gather_for
from harness.experiments.kernels.rows import KernelCell, KernelContrast, KernelsSummary
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import (
    DIFFERENCES,
    LABELS,
    TIME_COLUMNS,
    change,
    difference_line,
    heading,
    mark_if_remarked,
    merge_lines,
    noise_floor_line,
    status_line,
    time_line,
    total_us,
    verdict,
    warning_lines,
    warnings,
)
from harness.report.tables import NONE, Line, Notes, Section, Table, ms
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord
from harness.units import ELEMENT_BYTES, pluralise

Summary = KernelsSummary  # of summary.json

ARMS = ("contiguous", "fragmented")
SUMMARY_COLUMNS = ("spread_k", "contiguous", "non-contig.", "with gather", "difference", "verdict")
# Kernels that always need a block table: contiguous K and V are a table of one block.
ONE_BLOCK = ("vllm-triton", "vllm-cpu")
CONTRASTS = {
    ("contiguous", "fragmented"): "core",
    ("fragmented@1", "fragmented"): "fragmentation",
    ("fragmented@1", "fragmented@1 again"): "A/A",
    ("fragmented", "fragmented@1 again"): "A/A",  # at spread_k = 1
    ("fragmented@1", "placebo"): "placebo",
    ("fragmented", "placebo"): "placebo",
}


def summarise(record: RunRecord, results: Sequence[Result]) -> KernelsSummary:
    """`cells`, a row for each arm and spread_k in us, and `contrasts` by the names in CONTRASTS.

    A cell has its kernel's gather, if it needs one, TFLOP/s, and the bandwidth of the least memory traffic.
    """
    series: dict[str, list[Result]] = {}
    for result in latest(results):
        series.setdefault(result.series, []).append(result)
    cells: list[KernelCell] = []
    contrasts: list[KernelContrast] = []
    for members in series.values():
        gathers = {r.cell.kernel: figures.cell_row(r) for r in members if r.cell.stage == "gather"}
        arms = [r for r in members if r.cell.stage == "kernel" and not r.one_segment_for]
        cells += [_cell(record, result, gathers) for result in arms]
        for one, two in series_pairs(members):
            name = CONTRASTS[name_in_series(members[one]), name_in_series(members[two])]
            if fields := figures.contrast_row(name, members[one], members[two]):
                spread_k = members[two].one_segment_for or members[two].cell.spread_k
                contrasts.append(KernelContrast(**fields | {"spread_k": spread_k}))
    return KernelsSummary(
        schema_version=2,
        status=record.status,
        cells=sorted(cells, key=lambda row: row.spread_k),
        contrasts=sorted(contrasts, key=lambda row: row.spread_k),
        tolerance_pct=stats.SAME_TOLERANCE_PCT,
    )


def _cell(record: RunRecord, result: Result, gathers: dict[str, figures.Fields]) -> KernelCell:
    fields = figures.cell_row(result)
    gather = gathers.get(gather_for(result.cell.kernel)) if result.cell.arm == "fragmented" else None
    if gather and gather["status"] != "ok" and fields["status"] == "ok":
        fields["warnings"].append(f"gather: {gather['status']}: {gather['reason']}")
    rates = _rates(record.config, fields["median_us"])
    return KernelCell(**fields, gather_us=gather["median_us"] if gather else None, **rates)


def _rates(config: Mapping[str, Any], microseconds: float | None) -> dict[str, Any]:
    """tflops and gbps of a call that took `median_us`; None if it was not measured."""
    if not microseconds:
        return {"tflops": None, "gbps": None}
    batch, heads, dim = config["batch_size"], config["num_heads"], config["head_dim"]
    lengths = [config["seq_len_q"]] * batch, [config["length"]] * batch
    size = ELEMENT_BYTES[config["dtype"]]
    return {
        "tflops": work.attention_flops(*lengths, heads, dim, config["causal"]) / microseconds / 1e6,
        "gbps": work.attention_bytes(*lengths, heads, config["num_kv_heads"], dim, size) / microseconds / 1e3,
    }


def comparison(record: RunRecord, summary: KernelsSummary, spread_k: int) -> Table:
    """`Comparison Results (spread=K)`: each kernel's arms, and their differences; 80 columns wide."""
    notes, sections, cells = Notes(), [], summary.index(summary.cells)
    for kernel in kernels_of(summary):
        rows = [row for arm in ARMS if (row := cells.find(kernel=kernel, spread_k=spread_k, arm=arm))]
        if rows:
            digits = summary.digits
            lines = [time_line(LABELS[row.arm], row, notes, digits) for row in rows]
            lines += _differences(summary, kernel, spread_k, notes, digits)
            sections.append(Section(heading(kernel, rows[0], notes), lines))
    title = f"Comparison Results (spread={spread_k})"
    unit = [f"ms per call, {inputs(record.config)}"]
    below = [*notes.lines(), DIFFERENCES, *_warnings(summary, spread_k)]
    return Table(title, TIME_COLUMNS, sections, unit, below, text_column=3)


def _warnings(summary: KernelsSummary, spread_k: int) -> list[str]:
    return warning_lines(summary.index(summary.cells).select(spread_k=spread_k), _name)


def _differences(
    summary: KernelsSummary, kernel: str, spread_k: int, notes: Notes, digits: int
) -> list[Line]:
    core, split, again, placebo = (
        summary.index(summary.contrasts).find(kernel=kernel, spread_k=spread_k, contrast=name)
        for name in ("core", "fragmentation", "A/A", "placebo")
    )
    label = "Core Diff"
    if core and kernel not in WITHOUT_TABLE:
        instead = "; Fragmentation is" if split else ""
        other = (
            "contiguous: one block of all tokens"
            if kernel in ONE_BLOCK
            else "a block table selects different code"
        )
        label += f" {notes.mark(f'{other}: this is not the layout{instead}')}"
    return [
        *difference_line(label, core, digits),
        *difference_line("Fragmentation", split, digits),
        *difference_line("A/A", again, digits),
        *difference_line("Placebo", placebo, digits),
    ]


def document(record: RunRecord, summary: KernelsSummary) -> Document:
    """A table for each spread_k, as details, and one over all."""
    spreads = spreads_of(summary)
    tables = [comparison(record, summary, k) for k in spreads]
    over_all = [_over_all(record, summary)] if spreads else []
    title = f"{whose(summary)} on {inputs(record.config)}"
    cells = summary.cells
    rows = [*csv_rows(cells), *csv_contrasts(summary.contrasts)]
    warned = warnings(cells, lambda row: f"{_name(row)}, spread_k = {row.spread_k}")
    return Document(record, title, answer(summary), figures_and_tables(over_all, tables), rows, warned)


def _name(row: KernelCell) -> str:
    return f"{row.kernel}, {LABELS[row.arm]}"


def _over_all(record: RunRecord, summary: KernelsSummary) -> Table:
    notes, sections = Notes(), []
    for kernel in kernels_of(summary):
        rows = summary.index(summary.cells).select(kernel=kernel, arm="fragmented")
        if rows:
            compared = (
                "non-contiguous against contiguous"
                if kernel in WITHOUT_TABLE
                else "k segments against one segment"
            )
            lines = merge_lines([_summary_line(summary, row, notes) for row in rows])
            sections.append(Section(f"{heading(kernel, rows[0], notes)}: {compared}", lines))
    unit = [f"ms per call, {inputs(record.config)}"]
    below = [
        *notes.lines(),
        noise_floor_line(summary.contrasts, "one segment"),
        "difference: mean of paired differences with its 95% interval; same: the interval lies within "
        f"+-{summary.tolerance_pct:g}%. with gather: the kernel's median plus its gather's.",
    ]
    return Table("Summary over all spread_k", SUMMARY_COLUMNS, sections, unit, below)


def _summary_line(summary: KernelsSummary, row: KernelCell, notes: Notes) -> Line:
    kernel, k = row.kernel, row.spread_k
    if row.median_us is None:
        return status_line(str(k), row, notes)
    name = "core" if kernel in WITHOUT_TABLE else "fragmentation"
    paired = summary.index(summary.contrasts).find(kernel=kernel, spread_k=k, contrast=name)
    whole = summary.index(summary.cells).find(kernel=kernel, spread_k=k, arm="contiguous")
    digits = summary.digits
    cells = (
        ms(whole.median_us if whole else None, digits),
        ms(row.median_us, digits),
        ms(total_us(row), digits) if kernel in WITHOUT_TABLE else NONE,
        change(paired),
        verdict(paired),
    )
    return Line(mark_if_remarked(str(k), row, notes), cells)


def inputs(config: Mapping[str, Any]) -> str:
    """The kernels' inputs, as text."""
    queries, keys = config["seq_len_q"], config["length"]
    tokens = pluralise(keys, "token") if queries == keys else f"{queries} queries on {keys} keys"
    heads = str(config["num_heads"])
    if config["num_kv_heads"] != config["num_heads"]:
        heads += f"/{config['num_kv_heads']}"
    batch = f"{config['batch_size']} x " if config["batch_size"] > 1 else ""
    causal = "causal" if config["causal"] else "not causal"
    return f"{batch}{tokens}, {heads} heads x {config['head_dim']}, {config['dtype']}, {causal}, random data"


def kernels_of(summary: KernelsSummary) -> list[str]:
    """The kernels, in the order requested."""
    return [kernel for (kernel,) in summary.index(summary.cells).distinct("kernel")]


def whose(summary: KernelsSummary) -> str:
    """The kernels' origin, for a title."""
    return "flash-attn's functions" if {*kernels_of(summary)} <= {*FUNCTIONS} else "Attention kernels"


def spreads_of(summary: KernelsSummary) -> list[int]:
    """All values of spread_k tried, ascending."""
    return sorted({row.spread_k for row in summary.cells})


def answer(summary: KernelsSummary) -> str:
    """The effect of the most segments on each kernel."""
    most = max((row.spread_k for row in summary.contrasts), default=0)
    rows = [
        row for kernel in kernels_of(summary) for row in contrasts_of(summary, kernel) if row.spread_k == most
    ]
    if not rows:
        return "No contrast was measured."
    phrases = [f"{row.kernel} by {change(row)}, {row.verdict}" for row in rows]
    return f"K and V in {pluralise(most, 'segment')} change {'; '.join(phrases)}."


def contrasts_of(summary: KernelsSummary, kernel: str) -> list[KernelContrast]:
    """A kernel's contrasts over spread_k."""
    return summary.index(summary.contrasts).select(kernel=kernel, contrast=contrast_of(kernel))


def contrast_of(kernel: str) -> str:
    """A kernel that gathers first is compared with contiguous K and V; one with a block table with one
    segment, because a block table selects different code.
    """
    return "core" if kernel in WITHOUT_TABLE else "fragmentation"
