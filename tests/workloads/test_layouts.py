"""Files of layouts come back as they were written, and layouts move to other pools with their segments."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import layout
from harness.layout import LayoutError
from harness.workloads.layouts import (
    Layouts,
    LayoutsError,
    RequestLayout,
    fit_pool,
    pick_typical,
    read_layouts,
    write_layouts,
)

POOL = 200


@st.composite
def request_layouts(draw: st.DrawFn) -> RequestLayout:
    tokens = draw(st.integers(1, 40 * 16))
    ids = draw(st.permutations(range(POOL)))[: layout.num_blocks(tokens, 16)]
    hits = draw(st.integers(0, len(ids)))
    return RequestLayout(draw(st.none() | st.floats(0, 1e6)), tokens, tuple(ids), hits)


@given(st.lists(request_layouts(), min_size=1, max_size=4))
def test_layouts_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, requests: list[RequestLayout]
) -> None:
    file = tmp_path_factory.mktemp("layouts") / "layouts.jsonl.gz"
    written = Layouts(16, POOL, "made up", tuple(requests))
    write_layouts(file, written)
    content = file.read_bytes()
    assert read_layouts(file) == written
    write_layouts(file, read_layouts(file))
    assert file.read_bytes() == content


@given(request_layouts(), st.integers(1, POOL), st.integers(1, 300))
def test_a_layout_keeps_its_segments_in_another_pool(request_: RequestLayout, first: int, room: int) -> None:
    free = [first + room + 5, *range(first, first + room)]
    gaps = layout.spread_k(sorted(request_.block_ids)) - 1
    if room < len(request_.block_ids) + gaps:
        with pytest.raises(LayoutError, match="give the engine more memory, or choose a shorter prompt"):
            fit_pool(request_.block_ids, free)
        return
    moved = fit_pool(request_.block_ids, free)
    assert {*moved} <= {*free}
    assert _shape(moved) == _shape(request_.block_ids)
    if room >= POOL:  # then nothing has to move closer
        assert {new - old for new, old in zip(moved, request_.block_ids, strict=True)} == {
            first - min(request_.block_ids)
        }


def _shape(ids: list[int] | tuple[int, ...]) -> list[tuple[int, int]]:
    """Each segment's length, and its rank by address."""
    segments = layout.segments(ids)
    by_address = sorted(segment.first_id for segment in segments)
    return [(segment.length, by_address.index(segment.first_id)) for segment in segments]


def test_typical_layouts_are_those_at_the_percentiles_of_long_enough_requests() -> None:
    joined = [RequestLayout(None, 64, (1, 2, 3, 4))] * 5
    half = [RequestLayout(None, 64, (1, 2, 7, 8))] * 3
    apart = [RequestLayout(None, 64, (1, 3, 5, 7))] * 3
    short = [RequestLayout(None, 16, (1,))] * 50
    layouts = Layouts(16, POOL, "made up", (*short, *joined, *half, *apart))
    assert pick_typical(layouts, 4) == {10: joined[0], 50: half[0], 90: apart[0]}
    with pytest.raises(LayoutsError, match="no request has 5 blocks of 16 tokens, the largest has 4"):
        pick_typical(layouts, 5)


ABOUT = {"layouts": 1, "block_size": 16, "num_blocks": 10, "source": "made up"}
REQUEST = {"arrival_s": 0.5, "tokens": 33, "block_ids": "7-8,1", "segments": 2, "hit_blocks": 0}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "line 1: "),
        ([ABOUT], "holds no request's layout"),
        ([REQUEST], "line 1: must say layouts: 1"),
        ([ABOUT | {"block_size": 0}, REQUEST], "line 1: block_size: must be a whole number, 1"),
        ([ABOUT, REQUEST, REQUEST | {"block_ids": "7-8,7"}], "line 3: block_ids: must be 3 different blocks"),
        ([ABOUT, REQUEST | {"block_ids": "7-9999999999"}], "line 2: block_ids: must be 3 different blocks"),
        ([ABOUT, REQUEST | {"block_ids": "7-x"}], "line 2: block_ids: '7-x': must be ranges"),
        ([ABOUT, REQUEST | {"block_ids": "8-10"}], r"3 different blocks of 0\.\.9"),
        ([ABOUT, REQUEST | {"hit_blocks": 4}], r"hit_blocks: must be a whole number, 0\.\.3"),
        ([ABOUT, REQUEST | {"arrival_s": True}], "arrival_s: must be a number or null"),
        ([ABOUT, [REQUEST]], "line 2: must be an object"),
    ],
)
def test_what_is_no_file_of_layouts_is_refused_with_its_line(
    records: list[object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "layouts.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in records).encode()))
    with pytest.raises(LayoutsError, match=message) as caught:
        read_layouts(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
def test_what_is_not_whole_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "layouts.jsonl.gz").write_bytes(content)
    with pytest.raises(LayoutsError):
        read_layouts(tmp_path / "layouts.jsonl.gz")
