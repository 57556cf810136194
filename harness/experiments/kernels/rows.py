"""summary.json of `kernels`, key by key."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from harness.runs.stored import Amount
from harness.runs.summary import ContrastFigures, KernelTimes, Summary


class KernelCell(KernelTimes):
    """A kernel's arm at one spread_k, in us."""


class KernelContrast(ContrastFigures):
    """`core`, `fragmentation`, `A/A` or `placebo` of one kernel and spread_k."""


class KernelsSummary(Summary):
    """All figures of `kernels`."""

    cells: list[KernelCell]
    contrasts: list[KernelContrast]
    tolerance_pct: Amount = Field(description="within which a difference is `same`")

    @cached_property
    def digits(self) -> int:
        """Decimals of a time in ms: tenths of a microsecond where calls are short."""
        return 4 if all((row.median_us or 0) < 10_000 for row in self.cells) else 3
