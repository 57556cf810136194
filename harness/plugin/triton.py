"""Triton attention (TRITON_ATTN) on a step's own K and V: vLLM's kernel for prompts without a block table."""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backends import triton_attn
from vllm.v1.attention.ops.triton_prefill_attention import context_attention_fwd

from harness.plugin.attention import Backend, Builder, Impl, Rows


class TritonBuilder(Builder, triton_attn.TritonAttentionMetadataBuilder):  # type: ignore[misc]
    """vLLM's."""


class TritonImpl(Impl, triton_attn.TritonAttentionImpl):  # type: ignore[misc]
    """Without what that kernel lacks."""

    writes_ahead = not triton_attn.TritonAttentionBackend.forward_includes_kv_cache_update

    def why_not(self) -> str | None:
        """The first feature of the layer that the kernel lacks."""
        lacking = {
            "ALiBi": self.alibi_slopes is not None,
            "soft cap": bool(self.logits_soft_cap),
            "window of one token": self.sliding_window[0] == 0,
            "window that looks ahead": self.sliding_window[1] > 0,
            "chunked attention": getattr(self, "chunk_lookback", -1) > -1,
        }
        missing = next((name for name, asked in lacking.items() if asked), None)
        return f"Triton's attention without a block table has no {missing}" if missing else None

    def attend(self, layer: Any, rows: Rows, metadata: Any) -> None:
        """As in vLLM's path for encoders, but causal."""
        query, key, value, output = rows
        context_attention_fwd(
            q=query, k=key, v=value, o=output, softmax_scale=self.scale, is_causal=True, sinks=self.sinks,
            b_start_loc=metadata.query_start_loc, b_seq_len=metadata.seq_lens,
            max_input_len=metadata.max_query_len,
            sliding_window_q=self.sliding_window[0], sliding_window_k=0,
        )  # fmt: skip


class PrefillOnlyTritonAttention(Backend, triton_attn.TritonAttentionBackend):  # type: ignore[misc]
    """Takes the place of TRITON_ATTN."""

    impl_cls, builder_cls = TritonImpl, TritonBuilder
