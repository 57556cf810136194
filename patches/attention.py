"""A hook on vLLM's attention calls: the arguments and result of each layer's attention in an engine step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from patches import PatchError, Symbol, reach

PARAMETERS = ("layer", "query", "key", "value", "kv_cache", "attn_metadata", "output")
METADATA = ("num_actual_tokens", "query_start_loc", "seq_lens", "block_table", "slot_mapping", "causal")
SETTINGS = ("scale", "sliding_window", "logits_soft_cap", "alibi_slopes", "sinks")
NEEDS = (
    Symbol("vllm.v1.attention.backend:AttentionImpl.forward", PARAMETERS),
    Symbol("vllm.v1.attention.backend:AttentionBackend.get_name"),
)
BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")  # whose calls can be captured

# Receives (layer, query, key, value, kv_cache, attn_metadata, output), output already written.
Observer = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any, torch.Tensor], None]


def backend_needs(module: str, impl: str, metadata: str) -> tuple[Symbol, ...]:
    """The symbols of a backend's two classes needed to capture and override its calls."""
    return (
        Symbol(f"{module}:{impl}", SETTINGS),
        Symbol(f"{module}:{impl}.forward", PARAMETERS),
        Symbol(f"{module}:{impl}.do_kv_cache_update", ("layer", "key", "value", "kv_cache", "slot_mapping")),
        Symbol(f"{module}:{metadata}", METADATA),
    )


def cpu_isa(layer: Any) -> str | None:
    """The instruction set of a layer's CPU kernel: on the layer since 0.29, on its implementation before."""
    return getattr(layer, "isa", None) or getattr(layer.impl, "isa", None)


class AttentionHook:
    """Hooks the backend implementation of each attention layer while something observes it.

    The backend's `forward` is the one Python function that every attention call passes through, in
    eager mode and, because attention splits the graph, under piecewise CUDA graphs. `Attention`'s own
    forward is compiled, and the custom op below it keeps the function it was registered with.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        """`layers`: vLLM's attention layers by name, without those that `LayerKinds.unmeasured` names.

        Raises:
            PatchError: a layer lacks what its observers need; names what is missing.
        """
        for layer in layers.values():
            missing = set(PARAMETERS) - inspect.signature(layer.impl.forward).parameters.keys()
            if missing:
                name = type(layer.impl).__name__
                raise PatchError(f"{name}.forward has no parameter {', '.join(sorted(missing))}")
            if reach(layer, "attn_backend.get_name")() in BACKENDS:
                for path in ("layer_name", *(f"impl.{name}" for name in SETTINGS)):
                    reach(layer, path)
        self._layers = dict(layers)
        self._observer: Observer | None = None

    def install(self) -> None:
        """Wrap every layer's `impl.forward`; idle until `observing`. Installing twice is an error."""
        for layer in self._layers.values():
            if "forward" in vars(layer.impl):
                raise RuntimeError(f"{layer.layer_name}: its attention is already hooked")
            layer.impl.forward = self._hook(layer.impl.forward)

    def remove(self) -> None:
        """Restore every layer's `impl.forward`."""
        for layer in self._layers.values():
            vars(layer.impl).pop("forward", None)

    @contextmanager
    def observing(self, observer: Observer) -> Iterator[None]:
        """Call `observer` after each attention call of the steps run inside the block.

        Outside the block vLLM runs untouched, unless `install` was called.
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

    def _hook(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(
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
            # Without metadata it is a profiling run; during graph capture nothing may be copied.
            if self._observer is not None and attn_metadata is not None and not _capturing():
                self._observer(layer, query, key, value, kv_cache, attn_metadata, output)
            return result

        return hooked


def _capturing() -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
