"""flash-attn's `flash_attn_qkvpacked_func`: Q, K and V in one tensor, no block table."""

from __future__ import annotations

import torch

from harness.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, Unsupported, upstream


def check_heads(call: AttentionCall) -> None:
    """Raise Unsupported for grouped-query attention: packing needs a K and a V head for every Q head."""
    if call.num_heads != call.num_kv_heads:
        raise Unsupported(
            f"packing needs as many KV heads as query heads; this model has {call.num_kv_heads} "
            f"and {call.num_heads} (grouped-query attention)"
        )


def packed(query: torch.Tensor, kv: DenseKV) -> torch.Tensor:
    """Q, K and V ([tokens, num_heads, head_dim] each) as one tensor [tokens, 3, num_heads, head_dim].

    K and V that are views of such a tensor already are taken as they are, without a copy.
    """
    key, value = kv.key, kv.value
    if key.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() and key.stride(0) == 3 * (
        key.shape[1] * key.shape[2]
    ):
        tokens, heads, dim = key.shape
        return torch.as_strided(key, (tokens, 3, heads, dim), (key.stride(0), heads * dim, dim, 1), 0)
    return torch.stack([query, key, value], dim=1)


class FlashAttnQkvPacked:
    """qkv [1, tokens, 3, num_heads, head_dim]."""

    name = "flash_attn_qkvpacked_func"

    def __init__(self) -> None:
        self.provider = upstream.provider()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        check_heads(call)
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        qkv = packed(call.query, kv).unsqueeze(0)
        return lambda: function(qkv, **arguments)[0]

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise upstream.no_block_table(self.name)
