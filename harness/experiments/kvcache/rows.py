"""summary.json of `kvcache`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import CellKeys, Clock, Outcome, ReasonCode, Summary, Timed, Verdict, WarmUp


class _Axes(Stored):
    input_len: Count = Field(description="tokens of the prompt")
    output_len: Count = Field(description="tokens generated")


class ModeRow(Outcome, WarmUp, Timed, _Axes, CellKeys):
    """Whole generations of one mode, in us."""

    first_token_us: Amount | None = Field(description="all steps ahead of decoding")
    token_us: Amount | None = Field(description="mean of the medians after the first token")
    last_token_us: Amount | None = Field(description="its median")
    start_bytes: Amount | None = Field(description="in use when the generation starts")
    peak_bytes: Amount | None = Field(description="the peak")
    cache_bytes: Amount | None = Field(description="of K and V at the last token")
    formula_bytes: Amount | None = Field(description="the same, by the formula")
    same_tokens: Count | None = Field(description="tokens from the first on that equal those without a cache")
    compared_tokens: Count | None = Field(description="compared tokens; null: other weights")
    logits_error: Amount | None = Field(
        description="of the first token's logits, in their standard deviations"
    )
    objection: str | None = Field(description="what is wrong with them")


class SpeedUpRow(Stored):
    """The speed-up of one mode over another."""

    contrast: str = Field(description="treatment against baseline; `A/A` is the noise floor")
    speed_up: Amount = Field(description="the baseline's time over the treatment's, pair by pair")
    ci95_speed_up: Interval | None = Field(description="null below 6 pairs")
    verdict: Verdict = Field(description="of the treatment's time")
    reason_code: ReasonCode = None
    clock_mhz: Clock = None
    n: Count = Field(description="pairs")
    noise_floor_pct: Amount | None = Field(description="by how much a mode differs from itself")


class _StepAxes(_Axes):
    step: Count = Field(description="token, from 1 on")


class _Readings(Stored):
    cache_bytes: Amount | None = Field(default=None, description="of K and V")
    memory_bytes: Amount | None = Field(default=None, description="in use after it")


class StepRow(Outcome, _Readings, WarmUp, Timed, _StepAxes, CellKeys):
    """One token of one mode, in us."""

    tokens: Count = Field(description="tokens in the cache before it")
    formula_bytes: Count | None = Field(description="of K and V by the formula")


class KVCacheSummary(Summary):
    """All figures of `kvcache`."""

    modes: list[ModeRow]
    speed_ups: list[SpeedUpRow]
    steps: list[StepRow]
