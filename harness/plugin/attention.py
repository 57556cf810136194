"""What the plugin's backends share: mixed in ahead of vLLM's own builder, implementation and backend."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from harness.plugin import mode, steps
from patches import prefill_only

OWN = "runs_on_own_kv"  # of metadata: attention runs on the step's own K and V
Rows = tuple[Tensor, Tensor, Tensor, Tensor]  # query, key, value, output, without padding


_attention_context = cache(prefill_only.ATTENTION_CONTEXT.resolve)


def _asks_for_full_graphs(vllm_config: Any) -> bool:
    """Whether steps of any kind are to be full graphs, and the runner keeps what they read."""
    from vllm.config import CUDAGraphMode

    asked = vllm_config.compilation_config.cudagraph_mode
    persistent = vllm_config.use_v2_model_runner and not prefill_only.ENCODER_ONLY_GRAPHS.problem()
    return bool(persistent and asked is not None and asked.mixed_mode() == CUDAGraphMode.FULL)


class Builder:
    """A metadata builder that marks steps which need no cache, and plans no paged kernel for them."""

    vllm_config: Any
    full_graphs: ClassVar[bool] = (
        False  # whether `attend` reads only what outlives a step, so can be captured
    )

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """With a cache at most decoding steps in full graphs, so that none freezes whether a step uses it."""
        from vllm.v1.attention.backend import AttentionCGSupport as Support

        support = super().get_cudagraph_support(vllm_config, kv_cache_spec)  # type: ignore[misc]
        full = cls.full_graphs and support == Support.ALWAYS and _asks_for_full_graphs(vllm_config)
        most = {
            None: support,
            "nocache": support if full else Support.NEVER,
            "step": Support.UNIFORM_SINGLE_TOKEN_DECODE,
        }
        return min(support, most[mode.of(vllm_config)], key=lambda each: each.value)

    def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> Any:
        """vLLM's metadata, with one request of all the graph's tokens as the longest that it will run."""
        metadata = super().build_for_cudagraph_capture(common_attn_metadata)  # type: ignore[misc]
        if getattr(metadata, OWN, False):
            metadata.max_query_len = metadata.num_actual_tokens
        return metadata

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """vLLM's metadata, without the plan of the paged kernel (`fast_build`) where that will not run."""
        own = steps.self_contained(self.vllm_config)
        # Flash attention learns the layers' window at the first plan that it makes, so that one is made.
        fast = fast_build or (own and getattr(self, "aot_sliding_window", True) is not None)
        metadata = super().build(common_prefix_len, common_attn_metadata, fast)  # type: ignore[misc]
        setattr(metadata, OWN, own)
        return self.prepare(metadata) if own else metadata

    def prepare(self, metadata: Any) -> Any:
        """Add what `attend` needs, once for all layers of a step."""
        return metadata


class Impl:
    """Attention that runs on K and V of the step where its metadata says so, and else as vLLM's own."""

    writes_ahead: ClassVar[bool]  # whether vLLM's own backend has K and V written ahead of `forward`

    def why_not(self) -> str | None:
        """Why this layer cannot run on a step's own K and V, or None."""
        return None

    def attend(self, layer: Any, rows: Rows, metadata: Any) -> None:
        """Causal attention within each request of a step that needs no cache, into the rows' output."""
        raise NotImplementedError

    def fused_output_quant_supported(self, quant_key: Any) -> bool:
        """No: the kernels without a block table do not quantise what they return."""
        return False

    def forward(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, kv_cache: Tensor, attn_metadata: Any,
        output: Tensor, *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """As vLLM's; writes K and V first, as the backend says `forward_includes_kv_cache_update`."""
        if getattr(attn_metadata, OWN, False):
            # Rows beyond these are padding of a CUDA graph and may hold anything.
            count, rows = attn_metadata.num_actual_tokens, (query, key, value, output)
            if query.shape[0] != count:
                rows = query[:count], key[:count], value[:count], output[:count]
            self.attend(layer, rows, attn_metadata)
            return output
        if attn_metadata is not None and self.writes_ahead:
            *_, slot_mapping = _attention_context()(layer.layer_name)
            if slot_mapping is not None:
                self.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)  # type: ignore[attr-defined]
        given = layer, query, key, value, kv_cache, attn_metadata, output, *args
        return super().forward(*given, **kwargs)  # type: ignore[misc]


class Backend:
    """A backend whose `forward` writes the cache itself, where it writes it."""

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
