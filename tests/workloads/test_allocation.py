"""vLLM's own KV cache manager, driven by requests without a model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patches
from harness import layout
from harness.workloads import ORDERS, Order, Work, WorkError, parse_work
from harness.workloads.allocation import (
    Allocated,
    Pool,
    Prompt,
    allocate,
    longest_stretches,
    make_prompts,
)
from patches import kv_cache_manager

POOL = Pool(num_blocks=101, block_size=16, max_num_batched_tokens=256, tokens_per_s=1000)


def trace(*records: dict[str, Any]) -> Work:
    return parse_work("\n".join(map(json.dumps, records)).encode())


def served(prompts: list[Prompt], pool: Pool = POOL) -> list[Allocated]:
    return [*allocate(prompts, pool)]


@pytest.mark.engine
def test_vllm_has_what_is_relied_on() -> None:
    assert patches.problems(kv_cache_manager.NEEDS) == []


@pytest.mark.engine
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 1600), min_size=1, max_size=30),
    gap_s=st.floats(0, 2),
    order=st.sampled_from(ORDERS),
    caching=st.booleans(),
)
def test_requests_at_the_same_time_never_share_blocks_that_differ(
    lengths: list[int], gap_s: float, order: Order, caching: bool
) -> None:
    records = [
        {"timestamp": 1000 * gap_s * n, "input_length": length, "hash_ids": [*range(-(-length // 512))]}
        for n, length in enumerate(lengths)
    ]
    prompts = make_prompts(trace(*records), 16, hashed=caching)
    ended = served(prompts, replace(POOL, order=order, enable_prefix_caching=caching))
    assert sorted(each.layout.tokens for each in ended) == sorted(lengths)
    for each in ended:
        ids = each.layout.block_ids
        assert len({*ids}) == len(ids) == layout.num_blocks(each.layout.tokens, 16)
        assert all(0 < block_id < POOL.num_blocks for block_id in ids)
        assert each.layout.hit_blocks * 16 < each.layout.tokens
        assert (
            each.end_s
            >= each.layout.arrival_s + (each.layout.tokens - 16 * each.layout.hit_blocks) / 1000 - 1e-6
        )


@pytest.mark.engine
def test_vllm_hands_out_freed_blocks_in_reverse_and_sorting_undoes_that() -> None:
    """What makes traffic's layouts: a request's last block is freed first."""
    prompts = [Prompt(160, float(n)) for n in range(30)]
    stock = [each.layout.segments for each in served(prompts)]
    assert stock[0] == 1
    assert {*stock} == {1, 10}
    for order in ORDERS[1:]:
        assert {each.layout.segments for each in served(prompts, replace(POOL, order=order))} == {1}


@pytest.mark.engine
def test_a_prefix_is_found_in_the_cache_and_only_there() -> None:
    twice = trace(
        {"timestamp": 0, "input_length": 1000, "hash_ids": [5, 6]},
        {"timestamp": 9000, "input_length": 1024, "hash_ids": [5, 7]},
        {"timestamp": 18000, "input_length": 1000, "hash_ids": [5, 6]},
    )
    caching = replace(POOL, enable_prefix_caching=True)
    hits = [each.layout.hit_blocks for each in served(make_prompts(twice, 16, hashed=True), caching)]
    assert hits[:2] == [0, 32]  # of the third's, some were evicted for the second
    assert [each.layout.hit_blocks for each in served(make_prompts(twice, 16, hashed=True))] == [0, 0, 0]
    larger = replace(caching, num_blocks=201)
    hits = [each.layout.hit_blocks for each in served(make_prompts(twice, 16, hashed=True), larger)]
    assert hits == [0, 32, 62]  # all but what holds the last token
    ids = parse_work(b"[" + b"7," * 39 + b"7]\n[" + b"7," * 32 + b"8]\n")
    assert [each.layout.hit_blocks for each in served(make_prompts(ids, 16, hashed=True), larger)] == [0, 2]


@pytest.mark.engine
def test_a_prompt_beyond_the_pool_is_left_out_and_holds_nobody_up() -> None:
    ended = served([Prompt(1601), Prompt(1600), Prompt(16)])
    assert [each.layout.tokens for each in ended] == [1600, 16]


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 60))
def test_the_longest_stretches_come_first(free: set[int], count: int) -> None:
    chosen = longest_stretches([*free], count)
    assert len(chosen) == len({*chosen} & free) == min(count, len(free))
    if len(chosen) < len(free):  # no fewer stretches would do
        lengths = sorted((segment.length for segment in layout.segments(sorted(free))), reverse=True)
        needed = next(n for n in range(1, len(lengths) + 1) if sum(lengths[:n]) >= count)
        assert layout.spread_k(chosen) == needed or layout.spread_k(sorted(chosen)) == needed


def test_texts_have_no_number_of_tokens() -> None:
    with pytest.raises(
        WorkError, match=r"line 1: has no number of tokens \(texts\); give a trace or token ids"
    ):
        make_prompts(parse_work(b"Some text\n"), 16, hashed=False)
