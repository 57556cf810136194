"""Every way moves every byte of the request, and no other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import layout
from harness.experiments.transfer import copying
from harness.experiments.transfer.copying import Move
from harness.experiments.transfer.descriptors import EACH, RISING_OR_FALLING, merge
from harness.experiments.transfer.ways import DIRECTIONS, NAMES, YARDSTICK
from harness.kernels import Unsupported

ON_A_CPU = [YARDSTICK, "copy_blocks", "copy_rising", "copy_merged", "gather_copy"]


def made(direction: str, ids: list[int], regions: int, block_bytes: int) -> Move:
    """Random bytes in a pool of a few more blocks than the ids reach."""
    generator = torch.Generator().manual_seed(len(ids))

    def filled(blocks: int) -> torch.Tensor:
        size = (regions, blocks, block_bytes)
        return torch.randint(-128, 128, size, dtype=torch.int8, generator=generator)

    blocks = len(ids)
    return Move(direction, filled(max(ids) + 3), filled(blocks), filled(blocks), np.array(ids))


@settings(max_examples=40)
@given(
    way=st.sampled_from(ON_A_CPU[1:]),
    direction=st.sampled_from(["to_host", "to_gpu"]),
    regions=st.integers(1, 4),
    block_bytes=st.sampled_from([3, 8, 24]),
    falling=st.booleans(),
    data=st.data(),
)
def test_every_way_moves_the_request_s_bytes_and_no_others(
    way: str, direction: str, regions: int, block_bytes: int, falling: bool, data: st.DataObject
) -> None:
    blocks = data.draw(st.integers(1, 24))
    spread_k = data.draw(st.integers(1, blocks))
    ids = layout.plan(blocks, spread_k, range(2, 2 + 2 * blocks), gap=data.draw(st.sampled_from(GAPS)))
    ids = ids[::-1] if falling else ids
    move = made(direction, ids, regions, block_bytes)
    pool, buffer = move.pool.clone(), move.buffer.clone()
    bound = copying.bind(way, move)
    assert copying.objection(move, bound) is None
    assert bound.copies is not None
    slots = bound.copies.slot_of
    if direction == "to_host":
        assert torch.equal(move.pool, pool)
        assert torch.equal(move.buffer[:, slots], pool[:, ids])
    else:
        assert torch.equal(move.buffer, buffer)
        assert torch.equal(move.pool[:, ids], buffer[:, slots])
        others = [block for block in range(pool.shape[1]) if block not in ids]
        assert torch.equal(move.pool[:, others], pool[:, others])


GAPS = ["shuffled", "scattered"]


@pytest.mark.parametrize("direction", ["to_host", "to_gpu"])
def test_the_yardstick_moves_as_many_bytes(direction: str) -> None:
    move = made(direction, [4, 3, 7], 2, 16)
    assert copying.objection(move, copying.bind(YARDSTICK, move)) is None
    assert torch.equal(move.flat, move.buffer)
    assert move.buffer.count_nonzero()


@pytest.mark.parametrize(
    "way", ["swap_blocks", "swap_batch", "swap_batch_merged", "swap_triton", "gather_nccl"]
)
def test_what_needs_a_gpu_says_so(way: str) -> None:
    with pytest.raises(Unsupported, match="GPU"):
        copying.bind(way, made("to_host", [1, 2], 1, 8))


def test_all_ways_and_directions_are_known_by_name() -> None:
    assert tuple(copying.BINDERS) == NAMES
    assert {"to_host", "to_gpu", "to_peer"} == {*DIRECTIONS}


def drop_last(run: Callable[[], object], move: Move) -> Callable[[], object]:
    """A way that leaves the last block's bytes as they were."""

    def wrong() -> None:
        run()
        move.buffer[:, -1] = 0

    return wrong


def test_a_way_that_leaves_bytes_behind_is_refused_with_their_share() -> None:
    move = made("to_host", [1, 3, 5, 7], 1, 64)
    move.pool.fill_(1)
    bound = copying.bind("copy_blocks", move)
    wrong = copying.Bound(drop_last(bound.run, move), bound.descriptors, bound.copies)
    assert copying.objection(move, wrong) == "25% of the bytes differ from those that were to be moved"


@pytest.mark.parametrize("direction", ["to_host", "to_gpu"])
@pytest.mark.parametrize("steps", [EACH, RISING_OR_FALLING])
def test_addresses_are_those_of_the_blocks(direction: str, steps: tuple[int, ...]) -> None:
    """As vLLM's batched copies read them: source, destination and bytes."""
    move = made(direction, [9, 8, 2, 3, 5], 3, 16)
    copies = merge(move.block_ids.tolist(), steps)
    sources, targets, sizes = copying.addresses(move, copies)
    into, source = move.ordered(move.pool, move.buffer)
    shift, back = source.data_ptr(), into.data_ptr()
    expected, flat = source.flatten(), into.flatten()
    for one, two, size in zip(sources.tolist(), targets.tolist(), sizes.tolist(), strict=True):
        flat[two - back : two - back + size] = expected[one - shift : one - shift + size]
    ids, slots = move.block_ids, copies.slot_of
    assert torch.equal(move.pool[:, ids], move.buffer[:, slots])
    assert sizes.sum() == move.buffer.numel()
