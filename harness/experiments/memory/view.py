"""The report of a `memory` run: memory at every stage, and the KV cache's waste."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import figures, stats
from harness.analysis.rows import find
from harness.experiments.memory.rows import MemoryCell, MemorySummary, WasteRow
from harness.report.document import Document, csv_rows, figures_and_tables
from harness.report.rows import mark_if_remarked
from harness.report.tables import NONE, Line, Notes, Section, Table
from harness.runs.record import Result, Status, latest
from harness.runs.schema import RunRecord
from harness.units import GIB, MIB

Summary = MemorySummary  # of summary.json

ENGINES = ("transformers", "vLLM")
# By column: the reading, and the key of its source in the record.
COUNTERS = {
    "allocated": "allocated_bytes",
    "reserved": "reserved_bytes",
    "NVML": "nvml_bytes",
    "RSS": "rss_bytes",
    "KV used": "cache_used_bytes",
    "KV held": "cache_held_bytes",
}
WAYS = {
    "needed": "the tokens alone",
    "blocks": "vLLM's blocks",
    "padded": "padded to the longest",
}


def summarise(record: RunRecord, results: Sequence[Result]) -> MemorySummary:
    """`cells`, a row for each engine and stage with its bytes, and `waste`, a row for each way to keep KV.

    Bytes are medians over the processes, `n` of them, with intervals from 6 on.
    """
    cells: dict[tuple[str, int | float | str | None], list[Result]] = {}
    for result in latest(results):
        cells.setdefault((result.cell.arm, result.cell.at("order")), []).append(result)
    rows = sorted(map(_cell, cells.values()), key=lambda row: (ENGINES.index(row.arm), row.order))
    return MemorySummary(schema_version=2, status=record.status, cells=rows, waste=_waste(record, rows))


def _cell(members: list[Result]) -> MemoryCell:
    """One stage over all processes; a failure in any of them is its status."""
    lost = [r for r in members if r.status is not Status.OK]
    fields = figures.cell_row([*lost, *members][0])
    if lost and len(members) > 1:
        fields["reason"] = f"in {len(lost)} of {len(members)} processes: {fields['reason']}"
    for name in ("median_us", "ci95_us", "mean_us", "warmup_us", "warnings", "stopped"):
        del fields[name]
    values: dict[str, list[float]] = {}
    for result in members:
        for name, read in result.readings.items():
            values.setdefault(name, []).extend(read)
    for name, read in values.items():
        of_all = stats.median_interval(read)
        fields[name], fields[f"ci95_{name}"] = int(of_all.median), of_all.ci95
    return MemoryCell(**fields | {"n": len(next(iter(values.values()), []))})


def _waste(record: RunRecord, cells: list[MemoryCell]) -> list[WasteRow]:
    """For each way: bytes of KV cache with all inputs in it, bytes without a token, requests that fit."""
    lengths, of_token = record.config["lengths"], record.kv_bytes_per_token
    batch = find(cells, arm="vLLM", moment="all inputs")
    padded = find(cells, arm="transformers", moment="all, padded")
    if of_token is None or batch is None:
        return []
    needed, pool = sum(lengths) * of_token, batch.cache_held_bytes
    ways = {
        "needed": (needed, None),
        "blocks": (batch.cache_used_bytes, batch),
        "padded": (padded.cache_used_bytes if padded else None, padded),
    }
    return [
        WasteRow(
            way=way,
            used_bytes=held,
            unused_bytes=held and held - needed,
            unused_pct=held and 100 * (held - needed) / held,
            requests_that_fit=held and pool and int(pool * len(lengths) // held),
            pool_bytes=pool,
            status=cell.status if cell else "ok",
            reason=cell.reason if cell else None,
        )
        for way, (held, cell) in ways.items()
    ]


def document(record: RunRecord, summary: MemorySummary) -> Document:
    """Memory at every stage, and the waste of each way to store the KV cache."""
    count, name = len(record.config["lengths"]), record.model.name
    tables = [_stages(record, summary)] if summary.cells else []
    tables += [_waste_table(record, summary)] if summary.waste else []
    title = f"Memory of {count} inputs: {name}"
    return Document(record, title, answer(summary), figures_and_tables(tables), csv_rows(summary.cells))


def _stages(record: RunRecord, summary: MemorySummary) -> Table:
    notes, sections = Notes(), []
    for engine in ENGINES:
        rows = [row for row in summary.cells if row.arm == engine]
        if rows:
            how = {"transformers": "one request at a time", "vLLM": "all requests in one batch"}[engine]
            sections.append(Section(f"{rows[0].provider}: {how}", [_line(row, notes) for row in rows]))
    model = record.model
    about = [f"MiB held by the engine's own process, {model.name}, {model.dtype or ''}".rstrip(", ")]
    below = [*notes.lines(), *_sources(record), _processes(summary)]
    return Table("Memory through the stages of a job", ("", *COUNTERS), sections, about, below)


def _line(row: MemoryCell, notes: Notes) -> Line:
    label = row.moment
    if row.tokens:
        label += f": {row.tokens} tokens" if label.startswith("input") else f": {row.tokens}"
    return Line(
        mark_if_remarked(label, row, notes), tuple(_mib(getattr(row, name)) for name in COUNTERS.values())
    )


def _mib(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value / MIB:.1f}"


def _sources(record: RunRecord) -> list[str]:
    """The counter behind each figure, once if both engines use the same."""
    of_engines: dict[str, dict[str, list[str]]] = {}
    for engine, sources in (record.sources or {}).items():
        for column, source in sources.items():
            of_engines.setdefault(column, {}).setdefault(source, []).append(engine)
    lines = []
    for column, by_source in of_engines.items():
        texts = [
            source if len(by_source) == 1 else f"{source} ({', '.join(engines)})"
            for source, engines in by_source.items()
        ]
        lines.append(f"{column}: {'; '.join(texts)}.")
    return [
        *lines,
        "KV used: keys and values in the cache (transformers), blocks that requests hold (vLLM); KV held: "
        "memory reserved for them, in vLLM its whole pool.",
    ]


def _processes(summary: MemorySummary) -> str:
    most = max(row.n for row in summary.cells)
    if most == 1:
        return "One process per engine; --repeats 6 gives intervals (in tables.csv)."
    widths = [
        100 * (bounds[1] - bounds[0]) / value
        for row in summary.cells
        for name in COUNTERS.values()
        if (value := getattr(row, name)) and (bounds := getattr(row, f"ci95_{name}"))
    ]
    spread = f"; 95% intervals are up to {max(widths):.2f}% wide (in tables.csv)" if widths else ""
    return f"Medians of {most} processes of each{spread}."


def _waste_table(record: RunRecord, summary: MemorySummary) -> Table:
    notes = Notes()
    lines = [
        Line(
            mark_if_remarked(WAYS[row.way], row, notes),
            (
                _mib(row.used_bytes),
                _mib(row.unused_bytes),
                NONE if row.unused_pct is None else f"{row.unused_pct:.1f}%",
                NONE if row.requests_that_fit is None else str(row.requests_that_fit),
            ),
        )
        for row in summary.waste
    ]
    lengths, pool = record.config["lengths"], summary.waste[0].pool_bytes
    batch = find(summary.cells, arm="vLLM", moment="all inputs")
    assert batch is not None, "the waste is relative to it"
    size = batch.block_size
    columns = ("", "MiB", "without a token", "share", "requests that fit")
    below = [
        *notes.lines(),
        "the tokens alone: 2 x layers x KV heads x head size x tokens x bytes, the formula; the others are "
        "measured." + (f" vLLM's blocks have {size} tokens." if size else ""),
    ]
    if pool:
        below.append(f"requests that fit: of this mix, in vLLM's pool of {pool / GIB:.2f} GiB.")
    title = f"KV cache of all {len(lengths)} inputs at once ({min(lengths)} to {max(lengths)} tokens)"
    return Table(title, columns, [Section("", lines)], [], below)


def answer(summary: MemorySummary) -> str:
    """The share of the KV cache that holds no token, each way."""
    phrases = [
        f"{row.unused_pct:.1f}% holds no token in {WAYS[row.way]}"
        if row.way == "blocks"
        else f"{row.unused_pct:.1f}% {WAYS[row.way]}"
        for row in summary.waste
        if row.unused_pct is not None and row.way != "needed"
    ]
    if not phrases:
        return "How much of the KV cache holds no token was not measured."
    return f"Of the KV cache of all inputs at once, {', '.join(phrases)}."
