"""One KV cache group, and so one block table, for all layers of a model, sliding windows or not.

Without its hybrid KV cache manager vLLM converts a window's cache spec to full attention's if a model has
both. But 0.26 lets a window choose its own block size, the smallest that its kernel supports, and drops
`indexes_kv_by_block_stride` in the conversion; either leaves specs that it rejects as different. Here all
windows' specs are converted first, with the engine's block size. vLLM 0.33 does that itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from patches import Symbol, problems

FEATURE = "layers that differ in their windows"
UNIFY = Symbol("vllm.v1.core.kv_cache_utils:unify_hybrid_kv_cache_specs", ("kv_cache_spec",), until="0.32")
FULL = Symbol("vllm.v1.kv_cache_interface:FullAttentionSpec", ("block_size", "sliding_window"), until="0.32")
WINDOW = Symbol(
    "vllm.v1.kv_cache_interface:SlidingWindowSpec", ("block_size", "sliding_window"), until="0.32"
)
NEEDS = (UNIFY, FULL, WINDOW)


@contextmanager
def unifying(block_size: int) -> Iterator[None]:
    """Give engines that start inside the block `block_size`-token blocks in every layer.

    Does nothing for a vLLM that has no need of it, or lacks what it relies on.
    """
    if not UNIFY.needed or problems(NEEDS):
        yield
        return
    module, _, name = UNIFY.path.partition(":")
    owner, unify = importlib.import_module(module), UNIFY.resolve()
    full, window = FULL.resolve(), WINDOW.resolve()

    def unify_all(kv_cache_spec: dict[str, Any]) -> Any:
        for layer, spec in kv_cache_spec.items():
            if type(spec) is window:
                shared_fields = {f.name: getattr(spec, f.name) for f in fields(full) if hasattr(spec, f.name)}
                kv_cache_spec[layer] = full(**shared_fields | {"block_size": block_size})
        return unify(kv_cache_spec)

    setattr(owner, name, unify_all)
    try:
        yield
    finally:
        setattr(owner, name, unify)
