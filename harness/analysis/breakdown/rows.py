"""Rows of the breakdown, and of engines that differ in one option, as the main job's summary has them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.runs.record import StatusName
from harness.runs.schema import SpreadRange
from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import Clock, HolmLevel, ReasonCode, Verdict

Bound = Literal["GPU-bound", "host-bound", "partly host-bound", "unknown", "not applicable"]


ResidualVerdict = Literal["as predicted", "more than predicted", "less than predicted", "unclear"]


class MeasuredRow(Stored):
    """A component of what the paged KV cache costs, measured in the engine."""

    component: str = Field(description="`fragmentation`, `paging`, `cache_write`, `total`, ...")
    baseline: str = Field(description="its arm")
    treatment: str = Field(description="its arm")
    ms: float | None = Field(description="mean of the differences, outliers bounded")
    ci95_ms: Interval | None = Field(
        description="null below 6 pairs; of the three parts and their total all four hold at once"
    )
    pct: float | None = Field(description="of the prefill")
    ci95_pct: Interval | None = Field(description="of the prefill")
    n: Count = Field(description="pairs")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    reason: str | None = Field(description="why there are no figures, or a remark")
    verdict: Verdict | None = Field(description="of the treatment")
    reason_code: ReasonCode = None
    holm_level: HolmLevel = None


class PredictedRow(Stored):
    """The same as a sum of replayed kernels."""

    component: str = Field(description="as in `measured`")
    ms: float | None = Field(description="over all layers")
    ci95_ms: Interval | None = Field(
        description="null below 6 rounds, and where one layer stands for others; how layers differ is in it"
    )
    pct: float | None = Field(description="of the prefill")
    ci95_pct: Interval | None = Field(description="of the prefill")
    n: Count = Field(description="rounds")
    reason: str | None = Field(description="why there are no figures, or a remark")
    layers: Count | None = Field(description="how many it was computed from")


class ResidualRow(Stored):
    """Measured minus predicted."""

    component: str = Field(description="as in `measured`")
    ms: float | None = Field(description="the difference")
    ci95_ms: Interval | None = Field(description="of two independent means")
    ci95_pct: Interval | None = Field(default=None, description="of the prefill")
    pct_of_measured: float | None = Field(description="the difference")
    includes_zero: bool | None = Field(description="whether the interval includes zero")
    verdict: ResidualVerdict | None = Field(
        default=None, description="by the interval in percent of the prefill"
    )
    reason_code: ReasonCode = None
    reason: str | None = Field(description="remarks on either side")


class CategoryRow(Stored):
    """Part of a profiled arm's step."""

    arm: str = Field(description="of the whole prefills")
    spread_k: Count = Field(description="segments of a prompt's blocks")
    category: str = Field(description="of kernels, or `GPU idle`")
    ms: Amount | None = Field(description="its time")
    pct: Amount | None = Field(
        description="of the shorter of the profiled prefill and the median without a profiler"
    )


class ProfilingRow(Stored):
    """The overhead of profiling an arm."""

    arm: str = Field(description="of the whole prefills")
    spread_k: Count = Field(description="segments of a prompt's blocks")
    profiled_ms: Amount = Field(description="the profiled prefill")
    unprofiled_ms: Amount | None = Field(description="median of the others")
    overhead_pct: float | None = Field(description="of that median")


class HostBound(Stored):
    """Whether the step waits for the GPU or for the host that launches its work."""

    verdict: Bound = Field(description="what it waits for")
    gpu_busy_pct: Amount | None = Field(description="share of the step in which the GPU works")
    injected_ms: float | None = Field(description="the delay before every layer's attention, in total")
    injected_ci95_ms: Interval | None = Field(description="its interval")
    pass_through_pct: float | None = Field(description="share of the delay that reached the latency")
    ci95_pct: Interval | None = Field(description="its interval")
    reason: str | None = Field(description="a qualification")


class StepRow(Stored):
    """A step from random inputs to the engine's, changing one thing."""

    step: str = Field(description="what differs from the previous step")
    us: Amount | None = Field(description="a layer's attention")
    ci95_us: Interval | None = Field(description="null below 6 rounds")
    delta_us: float | None = Field(description="from the previous step")
    delta_ci95_us: Interval | None = Field(description="its interval")
    delta_pct: float | None = Field(description="of the previous step")
    delta_ci95_pct: Interval | None = Field(description="its interval")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    verdict: Verdict | None = Field(description="against the previous step")
    reason_code: ReasonCode = None
    holm_level: HolmLevel = None
    n: Count = Field(description="rounds")
    reason: str | None = Field(description="why there are no figures, or a remark")


