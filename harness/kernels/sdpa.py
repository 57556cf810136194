"""PyTorch's SDPA in place of flash-attn's three functions where those cannot run (on a CPU)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from harness.calls.capture import AttentionCall
from harness.kernels.flash_attn_qkvpacked import pack_qkv, without_grouped_queries
from harness.kernels.protocol import DenseKV, PagedKV, Run
from harness.kernels.support import Feature, Support, require
from harness.kernels.torch_sdpa import SUPPORT, attention


@dataclass(frozen=True)
class StandIn:
    """Has a function's name and form of K and V but runs SDPA, as its provider says."""

    name: str
    support: Support = SUPPORT
    packs: bool = False
    provider: str = "SDPA stand-in"

    @classmethod
    def func(cls) -> StandIn:
        return cls("flash_attn_func")

    @classmethod
    def qkvpacked(cls) -> StandIn:
        return cls("flash_attn_qkvpacked_func", without_grouped_queries(SUPPORT), packs=True)

    @classmethod
    def with_kvcache(cls) -> StandIn:
        return cls("flash_attn_with_kvcache", replace(SUPPORT, features=SUPPORT.features | {Feature.PAGED}))

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        query, key, value = call.query, kv.key, kv.value
        if self.packs:
            query, key, value = pack_qkv(call.query, kv).unbind(1)
        return lambda: attention(call, query, key, value)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """SDPA reads no block table: blocks are gathered inside the timed call."""
        require(self, call, kv.block_size)
        key_cache, value_cache = kv.split()
        blocks, length = kv.block_table.long(), int(call.seq_lens[0])

        def run() -> torch.Tensor:
            key, value = (
                cache[blocks].flatten(1, 2)[:, :length].flatten(0, 1) for cache in (key_cache, value_cache)
            )
            return attention(call, call.query, key, value)

        return run
