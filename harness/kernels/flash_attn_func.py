"""flash-attn's `flash_attn_func`: separate Q, K and V, no block table."""

from __future__ import annotations

from harness.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, upstream


class FlashAttnFunc:
    """q [1, tokens, num_heads, head_dim]; k and v [1, tokens, num_kv_heads, head_dim]."""

    name = "flash_attn_func"

    def __init__(self) -> None:
        self.provider = upstream.provider()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        query, key, value = (x.unsqueeze(0) for x in (call.query, kv.key, kv.value))
        return lambda: function(query, key, value, **arguments)[0]

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise upstream.no_block_table(self.name)
