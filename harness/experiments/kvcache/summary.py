"""summary.json of `kvcache`: whole generations, speed-ups, the cache's size by the formula, every token."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import figures, stats
from harness.report.rows import Row
from harness.runs.record import Result, Status, latest
from harness.units import ELEMENT_BYTES, kv_bytes_per_token

MODES = ("no_cache", "kv_cache", "paged")
SHORT = {"no_cache": "no cache", "kv_cache": "KV cache", "paged": "paged"}
# Baseline and treatment.
CONTRASTS = (("no_cache", "kv_cache"), ("no_cache", "paged"), ("kv_cache", "paged"))
AGAIN = "A/A"


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
        "schema_version": 2,
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
    layers, heads, width = (model[name] for name in ("num_layers", "num_kv_heads", "head_dim"))
    return kv_bytes_per_token(layers, heads, width, ELEMENT_BYTES[dtype])


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
    checked = record.get("first_logits", {}).get(result.cell.arm, {})
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
        "logits_error": checked.get("error"),
        "objection": checked.get("objection"),
    }


def _median(values: Sequence[float] | None) -> float | None:
    return stats.median_interval(values).median if values else None


def _same_tokens(record: Row, mode: str) -> tuple[int | None, int | None]:
    """How many tokens from the first on are those without a cache, and of how many; None: not comparable."""
    tokens = record.get("tokens", {})
    if mode not in tokens or "no_cache" not in tokens or drawn_apart(record, mode):
        return None, None
    pairs = list(zip(tokens[mode], tokens["no_cache"], strict=True))
    return next((n for n, (one, two) in enumerate(pairs) if one != two), len(pairs)), len(pairs)


def drawn_apart(record: Row, mode: str) -> bool:
    """Whether the mode has other weights than transformers, as each draws its own."""
    return mode == "paged" and bool(record["model"].get("drawn_apart"))


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
    bounds = taken.ci95
    sound = baseline.status is treatment.status is Status.OK
    return {
        "contrast": name,
        "speed_up": 1 / taken.median,
        "ci95_speed_up": [1 / bounds[1], 1 / bounds[0]] if bounds else None,
        "verdict": stats.quotient_verdict(bounds, factor) if sound else "unclear",
        "n": n,
    }
