"""vLLM's Triton attention, called as its TRITON_ATTN backend calls it in a prefill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import vllm_cache
from harness.kernels.protocol import DenseKV, Output, PagedKV, Run
from harness.kernels.support import GPU_INSTALL, Apart, Feature, Package, Sizes, Support, require, try_once
from patches import Symbol, attention
from patches.steering import LayerStep

MODULE = "vllm.v1.attention.ops.triton_unified_attention"
KERNEL = Symbol(
    f"{MODULE}:unified_attention",
    ("q", "k", "v", "out", "cu_seqlens_q", "max_seqlen_q", "seqused_k", "max_seqlen_k", "softmax_scale",
     "causal", "window_size", "block_table", "softcap", "q_descale", "k_descale", "v_descale",
     "alibi_slopes", "sinks", "seq_threshold_3D", "num_par_softmax_segments", "softmax_segm_output",
     "softmax_segm_max", "softmax_segm_expsum"),
)  # fmt: skip
FEATURE = "the attention backend TRITON_ATTN"
NEEDS = (
    *attention.backend_needs("vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl",
                             "TritonAttentionMetadata"),
    KERNEL,
    Symbol("vllm.v1.attention.ops.triton_reshape_and_cache_flash:triton_reshape_and_cache_flash",
           vllm_cache.WRITER),
)  # fmt: skip
SEGMENTS, SMALLEST_GRID = 16, 128  # NUM_PAR_SOFTMAX_SEGMENTS, MIN_LAUNCH_GRID_SIZE_2D of the backend


class VllmTritonAttention:
    """`unified_attention`; it always needs a block table, so dense is one block of all tokens.

    float32 is left out: Triton multiplies it as TF32, which does not give float32 results.
    """

    name = "unified_attention"
    writer = "triton_reshape_and_cache_flash"
    provider = "vLLM Triton"
    support = Support(
        features=frozenset(set(Feature) - {Feature.SYMMETRIC, Feature.LOPSIDED}),
        dtypes=("float16", "bfloat16"),
        head_sizes=Sizes(smallest=32),
        package=Package("vllm", GPU_INSTALL, also=("triton",), needs=NEEDS),
        page_sizes=Sizes(multiple_of=16),
        apart=(Apart(Feature.ALIBI, Feature.FULL),),  # ALiBi counts from the first token
        because={
            Feature.SYMMETRIC: "window without a causal mask: unified_attention (vLLM 0.26 to 0.33) cuts it "
            "off on the right where that of the first query of its tile ends"
        },
    )

    def __init__(self) -> None:
        self._out = Output()

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        """Reads K and V in place, through a table of one block (see `one_block`)."""
        require(self, call)
        return self._bind(call, *one_block(kv), starts_of(call.key_start_loc))

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        return self._bind(call, *kv.split(), kv.block_table)

    def _bind(self, call: AttentionCall, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor) -> Run:
        unscaled = torch.ones((), device=call.query.device).expand(call.num_requests, call.num_kv_heads)
        out = self._out.like(call.query)
        arguments = {
            "q": call.query,
            "k": key,
            "v": value,
            "out": out,
            "cu_seqlens_q": call.query_start_loc,
            "max_seqlen_q": int(call.query_start_loc.diff().max()),
            "seqused_k": call.seq_lens,
            "max_seqlen_k": max(call.lengths),
            "softmax_scale": call.scale,
            "causal": call.causal,
            "window_size": call.sliding_window,
            "block_table": table,
            "softcap": call.softcap,
            "q_descale": None,
            "k_descale": unscaled,
            "v_descale": unscaled,
            "alibi_slopes": call.alibi_slopes,
            "sinks": call.sinks,
            **_segments(call),
        }
        function = KERNEL.resolve()

        def run() -> torch.Tensor:
            function(**arguments)
            return out

        return try_once(run, self)

    def write_cache(self, call: AttentionCall, cache: torch.Tensor, slots: torch.Tensor) -> None:
        vllm_cache.write(call, cache, slots)

    def cache_write(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> Run:
        """The backend's own cache write, `triton_reshape_and_cache_flash`."""
        from vllm.v1.attention.ops.triton_reshape_and_cache_flash import triton_reshape_and_cache_flash

        return vllm_cache.bind_writer(triton_reshape_and_cache_flash, call, kv, slots)

    def stored_error(self, call: AttentionCall, kv: PagedKV, slots: torch.Tensor) -> float:
        return vllm_cache.stored_error(call, kv, slots)


def one_block(kv: DenseKV) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V, in place, as caches with a block for each token that extends from its token to the end.

    The kernel finds a block at its id times the first stride, here a token's: a request is one block whose id
    is the request's first token. The shape, from which it takes the block size, shows only the first block.
    """
    key, value = (
        tensor.as_strided((1, *tensor.shape), (tensor.stride(0), *tensor.stride()))
        for tensor in (kv.key, kv.value)
    )
    return key, value


def starts_of(start_loc: torch.Tensor) -> torch.Tensor:
    """The block table that goes with `one_block`: each request's first token."""
    return start_loc.unsqueeze(1)


# The name by which vLLM's backend calls the kernel.
BACKEND_KERNEL = "vllm.v1.attention.backends.triton_attn:unified_attention"


class KernelOverrides:
    """The backend's own call in a running engine, with K and V from elsewhere, as one block per request."""

    def __init__(self) -> None:
        self._copies = vllm_cache.Copies()

    def dense(self, kernel: Callable[..., Any], arguments: dict[str, Any], step: LayerStep) -> Any:
        """Make attention read the step's own K and V."""
        return kernel(**arguments | _in_place(arguments, DenseKV(step.key, step.value)))

    def paged(self, kernel: Callable[..., Any], arguments: dict[str, Any], step: LayerStep) -> Any:
        """Call the kernel as the engine does, after the host's work for `dense`."""
        return kernel(**_in_place(arguments, DenseKV(step.key, step.value)) | arguments)

    def compact(self, kernel: Callable[..., Any], arguments: dict[str, Any], step: LayerStep) -> Any:
        """Gather the cache first; attention reads the copy."""
        key_cache, value_cache, table = arguments["k"], arguments["v"], arguments["block_table"]
        copy = self._copies.gather(key_cache, value_cache, table, step.lengths)
        return kernel(**arguments | _in_place(arguments, copy))


def _in_place(arguments: dict[str, Any], kv: DenseKV) -> dict[str, Any]:
    """The arguments that change where attention reads these K and V."""
    key, value = one_block(kv)
    return {"k": key, "v": value, "block_table": starts_of(arguments["cu_seqlens_q"])}


def _segments(call: AttentionCall) -> dict[str, Any]:
    """The backend's buffers for a few one-token requests, which it splits along the keys."""
    few = SMALLEST_GRID // call.num_kv_heads
    padded = 1 << (call.head_dim - 1).bit_length()
    empty = call.query.new_empty
    shape = (few, call.num_heads, SEGMENTS)
    return {
        "seq_threshold_3D": few,
        "num_par_softmax_segments": SEGMENTS,
        "softmax_segm_output": empty(*shape, padded, dtype=torch.float32),
        "softmax_segm_max": empty(shape, dtype=torch.float32),
        "softmax_segm_expsum": empty(shape, dtype=torch.float32),
    }
