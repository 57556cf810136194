"""Attention calls made without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from harness import kernels, layout
from harness.calls.capture import AttentionCall
from harness.replay import arms
from harness.replay.placement import Placement, block_table, make_placement


def make_call(
    length: int = 200,
    *,
    lengths: Sequence[int] | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    block_size: int = 32,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    fa_version: int | None = None,
    sliding_window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> AttentionCall:
    """A random call of one request, or of several with these `lengths`, without a cache and an output."""
    lengths = lengths or [length]
    tokens = sum(lengths)
    generator = torch.Generator().manual_seed(tokens + heads)

    def random(count: int) -> torch.Tensor:
        return torch.randn(tokens, count, head_dim, generator=generator).to(device, dtype)

    counts = [layout.num_blocks(n, block_size) for n in lengths]
    ids = layout.plan_batch(counts, [1] * len(counts), range(1, sum(counts) + 1))
    call = AttentionCall(
        layer=0,
        layer_name="made",
        backend="CPU_ATTN" if device == "cpu" else "FLASH_ATTN",
        query=random(heads),
        key=random(kv_heads),
        value=random(kv_heads),
        output=torch.zeros(tokens, heads, head_dim, dtype=dtype, device=device),
        block_table=torch.empty(0),
        slot_mapping=torch.from_numpy(layout.slots_of_batch(ids, block_size, lengths)).to(device),
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        query_start_loc=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        qkv_strides=(),
        block_size=block_size,
        scale=head_dim**-0.5,
        causal=True,
        sliding_window=sliding_window,
        softcap=softcap,
        alibi_slopes=None,
        sinks=None,
        cache_shape=(),
        cache_strides=(),
        cache_dtype=str(dtype).removeprefix("torch."),
        fa_version=fa_version,
        isa="vec",
        scheduler_metadata=None,
        max_num_splits=0,
    )
    return replace(call, block_table=block_table(call, ids))


def place(call: AttentionCall, spread_k: int, seed: int = 0) -> Placement:
    """The call in a cache of its own, with the engine kernel's output on the single segment."""
    kernel = kernels.for_engine(call)
    blocks = [layout.num_blocks(n, call.block_size) for n in call.lengths]
    segments = [min(spread_k, n) for n in blocks]
    free = range(sum(blocks) + 1, 2 * sum(blocks) + 1)
    ids = layout.plan_batch(blocks, segments, free, seed=seed)
    return arms.with_output(make_placement(call, kernel, spread_k, ids), kernel)


def plan(blocks: Sequence[int], segments: Sequence[int]) -> list[list[int]]:
    """A layout for caches that the arms make themselves."""
    return layout.plan_batch(blocks, segments, range(1, sum(blocks) + 1))
