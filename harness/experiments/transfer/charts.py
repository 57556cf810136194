"""The charts of `transfer`: bandwidth over segments for every way, and prefill with hand-over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.rows import select
from harness.experiments.transfer.rows import HandOver, TransferCell, TransferSummary, groups_of
from harness.experiments.transfer.tables import group_name, inputs, request_bytes
from harness.experiments.transfer.ways import LOOKS, PLANNED, WAYS, YARDSTICK
from harness.report.arms import OVER_SPREAD
from harness.report.charts.spec import Axis, Key, Line, Lines, Point, Sheet, Tip
from harness.report.tables import ms
from harness.report.tips import Tips, lost, lost_point
from harness.runs.schema import RunRecord

BANDWIDTH = Axis("GB/s, with 95% intervals", zero=0.0)
LATENCY = Axis("ms", zero=0.0)


def charts(record: RunRecord, summary: TransferSummary, tips: Tips) -> list[Sheet]:
    """Bandwidths, and where a run's prefill was given, latency until the cache has been handed over."""
    about = f"{inputs(record)}, {record.device.name}"
    groups = [
        (group, cells)
        for group, cells in groups_of(select(summary.cells, layout=PLANNED))
        if any(row.n for row in cells)
    ]
    bandwidths = [_bandwidths(group, cells, request_bytes(record), tips) for group, cells in groups]
    latencies = [_latencies(group, rows) for group, rows in groups_of(summary.hand_over)]
    sheets = [Sheet("transfer", f"Moving a request's KV cache: {about}", bandwidths)] if bandwidths else []
    return sheets + ([Sheet("hand_over", f"Prefill and hand-over: {about}", latencies)] if latencies else [])


def _bandwidths(group: Mapping[str, str], cells: Sequence[TransferCell], moved: int, tips: Tips) -> Lines:
    lines = [
        Line(_key(way.name), [_point(row, moved, tips) for row in select(cells, kernel=way.name)])
        for way in WAYS
    ]
    title = f"Bandwidth: {group_name(group)}"
    note = lost(_named(cells))
    return Lines(title, OVER_SPREAD, BANDWIDTH, lines, note=note)


def _named(cells: Sequence[TransferCell]) -> Iterator[tuple[str, TransferCell]]:
    """The rows under their names; of a way without any figure only the first, under the way's."""
    for way in WAYS:
        rows = select(cells, kernel=way.name)
        if any(row.n for row in rows):
            yield from ((f"{way.name}, spread_k = {row.spread_k}", row) for row in rows)
        else:
            yield from ((way.name, row) for row in rows[:1])


def _key(way: str) -> Key:
    return Key(way, *LOOKS[way], "dotted" if way == YARDSTICK else "solid", hollow=way == YARDSTICK)


def _point(row: TransferCell, moved: int, tips: Tips) -> Point:
    name = f"{row.kernel} ({row.provider}), spread_k = {row.spread_k}"
    if row.median_us is None:
        return lost_point(row.spread_k, row, name)
    more = [
        f"{row.gbps:.2f} GB/s",
        f"on the host {ms(row.host_us)} ms, descriptors: {row.descriptors or 0:.0f}",
    ]
    if row.share_pct is not None:
        more.append(f"{row.share_pct:.1f}% of one contiguous copy's bandwidth")
    bounds = row.ci95_us and (moved / row.ci95_us[1] / 1e3, moved / row.ci95_us[0] / 1e3)
    return Point(row.spread_k, row.gbps, bounds, tips.cell(row, name, *more))


def _latencies(group: Mapping[str, str], rows: Sequence[HandOver]) -> Lines:
    lines = [Line(_key(way.name), [_total(row) for row in select(rows, kernel=way.name)]) for way in WAYS]
    return Lines(f"Prefill, then the transfer: {group_name(group)}", OVER_SPREAD, LATENCY, lines)


def _total(row: HandOver) -> Point:
    parts = f"prefill {ms(row.prefill_us, 2)} ms, transfer {ms(row.transfer_us, 2)} ms"
    return Point(
        row.spread_k, row.total_us / 1000, None, Tip([f"{row.kernel}, spread_k = {row.spread_k}", parts])
    )
