"""Triton attention (TRITON_ATTN) on a step's own K and V: vLLM's kernel for prompts without a block table."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadataBuilder,
)
from vllm.v1.attention.ops.triton_prefill_attention import context_attention_fwd

from harness.plugin.attention import Backend, Builder, Impl


class TritonBuilder(Builder, TritonAttentionMetadataBuilder):  # type: ignore[misc]
    """vLLM's."""


class TritonImpl(Impl, TritonAttentionImpl):  # type: ignore[misc]
    """Without what that kernel lacks: ALiBi, a soft cap, windows of one token, chunks."""

    writes_ahead = not TritonAttentionBackend.forward_includes_kv_cache_update

    def why_not(self) -> str | None:
        """The first feature of the layer that the kernel lacks."""
        lacking = {
            "ALiBi": self.alibi_slopes is not None,
            "a soft cap": bool(self.logits_soft_cap),
            "a window of one token": self.sliding_window[0] == 0,
            "a window that looks ahead": self.sliding_window[1] > 0,
            "chunked attention": getattr(self, "chunk_lookback", -1) > -1,
        }
        missing = next((name for name, asked in lacking.items() if asked), None)
        return (
            f"Triton's attention without a block table has no {missing.removeprefix('a ')}"
            if missing
            else None
        )

    def attend(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        metadata: Any,
    ) -> None:
        """As in vLLM's path for encoders, but causal."""
        context_attention_fwd(
            q=query,
            k=key,
            v=value,
            o=output,
            b_start_loc=metadata.query_start_loc,
            b_seq_len=metadata.seq_lens,
            max_input_len=metadata.max_query_len,
            is_causal=True,
            softmax_scale=self.scale,
            sliding_window_q=self.sliding_window[0],
            sliding_window_k=0,
            sinks=self.sinks,
        )


class PrefillOnlyTritonAttention(Backend, TritonAttentionBackend):  # type: ignore[misc]
    """Takes the place of TRITON_ATTN."""

    impl_cls, builder_cls = TritonImpl, TritonBuilder
