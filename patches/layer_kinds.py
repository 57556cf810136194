"""What each layer keeps in the KV cache, as vLLM's own cache spec of the layer says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from patches import Symbol, reach

FULL = Symbol("vllm.v1.kv_cache_interface:FullAttentionSpec", ("block_size", "dtype"))
WINDOW = Symbol("vllm.v1.kv_cache_interface:SlidingWindowSpec", ("block_size", "dtype"))
CHUNKED = Symbol(
    "vllm.v1.kv_cache_interface:ChunkedLocalAttentionSpec", ("block_size", "attention_chunk_size")
)
NEEDS = (
    FULL, WINDOW, CHUNKED,
    Symbol("vllm.model_executor.layers.attention_layer_base:AttentionLayerBase.get_kv_cache_spec",
           ("vllm_config",)),
)  # fmt: skip
PLAIN_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class LayerKinds:
    """The layers that are not plain attention on blocks of K and V of their own; others are in none of these.

    Names are vLLM's.
    """

    unmeasured: Mapping[str, str]  # attention that is never captured or steered: why
    quantised: Mapping[
        str, str
    ]  # attention whose cache is not in the model's data type: vLLM's name of its type
    chunks: Mapping[str, int]  # chunked local attention: tokens of a chunk
    states: Mapping[str, str]  # layers without attention that keep something else in blocks: what
    read_by_others: frozenset[str]  # attention whose K and V other layers read as well

    def not_captured(self, longest: int) -> dict[str, str]:
        """Why calls cannot be captured in a step whose longest prompt has `longest` tokens, by layer."""
        return dict(self.unmeasured) | {
            name: f"chunked local attention: vLLM splits a prompt of {longest} tokens into "
            f"{-(-longest // chunk)} virtual requests of {chunk}"
            for name, chunk in self.chunks.items()
            if longest > chunk
        }

    def not_steered(self, longest: int) -> dict[str, str]:
        """Why attention in such a step must run as in vLLM, by layer."""
        quantised = {name: f"its KV cache is {dtype}" for name, dtype in self.quantised.items()}
        return self.not_captured(longest) | quantised


def kinds(worker: Any) -> LayerKinds:
    """The kinds of a worker's layers, with its model loaded."""
    config = reach(worker, "vllm_config")
    context = reach(config, "compilation_config.static_forward_context")
    cached = {name: layer for name, layer in context.items() if hasattr(layer, "get_kv_cache_spec")}
    specs = {name: layer.get_kv_cache_spec(config) for name, layer in cached.items()}
    return of_specs(cached, specs, config.model_config.dtype)


def of_specs(layers: Mapping[str, Any], specs: Mapping[str, Any], dtype: torch.dtype) -> LayerKinds:
    """The kinds of layers.

    Args:
        layers: vLLM's by name, attention and others that keep a cache.
        specs: each one's cache spec; None: it keeps none.
        dtype: the model's.
    """
    attention = {name: layer for name, layer in layers.items() if getattr(layer, "impl", None) is not None}
    unmeasured = {
        name: reason for name, layer in attention.items() if (reason := _why_unmeasured(layer, specs[name]))
    }
    measured = [name for name in attention if name not in unmeasured]
    chunked = CHUNKED.resolve()
    return LayerKinds(
        unmeasured=unmeasured,
        quantised={
            name: str(attention[name].kv_cache_dtype)
            for name in measured
            if specs[name].dtype not in PLAIN_DTYPES or specs[name].dtype != dtype
        },
        chunks={name: specs[name].attention_chunk_size for name in measured if type(specs[name]) is chunked},
        states={
            name: type(spec).__name__
            for name, spec in specs.items()
            if name not in attention and spec is not None
        },
        read_by_others=frozenset(filter(None, map(_target, attention.values()))),
    )


def _why_unmeasured(layer: Any, spec: Any) -> str | None:
    """Why the layer has no plain K and V of its own in blocks, or None."""
    impl = type(layer.impl).__name__
    if not hasattr(layer.impl, "forward"):
        return f"{impl} is latent attention (MLA): no K and V per head"
    if spec is None or getattr(layer, "attn_type", "decoder") in ("encoder_only", "encoder"):
        return f"{impl} is encoder-only attention: no KV cache"
    if target := _target(layer):
        return f"no K and V of its own: it reads those of {target}"
    if getattr(layer, "kv_cache_update_bypass", False):
        return "the model writes K and V into the cache itself (kv_cache_update_bypass)"
    if type(spec) not in (FULL.resolve(), WINDOW.resolve(), CHUNKED.resolve()):
        return f"its cache is vLLM's {type(spec).__name__}, not plain blocks of K and V per head"
    return None


def _target(layer: Any) -> str | None:
    """The layer whose K and V this one reads; None: its own."""
    target: str | None = getattr(layer, "kv_sharing_target_layer_name", None)
    return target
