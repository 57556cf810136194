"""Each layer keeps its own sliding window, regardless of the others in its KV cache group.

A FlashAttention step of vLLM 0.26 and 0.27 has one window, the group's, and every layer uses it instead of
its own. With one group for all layers (see `kv_cache_groups`) full attention would run in the others' window.
Since 0.28 a layer's own window wins.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from patches import Symbol

FEATURE = "layers that differ in their windows"
BUILDER = Symbol("vllm.v1.attention.backends.flash_attn:FlashAttentionMetadataBuilder", until="0.27")
NEEDS_ON_CUDA = (Symbol(f"{BUILDER.path}.build", until="0.27"),)


def keep_own(layers: Mapping[str, Any]) -> None:
    """Remove the group's window from every step of this process, if these FlashAttention layers' windows
    differ.

    Otherwise nothing changes: if all layers of a group have one window, it is also the step's.
    """
    own = {
        layer.impl.sliding_window
        for layer in layers.values()
        if layer.attn_backend.get_name() == "FLASH_ATTN" and hasattr(layer.impl, "sliding_window")
    }
    builder = BUILDER.resolve() if len(own) > 1 and BUILDER.needed else None
    if builder is None or hasattr(builder.build, "without_window"):
        return
    build = builder.build

    @functools.wraps(build)
    def without_window(self: Any, *args: Any, **kwargs: Any) -> Any:
        metadata = build(self, *args, **kwargs)
        if getattr(metadata, "sliding_window", None) is not None:
            metadata.sliding_window = None
        return metadata

    without_window.without_window = True  # type: ignore[attr-defined]
    builder.build = without_window
