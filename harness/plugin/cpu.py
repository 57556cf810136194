"""CPU attention (CPU_ATTN) on a step's own K and V.

vLLM's CPU kernel reads K and V from blocks alone, so each step gets blocks of its own, which go with it. That
saves no time; it is for tests and trials of the plugin where there is no GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.v1.attention.backends import cpu_attn

from harness.plugin.attention import OWN, Backend, Builder, Impl, Rows


class CPUBuilder(Builder, cpu_attn.CPUAttentionMetadataBuilder):  # type: ignore[misc]
    """vLLM's, for a decoder also where the layers have no cache."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_encoder_only_attention = False

    def prepare(self, metadata: Any) -> Any:
        """The metadata with the step's own blocks, which each layer rewrites, and their table and slots."""
        size, lengths = self.block_size, metadata.seq_lens
        per_request = (lengths + size - 1) // size
        first = per_request.cumsum(0) - per_request
        table = first[:, None] + torch.arange(int(per_request.max()))
        # A request's tokens follow one another, from the first slot of its first block on.
        starts = metadata.query_start_loc[:-1].repeat_interleave(lengths)
        slots = torch.arange(int(lengths.sum())) - starts + size * first.repeat_interleave(lengths)
        own = replace(metadata, block_table=table.to(torch.int32), slot_mapping=slots.to(torch.int64))
        shape = (int(per_request.sum()), self.num_kv_heads, size, 2 * self.head_dim)
        own.blocks = torch.zeros(shape, dtype=self.dtype)
        setattr(own, OWN, True)
        return own


class CPUImpl(Impl, cpu_attn.CPUAttentionBackendImpl):  # type: ignore[misc]
    """vLLM's kernel on the step's own blocks."""

    writes_ahead = not cpu_attn.CPUAttentionBackend.forward_includes_kv_cache_update

    def attend(self, layer: Any, rows: Rows, metadata: Any) -> None:
        """Write this layer's K and V into the step's blocks and attend to them."""
        query, key, value, output = rows
        if self.writes_ahead:
            self.do_kv_cache_update(layer, key, value, metadata.blocks, metadata.slot_mapping)
        stock = cpu_attn.CPUAttentionBackendImpl.forward
        stock(self, layer, query, key, value, metadata.blocks, metadata, output)


class PrefillOnlyCPUAttention(Backend, cpu_attn.CPUAttentionBackend):  # type: ignore[misc]
    """Takes the place of CPU_ATTN."""

    impl_cls, builder_cls = CPUImpl, CPUBuilder
