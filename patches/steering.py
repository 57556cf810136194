"""Steer vLLM's attention while it prefills: what attention reads K and V from, and whether they are cached.

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

from patches import PatchError, Symbol

NEEDS = (
    Symbol("vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model", ("scheduler_output",)),
    Symbol("vllm.v1.core.sched.output:NewRequestData",
           ("req_id", "prompt_token_ids", "num_computed_tokens")),
    Symbol("vllm.v1.core.sched.output:SchedulerOutput",
           ("scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens")),
    Symbol("vllm.v1.core.sched.output:CachedRequestData", ("req_ids",)),
)  # fmt: skip


class LayerStep(NamedTuple):
    """What one layer's attention got in a steered step. (Made in every layer: a tuple costs the least.)"""

    layer: Any
    key: torch.Tensor  # [tokens or more, num_kv_heads, head_dim], this step's own
    value: torch.Tensor
    kv_cache: torch.Tensor  # vLLM's cache of the layer
    lengths: tuple[int, ...]  # tokens of each request


# Called in place of the backend's kernel: (kernel, its keyword arguments, what the layer got).
Detour = Callable[[Callable[..., Any], dict[str, Any], LayerStep], Any]


@dataclass(frozen=True)
class Course:
    """How attention runs in a steered step. The default changes nothing, by way of the same wrappers.

    A course can be pickled if `ahead` can: it may have to travel to the process that has the layers.
    """

    source: str | None = None  # of K and V: a name among the Steering's detours; None: as ever
    write_cache: bool = True
    ahead: Callable[[], object] | None = None  # runs ahead of every layer's attention kernel


class Steering:
    """Puts courses on the attention layers of this process and takes them off again."""

    def __init__(
        self,
        layers: Mapping[str, Any],
        model_runner: Any,
        kernels: Mapping[str, str],
        detours: Mapping[str, Mapping[str, Detour]],
    ) -> None:
        """
        Args:
            layers: vLLM's attention layers by name.
            model_runner: the worker's, whose `execute_model` gets every step's schedule.
            kernels: "module:name" of the function by which a backend calls its kernel, by backend.
            detours: by the name of a course's source and the address of the backend's kernel.

        Raises:
            PatchError: a layer keeps no K and V, writes the cache within its kernel or reads another's cache.
        """
        for layer in layers.values():
            if not hasattr(layer.impl, "forward"):
                raise PatchError(f"{type(layer.impl).__name__} is latent attention (MLA)")
            if not hasattr(layer.impl, "do_kv_cache_update"):
                raise PatchError(f"{type(layer.impl).__name__} writes the cache within its kernel")
            if shared := getattr(layer, "kv_sharing_target_layer_name", None):
                raise PatchError(f"{layer.layer_name} has no K and V of its own: it reads {shared}'s")
        self._layers = list(layers.values())
        self._model_runner = model_runner
        self._detours = detours
        backends = {layer.attn_backend.get_name() for layer in self._layers}
        self._kernels = {kernels[backend] for backend in backends & kernels.keys()}
        self.no_detour = sorted(backends - kernels.keys())  # backends whose kernels are not wrapped
        self._lengths: tuple[int, ...] | None = None  # of the step's requests; None: it is not steered
        self._now: LayerStep | None = None
        self.steered = 0  # steps
        self.untouched = 0

    @contextmanager
    def on(self, course: Course) -> Iterator[None]:
        """Run the steps inside the block on this course; vLLM is as before when it ends, however it ends."""
        with ExitStack() as undo:
            runner = self._model_runner
            _replace(undo, runner, "execute_model", self._watched(runner.execute_model))
            detours = self._detours[course.source] if course.source else {}
            for address in self._kernels:
                module, _, name = address.partition(":")
                owner = importlib.import_module(module)
                detoured = self._detoured(getattr(owner, name), course, detours.get(address))
                _replace(undo, owner, name, detoured)
            for layer in self._layers:
                write = layer.impl.do_kv_cache_update
                _replace(undo, layer.impl, "do_kv_cache_update", self._written(write, course))
            undo.callback(self._forget)
            yield

    def _forget(self) -> None:
        self._lengths = self._now = None

    def _watched(self, execute_model: Callable[..., Any]) -> Callable[..., Any]:
        def watched(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._lengths = pure_prefill(scheduler_output)
            self.steered += self._lengths is not None
            self.untouched += self._lengths is None
            return execute_model(scheduler_output, *args, **kwargs)

        return watched

    def _written(self, write: Callable[..., Any], course: Course) -> Callable[..., Any]:
        # vLLM writes a layer's K and V right before its attention, so what attention gets is known from here.
        # A wrapper of `forward` too cost a host-bound prefill 2.1% instead of 0.6% (gpt2/4096, H100).
        def written(
            layer: Any, key: torch.Tensor, value: torch.Tensor, kv_cache: torch.Tensor, slots: torch.Tensor
        ) -> Any:
            if self._lengths is not None:
                self._now = LayerStep(layer, key, value, kv_cache, self._lengths)
                if not course.write_cache:
                    return None
            return write(layer, key, value, kv_cache, slots)

        return written

    def _detoured(
        self, kernel: Callable[..., Any], course: Course, detour: Detour | None
    ) -> Callable[..., Any]:
        ahead = course.ahead

        def detoured(*args: Any, **kwargs: Any) -> Any:
            step, self._now = self._now, None
            if step is None:
                return kernel(*args, **kwargs)
            if ahead is not None:
                ahead()
            return kernel(*args, **kwargs) if detour is None else detour(kernel, kwargs, step)

        return detoured


def pure_prefill(scheduler_output: Any) -> tuple[int, ...] | None:
    """The prompts' lengths if the step computes whole prompts from their first token, and nothing else."""
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


def _replace(undo: ExitStack, owner: Any, name: str, new: Any) -> None:
    """Set an attribute and put its removal, or the old value's return, on `undo`."""
    old = vars(owner).get(name)
    setattr(owner, name, new)
    if old is None:
        undo.callback(delattr, owner, name)
    else:
        undo.callback(setattr, owner, name, old)
