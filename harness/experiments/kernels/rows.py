"""summary.json of `kernels`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.schema import Amount
from harness.runs.summary import CellKeys, ContrastKeys, Outcome, PairFigures, Summary, Timed, WarmUp


class KernelCell(Outcome, WarmUp, Timed, CellKeys):
    """A kernel's arm at one spread_k, in us."""

    gather_us: Amount | None = Field(description="of the gather that the arm needs first")
    tflops: Amount | None = Field(description="TFLOP/s")
    gbps: Amount | None = Field(description="the least memory traffic, GB/s")


class KernelContrast(PairFigures, ContrastKeys):
    """`core`, `fragmentation` or `A/A` of one kernel and spread_k."""


class KernelsSummary(Summary):
    """All figures of `kernels`."""

    cells: list[KernelCell]
    contrasts: list[KernelContrast]
    tolerance_pct: Amount = Field(description="within which a difference is `same`")
