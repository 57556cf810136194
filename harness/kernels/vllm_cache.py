"""The K|V cache of vLLM's GPU backends, written and gathered: one layout for all of their kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import fp8
from harness.kernels.blockcopy import copy_blocks
from harness.kernels.protocol import DenseKV, PagedKV, Run

FLASH_WRITER = "reshape_and_cache_flash"
# Parameters of a backend's own writer, in this order.
WRITER = ("key", "value", "key_cache", "value_cache", "slot_mapping", "kv_cache_dtype", "k_scale", "v_scale")


def write(call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Store the call's K and V into `cache` (shaped like PagedKV.cache) at `slots` ([tokens] int64)."""
    blocks, heads, block_size, width = cache.shape
    rows = cache.transpose(1, 2).view(blocks * block_size, heads, width)
    rows[slots] = torch.cat([call.key, call.value], dim=-1)


def bind_writer(writer: Callable[..., object], call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
    """A backend's own `writer` with the arguments of `reshape_and_cache_flash`, ready to be timed."""
    key_cache, value_cache = kv.split()
    unscaled = torch.ones((), dtype=torch.float32, device=call.key.device)
    dtype = fp8.writer_dtype(call, kv.cache)

    def run() -> torch.Tensor:
        writer(call.key, call.value, key_cache, value_cache, slots, dtype, unscaled, unscaled)
        return kv.cache

    return run


def stored_error(call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
    """The largest error of a value at `slots` of a cache of 8-bit floats, relative to that of K or V, which
    counts as within the type's range and as 2**-6 or more (below, numbers are subnormal).
    """
    blocks, heads, block_size, width = kv.cache.shape
    rows = kv.cache.transpose(1, 2).reshape(blocks * block_size, heads, width)[slots]
    dtype = fp8.of_call(call).dtype
    stored, most = rows.view(dtype).float(), torch.finfo(dtype).max
    expected = torch.cat([call.key, call.value], dim=-1).float().clamp(-most, most)
    return float(((stored - expected).abs() / expected.abs().clamp(min=2**-6)).max())


def flash_write(call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
    """The FlashAttention backend's own cache write, FLASH_WRITER, ready to be timed."""
    from vllm.v1.attention.backends.fa_utils import reshape_and_cache_flash

    return bind_writer(reshape_and_cache_flash, call, kv, slots)


class Copies:
    """Buffers for the requests' K and V in token order, one pair for each shape, reused across steps."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, ...], DenseKV] = {}

    def gather(
        self, key_cache: torch.Tensor, value_cache: torch.Tensor, table: torch.Tensor, lengths: Sequence[int]
    ) -> DenseKV:
        """Copy all requests' K and V out of their blocks, one request after the other.

        Args:
            key_cache, value_cache: [blocks, block_size, num_kv_heads, head_dim].
            table: [requests or more, blocks or more] block ids.
            lengths: tokens of each request.
        """
        page_size, heads, dim = key_cache.shape[1:]
        shape = (sum(lengths), heads, dim)
        copy = self._buffers.get(shape)
        if copy is None:
            copy = DenseKV(key_cache.new_empty(shape), value_cache.new_empty(shape))
            self._buffers[shape] = copy
        start = 0
        for row, length in zip(table, lengths, strict=False):
            blocks = row[: -(-length // page_size)]
            copy_blocks(key_cache, blocks, copy.key[start : start + length])
            copy_blocks(value_cache, blocks, copy.value[start : start + length])
            start += length
        return copy
