"""Attention calls made without an engine."""

from __future__ import annotations

import torch

from harness import arms, kernels, layout
from harness.capture import AttentionCall


def make_call(
    length: int = 200,
    *,
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
    """One request's random call, without a cache and without an output."""
    generator = torch.Generator().manual_seed(length + heads)

    def random(count: int) -> torch.Tensor:
        return torch.randn(length, count, head_dim, generator=generator).to(device, dtype)

    blocks = layout.num_blocks(length, block_size)
    ids = list(range(1, blocks + 1))
    return AttentionCall(
        layer=0,
        layer_name="made",
        backend="CPU_ATTN" if device == "cpu" else "FLASH_ATTN",
        query=random(heads),
        key=random(kv_heads),
        value=random(kv_heads),
        output=torch.zeros(length, heads, head_dim, dtype=dtype, device=device),
        block_table=torch.tensor([ids], dtype=torch.int32, device=device),
        slot_mapping=torch.from_numpy(layout.slot_mapping(ids, block_size, length)).to(device),
        seq_lens=torch.tensor([length], dtype=torch.int32, device=device),
        query_start_loc=torch.tensor([0, length], dtype=torch.int32, device=device),
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


def place(call: AttentionCall, spread_k: int, seed: int = 0) -> arms.Placement:
    """The call in a cache of its own, with the engine kernel's output on the single run."""
    kernel = kernels.for_engine(call)
    blocks = layout.num_blocks(call.num_tokens, call.block_size)
    ids = layout.plan(blocks, spread_k, range(blocks + 1, 2 * blocks + 1), seed=seed)
    return arms.with_output(arms.placed(call, kernel, spread_k, ids), kernel)


def plan(blocks: int, spread_k: int) -> list[int]:
    """A layout for caches that the arms make themselves."""
    return layout.plan(blocks, spread_k, range(1, blocks + 1))
