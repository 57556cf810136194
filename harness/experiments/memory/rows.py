"""summary.json of `memory`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.record import StatusName
from harness.runs.stored import Count, Interval, Stored
from harness.runs.summary import CellKeys, Summary


class _Axes(Stored):
    order: Count = Field(description="of the stage, from 0 on")
    moment: str = Field(description="the stage")
    tokens: Count = Field(description="of its inputs")


class _Readings(Stored):
    rss_bytes: Count | None = Field(default=None, description="resident pages of the process")
    peak_rss_bytes: Count | None = Field(default=None, description="their peak in the stage")
    allocated_bytes: Count | None = Field(default=None, description="live tensors on the GPU")
    peak_allocated_bytes: Count | None = Field(default=None, description="their peak in the stage")
    reserved_bytes: Count | None = Field(default=None, description="allocated, and kept for reuse")
    nvml_bytes: int | None = Field(default=None, description="on the GPU, by NVML")
    cache_used_bytes: Count | None = Field(
        default=None, description="of the KV cache, with tokens or padding"
    )
    cache_held_bytes: Count | None = Field(default=None, description="of the KV cache, all of it")


class _Ending(Stored):
    status: StatusName = Field(description="`ok`, or what a process ended with")
    reason: str | None = Field(description="why it is not `ok`")


class _Intervals(Stored):
    ci95_rss_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_peak_rss_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_allocated_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_peak_allocated_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_reserved_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_nvml_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_cache_used_bytes: Interval | None = Field(default=None, description="null below 6 processes")
    ci95_cache_held_bytes: Interval | None = Field(default=None, description="null below 6 processes")


class _Processes(Stored):
    n: Count = Field(description="processes")


class MemoryCell(_Intervals, _Ending, _Readings, _Processes, _Axes, CellKeys):
    """One stage of one engine's job: medians over its processes."""


class WasteRow(Stored):
    """One way to store the KV cache."""

    way: str = Field(description="`needed`, `blocks` or `padded`")
    used_bytes: Count | None = Field(description="with all inputs in it")
    unused_bytes: int | None = Field(description="bytes without a token")
    unused_pct: float | None = Field(description="of them")
    requests_that_fit: Count | None = Field(description="in the pool")
    pool_bytes: Count | None = Field(description="of vLLM's KV cache")
    status: StatusName = Field(description="of the stage it comes from")
    reason: str | None = Field(description="why that is not `ok`")


class MemorySummary(Summary):
    """All figures of `memory`."""

    cells: list[MemoryCell]
    waste: list[WasteRow]
