"""Tooltips on the page: figures, samples and their number, the clock, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from harness import units
from harness.analysis import stats
from harness.analysis.contrasts import name_in_series, rounds
from harness.analysis.rows import ContrastRow, PrefillRow
from harness.report.charts.spec import Point, Tip
from harness.report.rows import Counted, Ended, TimedCell, change
from harness.report.tables import interval_of, ms
from harness.runs.record import Result
from harness.runs.summary import KernelTimes, PairFigures
from harness.units import in_ms, pluralise

T = TypeVar("T")
Key = tuple[str, str, int]  # kernel, the arm's name within its series, the series' spread_k
Axes = tuple[str, ...]  # "layer", except end to end, and the cell's own, e.g. "batch_size"
Values = tuple[object, ...]  # on the axes
MEDIAN_DIGITS = 4  # of milliseconds


class Tried(Ended, Counted, Protocol):
    """A row that may have no samples."""


@dataclass(frozen=True)
class Tips:
    """A run's results, looked up by the rows of its summary.

    With several ranks, only one rank's; none of other engines or single requests.
    """

    results: Mapping[Key, Mapping[Axes, Mapping[Values, Sequence[Result]]]]

    @classmethod
    def of(cls, results: Iterable[Result], rank: int | None = None) -> Tips:
        """From all results of a run; with several ranks, those of `rank`."""
        by_key: dict[Key, dict[Axes, dict[Values, list[Result]]]] = {}
        for result in results:
            cell = result.cell
            elsewhere = cell.rank not in (None, rank) or cell.variant is not None or cell.request is not None
            if not (result.control or elsewhere):
                key = cell.kernel, name_in_series(result), result.one_segment_for or cell.spread_k
                axes = ({} if cell.layer is None else {"layer": cell.layer}) | dict(cell.point)
                by_axes = by_key.setdefault(key, {}).setdefault(tuple(axes), {})
                by_axes.setdefault(tuple(axes.values()), []).append(result)
        return cls(by_key)

    def cell(
        self,
        row: TimedCell | PrefillRow,
        name: str,
        *more: str,
        paired: PairFigures | None = None,
        digits: int | None = None,
    ) -> Tip:
        """A measured cell: median, difference to one segment, number of samples, clock, warnings.

        Args:
            row: from the summary; times in us, or in ms for a whole prefill.
            more: lines after the median.
            paired: the cell's contrast with one segment.
        """
        kernel = "prefill" if isinstance(row, PrefillRow) else row.kernel
        results = self._results(kernel, row.arm, row.to_json())
        lines = [name, f"median {median_ms(row, digits)}", *more]
        lines += [f"against one segment {change(paired)}, {paired.verdict}"] if paired else []
        lines += [_rounds(row, results)]
        if isinstance(row, KernelTimes) and row.gather_us is not None:
            lines.append(f"gather {ms(row.gather_us, MEDIAN_DIGITS)} ms, not counted here")
        lines += [text for text in (row.reason, *row.warnings) if text]
        return Tip(lines, [float(mean) / 1000 for mean in rounds(results)])

    def point(
        self, x: float, row: TimedCell, name: str, *more: str, paired: PairFigures | None = None
    ) -> Point:
        """A cell's row as a point at `x`, in ms, or with its status if it was not measured."""
        if row.median_us is None:
            return lost_point(x, row, name)
        bounds = stats.map_interval(row.ci95_us, in_ms)
        return Point(x, row.median_us / 1000, bounds, self.cell(row, name, *more, paired=paired))

    def contrast(self, row: ContrastRow) -> Tip:
        """A contrast's tooltip; its samples are the paired differences in percent of the baseline."""
        k, layer = row.spread_k, row.layer
        bounds = stats.map_interval(row.ci95_us, in_ms)
        where = f"spread_k = {k}" + (f", layer {layer}" if isinstance(layer, int) else "")
        delta = interval_of(row.delta_us / 1000, bounds, 4, unit=" ms")
        sides = [self._side(row, arm) for arm in (row.baseline, row.treatment)]
        lines = [
            f"{row.kernel}, {where}: {row.treatment} against {row.baseline}",
            f"{change(row)}, {row.verdict}",
            f"{delta} of {row.baseline_us / 1000:.4f} ms",
            _rounds(row, sides[1]).replace("rounds", "pairs"),
        ]
        one, two = (rounds(side) for side in sides)
        n = min(len(one), len(two))
        return Tip(lines, [float(x) for x in 100 * (two[:n] - one[:n]) / row.baseline_us], "%")

    def _side(self, row: ContrastRow, arm: str) -> list[Result]:
        """One arm of a contrast: "paged@1" is the paged arm itself in the series of spread_k = 1."""
        known: dict[str, Any] = {"layer": row.layer, "data": row.data}
        like = {name: value for name, value in known.items() if value is not None}
        alone = row.spread_k == 1 or row.kernel == "prefill"
        if alone and arm.endswith("@1"):
            return self._results(row.kernel, arm.removesuffix("@1"), like | {"spread_k": 1})
        return self._results(row.kernel, arm, like | {"spread_k": row.spread_k})

    def _results(self, kernel: str, arm: str, like: Mapping[str, Any]) -> list[Result]:
        """The results with samples that match a row, the latest of each layer."""
        latest: dict[int | None, Result] = {}
        for result in self._on_axes((kernel, arm, like["spread_k"]), like):
            cell = result.cell
            told = {"stage": cell.stage, "block_size": cell.block_size, "data": cell.data, **dict(cell.point)}
            same_layer = like.get("layer", "mean") in ("mean", cell.layer)
            if (
                result.samples_us
                and same_layer
                and all(like.get(key, told[key]) == told[key] for key in told)
            ):
                latest[cell.layer] = result
        return list(latest.values())

    def _on_axes(self, key: Key, like: Mapping[str, Any]) -> Iterator[Result]:
        """The results at a row's place on their axes; everywhere on them if the row has no place there."""
        for axes, groups in self.results.get(key, {}).items():
            values = tuple(like.get(axis, "mean") for axis in axes)
            for place in groups if "mean" in values else [values]:
                yield from groups.get(place, ())


