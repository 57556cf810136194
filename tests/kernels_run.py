"""A small made-up run of `kernels`; `python -m tests.kernels_run` writes the texts expected of it.

flash-attn on a GPU, blocks of 64 tokens that flash_attn_with_kvcache cannot read in place, and a gather that
did not fit at spread_k = 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.experiments.kernels import view as kernels
from harness.runs.record import Cell, Result, Status

DATA = Path(__file__).resolve().parent / "data"
SPREADS = (1, 2, 8)
PROVIDER = "flash-attn 2.8.3"
MICROSECONDS = {
    "flash_attn_func": 140.0,
    "flash_attn_qkvpacked_func": 142.0,
    "flash_attn_with_kvcache": 138.0,
}
TOO_MUCH = "OutOfMemoryError: CUDA out of memory"


def record() -> dict[str, Any]:
    """What run.json holds."""
    config = {
        "length": 4096, "seq_len_q": 4096, "batch_size": 2, "num_heads": 12, "num_kv_heads": 12,
        "head_dim": 64, "dtype": "bfloat16", "causal": True, "block_size": 64,
    }  # fmt: skip
    return {
        "experiment": "kernels",
        "status": "finished",
        "config": config,
        "device": {"name": "NVIDIA H100", "kind": "cuda"},
        "model": {"name": "random Q, K and V"},
        "versions": {"torch": "2.11.0", "flash-attn": "2.8.3"},
        "command": ["python", "-m", "harness", "kernels", "--batch-size", "2"],
        "notices": [],
    }


class Made:
    """Results as they are added, their samples around a level."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self.results: list[Result] = []

    def add(self, k: int, stage: str, kernel: str, arm: str, level: float, **more: Any) -> None:
        noise = self._rng.normal(1, 0.004, 14)
        status = more.pop("status", Status.OK)
        samples = [round(level * x, 3) for x in noise] if status is Status.OK else []
        provider = more.pop("provider", PROVIDER if stage == "kernel" else "torch")
        cell = Cell(
            stage, kernel, provider, arm, more.pop("runs", k), more.pop("block_size", 64), None, "synthetic"
        )
        reason = more.pop("reason", None)
        self.results.append(
            Result(cell, f"spread={k}", status, reason, samples[2:], samples[:2], series_size=10, **more)
        )


def results() -> list[Result]:
    """What samples.jsonl holds."""
    made = Made()
    add = made.add
    for k in SPREADS:
        for kernel, gather in (("flash_attn_func", "gather_kv"), ("flash_attn_qkvpacked_func", "gather_qkv")):
            lost = (
                {"status": Status.OUT_OF_MEMORY, "reason": TOO_MUCH} if (k, gather[-3:]) == (8, "qkv") else {}
            )
            add(k, "kernel", kernel, "contiguous", MICROSECONDS[kernel])
            add(k, "kernel", kernel, "fragmented", MICROSECONDS[kernel], **lost)
            add(k, "gather", gather, "fragmented", 17.0, **lost)
        kernel = "flash_attn_with_kvcache"
        paged = {"block_size": 256, "reason": f"re-paged from 64 to 256 tokens a block, {k} of 16 runs"}
        add(k, "kernel", kernel, "contiguous", MICROSECONDS[kernel])
        add(k, "kernel", kernel, "fragmented", 131.0 * (1 + 0.005 * (k - 1)), **paged)
        add(k, "kernel", kernel, "fragmented", 131.0, runs=1, one_run_for=k, control=True, **paged)
        if k > 1:
            add(k, "kernel", kernel, "fragmented", 131.0, runs=1, one_run_for=k, **paged)
    return made.results


def other_results() -> list[Result]:
    """The same of --kernels sdpa-math,vllm-triton,flashinfer-paged, the last of which is not installed."""
    made = Made()
    math = {"provider": "scaled_dot_product_attention, PyTorch 2.11.0 math"}
    triton = {"provider": "unified_attention, vLLM Triton"}
    missing = {
        "provider": "BatchPrefillWithPagedKVCacheWrapper, FlashInfer",
        "status": Status.UNSUPPORTED,
        "reason": "flashinfer not installed; to get it: pip install flashinfer-python",
    }
    for k in SPREADS:
        made.add(k, "kernel", "sdpa-math", "contiguous", 900.0, **math)
        made.add(k, "kernel", "sdpa-math", "fragmented", 901.0, **math)
        made.add(k, "gather", "gather_kv for sdpa-math", "fragmented", 17.0)
        made.add(k, "kernel", "vllm-triton", "contiguous", 210.0, **triton)
        for kernel, level, about in (("vllm-triton", 220.0, triton), ("flashinfer-paged", 0.0, missing)):
            made.add(k, "kernel", kernel, "fragmented", level, **about)
            one_run = {"runs": 1, "one_run_for": k, **about}
            made.add(k, "kernel", kernel, "fragmented", level, control=True, **one_run)
            if k > 1:
                made.add(k, "kernel", kernel, "fragmented", level, **one_run)
    return made.results


def screen(kept: list[Result]) -> str:
    """All tables as they are printed."""
    summary = kernels.summarise(record(), kept)
    tables = [kernels.comparison(record(), summary, k).screen() for k in SPREADS]
    return "\n\n".join([*tables, kernels.document(record(), summary).screen_summary()]) + "\n"


def markdown() -> str:
    """tables.md."""
    return kernels.document(record(), kernels.summarise(record(), results())).markdown()


def main() -> None:
    """Write the expected texts."""
    (DATA / "kernels.txt").write_text(screen(results()), encoding="utf-8")
    (DATA / "kernels_others.txt").write_text(screen(other_results()), encoding="utf-8")
    (DATA / "kernels.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
