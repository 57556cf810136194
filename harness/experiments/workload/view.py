"""The report of a `workload` run: its steps by kind, throughput and latency under every arm, its layout."""

from __future__ import annotations

from harness.analysis.rows import find, select
from harness.experiments.workload.rows import KindRow, WorkloadSummary
from harness.experiments.workload.summary import AGAIN, ALL, NO_CACHE, PERCENTILES, STOCK, summarise
from harness.report.document import Document, csv_contrasts, csv_rows, figures_and_tables
from harness.report.rows import mark_if_remarked, noise_floor_line, status_line, verdict, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, percent, signed
from harness.runs.schema import RunRecord
from harness.units import pluralise

__all__ = ["document", "summarise"]
Summary = WorkloadSummary  # of summary.json

LABELS = {
    "stock": "stock",
    "whole": "whole prompts",
    "wrapped": "wrapped",
    "dense": "dense",
    "no_cache": "no cache",
}
MEANING = {
    "whole prompts": "whole prompts against stock",
    "wrappers": "wrapped against what runs without them",
    "paging": "dense against wrapped",
    "cache write": "no cache against dense",
    "without the cache": "no cache against wrapped",
    "all of it": "no cache against stock",
    AGAIN: "stock against itself",
}
WITHOUT = ("without the cache", "all of it")  # contrasts that say what no cache saves, the better one first
NEEDS = {
    "chunk": "parts of a prompt read the K and V of its earlier parts from the cache",
    "mixed": "requests that generate read their K and V from the cache",
    "decode": "requests that generate read their K and V from the cache",
}
RECORDED = {"stock": "as vLLM schedules them", "whole": "with no prompt cut by a step's end"}


def document(record: RunRecord, summary: WorkloadSummary) -> Document:
    """The tables; in tables.csv the arms and their contrasts."""
    makers = (_breakdown, _throughput, _latency, _differences, _layout)
    tables = [table for make in makers if (table := make(record, summary))]
    title = f"{work_text(record)}, {record.model.name}"
    rows = [*csv_rows(summary.arms), *csv_contrasts(summary.contrasts)]
    warned = warnings(summary.arms, lambda row: LABELS[row.arm])
    return Document(record, title, answer(record, summary), figures_and_tables(tables), rows, warned)


def work_text(record: RunRecord) -> str:
    """The work in a few words."""
    if record.work is None:
        return f"Requests to {record.config.get('task')}"
    work = record.work
    lengths = f"{work.shortest} to {work.longest}" if work.shortest < work.longest else f"{work.longest}"
    return f"{work.requests:,} requests to {record.config.get('task')}, of {lengths} tokens"


