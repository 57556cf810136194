"""The protocol of kernel adapters: the forms of K and V, and calls bound to their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.calls.capture import AttentionCall

# Runs the kernel once; returns its output, [tokens, num_heads, head_dim].
Run = Callable[[], torch.Tensor]


class Unsupported(Exception):
    """A kernel cannot take these inputs, or cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class DenseKV:
    """K and V of one step in token order, without a block table."""

    key: torch.Tensor  # [tokens, num_kv_heads, head_dim]
    value: torch.Tensor  # [tokens, num_kv_heads, head_dim]


@dataclass(frozen=True)
class PagedKV:
    """K and V in blocks, as in vLLM: one tensor, K in the first half of its last dimension."""

    cache: torch.Tensor  # [num_blocks, num_kv_heads, block_size, 2 * head_dim]
    block_table: torch.Tensor  # [requests, blocks] int32, on the cache's device

    @property
    def block_size(self) -> int:
        return int(self.cache.shape[2])

    def split(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V as views, [num_blocks, block_size, num_kv_heads, head_dim].

        Not for caches written by vLLM's CPU kernels, which may pack K and V for the instruction set.
        """
        key, value = self.cache.transpose(1, 2).chunk(2, dim=-1)
        return key, value


class Output:
    """One output buffer for all arms of a kernel in a series.

    With separate buffers, arms that do the same work differ by their buffers' addresses: A/A contrasts of a
    100 us call were off by 0.17%, and a quarter of their 95% intervals missed zero (H100,
    benchmarks/null.py).
    """

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def like(self, query: torch.Tensor) -> torch.Tensor:
        """A contiguous buffer of the query's shape, dtype and device; reused while these stay the same."""
        old = self._buffer
        if old is None or (old.shape, old.dtype, old.device) != (query.shape, query.dtype, query.device):
            old = self._buffer = torch.empty_like(query, memory_format=torch.contiguous_format)
        return old


class Kernel(Protocol):
    """The interface of every adapter. Methods raise Unsupported, with the reason, if they cannot serve."""

    @property
    def name(self) -> str:
        """The function's own name."""
        ...

    @property
    def provider(self) -> str:
        """Where it comes from, with the version."""
        ...

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """The kernel on K and V in token order."""
        ...

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """The kernel on K and V in blocks."""
        ...


class EngineKernel(Kernel, Protocol):
    """The kernel that the engine runs; it can also fill a cache as the engine does."""

    @property
    def writer(self) -> str:
        """The name of the function by which the backend writes the cache."""
        ...

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        """Store the call's K and V into `cache` (shaped like PagedKV.cache) at `slots` ([tokens] int64)."""
        ...

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        """The backend's own cache write, bound: the call's K and V into `kv` at `slots`, converted with
        scales of 1 where the cache is of another type.
        """
        ...

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        """How far what a converting cache write stored is from the call's K and V, relative to them."""
        ...


@dataclass(frozen=True)
class NoAdapter:
    """Stands in for a backend without an adapter; every call is refused."""

    name: str  # vLLM's name of the backend
    provider: str = "vLLM"
    writer: str = "cache write"

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        raise self._refusal()

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise self._refusal()

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        raise self._refusal()

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        raise self._refusal()

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        raise self._refusal()

    def _refusal(self) -> Unsupported:
        return Unsupported(f"no adapter for the engine's {self.name}; try --attention-backend FLASH_ATTN")
