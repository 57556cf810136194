"""Writing the K|V cache of vLLM's GPU backends: one layout, whichever kernel reads it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.capture import AttentionCall
from harness.kernels.protocol import PagedKV, Run


def write(call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Store the call's K and V into `cache` (shaped like PagedKV.cache) at `slots` ([tokens] int64)."""
    blocks, heads, block_size, width = cache.shape
    rows = cache.transpose(1, 2).view(blocks * block_size, heads, width)
    rows[slots] = torch.cat([call.key, call.value], dim=-1)


def bound(writer: Callable[..., object], call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
    """A backend's own `writer` with the arguments of `reshape_and_cache_flash`, ready to be timed."""
    key_cache, value_cache = kv.split()
    unscaled = torch.ones((), dtype=torch.float32, device=call.key.device)

    def run() -> torch.Tensor:
        writer(call.key, call.value, key_cache, value_cache, slots, "auto", unscaled, unscaled)
        return kv.cache

    return run
