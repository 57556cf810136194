"""The report of a `kvcache` run: generations side by side, speed-ups, and the cache's size."""

from __future__ import annotations

from collections.abc import Sequence

from harness.experiments.kvcache.rows import KVCacheSummary, ModeRow, StepRow
from harness.experiments.kvcache.summary import AGAIN, MODES, has_own_weights, summarise, token_bytes
from harness.report.document import Document, csv_rows, figures_and_tables
from harness.report.rows import mark_if_remarked, status_line, warnings
from harness.report.tables import NONE, Line, Notes, Section, Table, ms, signed
from harness.runs.schema import Model, RunRecord
from harness.units import ELEMENT_BYTES, MIB, kv_bytes_per_token, pluralise

__all__ = ["document", "summarise"]
Summary = KVCacheSummary  # of summary.json

LABELS = {
    "no_cache": "transformers, no cache",
    "kv_cache": "transformers, KV cache",
    "paged": "vLLM, paged KV cache",
}
OWN_WEIGHTS = "vLLM and transformers draw their own weights, so their tokens cannot be compared"


def document(record: RunRecord, summary: KVCacheSummary) -> Document:
    """The tables; in tables.csv the modes and every step."""
    makers = (_generations, _speed_up_table, _cache_table, _along_the_way) if summary.modes else ()
    tables = [table for make in makers if (table := make(record, summary))]
    title = f"Generation with and without a KV cache, {record.model.name}"
    rows = [*summary.modes, *summary.steps]
    warned = warnings(summary.modes, lambda row: LABELS[row.arm])
    warned += warnings(summary.steps, lambda row: f"{LABELS[row.arm]}, step {row.step}")
    return Document(record, title, answer(summary), figures_and_tables(tables), csv_rows(rows), warned)


def _generations(record: RunRecord, summary: KVCacheSummary) -> Table:
    notes, lines = Notes(), []
    for row in summary.modes:
        if row.median_us is None:
            lines.append(status_line(LABELS[row.arm], row, notes))
            continue
        label = mark_if_remarked(LABELS[row.arm], row, notes)
        same = _same(record, row, notes)
        times = ms(row.median_us, 1), ms(row.first_token_us, 2), ms(row.token_us, 2)
        lines.append(Line(label, (*times, mib(row.peak_bytes), mib(_growth(row)), same)))
    columns = ("", "total ms", "first ms", "token ms", "peak MiB", "grew MiB", "same")
    below = [
        *notes.lines(),
        _counts(summary.modes),
        "first: until the first token; token: mean over those after it. peak: memory of the mode's process "
        f"({_source(record)}), including weights and what its libraries hold; grew: the increase during the "
        "generation. same: leading tokens equal to those without a cache.",
    ]
    return Table(_title(summary), columns, [Section("", lines)], below=below)


def _same(record: RunRecord, row: ModeRow, notes: Notes) -> str:
    """How many tokens are the same, with a mark where that is not known or the first one differs."""
    if has_own_weights(record, row.arm):
        return f"{NONE} {notes.mark(OWN_WEIGHTS)}"
    if row.same_tokens is None:
        return NONE
    shown = f"{row.same_tokens}/{row.compared_tokens}"
    if row.objection:
        return f"{shown} {notes.mark('more than rounding: ' + row.objection)}"
    if row.same_tokens == 0 and row.logits_error is not None:
        error = f"{row.logits_error:.2g}"
        return f"{shown} {notes.mark(f'a tie: the first logits differ by {error} of their spread')}"
    return shown


def _title(summary: KVCacheSummary) -> str:
    row = summary.modes[0]
    return f"{row.output_len} tokens generated from {row.input_len}"


def _counts(modes: Sequence[ModeRow]) -> str:
    counts = sorted({row.n for row in modes if row.n})
    if not counts:
        return "nothing could be measured"
    return f"medians of {counts[0]} generations" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def _source(record: RunRecord) -> str:
    on_gpu = record.device.kind == "cuda"
    return "PyTorch's allocated GPU memory" if on_gpu else "resident memory, RSS"


def _growth(row: ModeRow) -> float | None:
    if row.peak_bytes is None or row.start_bytes is None:
        return None
    return max(row.peak_bytes - row.start_bytes, 0.0)


def mib(value: float | None) -> str:
    """Bytes in MiB."""
    return NONE if value is None else f"{value / MIB:,.{1 if value >= 100 * MIB else 3}f}"


