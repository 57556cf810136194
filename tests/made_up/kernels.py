"""`kernels`: flash-attn on a GPU, blocks of 64 tokens that flash_attn_with_kvcache cannot read in place, and
a gather that did not fit at spread_k = 8."""

from __future__ import annotations

from typing import Any

from harness.runs.record import Result, Status
from tests.made_up import builder
from tests.made_up.builder import TOO_MUCH, Builder

SPREADS = (1, 2, 8)
MICROSECONDS = {
    "flash_attn_func": 140.0,
    "flash_attn_qkvpacked_func": 142.0,
    "flash_attn_with_kvcache": 138.0,
}


def record() -> dict[str, Any]:
    """What run.json holds."""
    config = {
        "length": 4096, "seq_len_q": 4096, "batch_size": 2, "num_heads": 12, "num_kv_heads": 12,
        "head_dim": 64, "dtype": "bfloat16", "causal": True, "block_size": 64,
    }  # fmt: skip
    return builder.record(
        experiment="kernels",
        status="finished",
        config=config,
        device={"name": "NVIDIA H100", "kind": "cuda"},
        model={"name": "random Q, K and V"},
        versions={"torch": "2.11.0", "flash-attn": "2.8.3"},
        command=["python", "-m", "harness", "kernels", "--batch-size", "2"],
    )


class Series(Builder):
    """One spread_k's points after the other's."""

    def __init__(self) -> None:
        usual: dict[str, Any] = {"block_size": 64, "data": "synthetic", "series_size": 10}
        super().__init__(3, noise=0.004, rounds=12, warmup=2, **usual)

    def point(self, k: int, stage: str, kernel: str, arm: str, level: float, **more: Any) -> None:
        provider = more.pop("provider", "flash-attn 2.8.3" if stage == "kernel" else "torch")
        of: dict[str, Any] = {"spread_k": k, "series": f"spread={k}"}
        self.add(stage, kernel, provider, arm, level, **of | more)


def results() -> list[Result]:
    """What samples.jsonl holds."""
    made = Series()
    for k in SPREADS:
        for kernel, gather in (("flash_attn_func", "gather_kv"), ("flash_attn_qkvpacked_func", "gather_qkv")):
            did_not_fit: dict[str, Any] = {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH}
            lost = did_not_fit if (k, gather) == (8, "gather_qkv") else {}
            made.point(k, "kernel", kernel, "contiguous", MICROSECONDS[kernel])
            made.point(k, "kernel", kernel, "fragmented", MICROSECONDS[kernel], **lost)
            made.point(k, "gather", gather, "fragmented", 17.0, **lost)
        kernel = "flash_attn_with_kvcache"
        paged = {"block_size": 256, "reason": f"re-paged from 64 to 256 tokens per block, {k} of 16 segments"}
        one_segment: dict[str, Any] = {"spread_k": 1, "one_segment_for": k, **paged}
        made.point(k, "kernel", kernel, "contiguous", MICROSECONDS[kernel])
        made.point(k, "kernel", kernel, "fragmented", 131.0 * (1 + 0.005 * (k - 1)), **paged)
        made.point(k, "kernel", kernel, "fragmented", 131.0, control=True, **one_segment)
        if k > 1:
            made.point(k, "kernel", kernel, "fragmented", 131.0, **one_segment)
    return made.results


def other_results() -> list[Result]:
    """The same of --kernels sdpa-math,vllm-triton,flashinfer-paged, the last of which is not installed."""
    made = Series()
    math = {"provider": "scaled_dot_product_attention, PyTorch 2.11.0 math"}
    triton = {"provider": "unified_attention, vLLM Triton"}
    missing = {
        "provider": "BatchPrefillWithPagedKVCacheWrapper, FlashInfer",
        "status": Status.UNSUPPORTED,
        "reason": "flashinfer not installed; to get it: pip install flashinfer-python",
    }
    for k in SPREADS:
        made.point(k, "kernel", "sdpa-math", "contiguous", 900.0, **math)
        made.point(k, "kernel", "sdpa-math", "fragmented", 901.0, **math)
        made.point(k, "gather", "gather_kv for sdpa-math", "fragmented", 17.0)
        made.point(k, "kernel", "vllm-triton", "contiguous", 210.0, **triton)
        for kernel, level, about in (("vllm-triton", 220.0, triton), ("flashinfer-paged", 0.0, missing)):
            one_segment: dict[str, Any] = {"spread_k": 1, "one_segment_for": k, **about}
            made.point(k, "kernel", kernel, "fragmented", level, **about)
            made.point(k, "kernel", kernel, "fragmented", level, control=True, **one_segment)
            if k > 1:
                made.point(k, "kernel", kernel, "fragmented", level, **one_segment)
    return made.results
