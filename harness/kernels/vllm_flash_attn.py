"""vLLM's own FlashAttention 2 and 3, called as its backend calls them in a prefill."""

from __future__ import annotations

from typing import Any

import torch

from harness.capture import AttentionCall
from harness.kernels import DenseKV, Output, PagedKV, Run, Unsupported


class VllmFlashAttention:
    """`flash_attn_varlen_func` out of vllm.vllm_flash_attn, with or without a block table."""

    name = "flash_attn_varlen_func"

    def __init__(self, fa_version: int) -> None:
        self.fa_version = fa_version
        self.provider = f"vLLM FA{fa_version}"
        self._out = Output()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """Reads this step's own K and V. FA3's schedule is prepared ahead, as the engine does for paged."""
        _check(call)
        schedule = self._schedule(call, page_size=None)
        return self._bind(
            call, kv.key, kv.value, cu_seqlens_k=call.query_start_loc, scheduler_metadata=schedule
        )

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """Reads the cache in place; with the engine's own FA3 schedule if the pages are."""
        _check(call)
        same_pages = kv.block_size == call.block_size and call.scheduler_metadata is not None
        schedule = call.scheduler_metadata if same_pages else self._schedule(call, kv.block_size)
        key, value = kv.split()
        return self._bind(
            call,
            key,
            value,
            seqused_k=call.seq_lens,
            block_table=kv.block_table,
            scheduler_metadata=schedule,
        )

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        blocks, heads, block_size, width = cache.shape
        rows = cache.transpose(1, 2).view(blocks * block_size, heads, width)
        rows[slots] = torch.cat([call.key, call.value], dim=-1)

    def _bind(self, call: AttentionCall, key: torch.Tensor, value: torch.Tensor, **where: Any) -> Run:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        out = self._out.like(call.query)
        lengths = call.query_start_loc.diff()
        longest = int(lengths.max())
        arguments = {
            "max_seqlen_q": longest,
            "cu_seqlens_q": call.query_start_loc,
            "max_seqlen_k": longest,
            "softmax_scale": call.scale,
            "causal": call.causal,
            "window_size": list(call.sliding_window),
            "softcap": call.softcap,
            "alibi_slopes": call.alibi_slopes,
            "s_aux": call.sinks,
            "num_splits": call.max_num_splits,
            "fa_version": self.fa_version,
            "out": out,
            **where,
        }
        query = call.query
        return lambda: flash_attn_varlen_func(query, key, value, **arguments)

    def _schedule(self, call: AttentionCall, page_size: int | None) -> torch.Tensor | None:
        if self.fa_version != 3:
            return None
        from vllm.vllm_flash_attn import get_scheduler_metadata

        longest = int(call.query_start_loc.diff().max())
        schedule: torch.Tensor = get_scheduler_metadata(
            batch_size=call.num_requests,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            num_heads_q=call.num_heads,
            num_heads_kv=call.num_kv_heads,
            headdim=call.head_dim,
            cache_seqlens=call.seq_lens,
            qkv_dtype=call.query.dtype,
            cu_seqlens_q=call.query_start_loc,
            page_size=page_size,
            causal=call.causal,
            window_size=call.sliding_window,
            num_splits=call.max_num_splits,
        )
        return schedule


def _check(call: AttentionCall) -> None:
    if call.query.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(f"vLLM's FlashAttention takes float16 and bfloat16, not {call.query.dtype}")