def _speed_up_table(record: RunRecord, summary: KVCacheSummary) -> Table | None:
    lines = []
    for row in summary.speed_ups:
        bounds = row.ci95_speed_up
        interval = f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "no interval"
        lines.append(Line(row.contrast, (f"{row.speed_up:.2f}x", interval, row.verdict)))
    if not lines:
        return None
    below = [
        "whole generations: the median of paired quotients, one pair in each round, and its 95% interval. "
        f"A/A: transformers with its cache against itself, the noise floor{_noise(summary)}.",
    ]
    columns = ("", "speed-up", "95%", "verdict")
    return Table("Speed-ups", columns, [Section("", lines)], below=below)


def _noise(summary: KVCacheSummary) -> str:
    floor = summary.speed_ups[0].noise_floor_pct
    if floor is None:
        return ", which is not known, so every verdict is unclear"
    return (
        f": a factor of up to {1 + floor / 100:.2f}, by which the intervals are widened for the other "
        "verdicts"
    )


def _cache_table(record: RunRecord, summary: KVCacheSummary) -> Table | None:
    each, engine, model = token_bytes(record), record.engine, record.model
    if each is None or engine is None:
        return None
    lines = []
    for row in summary.modes:
        if row.cache_bytes is None:
            continue
        expected = 0.0 if row.arm == "no_cache" else row.formula_bytes or 0.0
        more = row.cache_bytes - expected
        percent = f"{signed(100 * more / expected, 1)}%" if expected else NONE
        lines.append(Line(LABELS[row.arm], (mib(expected), mib(row.cache_bytes), mib(more), percent)))
    if not lines:
        return None
    pool = mib(engine.kv_cache_bytes)
    below = [
        f"formula: {_formula(model, ELEMENT_BYTES[str(engine.dtype)], each)} ({engine.dtype}) "
        f"= {each:,} bytes a token. "
        f"measured: in transformers the bytes of its K and V tensors, in vLLM whole blocks of "
        f"{engine.block_size} tokens that the request holds, out of a pool of {pool} MiB "
        "that it has from the start.",
    ]
    tokens = summary.modes[0].input_len + summary.modes[0].output_len - 1
    columns = ("", "formula MiB", "measured MiB", "more MiB", "more")
    return Table(f"KV cache of {tokens} tokens", columns, [Section("", lines)], below=below)


def _formula(model: Model, element_bytes: int, token_bytes: int) -> str:
    layers, kv_heads, head_dim = model.num_layers or 0, model.num_kv_heads or 0, model.head_dim or 0
    if token_bytes != kv_bytes_per_token(layers, kv_heads, head_dim, element_bytes):
        return f"K and V of each layer, whose sizes differ, x {element_bytes} bytes"
    heads = pluralise(kv_heads, "KV head")
    return f"2 x {pluralise(layers, 'layer')} x {heads} x {head_dim} x {element_bytes} bytes"


def _along_the_way(record: RunRecord, summary: KVCacheSummary) -> Table | None:
    by_step: dict[int, dict[str, StepRow]] = {}
    for row in summary.steps:
        by_step.setdefault(row.step, {})[row.arm] = row
    if not by_step:
        return None
    last = max(by_step)
    chosen = sorted(
        {1, 2, max(last // 4, 1), max(last // 2, 1), max(3 * last // 4, 1), last} & by_step.keys()
    )
    lines = []
    for step in chosen:
        here = by_step[step]
        times = [ms(here[mode].median_us) if mode in here else NONE for mode in MODES]
        caches = [mib(here[mode].cache_bytes) if mode in here else NONE for mode in MODES[1:]]
        lines.append(Line(str(step), (str(next(iter(here.values())).tokens), *times, *caches)))
    columns = ("step", "tokens", "no cache ms", "KV cache ms", "paged ms", "KV MiB", "paged MiB")
    below = ["tokens: those that the step's attention sees; KV and paged MiB: K and V kept after the step."]
    return Table("Along the generation", columns, [Section("", lines)], below=below)


def answer(summary: KVCacheSummary) -> str:
    """The speed-ups."""
    phrases = []
    for row in summary.speed_ups:
        if row.contrast != AGAIN:
            bounds = row.ci95_speed_up
            interval = f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""
            phrases.append(f"{row.contrast} {row.speed_up:.2f}x{interval}, {row.verdict}")
    return (
        f"Speed-up of a whole generation: {'; '.join(phrases)}." if phrases else "No two modes were measured."
    )
