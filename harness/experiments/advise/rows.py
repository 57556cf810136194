"""The rows of `advise`'s summary.json, key by key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.runs.stored import Amount, Count, Interval, Stored
from harness.runs.summary import CellKeys, ContrastFigures, Outcome, Timed, WarmUp

Metric = Literal["throughput", "latency"]
Found = Literal["helps", "hurts", "same", "unclear", "not measured"]


class _Axes(Stored):
    candidate: str = Field(description="the change that stock is set against here; `stock again`: none (A/A)")
    metric: Metric = Field(
        description="`throughput`: all requests of the file at once; `latency`: one request alone, in each "
        "round the next one"
    )
    requests: Count = Field(description="of the file, or those whose latency is taken")
    tokens: Count = Field(description="of these requests")


class AdviseCell(Outcome, WarmUp, Timed, _Axes, CellKeys):
    """One of two engines that answer in turns; times in us, of the whole file or of one request."""

    requests_per_s: Amount | None = Field(default=None, description="of the whole file at once")
    ci95_requests_per_s: Interval | None = Field(default=None, description="its interval")
    p99_us: Amount | None = Field(default=None, description="99th percentile of the latency")
    hit_rate_pct: Amount | None = Field(
        default=None, description="tokens found in the prefix cache; null: it is off"
    )


class AdviseContrast(_Axes, ContrastFigures):
    """A candidate against stock, `A/A`, or `warm`: a cache that the file has filled against an empty one.

    Latencies are compared request by request, in percent of each one's own.
    """

    noise_floor_pct: Amount | None = Field(default=None, description="of two engines of stock (A/A)")


class CandidateRow(Stored):
    """What became of a change."""

    candidate: str = Field(description="its name")
    change: str = Field(description="as `vllm serve` takes it")
    outcome: Found = Field(
        description="`helps`: its gain is larger than two engines of stock differ; `hurts`: so is its loss; "
        "`same`, `unclear`: neither; `not measured`: see the reason"
    )
    reason: str | None = Field(description="why it is unclear, or was not measured")
    serve: str = Field(description="the command to serve the model like this")


class BreakEvenRow(Stored):
    """The hit rate from which on prefix caching is worth it."""

    against: str = Field(description="the engine without a prefix cache")
    hit_rate_pct: float = Field(description="at which both take the same time; above 100: never")
    ci95_pct: Interval | None = Field(description="all that both differences' intervals allow")
    here_pct: Amount = Field(description="hit rate of this file from an empty cache")
    filled_pct: Amount = Field(description="and from one that the file has filled")
