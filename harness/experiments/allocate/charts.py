"""The charts of `allocate`: segments per block over time, and over the requests, by order of allocation."""

from __future__ import annotations

from harness.experiments.allocate.rows import AllocateCell, AllocateSummary
from harness.experiments.allocate.view import ORDERS, pool_of
from harness.report.charts.spec import Axis, Bars, Dot, Key, Line, Lines, Point, Sheet, Tip
from harness.report.charts.spec import Row as Entry
from harness.report.tips import Tips
from harness.runs.schema import RunRecord

KEYS = {
    "stock": Key(ORDERS["stock"], "#0072B2", "circle", "solid"),
    "sorted": Key(ORDERS["sorted"], "#E69F00", "square", "dashed"),
    "longest": Key(ORDERS["longest"], "#009E73", "triangle", "dotted"),
}


def charts(record: RunRecord, summary: AllocateSummary, tips: Tips) -> list[Sheet]:
    """A chart over time for each pool, and one of all pools' percentiles."""
    pools = list(dict.fromkeys(map(pool_of, summary.cells)))
    spread = Bars(
        "Over the requests" + ("; blocks x their tokens" if len(pools) > 1 else ""),
        Axis("segments per block, median with 10th and 90th percentile", zero=0.0),
        [_entry(row, len(pools) > 1) for row in summary.cells],
    )
    title = f"Segments per block: {record.model.name}"
    return [Sheet("allocate", title, [*(_over_time(summary, pool) for pool in pools), spread])]


def _over_time(summary: AllocateSummary, pool: str) -> Lines:
    lines = []
    for order, key in KEYS.items():
        rows = [row for row in summary.over_time if row.order == order and pool_of(row) == pool]
        points = [
            Point(
                row.end_s,
                row.segments_per_block,
                None,
                Tip(
                    [
                        f"{key.label}, until {row.end_s:.1f} s",
                        f"{row.segments_per_block:.3f} segments per block",
                    ]
                ),
            )
            for row in rows
        ]
        lines.append(Line(key, points))
    x = Axis("seconds since the first arrival, modelled")
    return Lines(pool, x, Axis("segments per block, median", zero=0.0), lines)


def _entry(row: AllocateCell, several: bool) -> Entry:
    pool = f", {row.num_blocks} x {row.block_size}, caching {row.caching}"
    name = ORDERS[row.arm] + (pool if several else "")
    middle, low, high = row.segments_per_block, row.p10_segments_per_block, row.p90_segments_per_block
    if middle is None or low is None or high is None:
        return Entry(f"{name}: {row.status}")
    tip = Tip([name, f"median {middle:.3f}, 10th to 90th percentile {low:.3f} to {high:.3f}"])
    return Entry(f"{name}: {middle:.3f}", dots=[Dot(middle, KEYS[row.arm], tip, (low, high))])
