"""summary.json of `backends`, key by key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.runs.record import StatusName
from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import (
    CellKeys,
    ContrastFigures,
    Outcome,
    ReasonCode,
    Summary,
    Timed,
    Verdict,
    WarmUp,
)


class _Axes(Stored):
    batch_size: Count = Field(description="prompts")
    input_len: Count = Field(description="tokens of each")


class _Readings(Stored):
    buffer_bytes: Amount | None = Field(default=None, description="of the dense buffer, attention alone")
    extra_bytes: Amount | None = Field(
        default=None, description="that a call allocates beside its inputs, attention alone, on a GPU"
    )


class BackendCell(Outcome, _Readings, WarmUp, Timed, _Axes, CellKeys):
    """A backend at one size, in us."""

    backend: str = Field(description="as columns name it")
    attention_alone: bool = Field(description="PyTorch's attention, without an engine")
    prefill_steps: Count | None = Field(description="engine steps to prefill the prompts; null when decoding")
    tokens_per_s: Amount | None = Field(description="throughput of the model, or of all its attention layers")
    ci95_tokens_per_s: Interval | None = Field(description="its interval")


class WinnerRow(_Axes):
    """The fastest engine of a size."""

    winner: str = Field(description="its backend")
    tokens_per_s: Amount = Field(description="the winner's")
    second: str = Field(description="the runner-up's backend")
    speed_up: Amount = Field(description="over the runner-up")
    ci95_speed_up: Interval | None = Field(description="from both medians' intervals")
    noise_floor_pct: Amount | None = Field(description="between two engines of one backend")
    verdict: Verdict = Field(description="of the winner, by the interval widened by the noise floor")
    reason_code: ReasonCode = None


class AgainRow(_Axes):
    """Two engines of one backend (A/A)."""

    backend: str = Field(description="whose")
    ratio: Amount | None = Field(description="the second's time over the first's")
    ci95_ratio: Interval | None = Field(description="from both medians' intervals")
    noise_floor_pct: Amount | None = Field(description="the interval's larger distance from 1")
    n: Count = Field(description="samples of the second")
    status: StatusName = Field(description="`ok`, or what the second ended with")
    reason: str | None = Field(description="why it is not `ok`")


class ComputeBoundRow(Stored):
    """The batch size from which on time grows in proportion."""

    backend: str = Field(description="as columns name it")
    input_len: Count = Field(description="tokens of each prompt")
    batch_size: Count | None = Field(description="from this on")
    reason: str | None = Field(description="why there is none")


class ExponentRow(Stored):
    """The exponent with which time grows with the batch size."""

    backend: str = Field(description="as columns name it")
    input_len: Count = Field(description="tokens of each prompt")
    batch_size: Count = Field(description="from this")
    next_batch_size: Count = Field(description="to this")
    exponent: float = Field(description="the power")
    ci95_exponent: Interval | None = Field(description="from both medians' intervals")


class BackendContrast(_Axes, ContrastFigures):
    """Block by block against the dense buffer, or `A/A`."""


class BackendsSummary(Summary):
    """All figures of `backends`."""

    phase: Literal["prefill", "decode"] = Field(description="what was timed")
    cells: list[BackendCell]
    winners: list[WinnerRow]
    engines_again: list[AgainRow]
    compute_bound: list[ComputeBoundRow]
    exponents: list[ExponentRow]
    contrasts: list[BackendContrast]