def share(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f"{value:.1f}"


def _breakdown(record: RunRecord, summary: WorkloadSummary) -> Table | None:
    """How often each kind of step came, how long it took, and what took it."""
    notes, sections = Notes(), []
    for arm, text in RECORDED.items():
        lines = []
        for row in select(summary.kinds, arm=arm):
            label = row.kind
            if not row.without_cache and row.kind in NEEDS:
                label += " " + notes.mark(f"cannot do without the cache: {NEEDS[row.kind]}")
            counted = f"{row.steps}", f"{row.tokens / row.steps:,.0f}", f"{row.step_requests:.1f}"
            parts = row.attention_pct, row.cache_write_pct, row.other_pct, row.waiting_pct, row.between_pct
            cells = (*counted, ms(row.mean_us, 1), share(row.wall_pct), *map(share, parts))
            lines.append(Line(label, cells))
        if lines:
            sections.append(Section(f"Steps {text}", lines))
    if not sections:
        return None
    waiting = "the GPU idles" if record.device.kind == "cuda" else "outside of PyTorch's operators"
    between = "between steps (scheduling, sending, outputs)"
    if record.config.get("arrivals"):
        between += ", left out here, as it is mostly waiting for requests"
    graphs = "; ".join(
        f"{row.kind}, {LABELS[row.arm]}: {row.graphs}" for row in summary.kinds if row.kind != ALL
    )
    below = [
        *notes.lines(),
        "%: of the pass. att, write, other: attention, cache write and the rest of the device's work, in "
        f"percent of the kind's time, from {sum(row.profiled for row in summary.kinds if row.kind != ALL)} "
        f"profiled steps of stock; wait: {waiting} within steps; gap: {between}.",
        f"CUDA graphs: {graphs}.",
    ]
    columns = ("steps", "n", "tokens", "req", "ms", "%", "att", "write", "other", "wait", "gap")
    return Table("Steps by kind", columns, sections, below=below)


def _throughput(record: RunRecord, summary: WorkloadSummary) -> Table | None:
    notes, lines = Notes(), []
    for row in summary.arms:
        if row.requests_per_s is None:
            lines.append(status_line(LABELS[row.arm], row, notes))
            continue
        bounds = row.ci95_requests_per_s
        interval = f"[{rate(bounds[0])}, {rate(bounds[1])}]" if bounds else "no interval"
        cells = ms(row.median_us, 1), rate(row.requests_per_s), interval, rate(row.tokens_per_s), str(row.n)
        lines.append(Line(mark_if_remarked(LABELS[row.arm], row, notes), cells))
    if not lines:
        return None
    below = [
        *notes.lines(),
        "stock: vLLM as it is; whole prompts: its scheduler cuts none at the end of a step; and with that, "
        "wrapped: through the wrappers of the next two; dense: attention on the step's own K and V, which "
        "are written all the same; no cache: not written either. The last two in pure prefills alone.",
    ]
    columns = ("arm", "pass ms", "requests/s", "95%", "tokens/s", "n")
    return Table("Throughput of the whole work", columns, [Section("", lines)], below=below)


def rate(value: float | None) -> str:
    """A rate; one decimal where it is small."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _latency(record: RunRecord, summary: WorkloadSummary) -> Table | None:
    sections = []
    for p in PERCENTILES:
        lines = [
            Line(
                LABELS[row.arm],
                (ms(value, 1), f"[{ms(bounds[0], 1)}, {ms(bounds[1], 1)}]" if bounds else NONE),
            )
            for row in summary.arms
            for value, bounds in [(getattr(row, f"p{p}_us"), getattr(row, f"ci95_p{p}_us"))]
            if value is not None
        ]
        if lines:
            sections.append(Section(f"p{p}", lines))
    if not sections:
        return None
    at_once = "the pass's start, when all of them came"
    since = "its arrival in the trace" if record.config.get("arrivals") else at_once
    below = [f"from {since}, to the answer: medians of the passes' percentiles, and their 95% intervals."]
    return Table("Time of a request", ("arm", "ms", "95%"), sections, below=below)


def _differences(record: RunRecord, summary: WorkloadSummary) -> Table | None:
    lines = []
    for row in select(summary.contrasts, figure="pass"):
        of_requests = [find(summary.contrasts, contrast=row.contrast, figure=f"p{p}") for p in PERCENTILES]
        more = percent(row.requests_per_s_pct, row.ci95_requests_per_s_pct)
        changes = [NONE if each is None else f"{signed(each.delta_pct, 1)}%" for each in of_requests]
        lines.append(Line(row.contrast, (more, verdict(row), *changes)))
    if not lines:
        return None
    told = (f"{row.contrast}: {MEANING[row.contrast]}" for row in select(summary.contrasts, figure="pass"))
    below = [
        "req/s: more of them, from passes paired by round, with the 95% interval; verdicts are of the pass's "
        "time. p50 to p99: the change of a request's time.",
        f"{'; '.join(told)}.",
        noise_floor_line(select(summary.contrasts, figure="pass"), "stock"),
    ]
    columns = ("", "req/s", "verdict", *(f"p{p}" for p in PERCENTILES))
    return Table("What makes the difference", columns, [Section("", lines)], below=below)


def _layout(record: RunRecord, summary: WorkloadSummary) -> Table | None:
    sections = []
    for arm, text in RECORDED.items():
        lines = [
            Line(
                f"{row.part}",
                (
                    ms(row.start_us, 0),
                    f"{row.blocks:,}",
                    f"{row.segments:,}",
                    f"{row.segments_per_block:.2f}",
                ),
            )
            for row in select(summary.layout, arm=arm)
        ]
        if lines:
            sections.append(Section(f"Steps {text}", lines))
    if not sections:
        return None
    below = ["1.00: no block follows its neighbour in memory; layouts.jsonl.gz has each request's blocks."]
    columns = ("part", "from ms", "blocks", "segments", "a block")
    return Table("Segments per block along the work", columns, sections, below=below)


def answer(record: RunRecord, summary: WorkloadSummary) -> str:
    """What the steps are, what takes them, and what doing without the cache saves."""
    saves, kinds = _saves(summary), select(summary.kinds, arm=STOCK)
    if not kinds:
        return saves
    whole = kinds[-1]  # of all kinds, or the only one
    pure = sum(row.wall_pct for row in kinds if row.without_cache and row.kind != ALL)
    count = pluralise(whole.steps, "step")
    parts = [f"{pure:.0f}% went to steps that can do without the KV cache ({count} in all)"]
    if whole.attention_pct is not None:
        parts.append(
            f"{share(whole.attention_pct)}% to attention, {share(whole.cache_write_pct)}% to the cache write"
        )
    number = f"{record.work.requests:,} requests" if record.work else "requests"
    return f"Of the time of your {number} {' and '.join(parts)}. {saves}"


def _saves(summary: WorkloadSummary) -> str:
    for name in WITHOUT:
        if row := find(summary.contrasts, contrast=name, figure="pass"):
            more = percent(row.requests_per_s_pct, row.ci95_requests_per_s_pct)
            cut = find(summary.contrasts, contrast="whole prompts", figure="pass")
            also = (
                ""
                if cut is None
                else f"; whole prompts: {percent(cut.requests_per_s_pct, cut.ci95_requests_per_s_pct)}"
            )
            return f"Without the cache: {more} requests/s, {row.verdict}{also}."
    lost = find(summary.arms, arm=NO_CACHE)
    if lost is not None and lost.reason and not lost.n:
        return f"Without the cache: not measured, as {lost.reason}."
    return "What the cache costs was not measured."


def kind_label(row: KindRow) -> str:
    """A kind of step with its figures, for charts."""
    return f"{row.kind}, {LABELS[row.arm]}: {pluralise(row.steps, 'step')}, {row.wall_us / 1000:.0f} ms"
