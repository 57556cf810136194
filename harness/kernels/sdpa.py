"""PyTorch's SDPA in the place of flash-attn's three functions, where those cannot run (on a CPU)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from harness.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, Unsupported
from harness.kernels.flash_attn_qkvpacked import check_heads, packed


@dataclass(frozen=True)
class StandIn:
    """Has a function's name and takes what it takes, but runs SDPA; its provider says so."""

    name: str
    packs: bool = False
    takes_block_table: bool = False
    provider: str = "SDPA stand-in"

    @classmethod
    def func(cls) -> StandIn:
        return cls("flash_attn_func")

    @classmethod
    def qkvpacked(cls) -> StandIn:
        return cls("flash_attn_qkvpacked_func", packs=True)

    @classmethod
    def with_kvcache(cls) -> StandIn:
        return cls("flash_attn_with_kvcache", takes_block_table=True)

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        _check(call)
        query, key, value = call.query, kv.key, kv.value
        if self.packs:
            check_heads(call)
            query, key, value = packed(call.query, kv).unbind(1)
        return lambda: _attention(call, query, key, value)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """SDPA reads no block table: the blocks are gathered inside the call, and timed with it."""
        if not self.takes_block_table:
            raise Unsupported(f"{self.name} takes no block table")
        _check(call)
        key_cache, value_cache = kv.split()
        blocks = kv.block_table[0].long()

        def run() -> torch.Tensor:
            key, value = (
                cache[blocks].flatten(0, 1)[: call.num_tokens] for cache in (key_cache, value_cache)
            )
            return _attention(call, call.query, key, value)

        return run


def _check(call: AttentionCall) -> None:
    if call.num_requests != 1:
        raise Unsupported(f"{call.num_requests} requests in one call: the stand-in takes one")
    lacking = {
        "a sliding window": call.sliding_window != (-1, -1),
        "a logit soft-cap": call.softcap != 0,
        "ALiBi slopes": call.alibi_slopes is not None,
        "attention sinks": call.sinks is not None,
    }
    missing = [name for name, present in lacking.items() if present]
    if missing:
        raise Unsupported(f"the SDPA stand-in has no {' and no '.join(missing)}")


def _attention(
    call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=call.causal,
        scale=call.scale,
        enable_gqa=call.num_heads != call.num_kv_heads,
    )
    return out[0].transpose(0, 1)
