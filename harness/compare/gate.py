"""A gate for CI: how much slower or faster a cell may be, and all that keeps a comparison from passing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis import stats
from harness.compare.ratios import Comparison, Ratio, arm


@dataclass(frozen=True)
class Limit:
    """What makes a comparison fail: a cell that is certainly slower (or faster) by more than this.

    It passes only if every later run is finished and every cell of the first was judged in it, on all its
    layers: running out of memory is not faster, and half a run is no proof.
    """

    direction: str  # "slower" or "faster"
    pct: float
    leave_out: tuple[str, ...] = ()  # parts of the names of cells that are not to be judged

    @classmethod
    def parse(cls, text: str, leave_out: tuple[str, ...] = ()) -> Limit:
        """From "slower:2%"; raises ValueError on anything else."""
        match = re.fullmatch(r"(slower|faster):([0-9]{1,4}(?:\.[0-9]+)?)%", text)
        if not match:
            raise ValueError("must be like slower:2% or faster:5%")
        if match[1] == "faster" and float(match[2]) >= 100:
            raise ValueError("nothing is faster by 100%; name less")
        return cls(match[1], float(match[2]), leave_out)

    def violations(self, comparison: Comparison) -> list[Ratio]:
        """The cells whose whole interval lies beyond the limit."""
        return [
            row
            for row in comparison.ratios
            if row.ci95 and self._beyond(row.ci95) and not self.leaves_out(row.cell)
        ]

    def not_judged(self, comparison: Comparison) -> dict[str, list[str]]:
        """What was not judged and must be, by the reason: runs and cells by their names."""
        reasons: dict[str, list[str]] = {}
        for reason, name in self._not_judged(comparison):
            reasons.setdefault(reason, []).append(name)
        return reasons

    def _not_judged(self, comparison: Comparison) -> Iterator[tuple[str, str]]:
        first, *others = comparison.runs
        for run in others:
            if run.record.status != "finished":
                yield f"the run is {run.record.status}", run.label
        for lone in comparison.lone:
            if lone.run == first.label and not self.leaves_out(lone.cell):
                yield lone.reason, f"{lone.other}: {name(lone.cell)}"
        for row in comparison.ratios:
            if not self.leaves_out(row.cell):
                if row.ci95 is None:
                    yield "too few samples for an interval", f"{row.other}: {name(row.cell)}"
                if row.layers_lost:
                    yield "some of A's layers are missing", f"{row.other}: {name(row.cell)}"

    def judges_nothing(self, comparison: Comparison) -> bool:
        """Whether no cell is left that it could judge."""
        return all(self.leaves_out(row.cell) for row in comparison.ratios)

    def fails(self, comparison: Comparison) -> bool:
        """Whether any cell is beyond the limit or was not judged."""
        return bool(self.violations(comparison) or self.not_judged(comparison))

    def leaves_out(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell is not to be judged."""
        return any(part in name(cell) for part in self.leave_out)

    def _beyond(self, interval: stats.Interval) -> bool:
        if self.direction == "slower":
            return 100 * (interval[0] - 1) > self.pct
        return 100 * (1 - interval[1]) > self.pct


def name(cell: Mapping[str, Any]) -> str:
    """The cell's name in a gate's report and in `--leave-out`, e.g. "flash_attn_func, fragmented 16"."""
    return f"{cell['kernel']}, {arm(cell)}"
