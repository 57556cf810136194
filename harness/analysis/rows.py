"""Rows of the main job's summary, and the one way to find rows of any: by what identifies them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from pydantic import Field

from harness.runs.record import Data, StatusName
from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import HolmLevel, KernelTimes, Outcome, PairFigures, ReasonCode, Verdict

R = TypeVar("R", bound=Stored)
Layer = int | Literal["mean", "sum"]


def select(rows: Iterable[R], **keys: object) -> list[R]:
    """The rows that have all of these values."""
    return [row for row in rows if _has(row, keys)]


def find(rows: Iterable[R], **keys: object) -> R | None:
    """The first of them; None if there is none."""
    return next((row for row in rows if _has(row, keys)), None)


def _has(row: Stored, keys: dict[str, object]) -> bool:
    return all(getattr(row, key) == value for key, value in keys.items())


class KernelRow(KernelTimes):
    """A cell other than a whole prefill, on one layer or as the mean or sum over the measured layers."""

    layer: Layer | None = Field(default=None, description='an index, `"mean"` or `"sum"`')
    layers: Count | None = Field(default=None, description="how many are in a mean or a sum")
    rank: Count | None = Field(default=None, description="which rank, if there are several")
    gather_ci95_us: Interval | None = Field(default=None, description="of the gather")
    gather_gbps: Amount | None = Field(default=None, description="the gather's bandwidth, GB/s")
    share_of_ceiling_pct: Amount | None = Field(
        default=None, description="of what the device attains, by its ceilings at this row's clock"
    )
    ceiling_scaled: bool | None = Field(
        default=None, description="whether the ceiling was scaled to that clock; else it is as measured"
    )
    clock_mhz: Amount | None = Field(default=None, description="median SM clock")


class ContrastRow(PairFigures):
    """Treatment minus baseline, pair by pair.

    In the series of a larger `spread_k`, `paged@1` is the one-segment baseline, `paged@1 again` its
    repetition.
    """

    kernel: str = Field(description="`prefill` end to end")
    baseline: str = Field(description="its arm")
    treatment: str = Field(description="its arm")
    spread_k: Count = Field(description="the treatment's")
    layer: Layer | None = Field(default=None, description='an index, `"mean"`, `"sum"`; null end to end')
    layers: Count | None = Field(default=None, description="how many are in a mean or a sum")
    data: Data | None = Field(default=None, description="which inputs; null: captured against synthetic")
    rank: Count | None = Field(default=None, description="which rank, if there are several")
    noise_floor_pct: Amount | None = Field(description="by A/A or the placebo of the same series")


class PrefillRow(Outcome):
    """One way of running the whole prefill."""

    arm: str = Field(description="its name")
    spread_k: Count = Field(description="segments that a prompt's blocks are split into")
    median_ms: Amount | None = Field(description="null: not measured")
    ci95_ms: Interval | None = Field(description="null below 6 samples")
    n: Count = Field(description="samples")
    warnings: list[str] = Field(description="warnings about the samples")


class RequestRow(Stored):
    """For a batch: the engine's kernel on one request of the step alone, in the first layer of each shape."""

    request: int | Literal["sum", "step"] = Field(
        description='the first one\'s index; `"sum"` over all; `"step"`: all of them in one call'
    )
    count: Count | None = Field(description="requests of this length and spread_k")
    layer: Count = Field(description="index")
    length: Count | None = Field(description="tokens")
    blocks: Count | None = Field(description="of its KV cache")
    spread_k: Count | None = Field(description="segments that they are split into")
    kernel: str = Field(description="the engine's")
    provider: str = Field(description="the kernel's origin")
    dense_us: Amount | None = Field(description="on contiguous K and V")
    one_segment_us: Amount | None = Field(description="on one segment of blocks")
    paged_us: Amount | None = Field(description="on spread_k segments")
    delta_us: float | None = Field(description="`paged_us` minus `one_segment_us`, pair by pair")
    delta_pct: float | None = Field(description="of `one_segment_us`")
    ci95_pct: Interval | None = Field(description="of `one_segment_us`")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    verdict: Verdict | None = Field(description="of `paged_us`")
    reason_code: ReasonCode = None
    holm_level: HolmLevel = None
    n: Count | None = Field(description="samples")
    status: StatusName = Field(description="`ok`, or what it ended with")
    reason: str | None = Field(description="why it is not `ok`")
