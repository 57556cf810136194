"""flash-attn's `flash_attn_func`: separate Q, K and V, no block table."""

from __future__ import annotations

from harness.calls.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, upstream
from harness.kernels.support import refuse, require, try_once


class FlashAttnFunc:
    """q [requests, tokens, num_heads, head_dim]; k and v likewise with num_kv_heads."""

    name = "flash_attn_func"

    def __init__(self) -> None:
        self.provider = upstream.provider()
        self.support = upstream.support()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, key, value = (upstream.by_request(call, x) for x in (call.query, kv.key, kv.value))
        return try_once(lambda: function(query, key, value, **arguments).flatten(0, 1), self)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise refuse(self, call, kv.block_size)
