"""flash-attn's `flash_attn_with_kvcache`: K and V from a cache, with or without a block table."""

from __future__ import annotations

from dataclasses import replace

from harness.calls.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, upstream
from harness.kernels.support import Feature, Sizes, require, try_once

PAGE_MULTIPLE = 256  # flash-attn 2: "Paged KV cache block size must be divisible by 256"


class FlashAttnWithKvcache:
    """q [requests, tokens, num_heads, head_dim]; caches [blocks, block_size, num_kv_heads, head_dim]."""

    name = "flash_attn_with_kvcache"
    page_multiple = PAGE_MULTIPLE

    def __init__(self) -> None:
        self.provider = upstream.provider()
        build = upstream.support()
        self.support = replace(
            build, features=build.features | {Feature.PAGED}, page_sizes=Sizes(multiple_of=PAGE_MULTIPLE)
        )

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, key, value = (upstream.by_request(call, x) for x in (call.query, kv.key, kv.value))
        lengths = call.seq_lens
        return try_once(
            lambda: function(query, key, value, cache_seqlens=lengths, **arguments).flatten(0, 1), self
        )

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, (key, value) = upstream.by_request(call, call.query), kv.split()
        where = {"cache_seqlens": call.seq_lens, "block_table": kv.block_table}
        return try_once(lambda: function(query, key, value, **where, **arguments).flatten(0, 1), self)
