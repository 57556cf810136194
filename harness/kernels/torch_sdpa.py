"""PyTorch's scaled_dot_product_attention, one backend at a time: math, flash, efficient, cudnn."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from harness.calls.capture import AttentionCall
from harness.kernels.protocol import DenseKV, PagedKV, Run
from harness.kernels.support import ANY, Feature, Package, Sizes, Support, refuse, require, try_once
from harness.kernels.upstream import by_request

Backend = Literal["math", "flash", "efficient", "cudnn"]
_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

_GROUPED = {Feature.GQA, Feature.MQA}
#  Windows, soft-caps and biases would need a mask of tokens x tokens, which is more work than other kernels
#  do.
SUPPORT = Support(
    features=frozenset(
        {Feature.DENSE, Feature.CAUSAL, Feature.FULL, Feature.SCALE, Feature.BATCH} | _GROUPED
    ),
    dtypes=("float16", "bfloat16", "float32"),
    head_sizes=ANY,
    package=Package("torch", "pip install torch"),
    devices=("cuda", "cpu"),
    because={Feature.RAGGED: "requests of different lengths: SDPA needs equal lengths"},
)
_HALF = replace(SUPPORT, dtypes=("float16", "bfloat16"), devices=("cuda",))
ON_CUDA = {
    "math": SUPPORT,
    "flash": replace(_HALF, head_sizes=Sizes(multiple_of=8, largest=256)),
    "efficient": replace(
        SUPPORT, features=SUPPORT.features - _GROUPED, head_sizes=Sizes(multiple_of=8), devices=("cuda",)
    ),
    "cudnn": replace(_HALF, head_sizes=Sizes(multiple_of=8, largest=128)),
}
ON_CPU = {**ON_CUDA, "flash": SUPPORT}


class TorchSdpa:
    """`scaled_dot_product_attention` restricted to one backend; q, k and v [requests, heads, tokens,
    head_dim].
    """

    name = "scaled_dot_product_attention"

    def __init__(self, backend: Backend, device: str) -> None:
        self.backend = _BACKENDS[backend]
        self.provider = f"PyTorch {torch.__version__.partition('+')[0]} {backend}"
        self.support = (ON_CPU if device == "cpu" else ON_CUDA)[backend]

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)

        def run() -> torch.Tensor:
            with sdpa_kernel(self.backend):
                return attention(call, call.query, kv.key, kv.value)

        return try_once(run, self)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        raise refuse(self, call, kv.block_size)


def attention(
    call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """SDPA on requests of equal lengths; all tensors, the output too, are [tokens, heads, head_dim].

    If there are fewer queries than keys they are the last tokens, as in flash-attn.
    """
    query, key, value = (by_request(call, x).transpose(1, 2) for x in (query, key, value))
    queries, keys = query.shape[2], key.shape[2]
    fewer = call.causal and queries < keys
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=causal_lower_right(queries, keys) if fewer else None,
        is_causal=call.causal and not fewer,
        scale=call.scale,
        enable_gqa=call.num_heads != call.num_kv_heads,
    )
    return out.transpose(1, 2).flatten(0, 1)
