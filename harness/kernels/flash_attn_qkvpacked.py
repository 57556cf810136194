"""flash-attn's `flash_attn_qkvpacked_func`: Q, K and V in one tensor, no block table."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, Unsupported, upstream
from harness.kernels.support import Feature, Support, refuse, require, try_once

_GROUPED = (
    "packing needs as many KV heads as query heads; this model has {kv_heads} and {heads} "
    "(grouped-query attention)"
)


def without_grouped_queries(support: Support) -> Support:
    """A declaration without grouped queries: packing needs a K and a V head for every Q head."""
    grouped = {Feature.GQA, Feature.MQA}
    because = support.because | dict.fromkeys(grouped, _GROUPED)
    return replace(support, features=support.features - grouped, because=because)


def pack_qkv(query: torch.Tensor, kv: DenseKV) -> torch.Tensor:
    """Q, K and V ([tokens, num_heads, head_dim] each) as one tensor [tokens, 3, num_heads, head_dim].

    K and V that are already views of such a tensor are used without a copy. Raises Unsupported
    if there are not as many queries as keys.
    """
    key, value = kv.key, kv.value
    if len(query) != len(key):
        raise Unsupported(f"packing needs as many queries as keys, but there are {len(query)} and {len(key)}")
    if key.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() and key.stride(0) == 3 * (
        key.shape[1] * key.shape[2]
    ):
        tokens, heads, dim = key.shape
        return torch.as_strided(key, (tokens, 3, heads, dim), (key.stride(0), heads * dim, dim, 1), 0)
    return torch.stack([query, key, value], dim=1)


class FlashAttnQkvPacked:
    """qkv [requests, tokens, 3, num_heads, head_dim]."""

    name = "flash_attn_qkvpacked_func"

    def __init__(self) -> None:
        self.provider = upstream.provider()
        self.support = without_grouped_queries(upstream.support())

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        arguments, function = upstream.arguments(call), upstream.function(self.name)
        qkv = upstream.by_request(call, pack_qkv(call.query, kv))
        return try_once(lambda: function(qkv, **arguments).flatten(0, 1), self)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise refuse(self, call, kv.block_size)
