"""Choosing the physical blocks that vLLM's next requests get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patches import PatchError, Symbol

NEEDS = (
    Symbol("vllm.v1.core.block_pool:BlockPool.get_new_blocks", ("num_blocks",)),
    Symbol("vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue.remove", ("block",)),
    Symbol("vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue.prepend_n", ("blocks",)),
    Symbol("vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue.get_all_free_blocks"),
    Symbol("vllm.v1.core.kv_cache_utils:KVCacheBlock",
           ("block_id", "ref_cnt", "next_free_block", "is_null")),
)  # fmt: skip


def free_block_ids(block_pool: Any) -> list[int]:
    """Ids of the free blocks, ascending. Block 0 is vLLM's null block and never among them."""
    return sorted(block.block_id for block in block_pool.free_block_queue.get_all_free_blocks())


def next_block_ids(block_pool: Any, count: int) -> list[int]:
    """Ids of the blocks that the next request for `count` would get, in order.

    Walks no further than necessary: walking the whole pool before some prefills only would make them differ
    from the others.
    """
    ids: list[int] = []
    block = block_pool.free_block_queue.fake_free_list_head.next_free_block
    while len(ids) < count and block is not None:
        ids.append(block.block_id)
        block = block.next_free_block
    return ids


def choose_next(block_pool: Any, block_ids: Sequence[int]) -> None:
    """Make the next requests that need len(block_ids) blocks in all get exactly these, in this order.

    vLLM takes new blocks from the head of its free queue, so the chosen ones are moved there.

    Raises:
        PatchError: a chosen block is in use.
    """
    chosen = [block_pool.blocks[block_id] for block_id in block_ids]
    taken = [block.block_id for block in chosen if block.ref_cnt != 0 or block.is_null]
    if taken:
        raise PatchError(f"blocks {taken[:8]} are in use, so they cannot be given to the next request")
    queue = block_pool.free_block_queue
    for block in chosen:
        queue.remove(block)
    queue.prepend_n(chosen)
