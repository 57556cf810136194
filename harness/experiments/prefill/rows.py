"""summary.json of the main job, key by key; its rows are in harness/analysis."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.analysis.breakdown.rows import Account, VariantRow
from harness.analysis.rows import ContrastRow, KernelRow, PrefillRow, RequestRow
from harness.runs.schema import FORMER_ARMS, Amount, Count
from harness.runs.summary import Summary


class PrefillSummary(Summary):
    """All figures of the main job."""

    tolerance_pct: Amount = Field(description="within which a difference is `same`")
    slowest_rank: Count | None = Field(
        default=None, description="whose figures the tables show; null with one"
    )
    kernels: list[KernelRow]
    contrasts: list[ContrastRow]
    end_to_end: list[PrefillRow]
    requests: list[RequestRow] = Field(default=[])
    attribution: Account | None
    variants: list[VariantRow] = Field(default=[])

    @classmethod
    def from_1(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Arms have their names of now, as in samples."""
        renamed: dict[str, Any] = _arms_of_now(super().from_1(data))
        return renamed


def _arms_of_now(data: Any, key: str = "") -> Any:
    if isinstance(data, dict):
        return {name: _arms_of_now(value, name) for name, value in data.items()}
    if isinstance(data, list):
        return [_arms_of_now(each) for each in data]
    is_arm = key in ("arm", "baseline", "treatment") and isinstance(data, str)
    return FORMER_ARMS.get(data, data) if is_arm else data
