"""What is made of a run of `kvcache`: generations side by side, speed-ups, the cache's size, two plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import stats
from harness.report import kvcache_plot
from harness.report.companion import Companion
from harness.report.rows import Row, remark
from harness.report.text import NONE, Line, Notes, Section, Table, ms, signed
from harness.runs.record import Result, Status, latest
from harness.summary import figures
from harness.work import ELEMENT_BYTES

MODES = ("no_cache", "kv_cache", "paged")
LABELS = {
    "no_cache": "transformers, no cache",
    "kv_cache": "transformers, KV cache",
    "paged": "vLLM, paged KV cache",
}
SHORT = {"no_cache": "no cache", "kv_cache": "KV cache", "paged": "paged"}
# Baseline and treatment.
CONTRASTS = (("no_cache", "kv_cache"), ("no_cache", "paged"), ("kv_cache", "paged"))
AGAIN = "A/A"
MIB = 2**20


def summarise(record: Row, results: Sequence[Result]) -> Row:
    """summary.json's lists, each with a row a mode or a pair of them.

    `modes` (whole generations, first token, tokens after it, memory, tokens equal to those without a cache),
    `speed_ups`, and `steps` (a row for each token of each mode, with the formula's cache size).
    """
    kept = latest(results)
    whole = {r.cell.arm: r for r in kept if r.cell.stage == "end_to_end" and not r.control}
    again = next((r for r in kept if r.control), None)
    memory = {r.cell.arm: r for r in kept if r.cell.stage == "memory"}
    steps = [_step(record, r) for r in kept if r.cell.stage == "step"]
    steps.sort(key=lambda row: (MODES.index(row["arm"]), row["step"]))
    modes = [_mode(record, whole[mode], memory.get(mode), steps) for mode in MODES if mode in whole]
    return {
        "schema_version": 1,
        "status": record["status"],
        "modes": modes,
        "speed_ups": _speed_ups(whole, again),
        "steps": steps,
    }


def token_bytes(record: Row) -> int | None:
    """Bytes of K and V of a token: 2 * layers * KV heads * head size * bytes of a number.

    None if no engine said which data type it took.
    """
    model, dtype = record["model"], record.get("engine", {}).get("dtype")
    if dtype not in ELEMENT_BYTES or "num_layers" not in model:
        return None
    each: int = 2 * model["num_layers"] * model["num_kv_heads"] * model["head_dim"]
    return each * ELEMENT_BYTES[dtype]


def _step(record: Row, result: Result) -> Row:
    """One token; after the first, the cache holds the prompt, and after every other one token more."""
    row = figures.cell_row(result)
    each = token_bytes(record)
    row["tokens"] = row["input_len"] + row["step"] - 1
    row["formula_bytes"] = None if each is None else each * row["tokens"]
    return row


def _mode(record: Row, result: Result, memory: Result | None, steps: Sequence[Row]) -> Row:
    row = figures.cell_row(result)
    own = [step for step in steps if step["arm"] == result.cell.arm and step["median_us"] is not None]
    later = [step["median_us"] for step in own[1:]]
    found = memory.readings if memory else {}
    start, peak = found.get("start_bytes"), found.get("peak_bytes")
    same, of = _same_tokens(record, result.cell.arm)
    return row | {
        "first_token_us": own[0]["median_us"] if own else None,
        "token_us": sum(later) / len(later) if later else None,
        "last_token_us": later[-1] if later else None,
        "start_bytes": _median(start),
        "peak_bytes": _median(peak),
        "cache_bytes": own[-1]["cache_bytes"] if own else None,
        "formula_bytes": own[-1]["formula_bytes"] if own else None,
        "same_tokens": same,
        "compared_tokens": of,
    }


def _median(values: Sequence[float] | None) -> float | None:
    return stats.median_interval(values).median_us if values else None


def _same_tokens(record: Row, mode: str) -> tuple[int | None, int | None]:
    """How many tokens from the first on are those without a cache, and of how many."""
    tokens = record.get("tokens", {})
    if mode not in tokens or "no_cache" not in tokens:
        return None, None
    pairs = list(zip(tokens[mode], tokens["no_cache"], strict=True))
    return next((n for n, (one, two) in enumerate(pairs) if one != two), len(pairs)), len(pairs)


def _speed_ups(whole: dict[str, Result], again: Result | None) -> list[Row]:
    """How many times as fast each mode is as another, from the quotients of their pairs.

    Not from differences: times that differ severalfold have quotients of less spread.
    """
    pairs = [(f"{SHORT[two]} against {SHORT[one]}", whole.get(one), whole.get(two)) for one, two in CONTRASTS]
    twins = whole.get("kv_cache"), again
    noise = _speed_up(AGAIN, *twins, factor=1.0)  # widened by nothing
    sound = all(result and result.status is Status.OK for result in twins)
    factor = stats.noise_factor(noise["ci95_speed_up"]) if noise and sound else None
    found = [_speed_up(name, one, two, factor) for name, one, two in pairs]
    floor_pct = factor and 100 * (factor - 1)
    return [row | {"noise_floor_pct": floor_pct} for row in [*found, noise] if row]


def _speed_up(
    name: str, baseline: Result | None, treatment: Result | None, factor: float | None
) -> Row | None:
    """Baseline's time over the treatment's; `verdict` is of the treatment's time. None without a pair.

    Args:
        factor: what a mode and itself differ by at most (A/A); None: not known.
    """
    if not (baseline and treatment and baseline.samples_us and treatment.samples_us):
        return None
    n = min(len(baseline.samples_us), len(treatment.samples_us))
    pairs = zip(baseline.samples_us[:n], treatment.samples_us[:n], strict=True)
    taken = stats.median_interval([two / one for one, two in pairs])
    bounds = taken.ci95_us
    sound = baseline.status is treatment.status is Status.OK
    return {
        "contrast": name,
        "speed_up": 1 / taken.median_us,
        "ci95_speed_up": [1 / bounds[1], 1 / bounds[0]] if bounds else None,
        "verdict": stats.quotient_verdict(bounds, factor) if sound else "unclear",
        "n": n,
    }


def document(record: Row, summary: Row) -> Companion:
    """The tables; in tables.csv the modes and every step."""
    makers = (_generations, _speed_up_table, _cache_table, _along_the_way) if summary["modes"] else ()
    tables = [table for make in makers if (table := make(record, summary))]
    title = f"Generation with and without a KV cache, {record['model']['name']}"
    return Companion(record, title, tables, [*summary["modes"], *summary["steps"]])


def _generations(record: Row, summary: Row) -> Table:
    notes, lines = Notes(), []
    for row in summary["modes"]:
        said = remark(row)
        label = LABELS[row["arm"]] + (f" {notes.mark(said)}" if said else "")
        if row["median_us"] is None:
            lines.append(Line(LABELS[row["arm"]], text=f"{row['status']} {notes.mark(said or '')}"))
            continue
        same = NONE if row["same_tokens"] is None else f"{row['same_tokens']}/{row['compared_tokens']}"
        times = ms(row["median_us"], 1), ms(row["first_token_us"], 2), ms(row["token_us"], 2)
        lines.append(Line(label, (*times, mib(row["peak_bytes"]), mib(_growth(row)), same)))
    columns = ("", "total ms", "first ms", "token ms", "peak MiB", "grew MiB", "same")
    below = [
        *notes.lines(),
        _counts(summary["modes"]),
        "first: until the first token; token: mean over those after it. peak: memory of the mode's own "
        f"process ({_source(record)}), weights and what its libraries hold included; grew: by so much "
        "during the generation. same: tokens equal to those without a cache, up to the first that is not.",
        *_warnings(summary["modes"]),
    ]
    return Table(_title(summary), columns, [Section("", lines)], below=below)


def _title(summary: Row) -> str:
    row = summary["modes"][0]
    return f"{row['output_len']} tokens generated from {row['input_len']}"


def _counts(modes: Sequence[Row]) -> str:
    counts = sorted({row["n"] for row in modes if row["n"]})
    if not counts:
        return "nothing could be measured"
    return f"medians of {counts[0]} generations" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def _source(record: Row) -> str:
    on_gpu = record["device"]["kind"] == "cuda"
    return "PyTorch's allocated GPU memory" if on_gpu else "resident memory, RSS"


def _growth(row: Row) -> float | None:
    if row["peak_bytes"] is None or row["start_bytes"] is None:
        return None
    return max(row["peak_bytes"] - row["start_bytes"], 0.0)  # type: ignore[no-any-return]


def _warnings(modes: Sequence[Row]) -> list[str]:
    return [f"Warning: {LABELS[row['arm']]}: {text}" for row in modes if row["n"] for text in row["warnings"]]


def mib(value: float | None) -> str:
    """Bytes in MiB."""
    return NONE if value is None else f"{value / MIB:,.{1 if value >= 100 * MIB else 3}f}"


def _speed_up_table(record: Row, summary: Row) -> Table | None:
    lines = []
    for row in summary["speed_ups"]:
        bounds = row["ci95_speed_up"]
        interval = f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "no interval"
        lines.append(Line(row["contrast"], (f"{row['speed_up']:.2f}x", interval, row["verdict"])))
    if not lines:
        return None
    below = [
        "whole generations: the median of the quotients of pairs, one of either mode in each round, and its "
        f"95% interval. A/A: transformers with its cache against itself, the noise floor{_noise(summary)}.",
    ]
    columns = ("", "speed-up", "95%", "verdict")
    return Table("Speed-ups", columns, [Section("", lines)], below=below)


def _noise(summary: Row) -> str:
    floor = summary["speed_ups"][0]["noise_floor_pct"]
    if floor is None:
        return ", which is not known, so every verdict is unclear"
    return f": a factor of up to {1 + floor / 100:.2f}, by which the other verdicts' intervals are widened"


def _cache_table(record: Row, summary: Row) -> Table | None:
    each = token_bytes(record)
    if each is None:
        return None
    model, dtype = record["model"], record["engine"]["dtype"]
    lines = []
    for row in summary["modes"]:
        if row["cache_bytes"] is None:
            continue
        expected = 0.0 if row["arm"] == "no_cache" else row["formula_bytes"]
        more = row["cache_bytes"] - expected
        percent = f"{signed(100 * more / expected, 1)}%" if expected else NONE
        lines.append(Line(LABELS[row["arm"]], (mib(expected), mib(row["cache_bytes"]), mib(more), percent)))
    if not lines:
        return None
    pool, size = record["engine"].get("kv_cache_bytes"), record["engine"].get("block_size")
    below = [
        f"formula: 2 x {model['num_layers']} layers x {model['num_kv_heads']} KV heads x "
        f"{model['head_dim']} x {ELEMENT_BYTES[dtype]} bytes ({dtype}) = {each:,} bytes a token. "
        f"measured: in transformers the bytes of its K and V tensors, in vLLM whole blocks of {size} tokens "
        f"that the request holds, out of a pool of {mib(pool)} MiB that it has from the start.",
    ]
    tokens = summary["modes"][0]["input_len"] + summary["modes"][0]["output_len"] - 1
    columns = ("", "formula MiB", "measured MiB", "more MiB", "more")
    return Table(f"KV cache of {tokens} tokens", columns, [Section("", lines)], below=below)


def _along_the_way(record: Row, summary: Row) -> Table | None:
    by_step: dict[int, dict[str, Row]] = {}
    for row in summary["steps"]:
        by_step.setdefault(row["step"], {})[row["arm"]] = row
    if not by_step:
        return None
    last = max(by_step)
    chosen = sorted(
        {1, 2, max(last // 4, 1), max(last // 2, 1), max(3 * last // 4, 1), last} & by_step.keys()
    )
    lines = []
    for step in chosen:
        here = by_step[step]
        times = [ms(here[mode]["median_us"]) if mode in here else NONE for mode in MODES]
        caches = [mib(here[mode].get("cache_bytes")) if mode in here else NONE for mode in MODES[1:]]
        lines.append(Line(str(step), (str(next(iter(here.values()))["tokens"]), *times, *caches)))
    columns = ("step", "tokens", "no cache ms", "KV cache ms", "paged ms", "KV MiB", "paged MiB")
    below = ["tokens: that the step's attention sees; KV and paged MiB: K and V that are kept after it."]
    return Table("Along the generation", columns, [Section("", lines)], below=below)


def plots(record: Row, summary: Row, folder: Path) -> None:
    """Latency and memory along the steps, and the modes side by side."""
    kvcache_plot.write(record, summary, folder)
