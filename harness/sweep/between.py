"""What differs between processes: a mean over runs that differ in their seed alone, and its interval.

A run's own interval knows what varies within one process. From one to the next the memory that tensors lie
in, the blocks of a layout and the clocks differ, so a figure to be quoted rests on several processes, five or
more. Each has one figure, a mean over its rounds; Student's interval of their mean holds what varies within
processes and between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field

from harness.analysis import stats
from harness.analysis.rows import find
from harness.runs.stored import Amount, Count, Interval, Stored
from harness.sweep.record import Point

COMPONENTS = ("total", "fragmentation", "paging", "cache_write")


class BetweenRow(Stored):
    """A figure over processes that differ in their seed alone."""

    options: dict[str, Any] = Field(description="that they have in common")
    component: str = Field(
        description="`total`, `fragmentation`, `paging`, `cache_write`; of the kernel: `kernel_paging`, ..."
    )
    processes: Count = Field(description="how many have the figure")
    pct: float = Field(
        description="mean over the processes, of the engine's prefill or the kernel's baseline"
    )
    ci95_pct: Interval | None = Field(description="over processes; null for one")
    sd_pct: Amount | None = Field(description="standard deviation between processes; null for one")


def rows(points: Sequence[Point]) -> list[BetweenRow]:
    """The rows of all groups of two or more points that differ in their seed alone, as PointSummary."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(repr(sorted(_without_seed(point).items())), []).append(point)
    averaged = []
    for members in groups.values():
        figures: dict[str, list[float]] = {}
        for point in members:
            for name, pct in _figures(point):
                figures.setdefault(name, []).append(pct)
        if len(members) > 1:
            averaged += [_row(_without_seed(members[0]), name, values) for name, values in figures.items()]
    return averaged


def processes_of(rows: Iterable[BetweenRow], point: Point) -> int:
    """How many processes differ from the point's in their seed alone, its own included."""
    own = _without_seed(point)
    return max((row.processes for row in rows if row.options == own), default=1)


def _without_seed(point: Point) -> dict[str, Any]:
    return {name: value for name, value in point.options.items() if name != "seed"}


def _figures(point: Any) -> Iterable[tuple[str, float]]:
    """A finished point's figures in percent, by component."""
    for name in COMPONENTS if point.attribution else ():
        row = find(point.attribution.measured, component=name)
        if row and row.pct is not None:
            yield name, row.pct
    for name, contrast in (point.kernel.contrasts if point.kernel else {}).items():
        yield f"kernel_{name}", contrast.delta_pct


def _row(options: dict[str, Any], component: str, values: Sequence[float]) -> BetweenRow:
    mean = stats.mean(values)
    several = len(values) > 1
    return BetweenRow(
        options=options,
        component=component,
        processes=len(values),
        pct=mean.value,
        ci95_pct=mean.interval() if several else None,
        sd_pct=mean.error * len(values) ** 0.5 if several else None,
    )
