"""Flash attention (FLASH_ATTN) on a step's own K and V: the variable-length kernel without a block table."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from harness.plugin.attention import Backend, Builder, Impl


class FlashBuilder(Builder, FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """vLLM's; `fast_build` spares it the plan of the paged kernel."""


class FlashImpl(Impl, FlashAttentionImpl):  # type: ignore[misc]
    """Versions 2, 3 and 4."""

    writes_ahead = not FlashAttentionBackend.forward_includes_kv_cache_update

    def why_not(self) -> str | None:
        """The layer's window must be a decoder's, and its kernel take one without a block table."""
        if getattr(self, "fa4_hd256", False) and self.sliding_window != (-1, -1):
            return "this version of flash attention has no sliding window without a block table"
        if self.sliding_window[1] > 0:
            return f"a window of {self.sliding_window} looks ahead"
        return None

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
        starts, longest = metadata.query_start_loc, metadata.max_query_len
        flash_attn_varlen_func(
            q=query,
            k=key,
            v=value,
            out=output,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=self.scale,
            causal=True,
            alibi_slopes=self.alibi_slopes,
            window_size=list(self.sliding_window),
            softcap=self.logits_soft_cap,
            fa_version=self.vllm_flash_attn_version,
            num_splits=1 if self.batch_invariant_enabled or getattr(self, "fa4_hd256", False) else 0,
            s_aux=self.sinks,
        )


class PrefillOnlyFlashAttention(Backend, FlashAttentionBackend):  # type: ignore[misc]
    """Takes the place of FLASH_ATTN."""

    impl_cls, builder_cls = FlashImpl, FlashBuilder
