"""summary.json of `kvcache`: whole generations, speed-ups, the cache's size by the formula, every token."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import figures, stats, verdicts
from harness.experiments.kvcache.rows import KVCacheSummary, ModeRow, SpeedUpRow, StepRow
from harness.runs.record import Result, Status, latest
from harness.runs.schema import RunRecord
from harness.units import ELEMENT_BYTES, kv_bytes_per_token

MODES = ("no_cache", "kv_cache", "paged")
SHORT = {"no_cache": "no cache", "kv_cache": "KV cache", "paged": "paged"}
# Baseline and treatment.
CONTRASTS = (("no_cache", "kv_cache"), ("no_cache", "paged"), ("kv_cache", "paged"))
AGAIN = "A/A"


def summarise(record: RunRecord, results: Sequence[Result]) -> KVCacheSummary:
    """summary.json's lists, with a row for each mode or pair of modes.

    `modes` (whole generations, first token, tokens after it, memory, tokens equal to those without a cache),
    `speed_ups`, and `steps` (a row for each token of each mode, with the formula's cache size).
    """
    final = latest(results)
    whole = {r.cell.arm: r for r in final if r.cell.stage == "end_to_end" and not r.control}
    again = next((r for r in final if r.control), None)
    memory = {r.cell.arm: r for r in final if r.cell.stage == "memory"}
    steps = [_step(record, r) for r in final if r.cell.stage == "step"]
    steps.sort(key=lambda row: (MODES.index(row.arm), row.step))
    return KVCacheSummary(
        schema_version=2,
        status=record.status,
        modes=[_mode(record, whole[mode], memory.get(mode), steps) for mode in MODES if mode in whole],
        speed_ups=_speed_ups(whole, again),
        steps=steps,
    )


def token_bytes(record: RunRecord) -> int | None:
    """Bytes of K and V of a token: those of all layers, whose sizes may differ; for a record that does not
    say, 2 * layers * KV heads * head size * bytes of a number.

    None if no engine reported its data type.
    """
    if record.kv_bytes_per_token:
        return record.kv_bytes_per_token
    model, size = record.model, ELEMENT_BYTES.get(str(record.engine.dtype)) if record.engine else None
    if not (size and model.num_layers and model.num_kv_heads and model.head_dim):
        return None
    return kv_bytes_per_token(model.num_layers, model.num_kv_heads, model.head_dim, size)


def _step(record: RunRecord, result: Result) -> StepRow:
    """One token's row; after the first token the cache holds the prompt, and one token more after each
    later one.
    """
    fields = figures.cell_row(result)
    tokens, each = fields["input_len"] + fields["step"] - 1, token_bytes(record)
    return StepRow(**fields, tokens=tokens, formula_bytes=None if each is None else each * tokens)


def _mode(record: RunRecord, result: Result, memory: Result | None, steps: Sequence[StepRow]) -> ModeRow:
    own = [step for step in steps if step.arm == result.cell.arm and step.median_us is not None]
    medians = [step.median_us for step in own if step.median_us is not None]
    later = medians[1:]
    readings = memory.readings if memory else {}
    same, of = _same_tokens(record, result.cell.arm)
    checked = (record.first_logits or {}).get(result.cell.arm)
    return ModeRow(
        **figures.cell_row(result),
        first_token_us=medians[0] if medians else None,
        token_us=sum(later) / len(later) if later else None,
        last_token_us=later[-1] if later else None,
        start_bytes=_median(readings.get("start_bytes")),
        peak_bytes=_median(readings.get("peak_bytes")),
        cache_bytes=own[-1].cache_bytes if own else None,
        formula_bytes=own[-1].formula_bytes if own else None,
        same_tokens=same,
        compared_tokens=of,
        logits_error=checked.error if checked else None,
        objection=checked.objection if checked else None,
    )


def _median(values: Sequence[float] | None) -> float | None:
    return stats.median_interval(values).median if values else None


def _same_tokens(record: RunRecord, mode: str) -> tuple[int | None, int | None]:
    """How many leading tokens equal those without a cache, and out of how many; None: not comparable."""
    tokens = record.tokens or {}
    if mode not in tokens or "no_cache" not in tokens or has_own_weights(record, mode):
        return None, None
    pairs = list(zip(tokens[mode], tokens["no_cache"], strict=True))
    return next((n for n, (one, two) in enumerate(pairs) if one != two), len(pairs)), len(pairs)


def has_own_weights(record: RunRecord, mode: str) -> bool:
    """Whether the mode's weights differ from transformers', because each draws its own."""
    return mode == "paged" and bool(record.model.drawn_apart)


def _speed_ups(whole: dict[str, Result], again: Result | None) -> list[SpeedUpRow]:
    """The speed-up of each mode over another, from the quotients of paired times.

    Not from differences: for times that differ severalfold, quotients spread less.
    """
    pairs = [(f"{SHORT[two]} against {SHORT[one]}", whole.get(one), whole.get(two)) for one, two in CONTRASTS]
    twins = whole.get("kv_cache"), again
    noise = _speed_up(AGAIN, *twins, factor=1.0)  # not widened
    sound = all(result and result.status is Status.OK for result in twins)
    factor = stats.noise_factor(noise.ci95_speed_up) if noise and sound else None
    rows = [row for name, one, two in pairs if (row := _speed_up(name, one, two, factor))]
    floor_pct = factor and 100 * (factor - 1)
    return [
        row.model_copy(update={"noise_floor_pct": floor_pct}) for row in [*rows, *([noise] if noise else [])]
    ]


def _speed_up(
    name: str, baseline: Result | None, treatment: Result | None, factor: float | None
) -> SpeedUpRow | None:
    """The baseline's time over the treatment's; `verdict` is about the treatment. None without a pair.

    Args:
        factor: by how much a mode differs from itself at most (A/A); None: not known.
    """
    if not (baseline and treatment and baseline.samples_us and treatment.samples_us):
        return None
    n = min(len(baseline.samples_us), len(treatment.samples_us))
    pairs = zip(baseline.samples_us[:n], treatment.samples_us[:n], strict=True)
    taken = stats.median_interval([two / one for one, two in pairs])
    bounds = taken.ci95
    sound = baseline.status is treatment.status is Status.OK
    judgement = verdicts.judge_quotient(bounds, factor, sound=sound)
    return SpeedUpRow(
        contrast=name,
        speed_up=1 / taken.median,
        ci95_speed_up=(1 / bounds[1], 1 / bounds[0]) if bounds else None,
        verdict=judgement.verdict,
        reason_code=judgement.reason,
        clock_mhz=figures.median_clock_mhz([baseline, treatment]),
        n=n,
        noise_floor_pct=None,
    )
