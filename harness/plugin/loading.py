"""The backends are put in place while a model is built, and the mode is on once all its layers are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.plugin import mode
from harness.plugin.startup import PLAIN_CACHE
from patches import prefill_only

BACKENDS = {
    "FLASH_ATTN": "harness.plugin.flash.PrefillOnlyFlashAttention",
    "TRITON_ATTN": "harness.plugin.triton.PrefillOnlyTritonAttention",
    "CPU_ATTN": "harness.plugin.cpu.PrefillOnlyCPUAttention",
}


def install() -> None:
    """Wrap the loading of models."""
    mode.wrap(prefill_only.LOAD_MODEL, _loading)


def _loading(load: Any) -> Any:
    def load_model(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        asked = mode.of(vllm_config)
        if asked is None:
            return load(self, vllm_config, *args, **kwargs)
        with _overriding_backends():
            model = load(self, vllm_config, *args, **kwargs)
        _switch_on(vllm_config, asked)
        return model

    return load_model


@contextmanager
def _overriding_backends() -> Iterator[None]:
    """Let layers built inside the block take the plugin's backends in place of vLLM's of the same name."""
    members, register = prefill_only.BACKENDS.resolve(), prefill_only.REGISTER_BACKEND.resolve()
    choose = prefill_only.CHOOSE_BACKEND.resolve()
    for name, path in BACKENDS.items():
        register(members[name], path)
    choose.cache_clear()
    try:
        yield
    finally:
        for name in BACKENDS:
            members[name].clear_override()
        choose.cache_clear()


def _switch_on(vllm_config: Any, asked: str) -> None:
    layers = vllm_config.compilation_config.static_forward_context
    if found := [*doubts(layers)]:
        # Not removed: the layers are built with other graphs than vLLM's own, which the key keeps apart.
        vllm_config.additional_config[mode.KEY] = mode.OFF
        # Under `nocache` other processes refuse longer requests by now, so vLLM would serve only some.
        mode.refuse(asked, found, may_run=asked != "nocache")
    elif asked == "nocache":
        for layer in _attention(layers).values():
            # To the runner a layer without a cache, as an encoder's; its implementation stays a decoder's.
            layer.attn_type = "encoder_only"


def doubts(layers: Mapping[str, Any]) -> Iterator[str]:
    """Reasons why a model's layers cannot run without the cache, each once."""
    plain, found = prefill_only.ATTENTION.resolve(), _attention(layers)
    if not found:
        yield "the model has no attention layers"
    for layer in found.values():
        kind, impl = type(layer).__name__, vars(layer).get("impl")
        if type(layer) is not plain or layer.attn_type != "decoder":
            yield f"layers of kind {kind} ({getattr(layer, 'attn_type', 'unknown')}) are unknown to it"
        elif not hasattr(impl, "why_not"):
            name = layer.attn_backend.get_name()
            yield f"attention runs in {name}; set --attention-backend to one of {', '.join(BACKENDS)}"
        elif layer.kv_sharing_target_layer_name is not None:
            yield "layers read K and V of other layers from the cache"
        elif layer.kv_cache_dtype not in PLAIN_CACHE:
            yield f"the model's KV cache is {layer.kv_cache_dtype}; attention reads other K and V from it"
        elif why := impl.why_not():
            yield why


def _attention(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Those with attention or a state; experts of a mixture are in the same mapping."""
    base = prefill_only.ATTENTION_BASE.resolve()
    return {name: layer for name, layer in layers.items() if isinstance(layer, base)}
