"""summary.json of `cache`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.stored import Amount, Count, Stored
from harness.runs.summary import CellKeys, ContrastFigures, Outcome, Summary, Timed, WarmUp


class _Axes(Stored):
    share_pct: Count = Field(description="share of the prompt in the cache")
    batch_size: Count = Field(description="prompts in one step")


class _Readings(Stored):
    cached_tokens: Amount | None = Field(default=None, description="found by vLLM; median of the rounds")
    hit_rate_pct: Amount | None = Field(default=None, description="of the tokens")
    expected_rate_pct: Amount | None = Field(
        default=None, description="in whole blocks, and never the last token"
    )
    changed_first_tokens: Count = Field(description="prompts whose first token changed, over all rounds")
    reset_us: Amount | None = Field(default=None, description="time of the reset itself")


class CacheCell(Outcome, _Readings, WarmUp, Timed, _Axes, CellKeys):
    """A prefill with the cache in one state; times in us."""


class CacheContrast(_Axes, ContrastFigures):
    """`warm` against reset, or `A/A`."""


class CacheSummary(Summary):
    """All figures of `cache`."""

    cells: list[CacheCell]
    contrasts: list[CacheContrast]
    tolerance_pct: Amount = Field(description="within which a difference is `same`")
    reset: Timed
