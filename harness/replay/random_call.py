"""Attention calls without an engine: random Q, K and V, and the same K and V in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness import layout
from harness.calls.capture import AttentionCall
from harness.experiments.kernels.options import KernelsConfig
from harness.kernels import EngineKernel, PagedKV


def make(config: KernelsConfig, device: str) -> AttentionCall:
    """A call of `batch_size` sequences of `length` tokens, the last `seq_len_q` of which are queries.

    query [batch_size * seq_len_q, num_heads, head_dim], key and value [batch_size * length, num_kv_heads,
    head_dim], contiguous and normally distributed; the same seed gives the same numbers. It has no cache and
    no output.

    Args:
        config: resolved.
        device: "cpu" or "cuda".
    """
    queries, kv_heads, batch = config.seq_len_q or 0, config.num_kv_heads or 0, config.batch_size
    dtype: torch.dtype = getattr(torch, config.dtype)
    generator = torch.Generator(device=device).manual_seed(config.seed)

    def normal(tokens: int, heads: int) -> torch.Tensor:
        shape = (batch * tokens, heads, config.head_dim)
        # Drawn in float32: CPU generators are slow in half precision.
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def int32(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    query = normal(queries, config.num_heads)
    return AttentionCall(
        layer=0,
        layer_name="random",
        backend="none",
        query=query,
        key=normal(config.length, kv_heads),
        value=normal(config.length, kv_heads),
        output=query.new_empty(0),
        block_table=query.new_empty(batch, 0, dtype=torch.int32),
        slot_mapping=torch.empty(0, dtype=torch.int64, device=device),
        seq_lens=int32([config.length] * batch),
        query_start_loc=int32([queries * n for n in range(batch + 1)]),
        qkv_strides=(),
        block_size=config.block_size,
        scale=config.head_dim**-0.5,
        causal=config.causal,
        sliding_window=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        sinks=None,
        cache_shape=(),
        cache_strides=(),
        cache_dtype=config.dtype,
        fa_version=None,
        isa=None,
        scheduler_metadata=None,
        max_num_splits=0,
    )


@dataclass(frozen=True)
class Blocks:
    """K and V of all sequences in one cache, each of them in one run and again in `runs` runs."""

    one_run: PagedKV
    split: PagedKV  # `one_run` itself where there is but one


def in_blocks(call: AttentionCall, config: KernelsConfig, runs: int, block_size: int) -> Blocks:
    """The call's K and V in a new cache like vLLM's: tokens outside heads, a head's K beside its V."""
    length = config.length
    blocks = layout.num_blocks(length, block_size)
    tables = [[list(range(n * blocks, (n + 1) * blocks)) for n in range(config.batch_size)]]
    if runs > 1:
        tables.append(_split(config, runs, blocks))
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


def written_by(kernel: EngineKernel, call: AttentionCall, blocks: Blocks) -> Blocks:
    """The same blocks in a contiguous cache that the kernel's own cache write has filled."""
    plain = blocks.one_run
    cache = torch.zeros_like(plain.cache, memory_format=torch.contiguous_format)
    for kv in (blocks.one_run, blocks.split):
        slots = layout.slots_of_batch(kv.block_table.tolist(), plain.block_size, call.lengths)
        kernel.write_cache(call, cache, torch.from_numpy(slots).to(cache.device))
    return Blocks(*(PagedKV(cache, kv.block_table) for kv in (blocks.one_run, blocks.split)))


def _split(config: KernelsConfig, runs: int, blocks: int) -> list[list[int]]:
    """Block ids of each sequence, in so many runs, behind those that the single runs take."""
    room = blocks * (layout.SCATTER if config.gap == "scattered" else 1)
    behind = config.batch_size * blocks
    plans = []
    for n in range(config.batch_size):
        ids = range(behind + n * room, behind + (n + 1) * room)
        seed = config.seed + runs + n
        plans.append(layout.plan(blocks, runs, ids, gap=config.gap, sizes=config.run_sizes, seed=seed))
    return plans
