"""The block tables as pictures: which physical block holds which part of the prompt."""

from __future__ import annotations

from harness import layout
from harness.layout import Run
from harness.report.charts.spec import BlockMap, Tip
from harness.report.document import Album
from harness.runs.schema import RunRecord
from harness.units import counted, spaced

MOST_REQUESTS = 16  # drawn of a layout
MOST_LISTED = 64  # runs spelled out below a picture


def albums(record: RunRecord) -> list[Album]:
    """Every layout's block tables, all on one scale; none if the run did not choose blocks."""
    tables = {
        name: {n: layout.runs(layout.from_ranges(requests[n])) for n in spaced(len(requests), MOST_REQUESTS)}
        for name, requests in (record.block_ids or {}).items()
    }
    drawn = [run for requests in tables.values() for runs in requests.values() for run in runs]
    if not drawn:
        return []
    ids = min(run.first_id for run in drawn), max(run.first_id + run.length for run in drawn)
    counts = {name: len(requests) for name, requests in (record.block_ids or {}).items()}
    return [_layout(name, tables[name], counts[name], ids) for name in tables]


def _layout(name: str, requests: dict[int, list[Run]], count: int, ids: tuple[int, int]) -> Album:
    title = "vLLM's own blocks" if name == "engine" else f"spread_k = {name}"
    pictures = [
        _picture(title, f"request {n}" if count > 1 else title, runs, *ids) for n, runs in requests.items()
    ]
    more = count - len(requests)
    rest = f"{len(requests)} of {count} requests, spread over the batch; run.json has the other {more}."
    return Album(title, pictures, rest if more else "")


def _picture(title: str, caption: str, runs: list[Run], lowest: int, end: int) -> BlockMap:
    blocks = sum(run.length for run in runs)
    lengths = [run.length for run in runs]
    size = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    ids = f"{min(run.first_id for run in runs)} to {max(run.first_id + run.length for run in runs) - 1}"
    tip = Tip(
        [
            title if caption == title else f"{title}, {caption}",
            f"{counted(blocks, 'block')} in {counted(len(runs), 'run')} of {size}",
            f"physical ids {ids}",
        ]
    )
    segments = [(run.first_block, run.first_id, run.length) for run in runs]
    return BlockMap(caption, segments, (lowest, end), tip, _listing(runs))


def _listing(runs: list[Run]) -> str:
    """The runs in logical order, as text."""
    ids = [block for run in runs[:MOST_LISTED] for block in range(run.first_id, run.first_id + run.length)]
    rest = f" and {len(runs) - MOST_LISTED} more runs, in run.json" if len(runs) > MOST_LISTED else ""
    return layout.to_ranges(ids).replace(",", ", ") + rest
