"""FlashAttention 4 (CuTe DSL): from the flash-attn-4 package, and vLLM's own copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import vllm_cache
from harness.kernels.protocol import DenseKV, Output, PagedKV, Run
from harness.kernels.support import Apart, Feature, Package, Sizes, Support, load, require, try_once
from patches import Symbol

# Of flash_attn/cute/interface.py: 8 to 256 on Hopper; Blackwell takes fewer and says so when called. Paged
# caches need compute capability 9 to 11, and heads of whole 16s. By paged_kv.py and Hopper's tiles, heads of
# 80 and 96 without a mask have tiles of 144 keys, with pointers to the first 128 alone, and compile all the
# same (not with a window, but no decoder has one without a mask); above 128, some heads have tiles of no
# whole number of copies.
PAGED_HEAD_SIZES = tuple(range(16, 129, 16))
SUPPORT = Support(
    features=frozenset(set(Feature) - {Feature.ALIBI}),
    dtypes=("float16", "bfloat16"),
    head_sizes=Sizes(multiple_of=8, largest=256),
    paged_head_sizes=Sizes(only=(*PAGED_HEAD_SIZES, 192, 256)),
    package=Package("flash_attn.cute", "pip install 'flash-attn-4[cu13]'", also=("cutlass", "quack")),
    capability=(9, 0),
    last_capability=(11, 9),
    apart=(Apart(Feature.PAGED, Feature.FULL, head_sizes=(80, 96)),),
)


class FlashAttention4:
    """`flash_attn.cute.flash_attn_varlen_func`; compiled when first called, for seconds to minutes.

    Of 4.0.0b20 the loads through a block table do not compile on Hopper where a tile has fewer than 128 keys.
    """

    name = "flash_attn_varlen_func"
    provider = "flash-attn 4"
    support = replace(SUPPORT, paged_head_sizes=Sizes(only=PAGED_HEAD_SIZES))

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        return self._bind(call, kv.key, kv.value, cu_seqlens_k=call.key_start_loc)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        return self._bind(call, *kv.split(), seqused_k=call.seq_lens, page_table=kv.block_table)

    def _bind(self, call: AttentionCall, key: torch.Tensor, value: torch.Tensor, **where: Any) -> Run:
        function = load(self.support.package).flash_attn_varlen_func
        left, right = (side if side >= 0 else None for side in call.sliding_window)
        arguments = _common(call) | {"window_size": (left, right), "learnable_sink": _sinks(call)} | where

        def run() -> torch.Tensor:
            result = function(call.query, key, value, **arguments)
            output: torch.Tensor = result[0] if isinstance(result, tuple) else result
            return output

        return try_once(run, self)


class VllmFlashAttention4(FlashAttention4):
    """`flash_attn_varlen_func` from vllm.vllm_flash_attn with fa_version=4, as vLLM's backend calls it."""

    provider = "vLLM FA4"
    writer = vllm_cache.FLASH_WRITER
    support = replace(
        SUPPORT,
        package=Package(
            "vllm",
            "pip install vllm nvidia-cutlass-dsl quack-kernels",
            also=("cutlass", "quack"),
            needs=(
                Symbol("vllm.vllm_flash_attn:flash_attn_varlen_func", ("fa_version", "s_aux", "num_splits")),
            ),
        ),
    )

    def __init__(self) -> None:
        self._out = Output()

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        vllm_cache.write(call, cache, slots)

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        return vllm_cache.flash_write(call, kv, slots)

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        return vllm_cache.stored_error(call, kv, slots)

    def _bind(self, call: AttentionCall, key: torch.Tensor, value: torch.Tensor, **where: Any) -> Run:
        function = load(self.support.package, "vllm.vllm_flash_attn").flash_attn_varlen_func
        if "page_table" in where:
            where["block_table"] = where.pop("page_table")
        arguments = _common(call) | {
            "window_size": list(call.sliding_window),
            "s_aux": _sinks(call),
            "num_splits": call.max_num_splits,
            "out": self._out.like(call.query),
            "fa_version": 4,
            **where,
        }
        return try_once(lambda: function(call.query, key, value, **arguments), self)


def _common(call: AttentionCall) -> dict[str, Any]:
    return {
        "cu_seqlens_q": call.query_start_loc,
        "max_seqlen_q": int(call.query_start_loc.diff().max()),
        "max_seqlen_k": max(call.lengths),
        "softmax_scale": call.scale,
        "causal": call.causal,
        "softcap": call.softcap,
    }


def _sinks(call: AttentionCall) -> torch.Tensor | None:
    """The kernel takes sinks as bfloat16 only."""
    return None if call.sinks is None else call.sinks.to(torch.bfloat16)
