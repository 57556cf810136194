"""FlashInfer's batch prefill on a paged cache and on ragged tensors, planned when bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.kernels.protocol import DenseKV, Output, PagedKV, Run
from harness.kernels.support import Feature, Package, Sizes, Support, load, refuse, require, try_once

WORKSPACE_BYTES = 128 * 2**20  # what FlashInfer's documentation recommends
_FORMS = {Feature.DENSE, Feature.PAGED}
_LACKING = {Feature.ALIBI, Feature.SINKS, Feature.SYMMETRIC, Feature.LOPSIDED}
_SUPPORT = Support(
    features=frozenset(set(Feature) - _LACKING - _FORMS),
    dtypes=("float16", "bfloat16"),
    head_sizes=Sizes(only=(64, 128, 256)),
    package=Package("flashinfer", "pip install flashinfer-python (compiles with nvcc when first called)"),
    last_capability=(12, 1),
    because={Feature.ALIBI: "FlashInfer computes its own ALiBi slopes and accepts none"},
)


class _Prefill:
    """Shared by both wrappers: workspace, output and the arguments of a plan."""

    provider = "FlashInfer"

    def __init__(self) -> None:
        self._out = Output()
        self._workspace: torch.Tensor | None = None

    def _wrapper(self, call: AttentionCall, name: str) -> Any:
        if self._workspace is None:
            self._workspace = call.query.new_empty(WORKSPACE_BYTES, dtype=torch.uint8)
        return getattr(load(_SUPPORT.package), name)(self._workspace, "NHD")


class FlashInferPaged(_Prefill):
    """`BatchPrefillWithPagedKVCacheWrapper`; K and V may be views with any strides whose last is 1."""

    name = "BatchPrefillWithPagedKVCacheWrapper"
    support = replace(_SUPPORT, features=_SUPPORT.features | {Feature.PAGED})

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        raise refuse(self, call)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        wrapper = self._wrapper(call, self.name)
        lengths, size = call.seq_lens.tolist(), kv.block_size
        pages = [-(-length // size) for length in lengths]
        rows = [row[:used] for row, used in zip(kv.block_table, pages, strict=True)]
        wrapper.plan(
            qo_indptr=call.query_start_loc.cpu(),
            paged_kv_indptr=torch.tensor([0, *pages], dtype=torch.int32).cumsum(0, dtype=torch.int32),
            paged_kv_indices=torch.cat(rows),
            paged_kv_last_page_len=torch.tensor([(n - 1) % size + 1 for n in lengths], dtype=torch.int32),
            page_size=size,
            **_plan(call),
        )
        key_and_value, out = kv.split(), self._out.like(call.query)
        return try_once(lambda: wrapper.run(call.query, key_and_value, out=out), self)


class FlashInferRagged(_Prefill):
    """`BatchPrefillWithRaggedKVCacheWrapper`: K and V in token order."""

    name = "BatchPrefillWithRaggedKVCacheWrapper"
    support = replace(_SUPPORT, features=_SUPPORT.features | {Feature.DENSE})

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        wrapper = self._wrapper(call, self.name)
        starts = {"qo_indptr": call.query_start_loc.cpu(), "kv_indptr": call.key_start_loc.cpu()}
        wrapper.plan(**starts, **_plan(call))
        out = self._out.like(call.query)
        return try_once(lambda: wrapper.run(call.query, kv.key, kv.value, out=out), self)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise refuse(self, call, kv.block_size)


def _plan(call: AttentionCall) -> dict[str, Any]:
    return {
        "num_qo_heads": call.num_heads,
        "num_kv_heads": call.num_kv_heads,
        "head_dim_qk": call.head_dim,
        "causal": call.causal,
        "sm_scale": call.scale,
        "window_left": call.sliding_window[0],
        "logits_soft_cap": call.softcap,
        "q_data_type": call.query.dtype,
        "kv_data_type": call.key.dtype,
    }
