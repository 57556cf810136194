"""Attention calls without an engine: random Q, K and V, and the same K and V in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from harness import layout
from harness.calls.capture import AttentionCall
from harness.calls.shape import AttentionShape
from harness.kernels import EngineKernel, PagedKV


def make(shape: AttentionShape, device: str, seed: int) -> AttentionCall:
    """A call of this shape on contiguous, normally distributed Q, K and V; determined by the seed.

    query [batch_size * query_len, num_heads, head_dim], key and value [batch_size * kv_len, num_kv_heads,
    head_dim]. It has no blocks, no cache and no output.

    Args:
        device: "cpu" or "cuda".
    """
    batch, dtype = shape.batch_size, getattr(torch, shape.dtype)
    generator = torch.Generator(device=device).manual_seed(seed)

    def normal(tokens: int, heads: int) -> torch.Tensor:
        size = (batch * tokens, heads, shape.head_dim)
        # Drawn in float32: CPU generators are slow in half precision.
        return torch.randn(size, generator=generator, device=device).to(dtype)

    def int32(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    query = normal(shape.query_len, shape.num_heads)
    return AttentionCall(
        layer=0,
        layer_name="random",
        backend="none",
        query=query,
        key=normal(shape.kv_len, shape.num_kv_heads),
        value=normal(shape.kv_len, shape.num_kv_heads),
        output=query.new_empty(0),
        block_table=query.new_empty(batch, 0, dtype=torch.int32),
        slot_mapping=torch.empty(0, dtype=torch.int64, device=device),
        seq_lens=int32([shape.kv_len] * batch),
        query_start_loc=int32([shape.query_len * n for n in range(batch + 1)]),
        qkv_strides=(),
        block_size=0,
        scale=shape.head_dim**-0.5,
        causal=shape.causal,
        sliding_window=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        sinks=None,
        cache_shape=(),
        cache_strides=(),
        cache_dtype=shape.dtype,
        fa_version=None,
        isa=None,
        scheduler_metadata=None,
        max_num_splits=0,
    )


@dataclass(frozen=True)
class Blocks:
    """K and V of all sequences in one cache, each of them in one segment and again in `segments` segments."""

    one_segment: PagedKV
    split: PagedKV  # `one_segment` itself if there is only one


def in_blocks(
    call: AttentionCall,
    block_size: int,
    segments: int = 1,
    *,
    gap: layout.Gap = "shuffled",
    sizes: layout.Sizes = "even",
    seed: int = 0,
) -> Blocks:
    """K and V of a call with sequences of one length in a new cache like vLLM's: tokens outside heads, a
    head's K next to its V.

    Args:
        segments: that each sequence is split into; `gap`, `sizes` and `seed` are those of layout.plan.
    """
    length = call.lengths[0]
    blocks = layout.num_blocks(length, block_size)
    tables = [[list(range(n * blocks, (n + 1) * blocks)) for n in range(call.num_requests)]]
    if segments > 1:  # after the blocks of the single segments
        room = blocks * (layout.SCATTER if gap == "scattered" else 1)
        first = call.num_requests * blocks
        pools = [range(first + n * room, first + (n + 1) * room) for n in range(call.num_requests)]
        plan = partial(layout.plan, blocks, segments, gap=gap, sizes=sizes)
        tables.append([plan(ids, seed=seed + segments + n) for n, ids in enumerate(pools)])
    count = 1 + max(block for table in tables for ids in table for block in ids)
    pages = call.key.new_zeros(count, block_size, call.num_kv_heads, 2 * call.head_dim)
    both = torch.cat([call.key, call.value], dim=-1).split(length)
    placed = []
    for table in tables:
        for ids, tokens in zip(table, both, strict=True):
            slots = torch.from_numpy(layout.slot_mapping(ids, block_size, length)).to(pages.device)
            pages.flatten(0, 1)[slots] = tokens
        block_table = torch.tensor(table, dtype=torch.int32, device=pages.device)
        placed.append(PagedKV(pages.transpose(1, 2), block_table))
    return Blocks(placed[0], placed[-1])


def fill_with_kernel(kernel: EngineKernel, call: AttentionCall, blocks: Blocks) -> Blocks:
    """The same blocks in a contiguous cache filled by the kernel's own cache write."""
    plain = blocks.one_segment
    cache = torch.zeros_like(plain.cache, memory_format=torch.contiguous_format)
    for kv in (blocks.one_segment, blocks.split):
        slots = layout.slots_of_batch(kv.block_table.tolist(), plain.block_size, call.lengths)
        kernel.write_cache(call, cache, torch.from_numpy(slots).to(cache.device))
    return Blocks(*(PagedKV(cache, kv.block_table) for kv in (blocks.one_segment, blocks.split)))
