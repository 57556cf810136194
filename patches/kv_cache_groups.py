"""One KV cache group, and so one block table, for models that mix full attention with sliding windows.

vLLM makes one group if its hybrid KV cache manager is off: it turns the windows' cache specs into full
attention's. 0.26 forgets `indexes_kv_by_block_stride` on the way, which backends on GPUs set, then finds the
specs unlike each other and gives up. Here the specs are turned before vLLM does it, with all they have.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from patches import Symbol

UNIFY = Symbol("vllm.v1.core.kv_cache_utils:unify_hybrid_kv_cache_specs", ("kv_cache_spec",))
FULL = Symbol("vllm.v1.kv_cache_interface:FullAttentionSpec", ("sliding_window",))
WINDOW = Symbol("vllm.v1.kv_cache_interface:SlidingWindowSpec", ("sliding_window",))
NEEDS = (UNIFY, FULL, WINDOW)


@contextmanager
def unified() -> Iterator[None]:
    """Engines that start inside the block keep all of a window's cache spec when they make one group."""
    module, _, name = UNIFY.path.partition(":")
    owner, unify = importlib.import_module(module), UNIFY.resolve()
    full, window = FULL.resolve(), WINDOW.resolve()

    def unify_all(kv_cache_spec: dict[str, Any]) -> Any:
        kinds = {type(spec) for spec in kv_cache_spec.values()}
        if kinds == {full, window}:
            for layer, spec in kv_cache_spec.items():
                kv_cache_spec[layer] = spec if type(spec) is full else _as(full, spec)
        return unify(kv_cache_spec)

    setattr(owner, name, unify_all)
    try:
        yield
    finally:
        setattr(owner, name, unify)


def _as(kind: type[Any], spec: Any) -> Any:
    """A spec of `kind` with all fields that `spec` has in common with it."""
    return kind(**{f.name: getattr(spec, f.name) for f in fields(kind) if hasattr(spec, f.name)})
