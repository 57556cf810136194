"""Kernels: one adapter a file, one protocol: what a kernel takes, and its arguments bound, ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.capture import AttentionCall

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
    """K and V in blocks, as vLLM keeps them: one tensor, K in the first half of its last dimension."""

    cache: torch.Tensor  # [num_blocks, num_kv_heads, block_size, 2 * head_dim]
    block_table: torch.Tensor  # [requests, blocks] int32, on the cache's device

    @property
    def block_size(self) -> int:
        return int(self.cache.shape[2])

    def split(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V as views, [num_blocks, block_size, num_kv_heads, head_dim].

        Not for caches that vLLM's CPU kernels wrote: those may hold K and V packed for the instruction set.
        """
        key, value = self.cache.transpose(1, 2).chunk(2, dim=-1)
        return key, value


class Output:
    """One buffer that all arms of a kernel in a series write to.

    With a buffer each, arms that do the same work differ by where theirs lies: A/A contrasts of a 100 us
    call were off by 0.17%, and a quarter of their 95% intervals missed zero (H100, benchmarks/null.py).
    """

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def like(self, query: torch.Tensor) -> torch.Tensor:
        """A contiguous buffer of the query's shape; the same one as long as the shape is."""
        if self._buffer is None or self._buffer.shape != query.shape:
            self._buffer = torch.empty_like(query, memory_format=torch.contiguous_format)
        return self._buffer


class Kernel(Protocol):
    """What every adapter offers. All raise Unsupported, with the reason, where they cannot serve."""

    @property
    def name(self) -> str:
        """The function's own name."""
        ...

    @property
    def provider(self) -> str:
        """Whose it is, with its version."""
        ...

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """The kernel on K and V in token order."""
        ...

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """The kernel on K and V in blocks."""
        ...


class EngineKernel(Kernel, Protocol):
    """The kernel that the engine itself runs; it can also fill a cache the way the engine does."""

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        """Store the call's K and V into `cache` (shaped like PagedKV.cache) at `slots` ([tokens] int64)."""
        ...


@dataclass(frozen=True)
class NoAdapter:
    """Stands for a backend of the engine that no adapter knows; whatever is asked of it is refused."""

    name: str  # vLLM's name of the backend
    provider: str = "vLLM"

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        raise self._refusal()

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise self._refusal()

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        raise self._refusal()

    def _refusal(self) -> Unsupported:
        return Unsupported(f"no adapter for the engine's {self.name}; try --attention-backend FLASH_ATTN")


def for_engine(call: AttentionCall) -> EngineKernel:
    """The adapter of the kernel that produced `call.output`."""
    if call.backend == "FLASH_ATTN" and call.fa_version in (2, 3):
        from harness.kernels.vllm_flash_attn import VllmFlashAttention

        return VllmFlashAttention(call.fa_version)
    if call.backend == "CPU_ATTN":
        from harness.kernels.vllm_cpu import VllmCpuAttention

        return VllmCpuAttention()
    return NoAdapter(f"{call.backend}{call.fa_version or ''}")


def flash_attn_functions(device: str) -> tuple[Kernel, Kernel, Kernel]:
    """flash-attn's three functions; on a CPU their stand-ins through PyTorch's SDPA."""
    if device == "cpu":
        from harness.kernels import sdpa

        return sdpa.StandIn.func(), sdpa.StandIn.qkvpacked(), sdpa.StandIn.with_kvcache()
    from harness.kernels.flash_attn_func import FlashAttnFunc
    from harness.kernels.flash_attn_qkvpacked import FlashAttnQkvPacked
    from harness.kernels.flash_attn_with_kvcache import FlashAttnWithKvcache

    return FlashAttnFunc(), FlashAttnQkvPacked(), FlashAttnWithKvcache()
