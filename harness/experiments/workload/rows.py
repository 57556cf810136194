"""summary.json of `workload`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import (
    CellKeys,
    ContrastFigures,
    Outcome,
    Summary,
    Timed,
    WarmUp,
)


class _Axes(Stored):
    task: str = Field(description="`generate`, `embed`, `classify` or `score`")
    requests: Count = Field(description="of the work")


class ArmRow(Outcome, WarmUp, Timed, _Axes, CellKeys):
    """Passes of the whole work in one arm, in us; percentiles are of the requests of a pass."""

    requests_per_s: Amount | None = Field(description="from the median pass")
    ci95_requests_per_s: Interval | None = Field(description="its interval")
    tokens_per_s: Amount | None = Field(description="prompt tokens, from the median pass")
    p50_us: Amount | None = Field(default=None, description="median request, median of the passes")
    p90_us: Amount | None = Field(default=None, description="the same of the 90th percentile")
    p99_us: Amount | None = Field(default=None, description="the same of the 99th percentile")
    ci95_p50_us: Interval | None = Field(description="its interval over the passes")
    ci95_p90_us: Interval | None = Field(description="its interval over the passes")
    ci95_p99_us: Interval | None = Field(description="its interval over the passes")


class WorkContrast(_Axes, ContrastFigures):
    """One arm's passes against another's, paired by round."""

    treatment: str = Field(description="the arm")
    baseline: str = Field(description="the arm that it is set against")
    figure: str = Field(description="`pass`, or the percentile of the requests' times")
    requests_per_s_pct: float | None = Field(description="more requests/s, in percent; null: of a request")
    ci95_requests_per_s_pct: Interval | None = Field(
        description="null: of a request, below 6 passes, or without an upper end"
    )


class KindRow(Stored):
    """All steps of one kind in one recorded pass. Shares are of the pass's time in steps and between them."""

    arm: str = Field(description="`stock`, or `whole`, whose scheduler cuts no prompt")
    kind: str = Field(description="`pure prefill`, `chunk`, `mixed`, `decode`, or `all`")
    steps: Count = Field(description="how many")
    tokens: Count = Field(description="computed in them")
    step_requests: float = Field(description="requests of a step, mean")
    mean_us: Amount = Field(description="of a step")
    wall_us: Amount = Field(description="of all of them, with what passes until the next step")
    wall_pct: Amount = Field(description="share of the pass")
    graphs: str = Field(description="how they ran: `NONE` (eager), `PIECEWISE` or `FULL`, and how many")
    segments_per_block: Amount | None = Field(description="of their block tables; null: no blocks")
    cached_tokens: Count = Field(description="that their new requests found in the prefix cache")
    profiled: Count = Field(description="steps from which the following shares are")
    attention_pct: Amount | None = Field(description="attention, share of their own time")
    cache_write_pct: Amount | None = Field(description="writing K and V into the cache")
    other_pct: Amount | None = Field(description="the rest of the device's work")
    waiting_pct: Amount | None = Field(description="within steps: a GPU idle, or on a CPU no operator")
    between_pct: Amount = Field(description="between steps: scheduling, sending, processing outputs")
    without_cache: bool = Field(description="whether such steps can do without the cache")


class LayoutRow(Stored):
    """A part of the recorded pass: how the block tables of its steps lay."""

    arm: str = Field(description="as in the steps by kind")
    part: Count = Field(description="tenth of the steps, from 1")
    start_us: Amount = Field(description="of its first step, since the pass began")
    blocks: Count = Field(description="of its steps' block tables")
    segments: Count = Field(description="of them")
    segments_per_block: Amount = Field(description="1: no two neighbours; the less, the longer segments")


class StepRow(Stored):
    """One step of a recorded pass."""

    arm: str = Field(description="as in the steps by kind")
    step: Count = Field(description="its number, from 1")
    kind: str = Field(description="as above")
    tokens: Count = Field(description="computed in it")
    step_requests: Count = Field(description="its requests")
    cached_tokens: Count = Field(description="that its new requests found in the prefix cache")
    graph: str = Field(description="`NONE` (eager), `PIECEWISE` or `FULL`")
    blocks: Count = Field(description="of its block tables")
    segments: Count = Field(description="of them")
    start_us: Amount = Field(description="since the pass began")
    us: Amount = Field(description="of the step")
    gap_us: Amount = Field(description="until the next step")


class WorkloadSummary(Summary):
    """All figures of `workload`."""

    arms: list[ArmRow]
    contrasts: list[WorkContrast]
    kinds: list[KindRow]
    layout: list[LayoutRow]
    steps: list[StepRow]
