"""One KV cache group, and so one block table, for all layers of a model where vLLM can do that.

Without its hybrid KV cache manager vLLM converts a window's cache spec to full attention's if a model has
both. But 0.26 lets a window choose its own block size, the smallest that its kernel supports, and drops
`indexes_kv_by_block_stride` in the conversion; either leaves specs that it rejects as different. Here all
windows' specs are converted first, with the engine's block size. vLLM 0.33 does that itself.

Specs that cannot become one kind, such as those of attention and of a recurrent state, are an error in vLLM
then; here they stay as they are, and vLLM makes a group for each.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from patches import Symbol, problems

FEATURE = "layers that differ in their caches"
UNIFY = (
    Symbol("vllm.v1.core.kv_cache_utils:unify_hybrid_kv_cache_specs", ("kv_cache_spec",), until="0.32"),
    Symbol("vllm.v1.core.kv_cache_planning:unify_hybrid_kv_cache_specs", ("kv_cache_spec",), since="0.33"),
)
FULL = Symbol("vllm.v1.kv_cache_interface:FullAttentionSpec", ("block_size", "sliding_window"), until="0.32")
WINDOW = Symbol(
    "vllm.v1.kv_cache_interface:SlidingWindowSpec", ("block_size", "sliding_window"), until="0.32"
)
NEEDS = (*UNIFY, FULL, WINDOW)


@contextmanager
def unifying(block_size: int) -> Iterator[None]:
    """Give engines that start inside the block one group with `block_size`-token blocks, if their layers'
    specs can become one kind.

    Does nothing for a vLLM that lacks what it relies on.
    """
    if problems(NEEDS):
        yield
        return
    symbol = next(symbol for symbol in UNIFY if symbol.needed)
    module, _, name = symbol.path.partition(":")
    owner, unify = importlib.import_module(module), symbol.resolve()

    def unify_all(kv_cache_spec: dict[str, Any]) -> None:
        unified = _widen(kv_cache_spec, block_size) if WINDOW.needed else dict(kv_cache_spec)
        try:
            unify(unified)
        except ValueError:
            return
        kv_cache_spec.update(unified)

    setattr(owner, name, unify_all)
    try:
        yield
    finally:
        setattr(owner, name, unify)


def _widen(specs: dict[str, Any], block_size: int) -> dict[str, Any]:
    """The specs with those of windows as full attention's."""
    full, window = FULL.resolve(), WINDOW.resolve()
    names = [field.name for field in fields(full)]
    return {
        layer: full(**{n: getattr(spec, n) for n in names if hasattr(spec, n)} | {"block_size": block_size})
        if type(spec) is window
        else spec
        for layer, spec in specs.items()
    }
