"""The cells of a companion experiment for those who point at them: figures, samples, n, clocks, doubts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.page.lines import Point
from harness.report.page.svg import Tip
from harness.report.rows import Row, change
from harness.report.tables import interval_of
from harness.runs.record import Result
from harness.units import counted

FIELDS = ("spread_k", "block_size", "data")
Key = tuple[str, str, str]  # stage, kernel, arm


@dataclass(frozen=True)
class Cells:
    """A run's results by what they are of; of a cell that was measured twice the later."""

    results: dict[Key, list[Result]]

    @classmethod
    def of(cls, results: Iterable[Result]) -> Cells:
        """Of all that a run has kept, but for baselines that are there a second time."""
        found: dict[Key, list[Result]] = {}
        for result in results:
            if not result.control and result.one_run_for is None:
                cell = result.cell
                found.setdefault((cell.stage, cell.kernel, cell.arm), []).insert(0, result)
        return cls(found)

    def tip(self, row: Row, name: str, *more: str) -> Tip:
        """What is known of a row of the summary's lists of cells, in ms; `more` lines after its median."""
        result = self._result(row)
        clocks = result.clock_mhz if result else []
        clock = f"SM clock {np.median(clocks):.0f} MHz" if clocks else "no clock read"
        lines = [name, f"median {milliseconds(row)}", *more, f"n = {row['n']}; {clock}"]
        lines += [text for text in (row["reason"], *row["warnings"]) if text]
        return Tip(lines, [us / 1000 for us in result.samples_us] if result else [])

    def point(self, x: float, row: Row, name: str, *more: str) -> Point:
        """A row as a point over `x`, in ms; a gap if it was not measured."""
        if row["median_us"] is None:
            return Point(x, None, None, Tip([name]))
        bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
        return Point(x, row["median_us"] / 1000, bounds, self.tip(row, name, *more))

    def _result(self, row: Row) -> Result | None:
        for result in self.results.get((row["stage"], row["kernel"], row["arm"]), []):
            cell = result.cell
            of_cell = {name: getattr(cell, name) for name in FIELDS} | dict(cell.point)
            if of_cell.items() <= row.items():
                return result
        return None


def milliseconds(row: Row) -> str:
    """The row's median with its interval, e.g. "0.1310 ms [0.1305, 0.1318]"."""
    bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
    digits = 4 if row["median_us"] < 10_000 else 2
    return interval_of(row["median_us"] / 1000, bounds, digits, sign=False, unit=" ms")


def contrast_point(x: float, row: Row, name: str, *more: str) -> Point:
    """A contrast over `x`, in percent of its baseline."""
    lines = [name, f"{change(row)}, {row['verdict']}", *more, f"n = {counted(row['n'], 'pair')}"]
    lines.insert(2, f"{row['delta_us'] / 1000:+.4f} of {row['baseline_us'] / 1000:.4f} ms")
    return Point(x, row["delta_pct"], row["ci95_pct"], Tip(lines))


def lost(rows: Iterable[tuple[str, Row]]) -> str:
    """Which cells have no point and why; "" if none was lost."""
    found = [f"{name}: {row['status']}" for name, row in rows if not row["n"]]
    return f"Not measured: {'; '.join(found)}." if found else ""


def spaced(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(n * (len(rows) - 1) / (most - 1))] for n in range(most)]
