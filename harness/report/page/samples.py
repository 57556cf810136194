"""The samples behind a row of the summary, for those who point at its mark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.analysis.contrasts import name_in_series, rounds
from harness.report.page.svg import Tip
from harness.report.rows import Row, change
from harness.report.tables import interval_of, ms
from harness.runs.record import Result
from harness.units import counted

Key = tuple[str, str, int]  # kernel, name of the arm within its series, spread_k that the series is about


@dataclass(frozen=True)
class Samples:
    """A run's results on captured inputs, one a layer; of a cell that was measured twice the later.

    Of several ranks one's only, and none of other engines.
    """

    results: dict[Key, dict[int | None, Result]]

    @classmethod
    def of(cls, results: Iterable[Result], rank: int | None = None) -> Samples:
        """Of all that a run has kept; with several ranks, of `rank`."""
        found: dict[Key, dict[int | None, Result]] = {}
        for result in results:
            cell = result.cell
            elsewhere = cell.rank not in (None, rank) or cell.variant is not None
            if cell.data == "captured" and not (result.control or elsewhere) and cell.request is None:
                key = cell.kernel, name_in_series(result), result.one_run_for or cell.spread_k
                found.setdefault(key, {})[cell.layer] = result
        return cls(found)

    def prefill_tip(self, row: Row, name: str, digits: int, paired: Row | None = None) -> Tip:
        """A prefill's figures: median, interval, difference to one run, n, clocks, samples."""
        found = self._of("prefill", row["arm"], row["spread_k"])
        median = interval_of(row["median_ms"], row["ci95_ms"], digits, sign=False, unit=" ms")
        lines = [f"prefill, {name}", f"median {median}", *_against(paired), _rounds(row, found)]
        return Tip([*lines, *row["warnings"]], [sample / 1000 for r in found for sample in r.samples_us])

    def kernel_tip(self, row: Row, paired: Row | None = None, digits: int = 4) -> Tip:
        """A kernel's figures; its samples are means over the layers, round by round."""
        found = self._of(row["kernel"], row["arm"], row["spread_k"])
        bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
        median = interval_of(row["median_us"] / 1000, bounds, digits, sign=False, unit=" ms")
        lines = [f"{row['kernel']} ({row['provider']}), {row['arm']}, spread_k = {row['spread_k']}"]
        lines += [f"median {median}", *_against(paired), _rounds(row, found)]
        if row["gather_us"] is not None:
            lines.append(f"gather {ms(row['gather_us'], digits)} ms, not counted here")
        lines += [text for text in (row["reason"], *row["warnings"]) if text]
        return Tip(lines, [float(mean) / 1000 for mean in rounds(found)])

    def contrast_tip(self, row: Row) -> Tip:
        """A contrast's figures; its samples are the paired differences in percent of the baseline."""
        k, layer = row["spread_k"], row["layer"]
        bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
        where = f"spread_k = {k}" + (f", layer {layer}" if isinstance(layer, int) else "")
        delta = interval_of(row["delta_us"] / 1000, bounds, 4, unit=" ms")
        sides = [self._side(row, arm) for arm in (row["baseline"], row["treatment"])]
        lines = [
            f"{row['kernel']}, {where}: {row['treatment']} against {row['baseline']}",
            f"{change(row)}, {row['verdict']}",
            f"{delta} of {row['baseline_us'] / 1000:.4f} ms",
            _rounds(row, sides[1]).replace("rounds", "pairs"),
        ]
        one, two = (rounds(side) for side in sides)
        n = min(len(one), len(two))
        return Tip(lines, [float(x) for x in 100 * (two[:n] - one[:n]) / row["baseline_us"]], "%")

    def _side(self, row: Row, arm: str) -> list[Result]:
        """One arm of a contrast: "paged@1" is the paged arm itself where its series is about one run."""
        alone = row["spread_k"] == 1 or row["kernel"] == "prefill"
        if alone and arm.endswith("@1"):
            return self._of(row["kernel"], arm.removesuffix("@1"), 1, row["layer"])
        return self._of(row["kernel"], arm, row["spread_k"], row["layer"])

    def _of(self, kernel: str, arm: str, spread_k: int, layer: object = "mean") -> list[Result]:
        """The results that have samples, on all layers or one."""
        found = self.results.get((kernel, arm, spread_k), {})
        return [r for r in found.values() if r.samples_us and layer in ("mean", r.cell.layer)]


def _against(paired: Row | None) -> list[str]:
    return [f"against one run {change(paired)}, {paired['verdict']}"] if paired else []


def _rounds(row: Row, results: list[Result]) -> str:
    """How many samples, of what, and at which clock they were taken."""
    layers = f", each the mean over {counted(row['layers'], 'layer')}" if row.get("layers") else ""
    clocks = [mhz for result in results for mhz in result.clock_mhz]
    clock = f"SM clock {np.median(clocks):.0f} MHz" if clocks else "no clock read"
    return f"n = {counted(row['n'], 'round')}{layers}; {clock}"
