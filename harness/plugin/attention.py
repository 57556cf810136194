"""What the plugin's backends share: mixed in ahead of vLLM's own builder and implementation of attention."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from harness.plugin import mode, steps
from patches import prefill_only

OWN = "runs_on_own_kv"  # of metadata: attention runs on the step's own K and V


class Builder:
    """A metadata builder that marks steps which need no cache, and leaves out the plan of the paged kernel."""

    vllm_config: Any

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """At most decoding steps in full graphs, so that none freezes whether a step uses the cache."""
        from vllm.v1.attention.backend import AttentionCGSupport

        support = super().get_cudagraph_support(vllm_config, kv_cache_spec)  # type: ignore[misc]
        asked = mode.of(vllm_config)
        if asked is None:
            return support
        most = (
            AttentionCGSupport.NEVER if asked == "nocache" else AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
        )
        return min(support, most, key=lambda each: each.value)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """vLLM's metadata, without the plan of the paged kernel (`fast_build`) where that will not run."""
        own = steps.self_contained(self.vllm_config)
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build or own)  # type: ignore[misc]
        setattr(metadata, OWN, own)
        return self.prepare(metadata) if own else metadata

    def prepare(self, metadata: Any) -> Any:
        """Add what `attend` needs, once for all layers of a step."""
        return metadata


class Impl:
    """Attention that runs on K and V of the step where its metadata says so, and else as vLLM's own."""

    writes_ahead: ClassVar[bool]  # whether vLLM's own backend has K and V written ahead of `forward`
    num_heads: int

    def why_not(self) -> str | None:
        """Why this layer cannot run on a step's own K and V, or None."""
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
        """Causal attention within each request of a step, into `output`.

        Args:
            query, output: [tokens, heads, head size], requests one after the other.
            key, value: [tokens, KV heads, head size].
            metadata: of a step that needs no cache.
        """
        raise NotImplementedError

    def fused_output_quant_supported(self, quant_key: Any) -> bool:
        """No: the kernels without a block table do not quantise what they return."""
        return False

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As vLLM's; writes K and V first, as the backend says `forward_includes_kv_cache_update`."""
        if getattr(attn_metadata, OWN, False):
            # Rows beyond these are padding of a CUDA graph and may hold anything.
            count = attn_metadata.num_actual_tokens
            rows = (query, key, value, output)
            cut = rows if query.shape[0] == count else tuple(each[:count] for each in rows)
            self.attend(layer, *cut, attn_metadata)
            return output
        if attn_metadata is not None and self.writes_ahead:
            *_, slot_mapping = prefill_only.ATTENTION_CONTEXT.resolve()(layer.layer_name)
            if slot_mapping is not None:
                self.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)  # type: ignore[attr-defined]
        return super().forward(  # type: ignore[misc, no-any-return]
            layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
        )


class Backend:
    """Settings of a backend whose `forward` writes the cache itself, where it writes it."""

    forward_includes_kv_cache_update = True
    supports_kv_cache_update_bypass = False
    impl_cls: ClassVar[type[Impl]]
    builder_cls: ClassVar[type[Builder]]

    @classmethod
    def get_impl_cls(cls) -> type[Impl]:
        """The implementation of a layer."""
        return cls.impl_cls

    @classmethod
    def get_builder_cls(cls) -> type[Builder]:
        """The builder of a step's metadata."""
        return cls.builder_cls
