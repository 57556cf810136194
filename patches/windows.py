"""Every layer attends within its own sliding window, whatever the others of its KV cache group have.

A FlashAttention step of vLLM 0.26 carries one window, the group's, and every layer takes it in place of its
own. With one group for all layers (see `kv_cache_groups`) full attention then runs in the others' window.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from patches import Symbol

BUILDER = Symbol("vllm.v1.attention.backends.flash_attn:FlashAttentionMetadataBuilder")
NEEDS_ON_CUDA = (Symbol(f"{BUILDER.path}.build"),)


def keep_own(layers: Mapping[str, Any]) -> None:
    """Take the group's window out of every step of this process, if these FlashAttention layers' differ.

    It stays so: where all layers of a group have one window, that is the step's as well.
    """
    own = {
        layer.impl.sliding_window
        for layer in layers.values()
        if layer.attn_backend.get_name() == "FLASH_ATTN" and hasattr(layer.impl, "sliding_window")
    }
    builder = BUILDER.resolve() if len(own) > 1 else None
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
