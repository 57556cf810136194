"""Batches as text, and their plans, whatever the lengths: no engine, no torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import batch, layout
from harness.batch import LONGEST, MOST_REQUESTS, BatchError, Request
from harness.config import ConfigError, load
from harness.experiments.prefill.options import RunConfig, resolve
from harness.layout import LayoutError
from tests.made_up.builder import run_record

LENGTHS = st.one_of(st.integers(1, LONGEST), st.sampled_from([1, 2, 17, 127, 4093, 131071, LONGEST]))


def length_of(request: Request) -> int:
    return request.length


@st.composite
def requests(draw: st.DrawFn) -> Request:
    length = draw(LENGTHS)
    return Request(length, draw(st.none() | st.integers(1, length)))


BATCHES = st.lists(requests(), min_size=1, max_size=12).map(lambda batch: tuple(sorted(batch, key=length_of)))


@given(BATCHES)
def test_what_is_written_is_read_again(asked):
    assert batch.parse(batch.format_batch(asked)) == asked
    assert run_record(config={"batch": batch.format_batch(asked), "length": 7}).prompts == asked


@given(BATCHES, st.booleans())
def test_a_file_holds_the_same_with_comments(tmp_path_factory, asked, counted):
    path = tmp_path_factory.mktemp("batch") / "lengths.txt"
    parts = batch.format_batch(asked).split(",") if counted else [batch.format_batch((r,))[2:] for r in asked]
    path.write_text("# lengths\n\n" + "".join(f"{part}  # {n}\n" for n, part in enumerate(parts)))
    assert batch.parse_or_read(str(path)) == asked


def test_the_three_ways_to_write_a_part_and_the_shortest_first():
    assert batch.parse("4096, 2x17@3") == (Request(17, 3), Request(17, 3), Request(4096))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4y1024", "neither lengths, e.g. 4x1024 .* nor a file"),
        ("4x1024,", "neither lengths"),
        ("4x1024@", "neither lengths"),
        ("tests", "neither lengths"),
        ("0", r"0: a prompt must have 1\.\.131072 tokens"),
        ("2x131073", r"2x131073: a prompt must have 1\.\.131072 tokens"),
        ("0x5", r"0x5: must be 1\.\.1024 prompts"),
        ("999999999999x5", r"must be 1\.\.1024 prompts"),
        ("600x5,600x6", "1200 prompts; must be at most 1024"),
        ("17@0", r"17@0: must be split into 1\.\.17 segments"),
        ("17@18", r"17@18: must be split into 1\.\.17 segments"),
    ],
)
def test_bad_texts_name_the_part_and_the_limit(text, words):
    with pytest.raises(BatchError, match=words):
        batch.parse_or_read(text)
    with pytest.raises(ConfigError, match=rf"--batch {text}: .*{words}"):
        load(RunConfig, {"batch": text})


@pytest.mark.parametrize(
    ("content", "words"), [("512\nmany\n", "line 2: not a length"), ("# none\n", "no length")]
)
def test_bad_files_name_the_line(tmp_path, content, words):
    path = tmp_path / "lengths"
    path.write_text(content)
    with pytest.raises(BatchError, match=words):
        batch.parse_or_read(str(path))


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("1", "1 token"),
        ("4096", "4096 tokens"),
        ("1x4096,8x512@4", "9 prompts (8x512, 1x4096)"),
        ("3,5,7,11,13,3", "6 prompts of 3 to 13 tokens"),
    ],
)
def test_titles(text, title):
    assert batch.describe(batch.parse(text)) == title


def resolved(**options):
    return resolve(load(RunConfig, {"block_size": 32, **options}), "cpu")


def test_a_length_is_a_batch_of_one():
    one, same = resolved(length=300), resolved(batch="300")
    assert one.requests == same.requests == (Request(300),)
    assert (one.num_blocks(), one.spreads(), one.segments(4)) == (10, [1, 8, 10], [4])


@given(BATCHES, st.sampled_from([32, 64, 128]))
def test_each_request_has_its_own_spread_k_within_its_blocks(asked, block_size):
    blocks = [-(-request.length // block_size) for request in asked]
    most = batch.largest_spread(asked, block_size)
    assert batch.segments(asked, 1, block_size) == [1] * len(asked)
    for k in batch.default_spreads(asked, block_size)[1:]:
        assert k <= most
        for request, n, segments in zip(asked, blocks, batch.segments(asked, k, block_size), strict=True):
            assert segments == min(request.spread_k or k, n)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": "4x64", "length": 64}, "--length 64 and --batch 4x64: exclude each other; leave one out"),
        ({"batch": "64@3"}, r"--batch 1x64@3: 64@3 must be split into 1\.\.2 segments, .* --block-size 32"),
        ({"batch": "1x64,300", "spread_k": [11]}, r"--spread-k 11: .* 1\.\.10, .* 1x64,1x300 takes"),
        ({"batch": "4x64", "max_num_batched_tokens": 255}, r"must be at least --batch 4x64 \(256 tokens\)"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        resolved(**options)


def test_the_command_line_wins_over_the_other_kind_in_yaml(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("batch: 4x64")
    assert load(RunConfig, {}, path).batch == "4x64"
    assert load(RunConfig, {}, path).length == 64
    assert load(RunConfig, {"length": 7}, path).requests == (Request(7),)
    path.write_text("length: 7")
    assert load(RunConfig, {"batch": "2x9"}, path).requests == (Request(9), Request(9))
    path.write_text("batch: 4x0")
    with pytest.raises(ConfigError, match=r"job\.yaml: batch: 4x0: 4x0: a prompt must have"):
        load(RunConfig, {}, path)


@st.composite
def counts_and_spreads(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    counts = draw(st.lists(st.integers(1, 40) | st.integers(1, 5000), min_size=1, max_size=8))
    return counts, [draw(st.integers(1, count)) for count in counts]


@given(counts_and_spreads(), st.integers(0, 300), st.sampled_from(["shuffled", "scattered"]),
       st.sampled_from(["even", "random"]), st.integers(0, 2**32))  # fmt: skip
def test_every_request_has_its_segments_and_no_block_is_in_two(asked, spare, gap, sizes, seed):
    counts, spreads = asked
    free = range(5, 5 + sum(counts) + spare)
    plans = layout.plan_batch(counts, spreads, free, gap=gap, sizes=sizes, seed=seed)
    assert [len(ids) for ids in plans] == counts
    assert [layout.spread_k(ids) for ids in plans] == spreads
    every = [block for ids in plans for block in ids]
    assert len(every) == len(set(every))
    assert set(every) <= set(free)
    if len(counts) == 1:
        assert plans == [layout.plan(counts[0], spreads[0], free, gap=gap, sizes=sizes, seed=seed)]


def test_the_segments_of_requests_lie_among_each_other():
    one, two = layout.plan_batch([64, 64], [16, 16], range(128), seed=1)
    assert min(one) < max(two)
    assert min(two) < max(one)
    assert len(layout.segments(sorted(one))) > 4


def test_free_blocks_in_pieces_that_hold_no_plan_are_named():
    with pytest.raises(LayoutError, match="6 blocks of 2 requests in 2 segments do not fit the 2 stretches"):
        layout.plan_batch([3, 3], [1, 1], [0, 1, 2, 3, 5, 6])
    with pytest.raises(LayoutError, match=r"spread_k 4: must be within 1\.\.3"):
        layout.plan_batch([3, 3], [1, 4], range(20))


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.sampled_from([16, 48, 128]), st.integers(0, 9))
@settings(max_examples=30)
def test_every_token_of_every_request_has_its_own_slot(lengths, block_size, seed):
    counts = [layout.num_blocks(length, block_size) for length in lengths]
    plans = layout.plan_batch(counts, counts, range(1, sum(counts) + 1), seed=seed)
    slots = layout.slots_of_batch(plans, block_size, lengths)
    assert len(np.unique(slots)) == len(slots) == sum(lengths)
    start = 0
    for ids, length in zip(plans, lengths, strict=True):
        assert slots[start] == ids[0] * block_size
        assert slots[start + length - 1] == ids[-1] * block_size + (length - 1) % block_size
        start += length
    assert batch.num_tokens([Request(length) for length in lengths]) == len(slots)


def test_as_many_as_there_may_be():
    text = f"{MOST_REQUESTS}x1"
    assert len(batch.parse(text)) == MOST_REQUESTS
    assert batch.format_batch(batch.parse(text)) == text
