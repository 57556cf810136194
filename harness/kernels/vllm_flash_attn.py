"""vLLM's own FlashAttention 2 and 3, called as its backend calls them in a prefill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import DenseKV, Output, PagedKV, Run, vllm_cache
from harness.kernels.support import GPU_INSTALL, Feature, Package, Sizes, Support, require
from patches import Symbol, attention
from patches.steering import LayerStep

Kernel = Callable[..., Any]

# The name by which vLLM's backend calls the kernel.
BACKEND_KERNEL = "vllm.v1.attention.backends.flash_attn:flash_attn_varlen_func"
_KERNEL = (
    "q", "k", "v", "max_seqlen_q", "cu_seqlens_q", "max_seqlen_k", "cu_seqlens_k", "seqused_k",
    "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "block_table", "out",
    "scheduler_metadata", "num_splits", "fa_version", "s_aux",
)  # fmt: skip
FEATURE = "the attention backend FLASH_ATTN"
NEEDS = (
    *attention.backend_needs("vllm.v1.attention.backends.flash_attn", "FlashAttentionImpl",
                             "FlashAttentionMetadata"),
    Symbol(BACKEND_KERNEL, _KERNEL),
    # Since 0.30 the backend goes through this class, whatever the version of FlashAttention.
    Symbol("vllm.v1.attention.backends.flash_attn:FA4DenseAttentionKernel.kernel", since="0.30"),
    Symbol("vllm.vllm_flash_attn:flash_attn_varlen_func", _KERNEL),
    Symbol("vllm.vllm_flash_attn:get_scheduler_metadata",
           ("batch_size", "max_seqlen_q", "max_seqlen_k", "num_heads_q", "num_heads_kv", "headdim",
            "cache_seqlens", "qkv_dtype", "cu_seqlens_q", "page_size", "causal", "window_size",
            "num_splits")),
    Symbol("vllm.v1.attention.backends.fa_utils:reshape_and_cache_flash", vllm_cache.WRITER),
)  # fmt: skip
_PACKAGE = Package("vllm", GPU_INSTALL, needs=NEEDS)
_SUPPORT = {
    2: Support(
        features=frozenset(set(Feature) - {Feature.SINKS}),
        dtypes=("float16", "bfloat16"),
        head_sizes=Sizes(multiple_of=8, largest=256),
        package=_PACKAGE,
        page_sizes=Sizes(multiple_of=16),
    ),
    3: Support(
        features=frozenset(set(Feature) - {Feature.ALIBI}),
        dtypes=("float16", "bfloat16"),
        head_sizes=Sizes(multiple_of=8, largest=256),
        package=_PACKAGE,
        capability=(9, 0),
        last_capability=(9, 9),
    ),
}


class VllmFlashAttention:
    """`flash_attn_varlen_func` from vllm.vllm_flash_attn, with or without a block table."""

    name = "flash_attn_varlen_func"
    writer = vllm_cache.FLASH_WRITER

    def __init__(self, fa_version: int) -> None:
        self.fa_version = fa_version
        self.provider = f"vLLM FA{fa_version}"
        self.support = _SUPPORT[fa_version]
        self._out = Output()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """Reads this step's own K and V. FA3's schedule is prepared in advance, as the engine does for
        paged.
        """
        require(self, call)
        schedule = self._schedule(call, page_size=None)
        return self._bind(
            call, kv.key, kv.value, cu_seqlens_k=call.key_start_loc, scheduler_metadata=schedule
        )

    @property
    def unscheduled(self) -> Callable[[AttentionCall, DenseKV], Run] | None:
        """`dense` without a schedule, which FA3 then prepares in every call; None for other versions."""
        return self._unscheduled if self.fa_version == 3 else None

    def _unscheduled(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        return self._bind(call, kv.key, kv.value, cu_seqlens_k=call.key_start_loc)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        """Reads the cache in place, with the engine's FA3 schedule if the pages are the engine's."""
        require(self, call, kv.block_size)
        same_pages = kv.block_size == call.block_size and call.scheduler_metadata is not None
        schedule = call.scheduler_metadata if same_pages else self._schedule(call, kv.block_size)
        key, value = kv.split()
        return self._bind(
            call,
            key,
            value,
            seqused_k=call.seq_lens,
            block_table=kv.block_table,
            scheduler_metadata=schedule,
        )

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        vllm_cache.write(call, cache, slots)

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        return vllm_cache.flash_write(call, kv, slots)

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        return vllm_cache.stored_error(call, kv, slots)

    def _bind(self, call: AttentionCall, key: torch.Tensor, value: torch.Tensor, **where: Any) -> Run:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        out = self._out.like(call.query)
        arguments = {
            "max_seqlen_q": int(call.query_start_loc.diff().max()),
            "cu_seqlens_q": call.query_start_loc,
            "max_seqlen_k": max(call.lengths),
            "softmax_scale": call.scale,
            "causal": call.causal,
            "window_size": list(call.sliding_window),
            "softcap": call.softcap,
            "alibi_slopes": call.alibi_slopes,
            "s_aux": call.sinks,
            "num_splits": call.max_num_splits,
            "fa_version": self.fa_version,
            "out": out,
            **where,
        }
        query = call.query
        return lambda: flash_attn_varlen_func(query, key, value, **arguments)

    def _schedule(self, call: AttentionCall, page_size: int | None) -> torch.Tensor | None:
        if self.fa_version != 3:
            return None
        from vllm.vllm_flash_attn import get_scheduler_metadata

        schedule: torch.Tensor = get_scheduler_metadata(
            batch_size=call.num_requests,
            max_seqlen_q=int(call.query_start_loc.diff().max()),
            max_seqlen_k=max(call.lengths),
            num_heads_q=call.num_heads,
            num_heads_kv=call.num_kv_heads,
            headdim=call.head_dim,
            cache_seqlens=call.seq_lens,
            qkv_dtype=call.query.dtype,
            cu_seqlens_q=call.query_start_loc,
            page_size=page_size,
            causal=call.causal,
            window_size=call.sliding_window,
            has_softcap=call.softcap > 0,
            num_splits=call.max_num_splits,
        )
        return schedule


class KernelOverrides:
    """The backend's call in a running engine, with K and V from elsewhere.

    The host does the same work for "paged" as for "dense": more for one of them would show in a host-bound
    prefill. The engine prepares one FA3 schedule per step, for its pages; the one without a table is made
    once and reused.
    """

    def __init__(self) -> None:
        self._schedules: dict[Any, torch.Tensor] = {}
        self._copies = vllm_cache.Copies()

    def dense(self, kernel: Kernel, arguments: dict[str, Any], step: LayerStep) -> Any:
        """Make attention read the step's own K and V."""
        return kernel(**arguments | self._read_step(arguments, step))

    def paged(self, kernel: Kernel, arguments: dict[str, Any], step: LayerStep) -> Any:
        """Call the kernel as the engine does, after the host's work for `dense`."""
        as_ever = self._read_step(arguments, step) | arguments
        as_ever["cu_seqlens_k"] = arguments.get("cu_seqlens_k")
        return kernel(**as_ever)

    def compact(self, kernel: Kernel, arguments: dict[str, Any], step: LayerStep) -> Any:
        """Gather the cache first; attention reads the copy."""
        copy = self._copies.gather(arguments["k"], arguments["v"], arguments["block_table"], step.lengths)
        return kernel(**arguments | self._leave_out_table(arguments, step, copy.key, copy.value))

    def _read_step(self, arguments: dict[str, Any], step: LayerStep) -> dict[str, Any]:
        key, value, tokens = step.key, step.value, arguments["q"].shape[0]
        if key.shape[0] != tokens:  # padded
            key, value = key[:tokens], value[:tokens]
        return self._leave_out_table(arguments, step, key, value)

    def _leave_out_table(
        self, arguments: dict[str, Any], step: LayerStep, key: torch.Tensor, value: torch.Tensor
    ) -> dict[str, Any]:
        """The arguments that change where attention reads these K and V."""
        scheduled = arguments["scheduler_metadata"] is not None
        return {
            "k": key,
            "v": value,
            "cu_seqlens_k": arguments["cu_seqlens_q"],
            "seqused_k": None,
            "block_table": None,
            "scheduler_metadata": self._schedule(arguments, step) if scheduled else None,
        }

    def _schedule(self, arguments: dict[str, Any], step: LayerStep) -> torch.Tensor:
        what = (step.lengths, step.layer.layer_name)
        schedule = self._schedules.get(what)
        if schedule is None:
            from vllm.vllm_flash_attn import get_scheduler_metadata

            query, window = arguments["q"], arguments["window_size"]
            schedule = self._schedules[what] = get_scheduler_metadata(
                batch_size=len(step.lengths),
                max_seqlen_q=arguments["max_seqlen_q"],
                max_seqlen_k=arguments["max_seqlen_k"],
                num_heads_q=query.shape[1],
                num_heads_kv=arguments["k"].shape[2],
                headdim=query.shape[2],
                cache_seqlens=arguments["seqused_k"],
                qkv_dtype=query.dtype,
                cu_seqlens_q=arguments["cu_seqlens_q"],
                page_size=None,
                causal=arguments["causal"],
                window_size=tuple(window) if window else (-1, -1),
                has_softcap=arguments["softcap"] > 0,
                num_splits=arguments["num_splits"],
            )
        return schedule
