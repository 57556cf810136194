"""Overrides of vLLM's attention during prefill: where it reads K and V, and whether they are cached.

A step is steered if it is a pure prefill: whole prompts, none of whose tokens were computed before. Any
other step (a decode, a chunk, a prefix hit, a mixture) runs untouched and is counted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from patches import PatchError, Symbol, replace_attribute
from patches.layer_kinds import LayerKinds

FEATURE = "in-engine arms"
NEEDS = (
    Symbol("vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model", ("scheduler_output",)),
    Symbol("vllm.v1.core.sched.output:NewRequestData",
           ("req_id", "prompt_token_ids", "num_computed_tokens")),
    Symbol("vllm.v1.core.sched.output:SchedulerOutput",
           ("scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens")),
    Symbol("vllm.v1.core.sched.output:CachedRequestData", ("req_ids",)),
)  # fmt: skip
NEEDS_ON_CUDA = (
    Symbol("vllm.v1.worker.gpu.model_runner:GPUModelRunner.execute_model", ("scheduler_output",), "0.29"),
)


class LayerStep(NamedTuple):
    """The inputs of one layer's attention in a steered step. (Created in every layer; a tuple is
    cheapest.)
    """

    layer: Any
    key: torch.Tensor  # [tokens or more, num_kv_heads, head_dim], this step's own
    value: torch.Tensor
    kv_cache: torch.Tensor  # vLLM's cache of the layer
    lengths: tuple[int, ...]  # tokens of each request


# Called instead of the backend's kernel: (kernel, its keyword arguments, the layer's inputs).
KernelOverride = Callable[[Callable[..., Any], dict[str, Any], LayerStep], Any]


@dataclass(frozen=True)
class Override:
    """How attention runs in a steered step. The default changes nothing, but goes through the same wrappers.

    An override can be pickled if `ahead` can: it may have to be sent to the process with the layers.
    """

    source: str | None = None  # of K and V: a name among the Steering's kernel_overrides; None: vLLM's own
    write_cache: bool = True
    ahead: Callable[[], object] | None = None  # runs before every layer's attention kernel


class Steering:
    """Applies overrides to the attention layers of this process and removes them."""

    def __init__(
        self,
        layers: Mapping[str, Any],
        model_runner: Any,
        kernels: Mapping[str, str],
        kernel_overrides: Mapping[str, Mapping[str, KernelOverride]],
        kinds: LayerKinds,
    ) -> None:
        """
        Args:
            layers: vLLM's attention layers by name.
            model_runner: the worker's, whose `execute_model` gets every step's schedule.
            kernels: "module:name" of the function by which a backend calls its kernel, by backend.
            kernel_overrides: by the name of an override's source and the address of the backend's kernel.
            kinds: of the layers; those in `LayerKinds.not_steered` run as in vLLM.

        Raises:
            PatchError: no layer keeps K and V of its own, or one writes the cache within its kernel.
        """
        own = {name: layer for name, layer in layers.items() if name not in kinds.unmeasured}
        if layers and not own:
            raise PatchError("; ".join(dict.fromkeys(kinds.unmeasured.values())))
        for layer in own.values():
            if not hasattr(layer.impl, "do_kv_cache_update"):
                raise PatchError(f"{type(layer.impl).__name__} writes the cache within its kernel")
        self._layers = [layer for name, layer in own.items() if name not in kinds.quantised]
        self._kinds = kinds
        self._model_runner = model_runner
        self._kernel_overrides = kernel_overrides
        backends = {layer.attn_backend.get_name() for layer in own.values()}
        self._kernels = {kernels[backend] for backend in backends & kernels.keys()}
        self.no_override = sorted(backends - kernels.keys())  # backends whose kernels are not wrapped
        self._lengths: tuple[int, ...] | None = None  # of the step's requests; None: it is not steered
        self._now: LayerStep | None = None
        self.steered = 0  # steps
        self.untouched = 0

    @contextmanager
    def on(self, override: Override) -> Iterator[None]:
        """Run the steps inside the block with this override; vLLM is restored at the end, also after an
        error.
        """
        with ExitStack() as undo:
            runner = self._model_runner
            replace_attribute(undo, runner, "execute_model", self._watch(runner.execute_model))
            kernel_overrides = self._kernel_overrides[override.source] if override.source else {}
            for address in self._kernels:
                module, _, name = address.partition(":")
                owner = importlib.import_module(module)
                wrapped = self._wrap_kernel(getattr(owner, name), override, kernel_overrides.get(address))
                replace_attribute(undo, owner, name, wrapped)
            for layer in self._layers:
                wrapped = self._wrap_write(layer, override)
                replace_attribute(undo, layer.impl, "do_kv_cache_update", wrapped)
            undo.callback(self._forget)
            yield

    def _forget(self) -> None:
        self._lengths = self._now = None

    def _watch(self, execute_model: Callable[..., Any]) -> Callable[..., Any]:
        def watching(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._lengths = pure_prefill(scheduler_output)
            self.steered += self._lengths is not None
            self.untouched += self._lengths is None
            return execute_model(scheduler_output, *args, **kwargs)

        return watching

    def _wrap_write(self, own: Any, override: Override) -> Callable[..., Any]:
        write = own.impl.do_kv_cache_update
        chunk = self._kinds.chunks.get(own.layer_name, 0)
        write_cache = override.write_cache or own.layer_name in self._kinds.read_by_others

        # vLLM writes a layer's K and V right before its attention, so attention's inputs are known here.
        # Wrapping `forward` as well cost a host-bound prefill 2.1% instead of 0.6% (gpt2/4096, H100).
        def wrapped(
            layer: Any, key: torch.Tensor, value: torch.Tensor, kv_cache: torch.Tensor, slots: torch.Tensor
        ) -> Any:
            if self._lengths is not None:
                self._now = LayerStep(layer, key, value, kv_cache, self._lengths)
                if not write_cache:
                    return None
            return write(layer, key, value, kv_cache, slots)

        def wrapped_unless_split(layer: Any, *arguments: torch.Tensor) -> Any:
            split = self._lengths is not None and max(self._lengths) > chunk
            return write(layer, *arguments) if split else wrapped(layer, *arguments)

        return wrapped_unless_split if chunk else wrapped

    def _wrap_kernel(
        self, kernel: Callable[..., Any], override: Override, kernel_override: KernelOverride | None
    ) -> Callable[..., Any]:
        ahead = override.ahead

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            step, self._now = self._now, None
            if step is None:
                return kernel(*args, **kwargs)
            if ahead is not None:
                ahead()
            return (
                kernel(*args, **kwargs) if kernel_override is None else kernel_override(kernel, kwargs, step)
            )

        return wrapped


def pure_prefill(scheduler_output: Any) -> tuple[int, ...] | None:
    """The prompts' lengths if the step computes only whole prompts, from their first token; else None."""
    new = scheduler_output.scheduled_new_reqs
    if not new or scheduler_output.scheduled_cached_reqs.req_ids:
        return None
    scheduled = scheduler_output.num_scheduled_tokens
    for request in new:
        if request.prompt_token_ids is None or request.num_computed_tokens:
            return None
        if scheduled[request.req_id] != len(request.prompt_token_ids):
            return None
    return tuple(len(request.prompt_token_ids) for request in new)
