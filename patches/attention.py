"""See vLLM's attention calls: what each layer's attention got and returned in an engine step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from patches import PatchError, Symbol

PARAMETERS = {"layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"}
NEEDS = (
    Symbol("vllm.v1.attention.backends.flash_attn:FlashAttentionImpl.forward",
           tuple(PARAMETERS)),
    Symbol("vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl.forward",
           tuple(PARAMETERS)),
    Symbol("vllm.v1.attention.backends.triton_attn:TritonAttentionImpl.forward",
           tuple(PARAMETERS), optional=True),
)  # fmt: skip

# Receives (layer, query, key, value, kv_cache, attn_metadata, output), output already written.
Observer = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any, torch.Tensor], None]


class AttentionTap:
    """Sits on the backend implementation of each attention layer while something is observed.

    The backend's `forward` is the one Python function that every attention call passes through, in
    eager mode and, because attention splits the graph, under piecewise CUDA graphs. `Attention`'s own
    forward is compiled, and the custom op below it keeps the function it was registered with.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        """`layers`: vLLM's `static_forward_context`, layer name to attention module.

        Layers without a single call for attention are left alone; `out_of_scope` says which, and why.
        """
        self.out_of_scope = {
            name: f"{name}: {type(layer.impl).__name__} is latent attention (MLA): no K and V per head"
            for name, layer in layers.items()
            if not hasattr(layer.impl, "forward")
        }
        layers = {name: layer for name, layer in layers.items() if name not in self.out_of_scope}
        for layer in layers.values():
            missing = PARAMETERS - inspect.signature(layer.impl.forward).parameters.keys()
            if missing:
                name = type(layer.impl).__name__
                raise PatchError(f"{name}.forward has no parameter {', '.join(sorted(missing))}")
        self._layers = dict(layers)
        self._observer: Observer | None = None

    def install(self) -> None:
        """Wrap every layer's `impl.forward`; idle until `observing`. Installing twice is an error."""
        for layer in self._layers.values():
            if "forward" in vars(layer.impl):
                raise RuntimeError(f"{layer.layer_name}: its attention is tapped already")
            layer.impl.forward = self._tapped(layer.impl.forward)

    def remove(self) -> None:
        """Give every layer its own `impl.forward` back."""
        for layer in self._layers.values():
            vars(layer.impl).pop("forward", None)

    @contextmanager
    def observing(self, observer: Observer) -> Iterator[None]:
        """Call `observer` after each attention call of the steps run inside the block.

        Outside of it vLLM runs untouched, unless `install` was called.
        """
        installed = any("forward" in vars(layer.impl) for layer in self._layers.values())
        if not installed:
            self.install()
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None
            if not installed:
                self.remove()

    def _tapped(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def tapped(
            layer: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            kv_cache: torch.Tensor,
            attn_metadata: Any,
            output: torch.Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            result = forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
            # Without metadata it is a profiling run; under capture nothing may be copied.
            if self._observer is not None and attn_metadata is not None and not _capturing():
                self._observer(layer, query, key, value, kv_cache, attn_metadata, output)
            return result

        return tapped


def _capturing() -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
