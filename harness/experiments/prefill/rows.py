"""summary.json of the main job, key by key; its rows are in harness/analysis."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.analysis import busy_host
from harness.analysis.breakdown import sentence
from harness.analysis.breakdown.rows import Breakdown, VariantRow
from harness.analysis.rows import ContrastRow, KernelRow, PrefillRow, RequestRow
from harness.runs import former
from harness.runs.schema import RunRecord
from harness.runs.stored import Amount, Count
from harness.runs.summary import Reason, Summary


class PrefillSummary(Summary):
    """All figures of the main job."""

    tolerance_pct: Amount = Field(description="within which a difference is `same`")
    slowest_rank: Count | None = Field(
        default=None, description="the rank whose figures the tables show; null with one rank"
    )
    kernels: list[KernelRow]
    contrasts: list[ContrastRow]
    end_to_end: list[PrefillRow]
    requests: list[RequestRow] = Field(default=[])
    attribution: Breakdown | None
    variants: list[VariantRow] = Field(default=[])

    def conclude(self, record: RunRecord) -> None:
        """The breakdown's sentence, whose verdict is the table's."""
        if not self.attribution:
            return
        self.attribution.sentence = sentence.of(record, self.attribution)
        if any(row.reason_code is Reason.BUSY_HOST for row in self.attribution.measured):
            why = busy_host.why_busy(record.host_load)
            self.attribution.sentence += f" Verdicts are withheld: {why}."

    @classmethod
    def from_1(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Former keys and arms get the names that they have now."""
        renamed: dict[str, Any] = _rename(super().from_1(data))
        return renamed


def _rename(data: Any, key: str = "") -> Any:
    if isinstance(data, dict):
        return {former.SUMMARY_KEYS.get(name, name): _rename(value, name) for name, value in data.items()}
    if isinstance(data, list):
        return [_rename(each) for each in data]
    is_arm = key in ("arm", "baseline", "treatment") and isinstance(data, str)
    return former.ARMS.get(data, data) if is_arm else data