def contrast_point(x: float, row: PairFigures, name: str, *more: str) -> Point:
    """A contrast as a point at `x`, in percent of its baseline."""
    lines = [name, f"{change(row)}, {row.verdict}", *more, f"n = {pluralise(row.n, 'pair')}"]
    lines.insert(2, f"{row.delta_us / 1000:+.4f} of {row.baseline_us / 1000:.4f} ms")
    return Point(x, row.delta_pct, row.ci95_pct, Tip(lines))


def lost_point(x: float, row: Ended, name: str) -> Point:
    """A point where nothing was measured, with the reason."""
    return Point(x, None, None, Tip([f"{name}: {row.status}", *([row.reason] if row.reason else [])]))


def lost(rows: Iterable[tuple[str, Tried]]) -> str:
    """A note on cells without a point and why; "" if there are none."""
    reasons = dict.fromkeys(f"{name}: {row.status}" for name, row in rows if not row.n)
    return f"Not measured: {'; '.join(reasons)}." if reasons else ""


def pick_evenly(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spaced, including the first and the last."""
    return [rows[n] for n in units.pick_evenly(len(rows), most)]


def median_ms(row: TimedCell | PrefillRow, digits: int | None = None) -> str:
    """The row's median with its interval, e.g. "0.1310 ms [0.1305, 0.1318]"."""
    if isinstance(row, PrefillRow):
        return interval_of(row.median_ms, row.ci95_ms, digits or 3, sign=False, unit=" ms")
    bounds = stats.map_interval(row.ci95_us, in_ms)
    digits = digits or (MEDIAN_DIGITS if (row.median_us or 0) < 10_000 else 2)
    median = None if row.median_us is None else row.median_us / 1000
    return interval_of(median, bounds, digits, sign=False, unit=" ms")


def _rounds(row: Counted, results: Sequence[Result]) -> str:
    """The number of samples, what they are of, and the clock at which they were taken."""
    count = getattr(row, "layers", None)
    layers = f", each the mean over {pluralise(count, 'layer')}" if count else ""
    clocks = [mhz for result in results for mhz in result.clock_mhz]
    clock = f"SM clock {np.median(clocks):.0f} MHz" if clocks else "no clock read"
    return f"n = {pluralise(row.n, 'round')}{layers}; {clock}"
