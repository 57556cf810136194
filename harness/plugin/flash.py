"""Flash attention (FLASH_ATTN) on a step's own K and V: the variable-length kernel without a block table."""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backends import flash_attn
from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func

from harness.plugin.attention import Backend, Builder, Impl, Rows


class FlashBuilder(Builder, flash_attn.FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """vLLM's."""

    full_graphs = True


class FlashImpl(Impl, flash_attn.FlashAttentionImpl):  # type: ignore[misc]
    """Versions 2, 3 and 4."""

    writes_ahead = not flash_attn.FlashAttentionBackend.forward_includes_kv_cache_update

    def why_not(self) -> str | None:
        """The kernel must take the layer's window without a block table, and no layer looks ahead."""
        if self._pages_of_its_own and self.sliding_window != (-1, -1):
            return "this version of flash attention has no sliding window without a block table"
        return f"a window of {self.sliding_window} looks ahead" if self.sliding_window[1] > 0 else None

    @property
    def _pages_of_its_own(self) -> bool:
        """Whether it is version 4's kernel for heads of 256 on Blackwell; since vLLM 0.32."""
        return getattr(self, "fa4_hd256", False)

    def attend(self, layer: Any, rows: Rows, metadata: Any) -> None:
        """As in vLLM's path for encoders, but causal."""
        query, key, value, output = rows
        starts, longest = metadata.query_start_loc, metadata.max_query_len
        one_split = self.batch_invariant_enabled or self._pages_of_its_own
        flash_attn_varlen_func(
            q=query, k=key, v=value, out=output, softmax_scale=self.scale, causal=True,
            cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest, max_seqlen_k=longest,
            alibi_slopes=self.alibi_slopes, window_size=list(self.sliding_window),
            softcap=self.logits_soft_cap, s_aux=self.sinks,
            fa_version=self.vllm_flash_attn_version, num_splits=1 if one_split else 0,
        )  # fmt: skip


class PrefillOnlyFlashAttention(Backend, flash_attn.FlashAttentionBackend):  # type: ignore[misc]
    """Takes the place of FLASH_ATTN."""

    impl_cls, builder_cls = FlashImpl, FlashBuilder
