"""flash-attn's `flash_attn_with_kvcache`: K and V from a cache, with or without a block table."""

from __future__ import annotations

from harness.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, Unsupported, upstream

PAGE_MULTIPLE = 256  # flash-attn 2: "Paged KV cache block size must be divisible by 256"


class FlashAttnWithKvcache:
    """q [1, tokens, num_heads, head_dim]; caches [blocks, block_size, num_kv_heads, head_dim]."""

    name = "flash_attn_with_kvcache"
    page_multiple = PAGE_MULTIPLE

    def __init__(self) -> None:
        self.provider = upstream.provider()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, key, value = (x.unsqueeze(0) for x in (call.query, kv.key, kv.value))
        lengths = call.seq_lens
        return lambda: function(query, key, value, cache_seqlens=lengths, **arguments)[0]

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        if kv.block_size % PAGE_MULTIPLE:
            raise Unsupported(f"block size {kv.block_size}: flash-attn 2 takes multiples of {PAGE_MULTIPLE}")
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, (key, value) = call.query.unsqueeze(0), kv.split()
        lengths, table = call.seq_lens, kv.block_table
        return lambda: function(query, key, value, cache_seqlens=lengths, block_table=table, **arguments)[0]
