"""Where a call's K and V are: in one segment and split, in the engine's cache or in a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from harness import layout
from harness.calls.capture import AttentionCall, one_request
from harness.kernels import DenseKV, EngineKernel, PagedKV
from harness.kernels.blockcopy import copy_blocks

BlockIds = Sequence[Sequence[int]]  # physical ids of each request's blocks


@dataclass
class Placement:
    """Where a call's K and V are for one series: in one segment and in `spread_k` segments, in the same
    cache.
    """

    call: AttentionCall
    spread_k: int
    one_segment: PagedKV
    split: PagedKV  # the same K and V in `spread_k` segments
    blocks: PagedKV  # like `split`, but as plain K and V (vLLM's CPU kernels pack theirs)

    @cached_property
    def compact(self) -> DenseKV:
        """The compacted contiguous copy: K and V of the fragmented cache in token order."""
        return gather(self.blocks, self.call.lengths)

    @cached_property
    def elsewhere(self) -> PagedKV:
        """The single segment at another place: copied into memory of its own, with the cache's strides."""
        return copy_elsewhere(self.one_segment, self.call.lengths)

    @cached_property
    def segments(self) -> list[int]:
        """How many segments each request's blocks are in where they are split."""
        return [layout.spread_k(ids) for ids in self.call.block_ids(self.split.block_table)]

    def alone(self, index: int) -> Placement:
        """The placement of one request of a batch."""
        call = one_request(self.call, index)
        blocks = call.block_table.shape[1]
        one_segment, split, readable = (
            PagedKV(kv.cache, kv.block_table[index : index + 1, :blocks].contiguous())
            for kv in (self.one_segment, self.split, self.blocks)
        )
        return Placement(call, self.segments[index], one_segment, split, readable)


def copy_elsewhere(kv: PagedKV, lengths: Sequence[int]) -> PagedKV:
    """The requests' blocks next to each other in a new cache, whose dimensions lie in memory as in the old
    one.

    Args:
        kv: the cache and its block table.
        lengths: tokens of each request.
    """
    counts = [layout.num_blocks(length, kv.block_size) for length in lengths]
    outer_to_inner = sorted(range(kv.cache.ndim), key=kv.cache.stride, reverse=True)
    chosen = torch.cat([row[:count] for row, count in zip(kv.block_table, counts, strict=False)])
    copy = kv.cache.permute(outer_to_inner).index_select(outer_to_inner.index(0), chosen)
    as_before = [outer_to_inner.index(dim) for dim in range(kv.cache.ndim)]
    table, start = torch.zeros_like(kv.block_table), 0
    for row, count in zip(table, counts, strict=False):
        row[:count] = torch.arange(start, start + count)
        start += count
    return PagedKV(copy.permute(as_before), table)


def gather(kv: PagedKV, lengths: Sequence[int], into: DenseKV | None = None) -> DenseKV:
    """Copy K and V out of their blocks into token order, one request after the other.

    Args:
        kv: the fragmented cache.
        lengths: tokens of each request.
        into: destination; None: new contiguous tensors.
    """
    key_cache, value_cache = kv.split()
    if into is None:
        new = [key_cache.new_empty(sum(lengths), *key_cache.shape[2:]) for _ in range(2)]
        into = DenseKV(*new)
    whole_blocks = set(lengths) == {kv.block_table.shape[1] * kv.block_size}
    for cache, out in ((key_cache, into.key), (value_cache, into.value)):
        if whole_blocks:  # all requests in one copy
            copy_blocks(cache, kv.block_table.flatten(), out)
            continue
        for blocks, tokens in zip(kv.block_table, out.split(list(lengths)), strict=True):
            copy_blocks(cache, blocks, tokens)
    return into


def make_placement(
    call: AttentionCall, kernel: EngineKernel, spread_k: int, block_ids: BlockIds
) -> Placement:
    """A call's K and V in a new cache: in blocks 1..n with one segment per request, and at `block_ids`.

    Used without the engine's cache: for random K and V, and saved captures.

    Args:
        block_ids: physical ids beyond n.
    """
    ends = list(accumulate(map(len, block_ids)))
    in_one_segment = [
        list(range(end - len(ids) + 1, end + 1)) for end, ids in zip(ends, block_ids, strict=True)
    ]
    split = new_cache(call, max(map(max, block_ids)) + 1, call.key.dtype, block_ids)
    cache = split.cache
    one_segment = PagedKV(cache, block_table(call, in_one_segment))
    for ids in (in_one_segment, block_ids):
        kernel.write_cache(call, cache, slots(call, ids, call.block_size))
    return Placement(call, spread_k, one_segment, split, readable(call, split))


def new_cache(call: AttentionCall, num_blocks: int, dtype: torch.dtype, block_ids: BlockIds) -> PagedKV:
    """Zeros in the backend's physical order, tokens outside heads for FlashAttention and inside on a CPU, and
    the block table of `block_ids`.
    """
    heads, width = call.num_kv_heads, 2 * call.head_dim
    cache = call.key.new_zeros(num_blocks, call.block_size, heads, width, dtype=dtype).transpose(1, 2)
    cache = cache.contiguous() if call.backend == "CPU_ATTN" else cache
    return PagedKV(cache, block_table(call, block_ids))


def block_table(call: AttentionCall, block_ids: BlockIds) -> torch.Tensor:
    """A block table [requests, blocks of the longest], int32, 0 past a request's own blocks."""
    table = torch.zeros(len(block_ids), max(map(len, block_ids)), dtype=torch.int32)
    for row, ids in zip(table, block_ids, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return table.to(call.key.device)


def slots(call: AttentionCall, block_ids: BlockIds, block_size: int) -> torch.Tensor:
    """The slot of each token of a call in these blocks, [tokens] int64."""
    return torch.from_numpy(layout.slots_of_batch(block_ids, block_size, call.lengths)).to(call.key.device)


def readable(call: AttentionCall, kv: PagedKV) -> PagedKV:
    """`kv` itself, or if vLLM's CPU kernels packed it, the call's K and V in the same blocks."""
    if call.backend != "CPU_ATTN":
        return kv
    return plain_pages(call, call.block_ids(kv.block_table), kv.block_size)


def plain_pages(call: AttentionCall, block_ids: BlockIds, page_size: int) -> PagedKV:
    """The call's K and V in a new cache of `page_size`-token blocks at `block_ids`, tokens outside heads."""
    low = min(map(min, block_ids))
    ids = [[block_id - low for block_id in of_request] for of_request in block_ids]
    pages = call.key.new_zeros(max(map(max, ids)) + 1, page_size, call.num_kv_heads, 2 * call.head_dim)
    pages.flatten(0, 1)[slots(call, ids, page_size)] = torch.cat([call.key, call.value], dim=-1)
    return PagedKV(pages.transpose(1, 2), block_table(call, ids))