class BreakEvenRow(Stored):
    """How many uses it takes for a gather to pay off."""

    kernel: str = Field(description="the contiguous one")
    provider: str = Field(description="the kernel's origin")
    block_size: Count = Field(description="the paged kernel's")
    gather_us: Amount | None = Field(description="the copy")
    paged_us: Amount | None = Field(description="attention on the blocks")
    contiguous_us: Amount | None = Field(description="attention on the copy")
    saving_us: float | None = Field(description="paged minus contiguous, pair by pair")
    saving_ci95_us: Interval | None = Field(description="its interval")
    reuses: Amount | None = Field(description="attention calls on one copy")
    reuses_ci95: Interval | None = Field(description="its interval")
    length_for_one_use: Count | None = Field(description="tokens; assumed, not measured")
    pays: str = Field(description="`on the first use`, `from N uses`, `never` or `unclear`")
    reason: str | None = Field(description="a remark")


class Breakdown(Stored):
    """What the paged KV cache costs the prefill; null if no arm was overridden."""

    spread_k: Count = Field(description="the largest, at which fragmentation is measured")
    engine_ms: Amount | None = Field(description="vLLM untouched; shares refer to it")
    engine_ci95_ms: Interval | None = Field(description="its interval")
    engine_spread_k: SpreadRange | None = Field(description="of vLLM's own allocations")
    noise_floor_pct: Amount | None = Field(description="by A/A or the placebo, whichever is more")
    clock_mhz: Amount | None = Field(default=None, description="median SM clock of the prefills")
    replay_clock_mhz: Amount | None = Field(
        default=None, description="of the replayed attention, which `predicted` scales to the prefills' clock"
    )
    layers: Count | None = Field(description="of the model")
    layers_replayed: Count = Field(description="of those")
    components: list[CategoryRow] = Field(default=[])
    measured: list[MeasuredRow]
    predicted: list[PredictedRow]
    residual: list[ResidualRow]
    residual_pct: Amount | None = Field(description="of paging")
    host_bound: HostBound
    profiled: list[ProfilingRow] = Field(default=[])
    captured_vs_synthetic: list[StepRow] = Field(default=[])
    break_even: list[BreakEvenRow]
    sentence: str = Field(description="the breakdown in a sentence")


class Share(Stored):
    """A difference of two arms of one engine."""

    ms: float | None = Field(description="mean of the differences, outliers bounded")
    ci95_ms: Interval | None = Field(description="null below 6 pairs")
    pct: float | None = Field(description="of the engine's prefill")
    ci95_pct: Interval | None = Field(description="of the engine's prefill")
    n: Count = Field(description="pairs")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    reason: str | None = Field(description="why there are no figures, or a remark")


class VariantRow(Stored):
    """Another engine; the two baselines come first."""

    variant: str = Field(description="its name")
    option: str | None = Field(description="null: the baseline")
    value: int | str | None = Field(description="null: the baseline")
    baseline: str | None = Field(description="the baseline's own value")
    engine_ms: Amount | None = Field(description="median prefill")
    engine_ci95_ms: Interval | None = Field(description="its interval")
    n: Count = Field(description="samples")
    delta_ms: float | None = Field(description="from the baseline, pair by pair")
    ci95_ms: Interval | None = Field(description="its interval")
    delta_pct: float | None = Field(description="of the baseline")
    ci95_pct: Interval | None = Field(description="of the baseline")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    verdict: Verdict | None = Field(description="by the interval widened by the noise floor")
    reason_code: ReasonCode = None
    holm_level: HolmLevel = None
    clock_mhz: Clock = None
    noise_floor_pct: Amount | None = Field(description="between two engines of one configuration")
    paging: Share
    cache_write: Share
    stopped: str | None = Field(description="what ended its series")
    status: StatusName = Field(description="`ok`, or what it ended with")
    reason: str | None = Field(description="why it is not `ok`, or a remark")
    warnings: list[str] = Field(description="warnings about the samples")
