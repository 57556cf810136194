"""Layouts: whatever is asked for, a plan has exactly k segments and uses each block once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import layout
from harness.layout import LayoutError, Segment

GAPS = st.sampled_from(["shuffled", "scattered"])
SIZES = st.sampled_from(["even", "random"])
SEEDS = st.integers(0, 2**32)


@st.composite
def blocks_and_spread(draw: st.DrawFn, most: int = 300) -> tuple[int, int]:
    blocks = draw(st.integers(1, most))
    return blocks, draw(st.integers(1, blocks))


@given(blocks_and_spread(), st.integers(0, 400), st.integers(0, 5), GAPS, SIZES, SEEDS)
def test_a_plan_in_one_stretch_has_exactly_k_segments(asked, spare, first, gap, sizes, seed):
    blocks, k = asked
    free = range(first, first + blocks + spare)
    ids = layout.plan(blocks, k, free, gap=gap, sizes=sizes, seed=seed)
    assert layout.spread_k(ids) == k == len(layout.segments(ids))
    assert len(ids) == len(set(ids)) == blocks
    assert set(ids) <= set(free)
    if gap == "shuffled":
        assert max(ids) - min(ids) == blocks - 1
    if sizes == "even":
        lengths = {segment.length for segment in layout.segments(ids)}
        assert max(lengths) - min(lengths) <= 1


@given(st.sets(st.integers(0, 400), min_size=1), st.data(), GAPS, SIZES, SEEDS)
def test_random_free_blocks_give_a_plan_exactly_where_one_exists(free, data, gap, sizes, seed):
    blocks = data.draw(st.integers(1, len(free)), "blocks")
    k = data.draw(st.integers(1, blocks), "k")
    stretches = sorted((segment.length for segment in layout.segments(sorted(free))), reverse=True)
    if sum(stretches[:k]) < blocks:
        with pytest.raises(LayoutError, match=f"{blocks} blocks in {k} segment"):
            layout.plan(blocks, k, list(free), gap=gap, sizes=sizes, seed=seed)
        return
    ids = layout.plan(blocks, k, list(free), gap=gap, sizes=sizes, seed=seed)
    assert layout.spread_k(ids) == k
    assert len(set(ids)) == blocks
    assert set(ids) <= free


@given(blocks_and_spread(), GAPS, SIZES, SEEDS)
def test_ranges_are_the_segments_and_give_the_ids_back(asked, gap, sizes, seed):
    blocks, k = asked
    ids = layout.plan(blocks, k, range(3, 3 + 2 * blocks), gap=gap, sizes=sizes, seed=seed)
    text = layout.to_ranges(ids)
    assert layout.from_ranges(text) == ids
    assert len(text.split(",")) == k


def test_ranges_are_written_in_logical_order():
    assert layout.to_ranges([257, 258, 1, 2, 3, 7]) == "257-258,1-3,7"
    assert layout.to_ranges([]) == ""
    assert layout.from_ranges("") == []


@given(blocks_and_spread(), st.integers(0, 50), GAPS, SIZES, SEEDS)
def test_the_seed_decides_the_plan(asked, spare, gap, sizes, seed):
    blocks, k = asked
    free = list(range(blocks + spare))
    first = layout.plan(blocks, k, free, gap=gap, sizes=sizes, seed=seed)
    assert first == layout.plan(blocks, k, free[::-1], gap=gap, sizes=sizes, seed=seed)


def test_another_seed_gives_another_plan():
    plans = {tuple(layout.plan(256, 64, range(1000), gap="scattered", seed=seed)) for seed in range(5)}
    assert len(plans) == 5


@given(blocks_and_spread(), SEEDS)
def test_scattered_segments_lie_apart_where_there_is_room(asked, seed):
    blocks, k = asked
    pool = 4 * blocks
    ids = layout.plan(blocks, k, range(pool), gap="scattered", seed=seed)
    assert layout.spread_k(sorted(ids)) == k
    if k >= 4:
        assert max(ids) - min(ids) > pool // 2


@given(blocks_and_spread(), st.integers(1, 64), SEEDS, st.data())
def test_each_token_has_its_own_slot(asked, block_size, seed, data):
    blocks, k = asked
    length = data.draw(st.integers((blocks - 1) * block_size + 1, blocks * block_size), "length")
    assert layout.num_blocks(length, block_size) == blocks
    ids = layout.plan(blocks, k, range(2 * blocks), gap="scattered", seed=seed)
    slots = layout.slot_mapping(ids, block_size, length)
    assert slots.dtype == np.int64
    assert slots.shape == (length,)
    assert len(np.unique(slots)) == length
    token = data.draw(st.integers(0, length - 1), "token")
    assert slots[token] == ids[token // block_size] * block_size + token % block_size


@given(blocks_and_spread(), SIZES, SEEDS)
def test_segment_lengths_add_up(asked, sizes, seed):
    blocks, k = asked
    lengths = layout.segment_lengths(blocks, k, sizes, np.random.default_rng(seed))
    assert sum(lengths) == blocks
    assert len(lengths) == k
    assert min(lengths) >= 1


def test_segments_are_maximal_and_only_ascending():
    assert layout.segments([4, 5, 6, 2, 1, 9]) == [
        Segment(0, 4, 3),
        Segment(3, 2, 1),
        Segment(4, 1, 1),
        Segment(5, 9, 1),
    ]
    assert layout.spread_k([3, 2, 1]) == 3
    assert layout.spread_k(range(7)) == 1
    assert layout.segments([]) == []


def test_two_stretches_keep_even_segments_even():
    ids = layout.plan(100, 2, [*range(60), *range(100, 150)])
    assert [segment.length for segment in layout.segments(ids)] == [50, 50]


@pytest.mark.parametrize(
    ("blocks", "spreads"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (5, [1, 2, 4, 5]), (256, [1, 2, 4, 8, 16, 32, 64, 128, 256])],
)
def test_default_spreads(blocks, spreads):
    assert layout.default_spreads(blocks) == spreads


@pytest.mark.parametrize(("blocks", "spreads"), [(1, [1]), (8, [1, 8]), (32, [1, 8, 32])])
def test_default_spreads_of_a_cpu(blocks, spreads):
    assert layout.default_spreads(blocks, factor=8) == spreads


@pytest.mark.parametrize(("blocks", "k"), [(4, 0), (4, 5), (0, 1)])
def test_an_impossible_spread_names_the_numbers(blocks, k):
    with pytest.raises(LayoutError, match=rf"spread_k {k}: must be within 1\.\.{blocks}"):
        layout.plan(blocks, k, range(10))


def test_too_few_free_blocks_name_the_numbers():
    with pytest.raises(LayoutError, match=r"8 blocks in 2 segment\(s\): the 2 longest .* hold 7"):
        layout.plan(8, 2, [0, 1, 2, 3, 5, 6, 7, 9, 10])


def test_a_table_too_short_for_the_tokens_is_refused():
    with pytest.raises(LayoutError, match="length 33: 2 blocks of 16"):
        layout.slot_mapping([0, 1], 16, 33)
