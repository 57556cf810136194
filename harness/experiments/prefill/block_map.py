"""Block tables as pictures: which physical block holds which part of the prompt."""

from __future__ import annotations

from harness import layout
from harness.layout import Segment
from harness.report.charts.spec import BlockMap, Tip
from harness.report.document import Album
from harness.runs.schema import RunRecord
from harness.units import pick_evenly, pluralise

MOST_REQUESTS = 16  # requests drawn per layout
MOST_LISTED = 64  # segments listed below a picture


def albums(record: RunRecord) -> list[Album]:
    """Every layout's block tables on one scale; none if the run did not choose blocks."""
    tables = {
        name: {
            n: layout.segments(layout.from_ranges(requests[n]))
            for n in pick_evenly(len(requests), MOST_REQUESTS)
        }
        for name, requests in (record.block_ids or {}).items()
    }
    drawn = [
        segment for requests in tables.values() for segments in requests.values() for segment in segments
    ]
    if not drawn:
        return []
    ids = (
        min(segment.first_id for segment in drawn),
        max(segment.first_id + segment.length for segment in drawn),
    )
    counts = {name: len(requests) for name, requests in (record.block_ids or {}).items()}
    return [_layout(name, tables[name], counts[name], ids) for name in tables]


def _layout(name: str, requests: dict[int, list[Segment]], count: int, ids: tuple[int, int]) -> Album:
    title = "vLLM's own blocks" if name == "engine" else f"spread_k = {name}"
    pictures = [
        _picture(title, f"request {n}" if count > 1 else title, segments, *ids)
        for n, segments in requests.items()
    ]
    more = count - len(requests)
    rest = (
        f"{len(requests)} of {count} requests, evenly picked from the batch; run.json has the other {more}."
    )
    return Album(title, pictures, rest if more else "")


def _picture(title: str, caption: str, segments: list[Segment], lowest: int, end: int) -> BlockMap:
    blocks = sum(segment.length for segment in segments)
    lengths = [segment.length for segment in segments]
    size = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    ids = (
        f"{min(segment.first_id for segment in segments)} to "
        f"{max(segment.first_id + segment.length for segment in segments) - 1}"
    )
    tip = Tip(
        [
            title if caption == title else f"{title}, {caption}",
            f"{pluralise(blocks, 'block')} in {pluralise(len(segments), 'segment')} of {size}",
            f"physical ids {ids}",
        ]
    )
    drawn = [(segment.first_block, segment.first_id, segment.length) for segment in segments]
    return BlockMap(caption, drawn, (lowest, end), tip, _listing(segments))


def _listing(segments: list[Segment]) -> str:
    """The segments in logical order, as text."""
    ids = [
        block
        for segment in segments[:MOST_LISTED]
        for block in range(segment.first_id, segment.first_id + segment.length)
    ]
    rest = (
        f" and {len(segments) - MOST_LISTED} more segments, in run.json"
        if len(segments) > MOST_LISTED
        else ""
    )
    return layout.to_ranges(ids).replace(",", ", ") + rest
